//! From a host name to a byte stream: addresses, TCP, a proxy's tunnel, TLS.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::Error;
use super::place::Place;
use super::proxy::Proxy;
use super::tls::{TlsProfile, is_plain};

/// How long an address may keep the next one waiting (RFC 8305 §5).
const STAGGER: Duration = Duration::from_millis(250);
/// The longest answer of a proxy to CONNECT.
const TUNNEL_ANSWER_MAX: usize = 16 << 10;

/// A connection to a registry.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Connects to `place`, through `proxy` if there is one. Each step gets `limit`.
pub(super) async fn connect(
    place: &Place,
    proxy: Option<&Proxy>,
    tls: &TlsProfile,
    limit: Duration,
) -> Result<Stream, Error> {
    let (host, port) = match proxy {
        Some(p) => (p.host.as_str(), p.port),
        None => (place.host.as_str(), place.port),
    };
    let late = |doing| Error::Timeout {
        host: place.authority(),
        doing,
        after: limit,
    };
    let failed = |source| Error::Connect {
        host: place.authority(),
        source,
    };
    let tcp = timeout(limit, dial(host, port)).await;
    let mut tcp = tcp
        .map_err(|_| late("accept a connection"))?
        .map_err(failed)?;
    tcp.set_nodelay(true).map_err(failed)?;
    if !place.tls {
        return Ok(Stream::Plain(tcp));
    }
    if let Some(proxy) = proxy {
        let opened = timeout(limit, tunnel(&mut tcp, place, proxy)).await;
        opened.map_err(|_| late("open a tunnel through its proxy"))??;
    }
    let connector = TlsConnector::from(tls.config()?);
    let name = ServerName::try_from(place.host.clone())
        .map_err(|e| failed(io::Error::new(io::ErrorKind::InvalidInput, e)))?;
    match timeout(limit, connector.connect(name, tcp)).await {
        Err(_) => Err(late("complete a TLS handshake")),
        Ok(Ok(stream)) => Ok(Stream::Tls(Box::new(stream))),
        Ok(Err(source)) => Err(Error::Tls {
            host: place.authority(),
            plain: is_plain(&source),
            source,
        }),
    }
}

/// The first address that answers; each gets a head start before the next is tried beside it.
async fn dial(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut addresses = tokio::net::lookup_host((host, port))
        .await?
        .collect::<Vec<SocketAddr>>();
    addresses.dedup();
    let mut waiting = addresses.into_iter();
    let mut trying = JoinSet::new();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    loop {
        match waiting.next() {
            Some(address) => {
                trying.spawn(TcpStream::connect(address));
            }
            None if trying.is_empty() => return Err(last),
            None => {}
        }
        let patience = if waiting.len() == 0 {
            Duration::MAX
        } else {
            STAGGER
        };
        match timeout(patience, trying.join_next()).await {
            Ok(Some(Ok(Ok(stream)))) => return Ok(stream),
            Ok(Some(Ok(Err(e)))) => last = e,
            Ok(Some(Err(e))) => last = io::Error::other(e),
            Ok(None) | Err(_) => {}
        }
    }
}

/// Asks an HTTP proxy for a tunnel (RFC 9110 §9.3.6).
async fn tunnel(tcp: &mut TcpStream, place: &Place, proxy: &Proxy) -> Result<(), Error> {
    let bad = |why: String| Error::Proxy {
        proxy: format!("{}:{}", proxy.host, proxy.port),
        why,
    };
    let host = if place.host.contains(':') {
        format!("[{}]", place.host)
    } else {
        place.host.clone()
    };
    let target = format!("{host}:{}", place.port);
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    if let Some(a) = &proxy.authorization {
        request.push_str(&format!("Proxy-Authorization: {}\r\n", a.expose()));
    }
    request.push_str("\r\n");
    let io = |e: io::Error| bad(format!("it broke off: {e}"));
    tcp.write_all(request.as_bytes()).await.map_err(io)?;
    // Byte by byte, so as not to swallow what belongs to TLS.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > TUNNEL_ANSWER_MAX {
            return Err(bad("its answer has no end".into()));
        }
        head.push(tcp.read_u8().await.map_err(io)?);
    }
    let text = String::from_utf8_lossy(&head);
    let status = text.split(' ').nth(1).unwrap_or_default();
    match status.starts_with('2') && text.starts_with("HTTP/1.") {
        true => Ok(()),
        false => Err(bad(format!("it answered CONNECT with {status:?}"))),
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_read(cx, buf),
            Self::Tls(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_write(cx, buf),
            Self::Tls(s) => Pin::new(s).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_flush(cx),
            Self::Tls(s) => Pin::new(s).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_shutdown(cx),
            Self::Tls(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}

/// What connections are told apart by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Origin {
    tls: bool,
    host: String,
    port: u16,
    profile: u64,
}

impl Origin {
    pub fn of(place: &Place, tls: &Arc<TlsProfile>) -> Self {
        Self {
            tls: place.tls,
            host: place.host.clone(),
            port: place.port,
            profile: if place.tls { tls.id() } else { 0 },
        }
    }
}
