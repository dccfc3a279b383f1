//! The daemon itself: one at a time, its socket made, found or given, how it starts and ends, and what it shows of itself.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use corten_cri::proto::{Int64Value, ListImagesRequest, VersionRequest};
use corten_testkit::{Registry, Result, registry::free_port, wait};
use serde_json::Value;
use tonic::{Code, Request};

use super::daemon::{Daemon, block, get, http, signal};
use super::{SOON, sandbox};

#[test]
fn it_serves_until_it_is_told_to_stop() -> Result<()> {
    let sandbox = sandbox()?;
    let began = Instant::now();
    let daemon = Daemon::start(&sandbox, &[]);
    // Far more than it needs: a debug build on a busy machine.
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    let mode = fs::metadata(&daemon.socket)
        .expect("a socket")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o660);
    block(async {
        let version = daemon
            .runtime()
            .await
            .version(VersionRequest::default())
            .await;
        let version = version.expect("a version").into_inner();
        assert_eq!(
            (
                version.runtime_name.as_str(),
                version.runtime_api_version.as_str()
            ),
            ("corten", "v1")
        );
    });
    // A terminal that goes, or an old habit: nothing half-done comes of it.
    signal(&daemon.child, "HUP");
    wait::until("a word about SIGHUP", SOON, || {
        daemon.log().contains("SIGHUP").then_some(())
    })?;
    block(async { assert!(daemon.ids().await.is_empty()) });
    let socket = daemon.socket.clone();
    assert!(daemon.stop().success());
    assert!(!socket.exists());
    sandbox.finish();
    Ok(())
}

#[test]
fn one_daemon_for_the_same_folders() -> Result<()> {
    let sandbox = sandbox()?;
    let daemon = Daemon::start(&sandbox, &[]);
    let second = sandbox.corten(&["serve"]);
    let pid = daemon.child.id().to_string();
    second
        .fails(125)
        .names("another 'corten serve'")
        .names(&pid)
        .complete();
    // Another run folder does not help: the state is the same.
    let mut second = Command::new(sandbox.binary());
    second.arg("--root").arg(sandbox.root());
    second
        .arg("--run")
        .arg(sandbox.files().join("run"))
        .arg("serve");
    let refused = second
        .env("CORTEN_ETC", sandbox.etc())
        .output()
        .expect("corten");
    let talk = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(125), "{talk}");
    assert!(
        talk.contains(&format!("has {:?}", sandbox.root())),
        "{talk}"
    );
    block(async { assert!(daemon.ids().await.is_empty()) });
    // What a killed one leaves is nobody's.
    let socket = daemon.socket.clone();
    daemon.kill();
    assert!(socket.exists());
    let daemon = Daemon::start(&sandbox, &[]);
    block(async { assert!(daemon.ids().await.is_empty()) });
    assert!(daemon.stop().success());
    sandbox.finish();
    Ok(())
}

#[test]
fn a_socket_of_somebody_else_is_left_alone() -> Result<()> {
    let sandbox = sandbox()?;
    let path = sandbox.files().join("others.sock");
    let text = path.to_string_lossy().into_owned();
    let others = UnixListener::bind(&path).expect("a socket");
    let refused = sandbox.corten(&["serve", "--socket", &text]);
    refused
        .fails(125)
        .names("listens on")
        .names(&text)
        .complete();
    drop(others);
    fs::remove_file(&path).expect("remove");
    fs::write(&path, "precious").expect("write");
    let refused = sandbox.corten(&["serve", "--socket", &text]);
    refused.fails(125).names("no socket").complete();
    assert_eq!(fs::read_to_string(&path).expect("read"), "precious");
    sandbox.finish();
    Ok(())
}

