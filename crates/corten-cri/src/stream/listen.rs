//! The addresses that the server listens on, and TLS on their connections.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::error::Error;

/// The largest file of certificates, in bytes.
const FILE_MAX: u64 = 1 << 20;

/// PEM files. With a client authority, only clients whose certificate it has signed get a connection.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub client_ca: Option<PathBuf>,
}

/// Binds all addresses. Where one leaves the port to the kernel, later ones that do so too get the first one's, so that one URL
/// serves both families.
pub(super) async fn bind(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, Error> {
    /// How often another port is tried where the second family has none of the first's number.
    const TRIES: usize = 16;
    let mut tries = 0;
    loop {
        match bind_once(addresses).await {
            Err(Error::Listen { source, .. })
                if source.kind() == io::ErrorKind::AddrInUse
                    && addresses[0].port() == 0
                    && tries < TRIES =>
            {
                tries += 1;
            }
            other => return other,
        }
    }
}

async fn bind_once(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, Error> {
    let (mut listeners, mut chosen) = (Vec::new(), 0);
    for address in addresses {
        let mut wanted = *address;
        if wanted.port() == 0 {
            wanted.set_port(chosen);
        }
        let listener = listen(wanted).map_err(|source| Error::Listen {
            address: wanted,
            source,
        })?;
        if address.port() == 0 {
            chosen = listener.local_addr().map_or(0, |a| a.port());
        }
        listeners.push(listener);
    }
    Ok(listeners)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
        SocketAddr::V6(_) => {
            let socket = tokio::net::TcpSocket::new_v6()?;
            // Each family has its own listener, whatever net.ipv6.bindv6only says.
            sockopt::set_ipv6_v6only(&socket, true)?;
            socket
        }
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(1024)
}

/// Small frames leave at once, and a client whose host is gone is noticed.
pub(super) fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, Duration::from_secs(30))?;
    sockopt::set_tcp_keepintvl(socket, Duration::from_secs(10))?;
    sockopt::set_tcp_keepcnt(socket, 3)?;
    Ok(())
}

/// TLS 1.2 and 1.3 with the certificate that the files hold.
pub(super) async fn tls(files: &TlsFiles) -> Result<TlsAcceptor, Error> {
    let chain = certificates(&files.certificate).await?;
    let key = read(&files.key).await?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|e| useless(&files.key, &e))?;
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| useless(&files.certificate, &e))?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for root in certificates(path).await? {
                roots.add(root).map_err(|e| useless(path, &e))?;
            }
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|e| useless(path, &e))?)
        }
    };
    let config = builder.with_single_cert(chain, key);
    let mut config = config.map_err(|e| useless(&files.certificate, &e))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let bytes = read(path).await?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let chain = chain.map_err(|e| useless(path, &e))?;
    match chain.is_empty() {
        true => Err(useless(path, &"it holds no certificate")),
        false => Ok(chain),
    }
}

async fn read(path: &Path) -> Result<Vec<u8>, Error> {
    use tokio::io::AsyncReadExt as _;
    let failed = |source| Error::Read {
        path: path.into(),
        source,
    };
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    let mut bytes = Vec::new();
    let mut file = file.take(FILE_MAX);
    file.read_to_end(&mut bytes).await.map_err(failed)?;
    Ok(bytes)
}

fn useless(path: &Path, why: &dyn std::fmt::Display) -> Error {
    Error::Certificate {
        path: path.into(),
        why: why.to_string(),
    }
}
