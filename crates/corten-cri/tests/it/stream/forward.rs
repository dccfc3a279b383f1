//! Forwarded ports: by SPDY, by SPDY inside of WebSocket, and by channels.

use std::collections::HashMap;
use std::time::Duration;

use corten_cri::stream::Settings;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};

use super::backend::pattern;
use super::client::serve;
use super::spdy::{self, FIN, Heard, Spdy};
use super::websocket::{self, Heard as Said, WebSocket};

const PORTFORWARD: &str = "portforward.k8s.io";
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

async fn pair<S: AsyncRead + AsyncWrite + Unpin>(
    client: &mut Spdy<S>,
    port: &str,
    request: &str,
) -> (u32, u32) {
    let mut streams = [0; 2];
    for (at, kind) in ["error", "data"].into_iter().enumerate() {
        let headers = [("streamtype", kind), ("port", port), ("requestid", request)];
        streams[at] = client.ask(&headers).await;
    }
    (streams[0], streams[1])
}

/// Fifty connections to one port at once, whose bytes do not mix.
async fn fifty<S: AsyncRead + AsyncWrite + Unpin>(client: &mut Spdy<S>) {
    let (mut streams, mut got) = (Vec::new(), HashMap::<u32, Vec<u8>>::new());
    for i in 0..50 {
        let (error, data) = pair(client, "7", &i.to_string()).await;
        client.send(error, FIN, b"").await;
        streams.push((error, data));
    }
    for round in 0..10 {
        for (i, (_, data)) in streams.iter().enumerate() {
            let flags = if round == 9 { FIN } else { 0 };
            let bytes = pattern(i * 1000 + round * 100, 100);
            client.send(*data, flags, &bytes).await;
        }
    }
    let mut ended = 0;
    while ended < 100 {
        match client.hear().await {
            Heard::Data(id, bytes) => got.entry(id).or_default().extend(bytes),
            Heard::End(..) => ended += 1,
            Heard::Reply(_) => {}
            other => panic!("{other:?}"),
        }
    }
    for (i, (error, data)) in streams.iter().enumerate() {
        assert!(got[data] == pattern(i * 1000, 1000), "pair {i}");
        assert!(!got.contains_key(error));
    }
}

#[tokio::test]
async fn fifty_pairs_share_a_connection() {
    let served = serve(Settings::default()).await;
    let mut client = spdy::connect(&served.forward(&[]), PORTFORWARD).await;
    fifty(&mut client).await;
    // It is good for more.
    fifty_more(&mut client).await;
}