#[test]
fn a_socket_that_cannot_be_made_is_told_of_and_nothing_else_is_made() -> Result<()> {
    let sandbox = sandbox()?;
    let folder = sandbox.files().join("folder");
    fs::create_dir(&folder).expect("a folder");
    let absent = sandbox.files().join("absent/corten.sock");
    let long = sandbox.files().join("x".repeat(108));
    for (path, named) in [
        (&folder, "is a folder"),
        (&absent, "is not there"),
        (&long, "at most 107"),
    ] {
        let text = path.to_string_lossy().into_owned();
        let refused = sandbox.corten(&["serve", "--socket", &text]);
        refused.fails(125).names(named).names(&text).complete();
    }
    let made = fs::read_dir(sandbox.files()).expect("a list");
    let made: Vec<_> = made.map(|e| e.expect("an entry").file_name()).collect();
    assert!(!made.iter().any(|name| name == "absent"), "{made:?}");
    assert_eq!(fs::read_dir(&folder).expect("a list").count(), 0);
    sandbox.finish();
    Ok(())
}

#[test]
fn settings_that_cannot_be_used_are_named_and_nothing_starts() -> Result<()> {
    let sandbox = sandbox()?;
    let settings = sandbox.etc().join("serve.toml");
    for (text, named) in [
        ("sokcet = \"/x\"\n", "sokcet"),
        ("[images]\npinned = [\"A b\"]\n", "images.pinned"),
        ("[metrics]\naddress = \"everywhere\"\n", "metrics.address"),
        (
            "[tracing]\notlp-endpoint = \"https://collector\"\n",
            "https://collector",
        ),
        ("grace = 10\n", "grace"),
    ] {
        fs::write(&settings, text).expect("write");
        sandbox
            .corten(&["serve"])
            .fails(125)
            .names(named)
            .complete();
    }
    fs::remove_file(&settings).expect("remove");
    let absent = sandbox.files().join("absent.toml");
    let refused = sandbox.corten(&["serve", "--config", &absent.to_string_lossy()]);
    refused.fails(125).names("absent.toml").complete();
    let port = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = port.local_addr().expect("an address").to_string();
    let refused = sandbox.corten(&["serve", "--metrics-address", &address]);
    refused.fails(125).names(&address).complete();
    assert!(!sandbox.run_folder().join("corten.sock").exists());
    sandbox.finish();
    Ok(())
}

/// As systemd starts it: the socket is descriptor 3, and it tells when it is ready.
#[test]
fn started_by_a_socket_it_serves_that_and_tells_when_it_is_ready() -> Result<()> {
    let sandbox = sandbox()?;
    fs::create_dir(sandbox.run_folder()).expect("a folder");
    let socket = sandbox.run_folder().join("corten.sock");
    let listener = UnixListener::bind(&socket).expect("a socket");
    // Who connects before it is up waits.
    let early = UnixStream::connect(&socket).expect("a connection");
    let notify = sandbox.files().join("notify");
    let told = UnixDatagram::bind(&notify).expect("a socket");
    told.set_read_timeout(Some(SOON)).expect("a limit");
    let mut command = Command::new("sh");
    let script = "exec 3<&0 0</dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$@\"";
    command.args(["-c", script, "sh"]).arg(sandbox.binary());
    let ours = sandbox.command();
    command
        .args(ours.get_args())
        .args(["--log-level", "info", "serve"]);
    command
        .env("CORTEN_ETC", sandbox.etc())
        .env("NOTIFY_SOCKET", &notify);
    command.stdin(Stdio::from(OwnedFd::from(
        listener.try_clone().expect("a copy"),
    )));
    let daemon = Daemon::spawn(&sandbox, command);
    let next = || {
        let mut buffer = [0; 200];
        let n = told.recv(&mut buffer).expect("a word");
        String::from_utf8_lossy(&buffer[..n]).into_owned()
    };
    assert!(next().starts_with("READY=1\n"));
    block(async { assert!(daemon.ids().await.is_empty()) });
    assert!(daemon.log().contains("given=true"), "{}", daemon.log());
    drop(early);
    assert!(daemon.stop().success());
    assert_eq!(next(), "STOPPING=1\n");
    assert!(socket.exists(), "it is systemd's, and stays");
    // By the abstract name that containers of systemd have, too; and two sockets are one too many.
    let two = "exec 3<&0 4<&0 0</dev/null; export LISTEN_PID=$$ LISTEN_FDS=2; exec \"$@\"";
    let mut command = Command::new("sh");
    command
        .args(["-c", two, "sh"])
        .arg(sandbox.binary())
        .args(sandbox.command().get_args());
    command
        .arg("serve")
        .env("CORTEN_ETC", sandbox.etc())
        .stdin(Stdio::from(OwnedFd::from(listener)));
    let refused = command.output().expect("corten");
    assert_eq!(refused.status.code(), Some(125));
    let talk = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        talk.contains("2 sockets are given") && talk.contains("hint:"),
        "{talk}"
    );
    sandbox.finish();
    Ok(())
}

