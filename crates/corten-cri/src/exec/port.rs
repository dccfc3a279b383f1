//! A connection to a port inside of a pod.
//!
//! A socket belongs to the namespace that it was made in, wherever it is used: a thread enters the pod's network, makes two
//! sockets and is gone. They connect on the runtime, which has never been in there.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use corten_net::link::netns;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::error::Error;

/// Nobody on a loopback device takes longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connects to `port` at the loopback address of the network namespace at `path`: that of IPv4, then that of IPv6.
pub async fn port(path: &Path, port: u16) -> Result<TcpStream, Error> {
    let path = path.to_owned();
    let made = spawn_blocking(move || {
        let namespace = netns::open(&path)?;
        netns::inside(&namespace, &path, || Ok(sockets()))
    });
    let made = made.await.map_err(|_| Error::Unfinished)?;
    let sockets = made.map_err(|source| Error::Namespace { source })?;
    let mut first = None;
    for (socket, address) in sockets {
        match connect(socket, SocketAddr::new(address, port)).await {
            Ok(stream) => return Ok(stream),
            // A pod without IPv6 says nothing of use there.
            Err(error) => first = first.or(Some(error)),
        }
    }
    let source = first.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into());
    Err(Error::Port { port, source })
}

type Made = (io::Result<OwnedFd>, std::net::IpAddr);

fn sockets() -> [Made; 2] {
    let make = |family| {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        socket_with(family, SocketType::STREAM, flags, None).map_err(io::Error::from)
    };
    [
        (make(AddressFamily::INET), Ipv4Addr::LOCALHOST.into()),
        (make(AddressFamily::INET6), Ipv6Addr::LOCALHOST.into()),
    ]
}

async fn connect(socket: io::Result<OwnedFd>, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::from_std_stream(socket?.into());
    let connected = timeout(PATIENCE, socket.connect(address)).await;
    let stream = connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    stream.set_nodelay(true)?;
    Ok(stream)
}
