//! Clients' streams on processes of a real container, and ports of a real namespace. As root.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use corten_cri::exec::{self, Announced, Collected, Error};
use corten_cri::stream::{
    Answer, AttachAsk, Backend, Duplex, ExecAsk, Failure, Server, Settings, Streams,
};
use corten_shim::client::{self, Client, CreateOptions, CreateRequest, SpawnRequest, Stdio};
use corten_spec::ContainerId;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::stream::spdy::{self, FIN, Heard};

const V4: &str = "v4.channel.k8s.io";

/// A container with busybox, and a shim for it alone.
struct Rig {
    folder: tempfile::TempDir,
    id: ContainerId,
    shim: Client,
    execs: AtomicU32,
}

impl Rig {
    fn new(script: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let folder = tempfile::tempdir().unwrap();
        let count = COUNT.fetch_add(1, Ordering::SeqCst);
        let name = format!("criexec-{}-{count}", std::process::id());
        let id: ContainerId = name.parse().unwrap();
        let root = folder.path().join("rootfs");
        for name in ["bin", "dev", "proc"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        for name in [
            "sh", "cat", "sleep", "seq", "stty", "head", "yes", "wc", "kill",
        ] {
            symlink("busybox", root.join("bin").join(name)).unwrap();
        }
        let config = folder.path().join("config.json");
        fs::write(config, spec(&name, script).to_string()).unwrap();
        let test = std::env::current_exe().unwrap();
        let examples = test.parent().unwrap().parent().unwrap().join("examples");
        let log = fs::File::create(folder.path().join("shim.log")).unwrap();
        let mut shim = client::spawn(&SpawnRequest {
            exe: &examples.join("supervisor"),
            bundle: folder.path(),
            id: &id,
            namespace: "test",
            state_root: &folder.path().join("state"),
            inherit: Vec::new(),
            log: Some(log.into()),
        })
        .unwrap();
        let created = shim.create(CreateRequest {
            bundle: folder.path().into(),
            stdio: Stdio::attach(false),
            options: CreateOptions {
                attach: true,
                open_stdin: true,
                stdin_once: true,
                ..CreateOptions::default()
            },
            ..CreateRequest::default()
        });
        created.unwrap();
        shim.start("").unwrap();
        Self {
            folder,
            id,
            shim,
            execs: AtomicU32::new(0),
        }
    }

    fn bundle(&self) -> PathBuf {
        self.folder.path().into()
    }

    fn connect(&self) -> Client {
        client::connect(self.folder.path(), &self.id).unwrap()
    }

    /// Announces a process.
    fn announce(&self, args: &[&str], tty: bool, stdin: bool) -> Announced {
        let process = serde_json::from_value(json!({
            "terminal": tty, "user": {"uid": 0, "gid": 0}, "args": args, "env": ["PATH=/bin"], "cwd": "/",
        }));
        let exec_id = format!("e{}", self.execs.fetch_add(1, Ordering::SeqCst));
        let mut stdio = Stdio::attach(tty);
        if !stdin {
            stdio.stdin.clear();
        }
        let mut shim = self.connect();
        shim.exec(&exec_id, stdio, &process.unwrap()).unwrap();
        Announced {
            shim,
            exec_id,
            bundle: self.bundle(),
            tty,
        }
    }

    /// That the shim has no process of this name.
    fn knows(&self, exec_id: &str) -> bool {
        self.connect().state(exec_id).is_ok()
    }

    /// Processes in the container, the first one apart.
    fn others(&self) -> usize {
        self.connect().pids().unwrap().len() - 1
    }

    fn finish(mut self) {
        let _exited = self.shim.kill("", 9, true);
        self.shim.wait("").unwrap();
        self.shim.delete("").unwrap();
        self.shim.shutdown().unwrap();
        let layout = corten_cgroup::Layout::probe().unwrap();
        let group = format!("/corten-criexec/{}", self.id.as_str());
        assert!(corten_cgroup::Cgroup::open(&layout, &group).is_err());
        if let Ok(parent) = corten_cgroup::Cgroup::open(&layout, "/corten-criexec")
            && layout.list("/corten-criexec").is_ok_and(|l| l.is_empty())
        {
            // Another test's may come to be in it meanwhile.
            let _kept = parent.delete();
        }
    }
}

fn spec(id: &str, script: &str) -> Value {
    json!({
        "ociVersion": "1.1.0",
        "process": {
            "user": {"uid": 0, "gid": 0}, "args": ["/bin/sh", "-c", script],
            "env": ["PATH=/bin"], "cwd": "/", "noNewPrivileges": true
        },
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666", "mode=0620"]}
        ],
        "linux": {
            "cgroupsPath": format!("/corten-criexec/{id}"),
            "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network"}]
        }
    })
}