#[test]
fn what_is_no_call_of_the_interface_is_refused_as_grpc_does() -> Result<()> {
    let sandbox = sandbox()?;
    let daemon = Daemon::start(&sandbox, &[]);
    block(async {
        let channel =
            tonic::transport::Endpoint::from_shared(format!("unix://{}", daemon.socket.display()));
        let channel = channel
            .expect("an address")
            .connect()
            .await
            .expect("a connection");
        let codec = || tonic_prost::ProstCodec::<VersionRequest, Int64Value>::default();
        for (path, code) in [
            (
                "/runtime.v1alpha2.RuntimeService/Version",
                Code::Unimplemented,
            ),
            ("/runtime.v1.RuntimeService/Nothing", Code::Unimplemented),
            ("/grpc.health.v1.Health/Watch", Code::Unimplemented),
            ("/grpc.health.v1.Health/Check", Code::Ok),
        ] {
            let mut client = tonic::client::Grpc::new(channel.clone());
            client.ready().await.expect("ready");
            let request = Request::new(VersionRequest::default());
            let answer = client
                .unary(request, path.parse().expect("a path"), codec())
                .await;
            match answer {
                // SERVING
                Ok(status) => {
                    assert_eq!((status.into_inner().value, code), (1, Code::Ok), "{path}")
                }
                Err(status) => assert_eq!(status.code(), code, "{path}: {status}"),
            }
        }
        // A message beyond the bound, and then the same connection again.
        let mut images = daemon.images().await.max_encoding_message_size(64 << 20);
        let filter = corten_cri::proto::ImageFilter {
            image: Some(super::daemon::spec(&"x".repeat(17 << 20))),
        };
        let large = images
            .list_images(ListImagesRequest {
                filter: Some(filter),
            })
            .await;
        assert_eq!(large.expect_err("too large").code(), Code::OutOfRange);
        images
            .list_images(ListImagesRequest::default())
            .await
            .expect("a list");
    });
    // What is no HTTP/2 at all is hung up on.
    let mut odd = UnixStream::connect(&daemon.socket).expect("a connection");
    odd.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect("a request");
    odd.set_read_timeout(Some(SOON)).expect("a limit");
    let _whatever = odd.read_to_end(&mut Vec::new());
    block(async { assert!(daemon.ids().await.is_empty()) });
    assert!(daemon.stop().success());
    sandbox.finish();
    Ok(())
}

