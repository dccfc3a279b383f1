//! TLS at the serving end: a certificate and its key, taken up again when their files change.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;

use super::ServerError;
use super::watched::{Watched, read};

/// The largest certificate chain or key, in bytes.
const FILE_MAX: u64 = 1 << 20;

/// Where a server's certificate (the chain, its own first) and key are, both PEM.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Made once; every connection gets the certificate of its time.
pub(super) struct Tls {
    files: Watched<Arc<rustls::ServerConfig>>,
}

impl Tls {
    pub fn open(files: &TlsFiles) -> Result<Self, ServerError> {
        let paths = vec![files.certificate.clone(), files.key.clone()];
        let files = Watched::open(paths, |paths| load(&paths[0], &paths[1]))?;
        Ok(Self { files })
    }

    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from((*self.files.now().0).clone())
    }
}

fn load(certificate: &Path, key: &Path) -> Result<Arc<rustls::ServerConfig>, String> {
    let in_key = |why: String| format!("its key {}: {why}", key.display());
    let chain = read(certificate, FILE_MAX)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&chain).collect();
    let chain = chain.map_err(|e| format!("it is no PEM: {e}"))?;
    if chain.is_empty() {
        return Err("it holds no certificate".into());
    }
    let key = read(key, FILE_MAX).map_err(in_key)?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|e| in_key(e.to_string()))?;
    let provider = Arc::new(ring::default_provider());
    let signing = provider.key_provider.load_private_key(key);
    let signing = signing.map_err(|e| in_key(e.to_string()))?;
    let certified = CertifiedKey::new(chain, signing);
    // Between the writing of the one file and of the other they do not belong together.
    certified.keys_match().map_err(|e| in_key(e.to_string()))?;
    let builder = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let single = rustls::sign::SingleCertAndKey::from(certified);
    let mut config = builder
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(single));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
