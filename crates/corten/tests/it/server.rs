//! A Python HTTP server under `-p`: from loopback, from an address of the host, from another
//! container, on IPv4 and IPv6; and UDP.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use corten_testkit::registry::free_port;
use corten_testkit::{Image, Result, Sandbox, tool, wait};

use super::{SOON, sandbox, with_busybox};

const PAGE: &str = "served from a container";

/// One request; what came back, or nothing where nobody answers.
fn get(address: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
}

/// The address that the bridge gave this container, of one family: its own line of /etc/hosts.
fn address(sandbox: &Sandbox, container: &str, family: &str) -> String {
    let text = sandbox
        .corten(&["exec", container, "cat", "/etc/hosts"])
        .ok();
    let name = sandbox.corten(&["exec", container, "hostname"]).ok();
    let own = |line: &&str| line.split_whitespace().skip(1).any(|word| word == name);
    let addresses = text
        .lines()
        .filter(own)
        .filter_map(|line| line.split_whitespace().next());
    let mut wanted = addresses.filter(|address| address.contains(':') == (family == "-6"));
    wanted
        .next()
        .unwrap_or_else(|| panic!("no {family} address of {name} in {text}"))
        .to_owned()
}

/// A global address of the host's own link; a machine may have no IPv6 one but the bridge's.
fn host_address(sandbox: &Sandbox, family: &str) -> String {
    let all =
        tool::call("ip", &[family, "-o", "addr", "show", "scope", "global"]).unwrap_or_default();
    let words = |line: &str| {
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let lines: Vec<Vec<String>> = all.lines().map(words).collect();
    let bridge = sandbox.bridge();
    let best = lines
        .iter()
        .find(|words| words[1] != bridge)
        .or(lines.iter().find(|words| words[1] == bridge));
    let address = best.map(|words| words[3].split('/').next().unwrap_or_default().to_owned());
    address.unwrap_or_else(|| panic!("no {family} address on this host:\n{all}"))
}

fn bracketed(address: &str, port: u16) -> String {
    if address.contains(':') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    }
}

#[test]
fn a_published_server_is_reached_from_everywhere() -> Result<()> {
    let sandbox = sandbox()?;
    let (python, busybox) = (
        sandbox.image(Image::Python)?,
        sandbox.image(Image::Busybox)?,
    );
    let port = free_port()?;
    let script = format!(
        "mkdir /www; cd /www; echo '{PAGE}' >index.html; exec python3 -m http.server --bind :: 8000"
    );
    let publish = format!("{port}:8000");
    let run = [
        "run", "-d", "--name", "web", "-p", &publish, &python, "sh", "-c", &script,
    ];
    sandbox.corten(&run).ok();
    let loopback = SocketAddr::from(([127, 0, 0, 1], port));
    let page = wait::until("the server", SOON, || get(loopback));
    assert_eq!(
        page.unwrap_or_else(|error| panic!("{error}: {}", sandbox.corten(&["logs", "web"])))
            .trim(),
        PAGE
    );
    assert!(
        sandbox
            .corten(&["ps"])
            .ok()
            .contains(&format!("{port}->8000/tcp"))
    );

    for family in ["-4", "-6"] {
        let local = if family == "-4" { "127.0.0.1" } else { "::1" };
        let host = host_address(&sandbox, family);
        for place in [local, &host] {
            let at: SocketAddr = bracketed(place, port).parse().expect("an address");
            assert_eq!(
                get(at).as_deref().map(str::trim),
                Some(PAGE),
                "from the host by {at}"
            );
        }
        let container = address(&sandbox, "web", family);
        // By the host's address the packet goes out and comes back; by its own it stays on the bridge.
        for place in [format!("{host} {port}"), format!("{container} 8000")] {
            // A static busybox cannot resolve names, which its wget would try.
            let ask = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {place} | tail -1");
            let out = sandbox.corten(&["run", "--rm", &busybox, "sh", "-c", &ask]);
            assert_eq!(out.ok(), PAGE, "from a container by {place}");
        }
        // The server's own container, by the host's address: hairpin.
        let own = format!(
            "import urllib.request as u; print(u.urlopen('http://{}/', timeout=5).read().decode().strip())",
            bracketed(&host, port)
        );
        assert_eq!(
            sandbox.corten(&["exec", "web", "python3", "-c", &own]).ok(),
            PAGE,
            "from itself by {host}"
        );
    }
    sandbox.corten(&["rm", "-f", "web"]).ok();
    assert_eq!(get(loopback), None, "the port answers after rm");
    sandbox.finish();
    Ok(())
}