#[test]
fn metrics_and_health_over_http() -> Result<()> {
    let (sandbox, registry) = (sandbox()?, Registry::plain()?);
    let address = format!("127.0.0.1:{}", free_port()?);
    let daemon = Daemon::start(&sandbox, &["--metrics-address", &address]);
    let image = registry.push(&corten_testkit::Image::Busybox.layout()?, "busybox")?;
    block(async {
        daemon.pull(&image).await.expect("a pull");
        daemon.pull("A b").await.expect_err("no name");
    });
    let page = get(&address, "/metrics");
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
    assert!(
        page.contains("content-type: text/plain; version=0.0.4"),
        "{page}"
    );
    let pull = r#"service="runtime.v1.ImageService",method="PullImage""#;
    for line in [
        &format!("corten_cri_calls_total{{{pull},code=\"OK\"}} 1"),
        &format!("corten_cri_calls_total{{{pull},code=\"INVALID_ARGUMENT\"}} 1"),
        "corten_cri_call_seconds_count{method=\"PullImage\"} 2",
        "corten_image_pulls_total{result=\"whole\"} 1",
        "corten_images 1",
        "corten_pods{state=\"ready\"} 0",
        "corten_containers{state=\"running\"} 0",
        "corten_cri_calls_under_way 0",
    ] {
        assert!(page.lines().any(|l| l == line), "{line}\n{page}");
    }
    let figure = |name: &str| -> f64 {
        let found = page
            .lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
        found
            .and_then(|v| v.parse().ok())
            .unwrap_or_else(|| panic!("no {name}\n{page}"))
    };
    assert!(figure("corten_image_pull_bytes_total") > 100_000.0);
    assert!(figure("corten_filesystem_used_bytes{of=\"images\"}") > 500_000.0);
    assert!(figure("process_resident_memory_bytes") > 1e6);
    assert!(figure("process_open_fds") > 3.0);
    // Each family is said once, before its lines, as the format has it.
    let mut families = std::collections::BTreeSet::new();
    for line in page.split("\r\n\r\n").nth(1).unwrap_or_default().lines() {
        if let Some(family) = line
            .strip_prefix("# TYPE ")
            .and_then(|l| l.split(' ').next())
        {
            assert!(families.insert(family), "{family} twice");
        } else if !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().unwrap_or_default();
            let known = |f: &&str| {
                name == *f
                    || name
                        .strip_prefix(*f)
                        .is_some_and(|s| ["_bucket", "_sum", "_count"].contains(&s))
            };
            assert!(families.iter().any(known), "{line}");
        }
    }
    assert!(get(&address, "/healthz").starts_with("HTTP/1.1 200"));
    assert!(get(&address, "/nothing").starts_with("HTTP/1.1 404"));
    let connect = || std::net::TcpStream::connect(&address).expect("a connection");
    assert!(http(connect(), "POST", "/metrics").starts_with("HTTP/1.1 405"));
    // Somebody who says nothing holds nobody up.
    let _silent: Vec<_> = (0..8).map(|_| connect()).collect();
    assert!(get(&address, "/readyz").starts_with("HTTP/1.1 200"));
    assert!(daemon.stop().success());

    let socket = sandbox.files().join("metrics.sock");
    let daemon = Daemon::start(
        &sandbox,
        &["--metrics-address", &format!("unix:{}", socket.display())],
    );
    let page = http(
        UnixStream::connect(&socket).expect("a connection"),
        "GET",
        "/metrics",
    );
    assert!(page.contains("corten_images 1\n"), "{page}");
    assert!(daemon.stop().success());
    assert!(!socket.exists());
    sandbox.finish();
    Ok(())
}

/// A collector: takes each document, and answers as told.
fn collector(status: &'static str) -> (String, mpsc::Receiver<(String, Value)>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let (documents, received) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(&stream);
            let (mut head, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
                    break;
                }
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().expect("a length");
                }
                head.push_str(&line);
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).expect("a body");
            write!(
                &stream,
                "HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\n{{}}"
            )
            .expect("an answer");
            let document = serde_json::from_slice(&body).expect("JSON");
            if documents.send((head, document)).is_err() {
                return;
            }
        }
    });
    (url, received)
}

