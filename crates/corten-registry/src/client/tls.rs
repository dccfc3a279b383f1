//! TLS by rustls on ring: who is trusted, and which certificate we show.
//!
//! The system's roots are read when the first certificate must be judged, not when TLS is first
//! tried: a loopback registry in plain HTTP answers the handshake with nonsense, and then they are never read.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::Error;

/// One way to do TLS, as a `hosts.toml` asks for it. Connections of different profiles are never mixed.
#[derive(Debug, Default)]
pub(super) struct TlsProfile {
    id: u64,
    pub ca: Vec<PathBuf>,
    /// Certificate, and its key where that is in another file.
    pub client: Vec<(PathBuf, Option<PathBuf>)>,
    pub skip_verify: bool,
    built: Mutex<Option<Arc<rustls::ClientConfig>>>,
}

impl TlsProfile {
    pub fn new(
        ca: Vec<PathBuf>,
        client: Vec<(PathBuf, Option<PathBuf>)>,
        skip_verify: bool,
    ) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            ca,
            client,
            skip_verify,
            built: Mutex::new(None),
        }
    }

    /// The system's roots and no certificate of ours: for token servers, and hosts that a redirect names.
    pub fn system() -> Arc<Self> {
        static SYSTEM: LazyLock<Arc<TlsProfile>> =
            LazyLock::new(|| Arc::new(TlsProfile::new(Vec::new(), Vec::new(), false)));
        SYSTEM.clone()
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    /// The rustls configuration, built on first use.
    pub fn config(&self) -> Result<Arc<rustls::ClientConfig>, Error> {
        // A panic while building leaves `None` behind: no state to be poisoned.
        let mut built = self.built.lock().unwrap_or_else(|p| p.into_inner());
        if let Some(config) = &*built {
            return Ok(config.clone());
        }
        let config = Arc::new(self.build()?);
        *built = Some(config.clone());
        Ok(config)
    }

    fn build(&self) -> Result<rustls::ClientConfig, Error> {
        let provider = Arc::new(ring::default_provider());
        let mut pinned = Vec::new();
        for path in &self.ca {
            pinned.extend(certificates(path)?);
        }
        let verifier = Verifier {
            provider: provider.clone(),
            pinned,
            skip: self.skip_verify,
            roots: OnceLock::new(),
        };
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| bad(Path::new("TLS"), e.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        // TLS offers one certificate; of several pairs the first is taken, as containerd in effect does.
        let Some((cert, key)) = self.client.first() else {
            return Ok(builder.with_no_client_auth());
        };
        let chain = certificates(cert)?;
        let key_path = key.as_ref().unwrap_or(cert);
        let key = PrivateKeyDer::from_pem_file(key_path)
            .map_err(|e| bad(key_path, format!("no private key in it: {e}")))?;
        builder
            .with_client_auth_cert(chain, key)
            .map_err(|e| bad(cert, format!("not a client certificate with its key: {e}")))
    }
}

fn bad(path: &Path, why: String) -> Error {
    Error::Config {
        path: path.to_owned(),
        why,
        source: None,
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let list = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match list {
        Ok(list) if !list.is_empty() => Ok(list),
        Ok(_) => Err(bad(path, "no PEM certificate in it".into())),
        Err(e) => Err(bad(path, e.to_string())),
    }
}

#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    /// From `ca`: authorities, and self-signed server certificates.
    pinned: Vec<CertificateDer<'static>>,
    skip: bool,
    roots: OnceLock<Result<Arc<WebPkiServerVerifier>, String>>,
}

impl Verifier {
    fn roots(&self) -> Result<&Arc<WebPkiServerVerifier>, rustls::Error> {
        let built = self.roots.get_or_init(|| {
            let mut store = RootCertStore::empty();
            store.add_parsable_certificates(self.pinned.iter().cloned());
            let native = rustls_native_certs::load_native_certs();
            store.add_parsable_certificates(native.certs);
            if store.is_empty() {
                return Err("this host has no root certificates".into());
            }
            WebPkiServerVerifier::builder_with_provider(Arc::new(store), self.provider.clone())
                .build()
                .map_err(|e| e.to_string())
        });
        built
            .as_ref()
            .map_err(|e| rustls::Error::General(e.clone()))
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.skip {
            return Ok(ServerCertVerified::assertion());
        }
        // `openssl req -x509` makes a certificate that is its own authority, and people put it into
        // `ca`. webpki refuses an authority as a server (CaUsedAsEndEntity), so the very certificate
        // that was pinned counts as verified once its name fits.
        if self.pinned.iter().any(|p| p == end_entity) {
            let parsed = ParsedCertificate::try_from(end_entity)?;
            rustls::client::verify_server_name(&parsed, server_name)?;
            return Ok(ServerCertVerified::assertion());
        }
        let roots = self.roots()?;
        roots.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Does this handshake failure say that the other side does not speak TLS at all?
pub(super) fn is_plain(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionReset, UnexpectedEof};
    if matches!(error.kind(), UnexpectedEof | ConnectionReset) {
        return true;
    }
    let inner = error
        .get_ref()
        .and_then(|e| e.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidMessage(_)))
}
