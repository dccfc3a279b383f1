//! Processes in containers and ports of pods: ExecSync, and the URLs of Exec, Attach and PortForward by a WebSocket client.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use corten_cri::proto::*;
use corten_testkit::Result;
use tonic::Code;

use super::SOON;
use super::daemon::block;
use super::pods::Node;

const CHANNELS: &str = "v5.channel.k8s.io";
// Of the channels; 2 is stderr, and 3 how it ended.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

struct Socket(TcpStream);

impl Socket {
    /// The answer's code, where it is not a switch of protocols.
    fn open(url: &str, protocol: &str) -> std::result::Result<Self, String> {
        let (_, rest) = url.split_once("://").expect("a URL");
        let (host, path) = rest.split_once('/').expect("a path");
        let mut stream = TcpStream::connect(host).expect("a connection");
        stream.set_read_timeout(Some(SOON)).expect("a timeout");
        write!(
            stream,
            "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: {protocol}\r\n\r\n"
        )
        .expect("a request");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            match stream.read(&mut byte) {
                Ok(1) => head.push(byte[0]),
                _ => break,
            }
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        match head.starts_with("HTTP/1.1 101 ") {
            true => Ok(Self(stream)),
            false => Err(head.split(' ').nth(1).unwrap_or_default().to_owned()),
        }
    }

    fn send(&mut self, channel: u8, bytes: &[u8]) {
        let len = bytes.len() + 1;
        assert!(len < 126, "a test's frames are short");
        // Masked by zeros, which are a mask too.
        let head = [0x82, 0x80 | len as u8, 0, 0, 0, 0, channel];
        self.0
            .write_all(&[&head[..], bytes].concat())
            .expect("a frame");
    }

    /// The next frame of a channel; `None` at the end.
    fn hear(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut head = [0; 2];
        self.0.read_exact(&mut head).ok()?;
        let len = match head[1] {
            126 => {
                let mut more = [0; 2];
                self.0.read_exact(&mut more).ok()?;
                u64::from(u16::from_be_bytes(more))
            }
            127 => {
                let mut more = [0; 8];
                self.0.read_exact(&mut more).ok()?;
                u64::from_be_bytes(more)
            }
            short => short.into(),
        };
        let mut bytes = vec![0; len as usize];
        self.0.read_exact(&mut bytes).ok()?;
        match head[0] {
            0x82 => Some((bytes[0], bytes[1..].to_vec())),
            _ => None,
        }
    }