#[test]
fn spans_of_calls_go_to_a_collector() -> Result<()> {
    let sandbox = sandbox()?;
    let (url, received) = collector("200 OK");
    let daemon = Daemon::start(&sandbox, &["--otlp-endpoint", &url]);
    let traced = |parent: &str| {
        let mut request = Request::new(VersionRequest::default());
        request
            .metadata_mut()
            .insert("traceparent", parent.parse().expect("metadata"));
        request
    };
    block(async {
        let mut runtime = daemon.runtime().await;
        let kept = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        runtime.version(traced(kept)).await.expect("a version");
        let not_kept = "00-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-00f067aa0ba902b7-00";
        runtime.version(traced(not_kept)).await.expect("a version");
        daemon.pull("A b").await.expect_err("no name");
    });
    // What waits is sent at the end.
    assert!(daemon.stop().success());
    let (head, document) = received.recv_timeout(SOON).expect("a document");
    assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
    assert!(
        head.to_lowercase()
            .contains("content-type: application/json"),
        "{head}"
    );
    let spans = document["resourceSpans"][0]["scopeSpans"][0]["spans"]
        .as_array()
        .expect("spans");
    assert_eq!(spans.len(), 2, "{document:#}");
    let version = &spans[0];
    assert_eq!(version["name"], "runtime.v1.RuntimeService/Version");
    assert_eq!(version["traceId"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(version["parentSpanId"], "00f067aa0ba902b7");
    let time = |key: &str| -> u64 {
        version[key]
            .as_str()
            .and_then(|t| t.parse().ok())
            .expect("a time")
    };
    assert!(time("endTimeUnixNano") >= time("startTimeUnixNano"));
    let pull = &spans[1];
    assert_eq!(pull["status"]["code"], 2, "{pull:#}");
    let attribute = |key: &str| {
        let all = pull["attributes"].as_array().expect("attributes");
        all.iter()
            .find(|a| a["key"] == key)
            .map(|a| a["value"].clone())
    };
    assert_eq!(
        attribute("rpc.method").expect("a method")["stringValue"],
        "PullImage"
    );
    assert_eq!(
        attribute("rpc.grpc.status_code").expect("a code")["intValue"],
        "3"
    );
    assert_eq!(pull["traceId"].as_str().map(str::len), Some(32));
    sandbox.finish();
    Ok(())
}

#[test]
fn a_collector_that_refuses_or_is_away_costs_spans_alone() -> Result<()> {
    let sandbox = sandbox()?;
    let (refusing, received) = collector("500 Broken");
    let away = format!("http://127.0.0.1:{}", free_port()?);
    for (url, word) in [(&refusing, "500"), (&away, "cannot be reached")] {
        let address = format!("127.0.0.1:{}", free_port()?);
        let daemon = Daemon::start(
            &sandbox,
            &["--otlp-endpoint", url, "--metrics-address", &address],
        );
        block(async {
            let mut runtime = daemon.runtime().await;
            for _ in 0..3000 {
                runtime
                    .version(VersionRequest::default())
                    .await
                    .expect("a version");
            }
        });
        wait::until("lost spans", SOON, || {
            let page = get(&address, "/metrics");
            let dropped = page
                .lines()
                .find_map(|l| l.strip_prefix("corten_spans_dropped_total "));
            dropped
                .and_then(|n| n.parse::<u64>().ok())
                .filter(|n| *n >= 3000)
        })?;
        let log = daemon.log();
        let complaints: Vec<_> = log
            .lines()
            .filter(|l| l.contains("spans are lost"))
            .collect();
        assert!(
            complaints.len() == 1 && complaints[0].contains(word),
            "one complaint: {log}"
        );
        assert!(daemon.stop().success());
        fs::remove_file(sandbox.files().join("serve.log")).expect("remove");
    }
    assert!(received.try_recv().is_ok());
    sandbox.finish();
    Ok(())
}

#[test]
fn records_are_json_and_say_which_call_they_are_of() -> Result<()> {
    let sandbox = sandbox()?;
    let mut command = sandbox.command();
    command.args(["--log-level", "debug", "serve", "--log-format", "json"]);
    let daemon = Daemon::spawn(&sandbox, command);
    block(async {
        let mut runtime = daemon.runtime().await;
        let request = corten_cri::proto::StopContainerRequest {
            container_id: "of-this-one".into(),
            timeout: 0,
        };
        // Whatever comes of it.
        let _ended = runtime.stop_container(request).await;
        daemon.pull("A b").await.expect_err("no name");
    });
    let log = daemon.log();
    let records: Vec<Value> = log
        .lines()
        .map(|l| serde_json::from_str(l).expect("JSON"))
        .collect();
    let of = |method: &str| records.iter().find(|r| r["span"]["method"] == method);
    let pull = of("PullImage").unwrap_or_else(|| panic!("{log}"));
    assert_eq!(pull["span"]["image"], "A b", "{pull:#}");
    assert_eq!(pull["code"], "InvalidArgument", "{pull:#}");
    let why = pull["why"].as_str().unwrap_or_default();
    assert!(
        pull["message"] == "failed" && why.contains("names no image"),
        "{pull:#}"
    );
    assert!(
        pull["timestamp"].is_string() && pull["level"] == "WARN",
        "{pull:#}"
    );
    let stop = of("StopContainer").unwrap_or_else(|| panic!("{log}"));
    assert_eq!(stop["span"]["container"], "of-this-one", "{stop:#}");
    assert!(
        !log.contains("\"h2::"),
        "frames are for who looks for them: {log}"
    );
    assert!(daemon.stop().success());
    sandbox.finish();
    Ok(())
}
