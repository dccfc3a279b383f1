//! From a request and what its token stands for to a session that runs on the upgraded connection.

use std::sync::Arc;

use ::http::{HeaderMap, Request, StatusCode};
use tokio::io::split;
use tokio::sync::mpsc;

use super::backend::{Backend, Duplex, ForwardAsk};
use super::channel::PIECES;
use super::error::Error;
use super::http::{Protocol, Refusal, Supported, upgrade};
use super::remote::Ask;
use super::session::{Activity, Wire, conduct, write};
use super::settings::Settings;
use super::spdy::connection::connection;
use super::{Waiting, forward, remote, websocket};

/// Ports of one WebSocket connection; each has two channels of the 256.
const PORTS_MAX: usize = 100;

/// What a connection is for, and how it speaks.
pub(super) struct Session {
    what: Waiting,
    protocol: Protocol,
    settings: Settings,
    backend: Arc<dyn Backend>,
}

pub(super) fn check_ports(ports: &[u16]) -> Result<(), Error> {
    match ports.len() {
        ports if ports > PORTS_MAX => Err(Error::TooManyPorts {
            ports,
            most: PORTS_MAX,
        }),
        _ if ports.contains(&0) => Err(Error::Missing { what: "a port" }),
        _ => Ok(()),
    }
}

impl Session {
    /// With the answer's head.
    pub fn decide<B>(
        request: &Request<B>,
        mut what: Waiting,
        settings: &Settings,
        backend: Arc<dyn Backend>,
    ) -> Result<(Self, HeaderMap), Refusal> {
        let can = match what {
            Waiting::Remote(_) => Supported {
                spdy: remote::SPDY,
                websocket: websocket::REMOTE,
            },
            Waiting::Forward(_) => Supported {
                spdy: forward::SPDY,
                websocket: websocket::FORWARD,
            },
        };
        let upgrade = upgrade(request, &can)?;
        if let (Waiting::Forward(ask), Protocol::WebSocket(protocol)) = (&mut what, upgrade.to)
            && protocol != websocket::TUNNEL
            && ask.ports.is_empty()
        {
            ask.ports = ports(request.uri().query().unwrap_or_default())?;
        }
        let session = Self {
            what,
            protocol: upgrade.to,
            settings: settings.clone(),
            backend,
        };
        Ok((session, upgrade.answer))
    }

    /// To its end.
    pub async fn run(self, io: impl Duplex) {
        match (self.protocol, self.what) {
            (Protocol::Spdy(version), Waiting::Remote(ask)) => {
                spdy(io, &self.settings, |acceptor| async move {
                    let patience = self.settings.creation_timeout;
                    remote::over_spdy(acceptor, version, patience, &ask, &*self.backend).await;
                })
                .await;
            }
            (Protocol::Spdy(_), Waiting::Forward(ask)) => {
                forward_spdy(io, ask, &self.settings, self.backend).await;
            }
            (Protocol::WebSocket(websocket::TUNNEL), Waiting::Forward(ask)) => {
                tunnel(io, ask, &self.settings, self.backend).await;
            }
            (Protocol::WebSocket(protocol), what) => {
                channels(io, protocol, what, &self.settings, self.backend).await;
            }
        }
    }
}

/// A SPDY connection whose streams `work` serves.
async fn spdy<W: Future<Output = ()> + Send>(
    io: impl Duplex,
    settings: &Settings,
    work: impl FnOnce(super::spdy::connection::Acceptor) -> W,
) {
    let (read_half, write_half) = split(io);
    let (to, from) = mpsc::channel(PIECES);
    let activity = Activity::new();
    let (reader, acceptor) = connection(to, activity.clone());
    let writing = write(write_half, from, Wire::Spdy, activity.clone());
    let limit = settings.idle_timeout;
    conduct(
        reader.run(read_half),
        work(acceptor),
        writing,
        &activity,
        limit,
    )
    .await;
}

async fn forward_spdy(
    io: impl Duplex,
    ask: ForwardAsk,
    settings: &Settings,
    backend: Arc<dyn Backend>,
) {
    let patience = settings.creation_timeout;
    spdy(io, settings, |acceptor| {
        forward::over_spdy(acceptor, ask.pod.into(), patience, backend)
    })
    .await;
}

async fn tunnel(io: impl Duplex, ask: ForwardAsk, settings: &Settings, backend: Arc<dyn Backend>) {
    let (read_half, write_half) = split(io);
    let (to, from) = mpsc::channel(PIECES);
    let activity = Activity::new();
    let (outer, copying, inner) = websocket::tunnel(to, activity.clone());
    let writing = write(write_half, from, Wire::Messages, activity.clone());
    let working = async {
        tokio::join!(copying, forward_spdy(inner, ask, settings, backend));
    };
    let limit = settings.idle_timeout;
    conduct(outer.run(read_half), working, writing, &activity, limit).await;
}

async fn channels(
    io: impl Duplex,
    protocol: &'static str,
    what: Waiting,
    settings: &Settings,
    backend: Arc<dyn Backend>,
) {
    let (read_half, write_half) = split(io);
    let (to, from) = mpsc::channel(PIECES);
    let activity = Activity::new();
    let mut channels = websocket::Channels::new(protocol, &to, activity.clone());
    let writing = write(write_half, from, channels.wire(), activity.clone());
    let limit = settings.idle_timeout;
    match what {
        Waiting::Remote(ask) => {
            let ask: Arc<Ask> = ask.into();
            let work = websocket::remote(&mut channels, protocol, to, ask, backend);
            conduct(channels.run(read_half), work, writing, &activity, limit).await;
        }
        Waiting::Forward(ForwardAsk { pod, ports }) => {
            let work = websocket::forward(&mut channels, to, pod.into(), &ports, backend);
            conduct(channels.run(read_half), work, writing, &activity, limit).await;
        }
    }
}

/// The ports that a WebSocket client names in its URL: `port=80&port=443,8080`.
fn ports(query: &str) -> Result<Vec<u16>, Refusal> {
    let bad = |why: String| Refusal::new(StatusCode::BAD_REQUEST, why);
    let mut ports = Vec::new();
    let values = query
        .split('&')
        .filter_map(|pair| pair.strip_prefix("port="));
    // A comma may come escaped.
    for value in values
        .flat_map(|v| v.split("%2C"))
        .flat_map(|v| v.split("%2c"))
    {
        for port in value.split(',') {
            let number: Option<u16> = port.parse().ok().filter(|n| *n > 0);
            let number = number.ok_or_else(|| bad(format!("{port:?} is no port")))?;
            ports.push(number);
        }
    }
    if ports.is_empty() {
        return Err(bad("query parameter \"port\" is required".into()));
    }
    check_ports(&ports).map_err(|e| bad(e.to_string()))?;
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_from_the_query() {
        assert_eq!(ports("port=80"), Ok(vec![80]));
        assert_eq!(ports("a=b&port=80,443&port=1%2C2"), Ok(vec![80, 443, 1, 2]));
        let many = vec!["port=7"; PORTS_MAX].join("&");
        assert_eq!(ports(&many).map(|p| p.len()), Ok(PORTS_MAX));
        for bad in [
            "",
            "port",
            "port=",
            "port=0",
            "port=65536",
            "port=a",
            "port=80,",
            "ports=80",
        ] {
            let refused = ports(bad).unwrap_err();
            assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{bad}");
        }
        assert!(ports(&format!("{many}&port=7")).is_err());
    }
}