async fn until(mut so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !so() {
        assert!(Instant::now() < end, "it never comes to be so");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl Backend for Rig {
    fn exec<'a>(&'a self, ask: &'a ExecAsk, streams: Streams) -> Answer<'a, i32> {
        let args: Vec<&str> = ask.command.iter().map(String::as_str).collect();
        let announced = self.announce(&args, ask.tty, ask.stdin);
        Box::pin(async move { Ok(exec::run(announced, streams).await?) })
    }

    fn attach<'a>(&'a self, _ask: &'a AttachAsk, streams: Streams) -> Answer<'a, ()> {
        Box::pin(async move { Ok(exec::attach(self.folder.path(), streams).await?) })
    }

    fn port<'a>(&'a self, _pod: &'a str, _port: u16) -> Answer<'a, Box<dyn Duplex>> {
        Box::pin(async { Err(Failure::new("no ports here")) })
    }
}

/// A server on a container.
struct Served {
    server: Server,
    rig: Arc<Rig>,
    stop: tokio::sync::oneshot::Sender<()>,
    running: tokio::task::JoinHandle<()>,
}

async fn serve(rig: Rig) -> Served {
    let rig = Arc::new(rig);
    let settings = Settings::default();
    let server = Server::bind(settings, rig.clone()).await.unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = server.clone().run(async { drop(stopped.await) });
    let running = tokio::spawn(running);
    Served {
        server,
        rig,
        stop,
        running,
    }
}

impl Served {
    /// The container, which nobody else has any more.
    async fn end(self) -> Rig {
        drop(self.stop);
        self.running.await.unwrap();
        drop(self.server);
        until(|| Arc::strong_count(&self.rig) == 1).await;
        Arc::into_inner(self.rig).unwrap()
    }
}

fn url(server: &Server, flags: &str, args: &[&str]) -> String {
    let ask = ExecAsk {
        container: "one".into(),
        command: args.iter().map(|a| a.to_string()).collect(),
        tty: flags.contains('t'),
        stdin: flags.contains('i'),
        stdout: flags.contains('o'),
        stderr: flags.contains('e'),
    };
    server.exec(ask).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clients_streams_are_the_processs() {
    let served = serve(Rig::new("sleep 1000")).await;
    let (server, rig) = (&served.server, &served.rig);

    let script = "echo hello; echo world >&2; exit 7";
    let mut client = spdy::connect(&url(server, "oe", &["sh", "-c", script]), V4).await;
    let error = client.open("error").await;
    let (stdout, stderr) = (client.open("stdout").await, client.open("stderr").await);
    let mut rest = client.rest().await;
    assert_eq!(
        (rest.text(stdout), rest.text(stderr)),
        ("hello\n".into(), "world\n".into())
    );
    assert!(
        rest.text(error)
            .contains(r#""reason":"ExitCode","message":"7""#)
    );

    // Input, its end, and much output.
    let mut client =
        spdy::connect(&url(server, "io", &["sh", "-c", "wc -c; seq 1000000"]), V4).await;
    let (_error, stdin) = (client.open("error").await, client.open("stdin").await);
    let stdout = client.open("stdout").await;
    for _ in 0..100 {
        client.send(stdin, 0, &[b'x'; 100_000]).await;
    }
    client.send(stdin, FIN, b"").await;
    let expected: String = (1..=1_000_000).map(|n| format!("{n}\n")).collect();
    assert!(client.rest().await.text(stdout) == format!("10000000\n{expected}"));

    // A terminal, which has its size before the program begins, another size, and what a signal makes of the exit code.
    let script = "stty size; while [ \"$(stty size)\" != '34 102' ]; do sleep 0.01; done; stty size; kill -9 $$";
    let mut client = spdy::connect(&url(server, "ot", &["sh", "-c", script]), V4).await;
    let (error, resize) = (client.open("error").await, client.open("resize").await);
    client
        .send(resize, 0, br#"{"Width":101,"Height":33}"#)
        .await;
    // The last stream that was asked for: now the program may start.
    let stdout = client.open("stdout").await;
    let Heard::Data(_, first) = client.hear().await else {
        panic!("no output");
    };
    client
        .send(resize, 0, br#"{"Width":102,"Height":34}"#)
        .await;
    let mut rest = client.rest().await;
    let first = String::from_utf8(first).unwrap();
    assert_eq!(first + &rest.text(stdout), "33 101\r\n34 102\r\n");
    assert!(
        rest.text(error).contains(r#""message":"137""#),
        "{}",
        rest.text(error)
    );

    // What does not exist is named.
    let mut client = spdy::connect(&url(server, "o", &["/no/such/program"]), V4).await;
    let (error, _stdout) = (client.open("error").await, client.open("stdout").await);
    let status = client.rest().await.text(error);
    assert!(
        status.contains("InternalError") && status.contains("/no/such/program"),
        "{status}"
    );

    for exec in 0..4 {
        assert!(
            !rig.knows(&format!("e{exec}")),
            "e{exec} is still on the list"
        );
    }
    // The kernel takes a moment to take the dead off the list.
    until(|| rig.others() == 0).await;
    served.end().await.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_vanishes_hangs_up_terminals_and_ends_input() {
    let served = serve(Rig::new("sleep 1000")).await;
    let (server, rig) = (&served.server, &served.rig);
    // A shell that reads is hung up on; without a terminal it comes to the end of its input.
    for flags in ["iot", "io"] {
        let mut client = spdy::connect(&url(server, flags, &["sh"]), V4).await;
        let (_error, stdin) = (client.open("error").await, client.open("stdin").await);
        client.open("stdout").await;
        if flags == "iot" {
            client.open("resize").await;
        }
        client.send(stdin, 0, b"echo hi\n").await;
        assert!(matches!(client.hear().await, Heard::Data(..)));
        assert_eq!(rig.others(), 1);
        drop(client);
        until(|| rig.others() == 0).await;
    }
    // One that only writes goes on, and what it writes is lost.
    let writes = ["sh", "-c", "yes | head -c 5000000; cat /dev/null; exit 3"];
    let mut client = spdy::connect(&url(server, "o", &writes), V4).await;
    client.open("error").await;
    client.open("stdout").await;
    drop(client);
    until(|| rig.others() == 0).await;
    for exec in 0..3 {
        until(|| !rig.knows(&format!("e{exec}"))).await;
    }
    served.end().await.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_containers_own_streams_are_attached_to() {
    let served = serve(Rig::new("echo begun; cat; exit 4")).await;
    let mut heard = String::new();
    let ask = AttachAsk {
        container: "one".into(),
        stdin: true,
        stdout: true,
        ..AttachAsk::default()
    };
    let mut client = spdy::connect(&served.server.attach(ask).unwrap(), V4).await;
    let (error, stdin) = (client.open("error").await, client.open("stdin").await);
    let stdout = client.open("stdout").await;
    client.send(stdin, 0, b"to the container\n").await;
    while !heard.ends_with("to the container\n") {
        match client.hear().await {
            Heard::Data(id, bytes) if id == stdout => {
                heard.push_str(std::str::from_utf8(&bytes).unwrap())
            }
            other => panic!("{other:?}"),
        }
    }
    client.send(stdin, FIN, b"").await;
    assert_eq!(client.rest().await.text(error), r#"{"status":"Success"}"#);
    let rig = served.end().await;
    assert_eq!(rig.connect().wait("").unwrap().status, 4);
    rig.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_is_collected() {
    let rig = Rig::new("sleep 1000");
    let collect = async |script: &str, limit| {
        let announced = rig.announce(&["sh", "-c", script], false, false);
        exec::collect(announced, limit).await
    };
    let done = collect("echo out; echo err >&2; exit 5", None)
        .await
        .unwrap();
    let expected = Collected {
        stdout: b"out\n".into(),
        stderr: b"err\n".into(),
        exit_code: 5,
    };
    assert_eq!(done, expected);
    // No standard input: it is at its end.
    let done = collect("cat; echo done", Some(Duration::from_secs(10)))
        .await
        .unwrap();
    assert_eq!(done.stdout, b"done\n");
    let done = collect("yes | head -c 20000000; echo tail >&2", None)
        .await
        .unwrap();
    assert_eq!(done.stdout.len() + done.stderr.len(), exec::OUTPUT_MAX);
    let missing = rig.announce(&["/no/such/program"], false, false);
    let missing = exec::collect(missing, None).await.unwrap_err();
    assert!(matches!(missing, Error::Start { .. }), "{missing:?}");
    until(|| rig.others() == 0).await;
    rig.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_takes_too_long_is_killed_with_its_family() {
    let rig = Rig::new("sleep 1000");
    let script = "sleep 1001 & (sleep 1002; true) & trap '' TERM HUP; sleep 1003; sleep 1004";
    let limit = Duration::from_millis(500);
    let begun = Instant::now();
    let announced = rig.announce(&["sh", "-c", script], false, false);
    let late = exec::collect(announced, Some(limit)).await.unwrap_err();
    assert!(
        matches!(late, Error::Late { limit: l } if l == limit),
        "{late:?}"
    );
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );
    until(|| rig.others() == 0).await;
    assert!(!rig.knows("e0"));

    // Its caller has gone: nobody waits for it.
    let announced = rig.announce(&["sh", "-c", script], false, false);
    let given_up = tokio::time::timeout(limit, exec::collect(announced, None)).await;
    assert!(given_up.is_err());
    until(|| rig.others() == 0 && !rig.knows("e1")).await;
    rig.finish();
}

/// A namespace of a thread's own, in which it listens, and the port.
fn elsewhere(address: &'static str) -> (PathBuf, u16, std::sync::mpsc::Sender<()>) {
    let (tell, told) = std::sync::mpsc::channel();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        #[expect(deprecated)]
        rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET).unwrap();
        let up = std::process::Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        assert!(up.unwrap().success());
        let listener = std::net::TcpListener::bind((address, 0)).unwrap();
        let thread = rustix::thread::gettid().as_raw_nonzero();
        let path = format!("/proc/self/task/{thread}/ns/net");
        tell.send((path.into(), listener.local_addr().unwrap().port()))
            .unwrap();
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let mut socket = socket.unwrap();
                std::io::copy(&mut socket.try_clone().unwrap(), &mut socket).unwrap();
            }
        });
        let _ended = stopped.recv();
    });
    let (path, port) = told.recv().unwrap();
    (path, port, stop)
}

#[tokio::test]
async fn ports_are_reached_inside_of_the_pods_network() {
    let own = fs::read_link("/proc/thread-self/ns/net").unwrap();
    for address in ["127.0.0.1", "::1"] {
        let (path, port, _stop) = elsewhere(address);
        let mut stream = exec::port(&path, port).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello", "{address}");
        let refused = exec::port(&path, 1).await.unwrap_err();
        assert!(
            matches!(&refused, Error::Port { port: 1, source } if source.kind() == std::io::ErrorKind::ConnectionRefused),
            "{refused:?}"
        );
    }
    let gone = exec::port("/proc/self/fd/9999".as_ref(), 80)
        .await
        .unwrap_err();
    assert!(matches!(gone, Error::Namespace { .. }), "{gone:?}");
    let namespace = fs::read_link("/proc/thread-self/ns/net").unwrap();
    assert_eq!(own, namespace, "a thread of the runtime has moved");
}