#[test]
fn a_port_on_one_address_is_on_that_address_only() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    let port = free_port()?;
    let publish = format!("127.0.0.1:{port}:7");
    let serve = "while :; do echo hello | nc -l -p 7; done";
    sandbox
        .corten(&[
            "run", "-d", "--name", "one", "-p", &publish, &image, "sh", "-c", serve,
        ])
        .ok();
    wait::until("the server", SOON, || {
        TcpStream::connect(("127.0.0.1", port)).ok()
    })?;
    let host: SocketAddr = bracketed(&host_address(&sandbox, "-4"), port)
        .parse()
        .expect("an address");
    assert!(
        TcpStream::connect_timeout(&host, Duration::from_secs(1)).is_err(),
        "{host} answers"
    );
    sandbox.finish();
    Ok(())
}

#[test]
fn datagrams_come_and_go() -> Result<()> {
    let (sandbox, _) = with_busybox()?;
    let python = sandbox.image(Image::Python)?;
    let port = free_port()?;
    let echo = "import socket\ns = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\ns.bind(('::', 9))\nprint('ready', flush=True)\n\
                while True:\n  d, a = s.recvfrom(2000)\n  s.sendto(d.upper(), a)";
    let publish = format!("{port}:9/udp");
    sandbox
        .corten(&[
            "run", "-d", "--name", "echo", "-p", &publish, &python, "python3", "-c", echo,
        ])
        .ok();
    wait::until("the server", SOON, || {
        sandbox
            .corten(&["logs", "echo"])
            .text()
            .contains("ready")
            .then_some(())
    })?;
    for target in ["127.0.0.1".to_owned(), host_address(&sandbox, "-4")] {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .expect("a time limit");
        socket
            .send_to(b"rust", (target.as_str(), port))
            .expect("send");
        let mut buffer = [0; 16];
        let count = socket
            .recv(&mut buffer)
            .unwrap_or_else(|error| panic!("no answer by {target}: {error}"));
        assert_eq!(&buffer[..count], b"RUST");
    }
    sandbox.finish();
    Ok(())
}

#[test]
fn containers_reach_the_host_and_each_other() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    let listener = TcpListener::bind("0.0.0.0:0").expect("a listener");
    let port = listener.local_addr().expect("an address").port();
    let answer = std::thread::spawn(move || {
        listener
            .accept()
            .map(|(mut stream, _)| stream.write_all(b"from the host\n"))
    });
    let host = host_address(&sandbox, "-4");
    let out = sandbox.corten(&[
        "run",
        "--rm",
        &image,
        "nc",
        "-w",
        "5",
        &host,
        &port.to_string(),
    ]);
    assert_eq!(out.ok(), "from the host");
    answer
        .join()
        .expect("the listener")
        .expect("a connection")
        .expect("an answer");
    // Two at once have two addresses.
    for name in ["a", "b"] {
        sandbox
            .corten(&["run", "-d", "--name", name, &image, "sleep", "1000"])
            .ok();
    }
    let (a, b) = (address(&sandbox, "a", "-4"), address(&sandbox, "b", "-4"));
    assert_ne!(a, b);
    sandbox
        .corten(&["exec", "a", "ping", "-c", "1", "-W", "5", &b])
        .ok();
    let six = address(&sandbox, "b", "-6");
    sandbox
        .corten(&["exec", "a", "ping", "-6", "-c", "1", "-W", "5", &six])
        .ok();
    sandbox.finish();
    Ok(())
}
