//! Commands and attached containers.

use std::sync::atomic::Ordering;
use std::time::Duration;

use corten_cri::stream::{AttachAsk, Settings};
use tokio::io::AsyncWriteExt as _;

use super::backend::pattern;
use super::client::{serve, until};
use super::spdy::{self, FIN, Heard};
use super::websocket::{self, Heard as Said};

const V4: &str = "v4.channel.k8s.io";
const V5: &str = "v5.channel.k8s.io";
const SUCCESS: &str = r#"{"status":"Success"}"#;
const BIG: usize = 100 << 20;

#[tokio::test]
async fn spdy_tells_output_and_exit_code() {
    let served = serve(Settings::default()).await;
    let mut client = spdy::connect(&served.exec("oe", &["say", "hello", "world"]), V4).await;
    let error = client.open("error").await;
    let (stdout, stderr) = (client.open("stdout").await, client.open("stderr").await);
    let mut rest = client.rest().await;
    assert_eq!(rest.text(stdout), "hello");
    assert_eq!(rest.text(stderr), "world");
    assert_eq!(rest.text(error), SUCCESS);
    assert_eq!(rest.ended, [stdout, stderr, error]);

    let mut client = spdy::connect(&served.exec("o", &["exit", "7"]), V4).await;
    // In another order.
    let (_stdout, error) = (client.open("stdout").await, client.open("error").await);
    let status = client.rest().await.text(error);
    assert!(
        status.contains(r#""reason":"ExitCode","message":"7""#),
        "{status}"
    );
}

#[tokio::test]
async fn older_versions_tell_failures_in_words() {
    let served = serve(Settings::default()).await;
    for version in ["v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"] {
        for (code, words) in [("0", ""), ("7", "command terminated with exit code 7")] {
            let mut client = spdy::connect(&served.exec("o", &["exit", code]), version).await;
            let error = client.open("error").await;
            client.open("stdout").await;
            assert_eq!(client.rest().await.text(error), words, "{version}");
        }
    }
    let mut client = spdy::connect(&served.exec("o", &["nonsense"]), V4).await;
    let (error, _stdout) = (client.open("error").await, client.open("stdout").await);
    let status = client.rest().await.text(error);
    assert!(
        status.contains(r#""reason":"InternalError","code":500"#),
        "{status}"
    );
    assert!(status.contains("no command"), "{status}");
}

#[tokio::test]
async fn stdin_ends_at_the_clients_end() {
    let served = serve(Settings::default()).await;
    let mut client = spdy::connect(&served.exec("io", &["cat"]), V4).await;
    let (error, stdin) = (client.open("error").await, client.open("stdin").await);
    let stdout = client.open("stdout").await;
    client.send(stdin, 0, b"one ").await;
    assert_eq!(client.hear().await, Heard::Data(stdout, b"one ".into()));
    client.send(stdin, FIN, b"two").await;
    let mut rest = client.rest().await;
    assert_eq!(rest.text(stdout), "two");
    assert_eq!(rest.text(error), SUCCESS);

    let mut client = websocket::connect(&served.exec("io", &["cat"]), V5).await;
    client.binary(b"\0one").await;
    client.binary(&[255, 0]).await;
    assert_eq!(
        client.rest().await,
        [(1, b"one".to_vec()), (3, SUCCESS.into())]
    );
}

#[tokio::test]
async fn a_terminal_is_resized() {
    let served = serve(Settings::default()).await;
    let mut client = spdy::connect(&served.exec("ot", &["sizes", "2"]), V4).await;
    let (error, stdout) = (client.open("error").await, client.open("stdout").await);
    let resize = client.open("resize").await;
    client
        .send(resize, 0, br#"{"Width":80,"Height":24}{"Wid"#)
        .await;
    assert_eq!(client.hear().await, Heard::Data(stdout, b"80x24;".into()));
    client.send(resize, 0, br#"th":1,"Height":2}"#).await;
    let mut rest = client.rest().await;
    assert_eq!(rest.text(stdout), "1x2;");
    assert_eq!(rest.text(error), SUCCESS);

    let mut client = websocket::connect(&served.exec("ot", &["sizes", "1"]), V4).await;
    client.binary(b"\x04{\"Width\":3,\"Height\":4}").await;
    assert_eq!(
        client.rest().await,
        [(1, b"3x4;".to_vec()), (3, SUCCESS.into())]
    );
}

#[tokio::test]
async fn attach_has_no_exit_code() {
    let served = serve(Settings::default()).await;
    let ask = AttachAsk {
        container: "web".into(),
        stdout: true,
        ..AttachAsk::default()
    };
    let mut client = spdy::connect(&served.server.attach(ask).unwrap(), V4).await;
    let (error, stdout) = (client.open("error").await, client.open("stdout").await);
    let mut rest = client.rest().await;
    assert_eq!(rest.text(stdout), "attached to web");
    assert_eq!(rest.text(error), SUCCESS);
}

/// All of it arrives, although the client reads slowly at first; and nothing piles up here meanwhile.
#[tokio::test]
async fn a_slow_reader_slows_the_command_and_loses_nothing() {
    let served = serve(Settings::default()).await;
    let size = BIG.to_string();
    let mut client = spdy::connect(&served.exec("o", &["give", &size]), V4).await;
    let (error, stdout) = (client.open("error").await, client.open("stdout").await);
    tokio::time::sleep(Duration::from_millis(300)).await;
    // Pieces of 100 kB: what the kernel's socket buffers hold, and a little of our own.
    let taken = served.backend.taken.load(Ordering::SeqCst);
    assert!(
        taken < BIG / 100_000 / 4,
        "{taken} pieces wait for a client that does not read"
    );
    let (mut count, mut status) = (0, String::new());
    loop {
        match client.hear().await {
            Heard::Data(id, bytes) if id == stdout => {
                assert!(
                    bytes == pattern(count, bytes.len()),
                    "wrong bytes at {count}"
                );
                count += bytes.len();
            }
            Heard::Data(id, bytes) if id == error => status = String::from_utf8(bytes).unwrap(),
            Heard::End(..) | Heard::GoAway(0) => {}
            Heard::Closed => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((count, &*status), (BIG, SUCCESS));
}

#[tokio::test]
async fn much_input_arrives_in_order() {
    let served = serve(Settings::default()).await;
    let mut client = spdy::connect(&served.exec("io", &["count"]), V4).await;
    let (_error, stdin) = (client.open("error").await, client.open("stdin").await);
    let stdout = client.open("stdout").await;
    let mut sent = 0;
    while sent < BIG {
        // Frames that do not fit the server's buffers, and then some that are larger than them.
        let len = (if sent < BIG / 2 { 77_777 } else { 7_777_777 }).min(BIG - sent);
        client.send(stdin, 0, &pattern(sent, len)).await;
        sent += len;
    }
    client.send(stdin, FIN, b"").await;
    assert_eq!(client.rest().await.text(stdout), format!("{BIG} true"));
}

#[tokio::test]
async fn websocket_carries_much_both_ways() {
    let served = serve(Settings::default()).await;
    let mut client = websocket::connect(&served.exec("io", &["count"]), V5).await;
    let mut sent = 0;
    while sent < BIG / 4 {
        let len = 333_333.min(BIG / 4 - sent);
        client
            .binary(&[b"\0", &pattern(sent, len)[..]].concat())
            .await;
        sent += len;
    }
    client.binary(&[255, 0]).await;
    let expected = format!("{} true", BIG / 4).into_bytes();
    assert_eq!(client.rest().await[0], (1, expected));

    let size = (BIG / 4).to_string();
    let mut client = websocket::connect(&served.exec("o", &["give", &size]), V4).await;
    let rest = client.rest().await;
    assert!(rest[0] == (1, pattern(0, BIG / 4).to_vec()), "wrong bytes");
    assert_eq!(rest[1], (3, SUCCESS.into()));
}

#[tokio::test]
async fn websocket_speaks_its_protocols() {
    let served = serve(Settings::default()).await;
    for protocol in ["", "channel.k8s.io", V4, V5] {
        let words = ["say", "hello", "world"];
        let mut client = websocket::connect(&served.exec("oe", &words), protocol).await;
        // The first message says that the channel is open.
        assert_eq!(client.hear().await, Said::Binary(vec![1]), "{protocol}");
        let rest = client.rest().await;
        assert_eq!(rest[..2], [(1, b"hello".to_vec()), (2, b"world".to_vec())]);
        let json = matches!(protocol, V4 | V5);
        assert_eq!(
            rest.get(2).is_some_and(|(_, s)| s == SUCCESS.as_bytes()),
            json
        );
    }
    let mut client =
        websocket::connect(&served.exec("io", &["cat"]), "base64.channel.k8s.io").await;
    assert_eq!(client.hear().await, Said::Text("1".into()));
    client.text("0aGVsbG8=").await;
    assert_eq!(client.hear().await, Said::Text("1aGVsbG8=".into()));
    let mut client = websocket::connect(
        &served.exec("o", &["exit", "3"]),
        "v4.base64.channel.k8s.io",
    )
    .await;
    assert_eq!(client.hear().await, Said::Text("1".into()));
    let Said::Text(status) = client.hear().await else {
        panic!("no status")
    };
    assert!(status.starts_with('3') && status.len() > 50, "{status}");
    assert_eq!(client.hear().await, Said::Close(1000));
    // Without standard output the first message is another channel's.
    for (flags, channel) in [("e", 2), ("i", 3)] {
        let mut client = websocket::connect(&served.exec(flags, &["hang"]), V4).await;
        assert_eq!(client.hear().await, Said::Binary(vec![channel]));
    }
}

#[tokio::test]
async fn websocket_control_frames_are_answered_and_fragments_joined() {
    let served = serve(Settings::default()).await;
    let mut client = websocket::connect(&served.exec("io", &["cat"]), V5).await;
    assert_eq!(client.hear().await, Said::Binary(vec![1]));
    client.raw(&websocket::frame(0x02, b"")).await;
    client.raw(&websocket::frame(0x89, b"there?")).await;
    client.raw(&websocket::frame(0x00, b"\0he")).await;
    assert_eq!(client.hear().await, Said::Pong(b"there?".into()));
    assert_eq!(client.hear().await, Said::Binary(b"\x01he".into()));
    client.raw(&websocket::frame(0x80, b"llo")).await;
    assert_eq!(client.hear().await, Said::Binary(b"\x01llo".into()));
    // A channel that is not there is nobody's.
    client.binary(b"\x07lost").await;
    client.binary(b"").await;
    client.raw(&websocket::frame(0x88, &[3, 232])).await;
    assert_eq!(client.hear().await, Said::Close(1000));
    assert_eq!(client.hear().await, Said::Closed);
}

#[tokio::test]
async fn what_is_no_websocket_is_closed_with_a_reason() {
    let served = serve(Settings::default()).await;
    let unmasked = [0x82, 1, 0];
    let long = websocket::frame(0x82, &vec![b'A'; 2 << 20]);
    let (plain, base64) = (V5, "base64.channel.k8s.io");
    for (protocol, bytes, code) in [
        (plain, &unmasked[..], 1002),
        (plain, &websocket::frame(0x83, b""), 1002),
        (plain, &websocket::frame(0x82, &[255]), 1002),
        (plain, &websocket::frame(0x82, &[255, 0, 0]), 1002),
        (base64, &websocket::frame(0x81, b"0no base64!"), 1002),
        (base64, &long, 1009),
    ] {
        let mut client = websocket::connect(&served.exec("io", &["cat"]), protocol).await;
        client.hear().await;
        // The server may close before it has read all.
        let _closed = client.io.write_all(bytes).await;
        assert_eq!(client.hear().await, Said::Close(code), "{protocol} {code}");
    }
}

#[tokio::test]
async fn a_client_that_vanishes_ends_the_command() {
    let served = serve(Settings::default()).await;
    let mut client = spdy::connect(&served.exec("io", &["hang"]), V4).await;
    for kind in ["error", "stdin", "stdout"] {
        client.open(kind).await;
    }
    drop(client);
    until(|| served.backend.dropped.load(Ordering::SeqCst) == 1).await;
    let mut client = websocket::connect(&served.exec("io", &["hang"]), V5).await;
    client.hear().await;
    drop(client);
    until(|| served.backend.dropped.load(Ordering::SeqCst) == 2).await;
}

/// The reader waits for room that never comes, and so reads no end of file: it has to ask whether anybody is there.
#[tokio::test]
async fn a_client_that_vanishes_behind_a_full_stream_is_noticed() {
    let served = serve(Settings::default()).await;
    let mut client = spdy::connect(&served.exec("io", &["hang"]), V4).await;
    let (_error, stdin) = (client.open("error").await, client.open("stdin").await);
    client.open("stdout").await;
    let full = async {
        loop {
            client.send(stdin, 0, &[0; 60_000]).await;
        }
    };
    assert!(
        tokio::time::timeout(Duration::from_secs(1), full)
            .await
            .is_err()
    );
    drop(client);
    until(|| served.backend.dropped.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn streams_that_do_not_come_end_the_session() {
    let settings = Settings {
        creation_timeout: Duration::from_millis(200),
        ..Settings::default()
    };
    let served = serve(settings).await;
    let mut client = spdy::connect(&served.exec("io", &["cat"]), V4).await;
    client.open("error").await;
    // A second of a kind, one that nobody has asked for, and one without a kind.
    for kind in ["error", "stderr", "resize", "data"] {
        let id = client.ask(&[("streamtype", kind)]).await;
        assert_eq!(client.hear().await, Heard::Reset(id, 1), "{kind}");
    }
    let id = client.ask(&[]).await;
    assert_eq!(client.hear().await, Heard::Reset(id, 1));
    assert_eq!(client.hear().await, Heard::GoAway(0));
    assert_eq!(client.hear().await, Heard::Closed);
}

#[tokio::test]
async fn streams_that_nobody_waits_for_do_not_stop_the_others() {
    let served = serve(Settings::default()).await;
    let mut client = spdy::connect(&served.exec("io", &["cat"]), V4).await;
    let (_error, stdin) = (client.open("error").await, client.open("stdin").await);
    let stdout = client.open("stdout").await;
    for _ in 0..100 {
        let id = client.ask(&[("streamtype", "stdin")]).await;
        client.send(id, 0, b"lost").await;
        assert_eq!(client.hear().await, Heard::Reset(id, 3));
    }
    client.send(stdin, FIN, b"found").await;
    assert_eq!(client.rest().await.text(stdout), "found");
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_busy_one_is_not() {
    let settings = Settings {
        idle_timeout: Duration::from_millis(400),
        ..Settings::default()
    };
    let served = serve(settings).await;
    let mut client = spdy::connect(&served.exec("io", &["cat"]), V4).await;
    let (_error, stdin) = (client.open("error").await, client.open("stdin").await);
    let stdout = client.open("stdout").await;
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        client.send(stdin, 0, b"x").await;
        assert_eq!(client.hear().await, Heard::Data(stdout, b"x".into()));
    }
    let quiet = std::time::Instant::now();
    assert_eq!(client.hear().await, Heard::Closed);
    assert!(quiet.elapsed() > Duration::from_millis(300));
}

#[tokio::test]
async fn spdy_pings_are_answered_and_nonsense_ends_the_connection() {
    let served = serve(Settings::default()).await;
    let mut client = spdy::connect(&served.exec("io", &["cat"]), V4).await;
    client.control(6, 0, &7u32.to_be_bytes()).await;
    assert_eq!(client.hear().await, Heard::Ping(7));
    // Our own number, settings, a window, a type that nobody knows, and data of no stream: passed over.
    client.control(6, 0, &2u32.to_be_bytes()).await;
    client.control(4, 0, &[0; 12]).await;
    client.control(9, 0, &[0; 8]).await;
    client.control(99, 0, &[1; 5000]).await;
    client.send(77, 0, b"lost").await;
    client.control(6, 0, &9u32.to_be_bytes()).await;
    assert_eq!(client.hear().await, Heard::Ping(9));
    client
        .io
        .write_all(b"\x80\x02\x00\x01\0\0\0\0")
        .await
        .unwrap();
    assert_eq!(client.hear().await, Heard::GoAway(1));
    assert_eq!(client.hear().await, Heard::Closed);

    // A stream number that does not grow.
    let mut client = spdy::connect(&served.exec("io", &["cat"]), V4).await;
    client.open("error").await;
    client.control(3, 0, &[0, 0, 0, 1, 0, 0, 0, 5]).await;
    let payload = [&1u32.to_be_bytes()[..], &[0; 6], b"garbage"].concat();
    client.control(1, 0, &payload).await;
    assert_eq!(client.hear().await, Heard::GoAway(1));
}

/// After the status everything is said, whatever the client still sends.
#[tokio::test]
async fn input_that_comes_too_late_does_not_cost_the_status() {
    let served = serve(Settings::default()).await;
    for _ in 0..20 {
        let mut client = spdy::connect(&served.exec("io", &["exit", "5"]), V4).await;
        let (error, stdin) = (client.open("error").await, client.open("stdin").await);
        client.ask(&[("streamtype", "stdout")]).await;
        let (mut sending, mut hearing) = client.split();
        let late = tokio::spawn(async move {
            while sending.data(stdin, 0, &[0; 30_000]).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        let mut status = String::new();
        loop {
            match hearing.hear().await {
                Heard::Data(id, bytes) if id == error => status = String::from_utf8(bytes).unwrap(),
                Heard::GoAway(_) | Heard::Closed => break,
                _ => {}
            }
        }
        late.abort();
        assert!(status.contains(r#""message":"5""#), "{status:?}");
    }
}