async fn fifty_more<S: AsyncRead + AsyncWrite + Unpin>(client: &mut Spdy<S>) {
    let (_, data) = pair(client, "13", "more").await;
    let mut text = Vec::new();
    loop {
        match client.hear().await {
            Heard::Data(id, bytes) if id == data => text.extend(bytes),
            Heard::End(id, _) if id == data => break,
            Heard::Reply(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(text, b"it is noon");
    client
        .control(3, 0, &[&data.to_be_bytes()[..], &[0, 0, 0, 5]].concat())
        .await;
}

#[tokio::test]
async fn a_port_that_refuses_is_told_of_and_the_others_go_on() {
    let served = serve(Settings::default()).await;
    let mut client = spdy::connect(&served.forward(&[]), PORTFORWARD).await;
    let (error, data) = pair(&mut client, "1", "0").await;
    let mut heard = Vec::new();
    for _ in 0..5 {
        heard.push(client.hear().await);
    }
    let words = b"cannot forward port 1 of pod pod: nobody listens".to_vec();
    assert!(heard.contains(&Heard::Data(error, words)), "{heard:?}");
    assert!(heard.contains(&Heard::Reset(error, 5)), "{heard:?}");
    assert!(heard.contains(&Heard::Reset(data, 5)), "{heard:?}");
    fifty_more(&mut client).await;
}

#[tokio::test]
async fn streams_of_no_port_or_pair_are_refused() {
    let settings = Settings {
        creation_timeout: Duration::from_millis(200),
        ..Settings::default()
    };
    let served = serve(settings).await;
    let mut client = spdy::connect(&served.forward(&[]), PORTFORWARD).await;
    for headers in [
        &[("streamtype", "data")][..],
        &[("streamtype", "data"), ("port", "0")],
        &[("streamtype", "data"), ("port", "65536")],
        &[("streamtype", "stdin"), ("port", "7")],
        &[("port", "7")],
    ] {
        let id = client.ask(headers).await;
        assert_eq!(client.hear().await, Heard::Reset(id, 1), "{headers:?}");
    }
    // A second half of one kind, and a half that stays alone.
    let half = [("streamtype", "error"), ("port", "7"), ("requestid", "1")];
    let first = client.ask(&half).await;
    assert_eq!(client.hear().await, Heard::Reply(first));
    let second = client.ask(&half).await;
    assert_eq!(client.hear().await, Heard::Reply(second));
    assert_eq!(client.hear().await, Heard::Reset(second, 1));
    let Heard::Data(id, words) = client.hear().await else {
        panic!("nothing is said of the missing half")
    };
    assert_eq!(id, first);
    assert_eq!(words, b"the data stream of this request was not opened");
    assert_eq!(client.hear().await, Heard::Reset(first, 5));
    fifty_more(&mut client).await;
}

/// Clients of long ago name no request: the numbers of the streams make the pair.
#[tokio::test]
async fn old_clients_are_paired_by_number() {
    let served = serve(Settings::default()).await;
    let mut client = spdy::connect(&served.forward(&[]), PORTFORWARD).await;
    let error = client.ask(&[("streamtype", "error"), ("port", "13")]).await;
    let data = client.ask(&[("streamtype", "data"), ("port", "13")]).await;
    assert_eq!(client.hear().await, Heard::Reply(error));
    assert_eq!(client.hear().await, Heard::Reply(data));
    assert_eq!(client.hear().await, Heard::Data(data, b"it is noon".into()));
}

/// The client's GOAWAY: what runs goes on, and then it is over.
#[tokio::test]
async fn going_away_lets_the_pairs_end() {
    let served = serve(Settings::default()).await;
    let mut client = spdy::connect(&served.forward(&[]), PORTFORWARD).await;
    let (_, data) = pair(&mut client, "7", "1").await;
    client.control(7, 0, &[0; 8]).await;
    let late = client.ask(&[("streamtype", "error"), ("port", "7")]).await;
    client.send(data, FIN, b"last words").await;
    let (mut text, mut refused) = (Vec::new(), false);
    loop {
        match client.hear().await {
            Heard::Data(_, bytes) => text.extend(bytes),
            Heard::Reset(id, 3) => refused = id == late,
            Heard::Closed => break,
            _ => {}
        }
    }
    assert_eq!((&*text, refused), (&b"last words"[..], true));
}

#[tokio::test]
async fn spdy_goes_through_websocket() {
    let served = serve(Settings::default()).await;
    let outer = websocket::connect(&served.forward(&[]), TUNNEL).await;
    let (inner, task) = tunnelled(outer);
    let mut client = Spdy::new(inner);
    fifty(&mut client).await;
    drop(client);
    task.await.unwrap();
}

/// Carries bytes between a pipe and the messages of a WebSocket, to the end of the pipe.
fn tunnelled(outer: WebSocket) -> (DuplexStream, tokio::task::JoinHandle<()>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, empty, join, sink, split};
    let (inner, ours) = tokio::io::duplex(1 << 20);
    let (mut from, mut to) = split(ours);
    let (read, write) = split(outer.io);
    let mut sending = WebSocket {
        io: join(empty(), write),
    };
    let mut hearing = WebSocket {
        io: join(read, sink()),
    };
    let back = tokio::spawn(async move {
        loop {
            match hearing.hear().await {
                Said::Binary(bytes) => to.write_all(&bytes).await.unwrap(),
                other => return assert_eq!(other, Said::Close(1000)),
            }
        }
    });
    let task = tokio::spawn(async move {
        let mut bytes = vec![0; 3000];
        loop {
            match from.read(&mut bytes).await.unwrap() {
                0 => break sending.raw(&websocket::frame(0x88, &[3, 232])).await,
                n => sending.binary(&bytes[..n]).await,
            }
        }
        back.await.unwrap();
    });
    (inner, task)
}

#[tokio::test]
async fn channels_carry_ports_without_spdy() {
    let served = serve(Settings::default()).await;
    let by_ask = served.forward(&[13, 1]);
    let by_query = format!("{}?port=13,1", served.forward(&[]));
    for (url, protocol) in [
        (by_ask, "v4.channel.k8s.io"),
        (by_query, "portforward.k8s.io"),
    ] {
        let mut client = websocket::connect(&url, protocol).await;
        let mut rest = client.rest().await;
        rest.sort();
        let refused = b"cannot forward port 1 of pod pod: nobody listens";
        let expected = [
            (0, [&[13, 0][..], b"it is noon"].concat()),
            (1, vec![13, 0]),
            (2, vec![1, 0]),
            (3, [&[1, 0][..], refused].concat()),
        ];
        assert_eq!(rest, expected);
    }
}

#[tokio::test]
async fn much_comes_through_a_port() {
    let served = serve(Settings::default()).await;
    let mut client = spdy::connect(&served.forward(&[]), PORTFORWARD).await;
    let (_, data) = pair(&mut client, "19", "1").await;
    let mut count = 0;
    while count < 5_000_000 {
        match client.hear().await {
            Heard::Data(id, bytes) => {
                assert!(
                    id == data && bytes == pattern(count, bytes.len()),
                    "at {count}"
                );
                count += bytes.len();
            }
            Heard::Reply(_) => {}
            other => panic!("{other:?}"),
        }
    }
}