    /// All that a channel says to the end.
    fn rest(&mut self) -> [String; 4] {
        let mut all: [Vec<u8>; 4] = Default::default();
        while let Some((channel, bytes)) = self.hear() {
            if let Some(of) = all.get_mut(usize::from(channel)) {
                of.extend(bytes);
            }
        }
        all.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Reads until a channel has said this.
    #[track_caller]
    fn until(&mut self, channel: u8, wanted: &str) {
        let mut text = String::new();
        while !text.contains(wanted) {
            let (of, bytes) = self
                .hear()
                .unwrap_or_else(|| panic!("{text:?}, not {wanted:?}"));
            if of == channel {
                text.push_str(&String::from_utf8_lossy(&bytes));
            }
        }
    }
}

#[test]
fn a_process_in_a_container_is_waited_for() -> Result<()> {
    let node = Node::start()?;
    block(async {
        let mut client = node.client().await;
        let pod = client.run(&client.pod("web")).await.expect("a pod");
        let id = client.go(&pod, &client.container("c", "sleep 1000")).await;
        let done = client
            .exec(&id, "echo out; echo err >&2; exit 5", 0)
            .await
            .expect("an exec");
        assert_eq!(
            (&*done.stdout, &*done.stderr, done.exit_code),
            (&b"out\n"[..], &b"err\n"[..], 5)
        );
        let done = client.exec(&id, "kill -9 $$", 0).await.expect("an exec");
        assert_eq!(done.exit_code, 137);

        // No more is kept than a message of 16 MiB holds, and the process gets on.
        let request = ExecSyncRequest {
            container_id: id.clone(),
            cmd: ["dd", "if=/dev/zero", "bs=1M", "count=20"]
                .map(String::from)
                .to_vec(),
            timeout: 20,
        };
        let done = client
            .runtime
            .exec_sync(request)
            .await
            .expect("an exec")
            .into_inner();
        assert_eq!((done.stdout.len(), done.exit_code), ((16 << 20) - 64, 0));

        // What is late is ended with all that it has started.
        let since = Instant::now();
        let late = client
            .exec(&id, "sleep 777 & sleep 778", 1)
            .await
            .expect_err("late");
        assert_eq!(late.code(), Code::DeadlineExceeded, "{late}");
        assert!(since.elapsed() < Duration::from_secs(5));
        let left = client
            .says(&id, "ps | grep -c 'sleep 77[78]' || true")
            .await;
        assert_eq!(left, "0");

        let request = ExecSyncRequest {
            container_id: id.clone(),
            cmd: vec!["/no/such".into()],
            timeout: 5,
        };
        client
            .runtime
            .exec_sync(request)
            .await
            .expect_err("no such program");
        client.stop(&id, 0).await.expect("a stop");
        let late = client.exec(&id, "true", 1).await.expect_err("ended");
        assert_eq!(late.code(), Code::FailedPrecondition);
    });
    node.finish();
    Ok(())
}

#[test]
fn streams_of_exec_and_attach() -> Result<()> {
    let node = Node::start()?;
    block(async {
        let mut client = node.client().await;
        let pod = client.run(&client.pod("web")).await.expect("a pod");
        let mut config = client.container("c", "while read a; do echo got $a; done; exit 4");
        (config.stdin, config.stdin_once) = (true, true);
        let id = client.go(&pod, &config).await;
        let ask = |script: &str, tty: bool| ExecRequest {
            container_id: id.clone(),
            cmd: ["sh", "-c", script].map(String::from).to_vec(),
            tty,
            stdin: true,
            stdout: true,
            stderr: !tty,
        };
        let url = client
            .runtime
            .exec(ask("cat; echo err >&2; exit 3", false))
            .await;
        let url = url.expect("a URL").into_inner().url;
        let mut socket = Socket::open(&url, CHANNELS).expect("a switch");
        socket.send(STDIN, b"hello");
        socket.until(STDOUT, "hello");
        socket.send(CLOSE, &[STDIN]);
        let [_, out, err, status] = socket.rest();
        assert_eq!((&*out, &*err), ("", "err\n"));
        let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
        assert_eq!(status["details"]["causes"][0]["message"], "3", "{status}");
        // A URL is good for once.
        assert_eq!(Socket::open(&url, CHANNELS).err().as_deref(), Some("404"));

        let url = client.runtime.exec(ask("read a; stty size", true)).await;
        let url = url.expect("a URL").into_inner().url;
        let mut socket = Socket::open(&url, CHANNELS).expect("a switch");
        socket.send(RESIZE, br#"{"Width": 101, "Height": 37}"#);
        tokio::time::sleep(Duration::from_millis(300)).await;
        socket.send(STDIN, b"\n");
        socket.until(STDOUT, "37 101");

        let request = AttachRequest {
            container_id: id.clone(),
            stdin: true,
            stdout: true,
            stderr: true,
            tty: false,
        };
        let url = client
            .runtime
            .attach(request)
            .await
            .expect("a URL")
            .into_inner()
            .url;
        let mut socket = Socket::open(&url, CHANNELS).expect("a switch");
        socket.send(STDIN, b"one\n");
        socket.until(STDOUT, "got one");
        socket.send(CLOSE, &[STDIN]);
        assert_eq!(client.ended(&id).await.exit_code, 4);
        client.logged("web", "c", "got one");
        let late = client
            .runtime
            .exec(ask("true", false))
            .await
            .expect_err("ended");
        assert_eq!(late.code(), Code::FailedPrecondition);
    });
    node.finish();
    Ok(())
}

#[test]
fn a_port_of_a_pod_is_reached() -> Result<()> {
    let node = Node::start()?;
    block(async {
        let mut client = node.client().await;
        let pod = client.run(&client.pod("web")).await.expect("a pod");
        let script =
            "mkdir /w; echo served > /w/index.html; httpd -p 127.0.0.1:8080 -h /w; sleep 1000";
        let id = client.go(&pod, &client.container("c", script)).await;
        client
            .says(&id, "until wget -qO /dev/null http://127.0.0.1:8080/index.html 2>/dev/null; do sleep 0.05; done")
            .await;
        let request = PortForwardRequest {
            pod_sandbox_id: pod.clone(),
            port: vec![8080],
        };
        let url = client.runtime.port_forward(request.clone()).await;
        let url = url.expect("a URL").into_inner().url;
        let mut socket = Socket::open(&url, "v4.channel.k8s.io").expect("a switch");
        // First each channel says which port it is of.
        for channel in [0, 1] {
            assert_eq!(
                socket.hear(),
                Some((channel, 8080u16.to_le_bytes().to_vec()))
            );
        }
        socket.send(0, b"GET /index.html HTTP/1.0\r\n\r\n");
        socket.until(0, "served");
        drop(socket);
        client.stop_pod(&pod).await.expect("a stop");
        let late = client
            .runtime
            .port_forward(request)
            .await
            .expect_err("not ready");
        assert_eq!(late.code(), Code::FailedPrecondition);
    });
    node.finish();
    Ok(())
}
