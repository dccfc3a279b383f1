//! The resolver: what containers get to hear, and that it outlives whatever befalls it.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use corten_net::names::{Entry, Membership, Registration, Resolver};
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::rig::{Namespace, enter_new, shell};

/// A container: a namespace with a process in it.
struct Container {
    namespace: Namespace,
    init: Child,
    registration: Registration,
}

impl Container {
    fn new(id: &str, networks: Vec<Membership>) -> Self {
        let namespace = Namespace::new();
        let init = namespace.run(|| Command::new("sleep").arg("600").spawn().unwrap());
        let registration = Registration {
            container: id.parse().unwrap(),
            pid: init.id(),
            netns: format!("/proc/{}/ns/net", init.id()).into(),
            networks,
            upstream: Vec::new(),
        };
        Self {
            namespace,
            init,
            registration,
        }
    }

    fn end(&mut self) {
        self.init.kill().unwrap();
        self.init.wait().unwrap();
    }

    fn ask(&self, name: &str, kind: RecordType) -> Message {
        self.namespace.run(|| udp(name, kind)).unwrap()
    }

    fn addresses(&self, name: &str, kind: RecordType) -> Result<Vec<String>, ResponseCode> {
        let message = self.ask(name, kind);
        match message.metadata.response_code {
            ResponseCode::NoError => Ok(data(&message)),
            other => Err(other),
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.init.kill();
        let _ = self.init.wait();
    }
}

fn data(message: &Message) -> Vec<String> {
    message.answers.iter().map(|r| r.data.to_string()).collect()
}

fn on(network: &str, names: &[&str], addresses: &[&str]) -> Membership {
    Membership {
        network: network.into(),
        names: names.iter().map(ToString::to_string).collect(),
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        internal: false,
    }
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

const SERVER: &str = "127.0.0.11:53";

fn udp(name: &str, kind: RecordType) -> std::io::Result<Message> {
    let message = question(name, kind);
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(Duration::from_secs(8)))?;
    // Connected: an answer from any other port than 53 would not be taken.
    socket.connect(SERVER)?;
    socket.send(&message.to_vec().unwrap())?;
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer)?;
    let answer = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!(answer.metadata.id, message.metadata.id);
    Ok(answer)
}

fn tcp(name: &str, kind: RecordType) -> Message {
    let bytes = question(name, kind).to_vec().unwrap();
    let mut stream = TcpStream::connect(SERVER).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(8)))
        .unwrap();
    // In two parts, as a slow client's.
    let length = (bytes.len() as u16).to_be_bytes();
    stream.write_all(&length).unwrap();
    stream.write_all(&bytes[..5]).unwrap();
    std::thread::sleep(Duration::from_millis(5));
    stream.write_all(&bytes[5..]).unwrap();
    read_framed(&mut stream)
}

fn read_framed(stream: &mut TcpStream) -> Message {
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut bytes).unwrap();
    Message::from_vec(&bytes).unwrap()
}

/// A host of the test's own, and an engine's resolver on it.
struct Rig {
    dir: tempfile::TempDir,
    resolver: Resolver,
}

impl Rig {
    fn new() -> Self {
        enter_new();
        let dir = tempfile::tempdir().unwrap();
        let resolver = Resolver::new(&dir.path().join("names"), &executable(), "corten-dns");
        Self { dir, resolver }
    }

    fn folder(&self) -> PathBuf {
        self.dir.path().join("names")
    }

    fn register(&self, container: &Container) {
        self.resolver.register(&container.registration).unwrap();
    }

    /// The process that serves.
    fn server(&self) -> Option<rustix::process::Pid> {
        let stream = UnixStream::connect(self.resolver.socket_path()).ok()?;
        Some(rustix::net::sockopt::socket_peercred(&stream).unwrap().pid)
    }

    fn kill(&self) {
        let pid = self.server().unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        while alive(pid) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder().join("log")).unwrap_or_default()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // With its containers gone the process ends by itself; in a test that fails, by this.
        for entry in self.resolver.list().unwrap_or_default() {
            if let Entry::Alive(r) | Entry::Dead(r) = entry {
                let _ = self.resolver.withdraw(&r.container);
            }
        }
    }
}

fn alive(pid: rustix::process::Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.is_ok_and(|s| !s.rsplit_once(") ").is_some_and(|(_, s)| s.starts_with('Z')))
}

fn executable() -> PathBuf {
    let built = std::env::current_exe().unwrap();
    let built = built
        .ancestors()
        .nth(2)
        .unwrap()
        .join("examples/corten-dns");
    assert!(built.exists(), "{} is not built", built.display());
    built
}

fn soon(what: &str, mut is: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(5);
    while !is() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn names_are_heard_on_shared_networks_only() {
    let rig = Rig::new();
    let web = Container::new(
        "aaaa",
        vec![on(
            "front",
            &["web", "aaaa", "www"],
            &["10.0.1.2", "fd00:1::2"],
        )],
    );
    let db = Container::new(
        "bbbb",
        vec![
            on("back", &["db", "store"], &["10.0.2.3"]),
            on("front", &["db"], &["10.0.1.3"]),
        ],
    );
    let hidden = Container::new(
        "cccc",
        vec![on("back", &["hidden", "store"], &["10.0.2.4"])],
    );
    for c in [&web, &db, &hidden] {
        rig.register(c);
    }
    for name in ["web.", "WEB", "www", "aaaa", "web.front.", "wWw.Front"] {
        assert_eq!(
            db.addresses(name, RecordType::A).unwrap(),
            ["10.0.1.2"],
            "{name}"
        );
        assert_eq!(db.addresses(name, RecordType::AAAA).unwrap(), ["fd00:1::2"]);
    }
    // It exists, but not with this.
    assert_eq!(web.addresses("db", RecordType::AAAA).unwrap(), [""; 0]);
    assert_eq!(web.addresses("db", RecordType::MX).unwrap(), [""; 0]);
    // The first of one's own networks that knows the name.
    assert_eq!(db.addresses("db", RecordType::A).unwrap(), ["10.0.2.3"]);
    assert_eq!(web.addresses("db", RecordType::A).unwrap(), ["10.0.1.3"]);
    assert_eq!(
        db.addresses("db.front", RecordType::A).unwrap(),
        ["10.0.1.3"]
    );
    let mut turns = vec![db.addresses("store", RecordType::A).unwrap(); 1];
    turns.push(db.addresses("store", RecordType::A).unwrap());
    assert_ne!(turns[0], turns[1]);
    turns.iter_mut().for_each(|t| t.sort());
    assert_eq!(turns, [["10.0.2.3", "10.0.2.4"]; 2]);
    // Of networks that it is not on a container hears nothing, not even that they are there; and
    // nobody else is reached here.
    for name in ["hidden", "hidden.back", "store"] {
        assert_eq!(
            web.addresses(name, RecordType::A).unwrap_err(),
            ResponseCode::ServFail,
            "{name}"
        );
    }
    let reverse = |c: &Container, address: &str| {
        let name = Name::from(address.parse::<IpAddr>().unwrap()).to_string();
        c.addresses(&name, RecordType::PTR)
    };
    assert_eq!(reverse(&db, "10.0.1.2").unwrap(), ["web.front."]);
    assert_eq!(reverse(&db, "fd00:1::2").unwrap(), ["web.front."]);
    assert_eq!(reverse(&db, "10.0.2.4").unwrap(), ["hidden.back."]);
    assert!(reverse(&web, "10.0.2.4").is_err());
    let answer = web.namespace.run(|| tcp("db", RecordType::A));
    assert_eq!(data(&answer), ["10.0.1.3"]);
    let tracked = web.namespace.run(|| shell("conntrack -L 2>/dev/null"));
    assert_eq!(tracked, "", "a lookup leaves no entry");
}

#[test]
fn a_container_without_a_way_out_is_told_that_there_is_no_such_name() {
    let rig = Rig::new();
    let upstream = Upstream::start(&[]);
    let mut membership = on("inner", &["web"], &["10.0.1.2"]);
    membership.internal = true;
    let mut web = Container::new("aaaa", vec![membership.clone()]);
    web.registration.upstream = vec![upstream.address];
    rig.register(&web);
    let code = |c: &Container| c.addresses("secret.example", RecordType::A).unwrap_err();
    assert_eq!(code(&web), ResponseCode::NXDomain);
    assert_eq!(
        web.namespace
            .run(|| tcp("x.example", RecordType::A))
            .metadata
            .response_code,
        ResponseCode::NXDomain
    );
    assert!(upstream.asked().is_empty(), "something got out");
    // With a second network it may.
    web.registration
        .networks
        .push(on("outer", &["web"], &["10.0.2.2"]));
    rig.resolver.update(&web.registration).unwrap();
    assert_eq!(
        web.addresses("secret.example", RecordType::A).unwrap(),
        ["192.0.2.7"]
    );
    assert_eq!(upstream.asked().len(), 1);
}

/// What a server on the wire does with a question, one after the other; then it answers.
#[derive(Clone, Copy, PartialEq)]
enum Trick {
    /// First an answer with another id, then one to another question.
    Forge,
    Fail,
    Ignore,
    /// Cut over UDP; whole over TCP.
    Cut,
}

struct Upstream {
    address: SocketAddr,
    asked: mpsc::Receiver<(SocketAddr, u16)>,
}

impl Upstream {
    fn start(tricks: &[Trick]) -> Self {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = udp.local_addr().unwrap();
        let tcp = TcpListener::bind(address).unwrap();
        let (tell, asked) = mpsc::channel();
        let mut tricks = Vec::from(tricks).into_iter();
        // These threads end with the test's process.
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((length, from)) = udp.recv_from(&mut buffer) {
                let query = Message::from_vec(&buffer[..length]).unwrap();
                let _ = tell.send((from, query.metadata.id));
                let send = |m: &Message| drop(udp.send_to(&m.to_vec().unwrap(), from));
                match tricks.next() {
                    Some(Trick::Ignore) => continue,
                    Some(Trick::Fail) => {
                        let mut failed = query.clone().into_response();
                        failed.metadata.response_code = ResponseCode::ServFail;
                        send(&failed);
                        continue;
                    }
                    Some(Trick::Cut) => {
                        let mut cut = query.clone().into_response();
                        cut.metadata.truncation = true;
                        send(&cut);
                        continue;
                    }
                    Some(Trick::Forge) => {
                        let mut forged = reply(&query, [203, 0, 113, 6]);
                        forged.metadata.id ^= 1;
                        send(&forged);
                        let mut other = reply(&question("other.", RecordType::A), [203, 0, 113, 6]);
                        other.metadata.id = query.metadata.id;
                        send(&other);
                        // From another port than was asked.
                        let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
                        let forged = reply(&query, [203, 0, 113, 6]).to_vec().unwrap();
                        stranger.send_to(&forged, from).unwrap();
                        send(&reply(&query, [192, 0, 2, 7]));
                    }
                    None => send(&reply(&query, [192, 0, 2, 7])),
                }
            }
        });
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = tcp.accept() {
                let query = read_framed(&mut stream);
                let bytes = reply(&query, [192, 0, 2, 8]).to_vec().unwrap();
                let _ = stream.write_all(&(bytes.len() as u16).to_be_bytes());
                let _ = stream.write_all(&bytes);
            }
        });
        Self { address, asked }
    }

    fn asked(&self) -> Vec<(SocketAddr, u16)> {
        self.asked.try_iter().collect()
    }
}

fn reply(query: &Message, address: [u8; 4]) -> Message {
    let mut answer = query.clone().into_response();
    let name = query.queries[0].name().clone();
    answer.add_answer(Record::from_rdata(
        name,
        60,
        RData::A(std::net::Ipv4Addr::from(address).into()),
    ));
    answer
}

fn forwarding(rig: &Rig, upstream: &[SocketAddr]) -> Container {
    let mut web = Container::new("aaaa", vec![on("n", &["web"], &["10.0.1.2"])]);
    web.registration.upstream = upstream.to_vec();
    rig.register(&web);
    web
}

#[test]
fn other_names_are_asked_of_the_hosts_servers() {
    let rig = Rig::new();
    let upstream = Upstream::start(&[]);
    let web = forwarding(&rig, &[upstream.address]);
    for _ in 0..20 {
        assert_eq!(
            web.addresses("a.example", RecordType::A).unwrap(),
            ["192.0.2.7"]
        );
    }
    let asked = upstream.asked();
    let distinct = |of: &dyn Fn(&(SocketAddr, u16)) -> u16| {
        asked
            .iter()
            .map(of)
            .collect::<std::collections::BTreeSet<u16>>()
            .len()
    };
    assert!(distinct(&|(from, _)| from.port()) > 15, "{asked:?}");
    assert!(distinct(&|(_, id)| *id) > 15, "{asked:?}");
}

#[test]
fn forged_answers_are_passed_over() {
    let rig = Rig::new();
    let upstream = Upstream::start(&[Trick::Forge]);
    let web = forwarding(&rig, &[upstream.address]);
    assert_eq!(
        web.addresses("a.example", RecordType::A).unwrap(),
        ["192.0.2.7"]
    );
}

#[test]
fn the_next_server_is_asked_when_one_fails_or_is_silent() {
    let rig = Rig::new();
    let nobody = "127.0.0.1:1".parse().unwrap();
    let failing = Upstream::start(&[Trick::Fail; 2]);
    let silent = Upstream::start(&[Trick::Ignore; 2]);
    let good = Upstream::start(&[]);
    let all = [nobody, failing.address, silent.address, good.address];
    let web = forwarding(&rig, &all);
    assert_eq!(
        web.addresses("a.example", RecordType::A).unwrap(),
        ["192.0.2.7"]
    );
    // The one that answered is asked first from now on.
    let start = Instant::now();
    assert!(web.addresses("b.example", RecordType::A).is_ok());
    assert!(start.elapsed() < Duration::from_millis(500));
    assert_eq!(good.asked().len(), 2);
}

#[test]
fn a_name_that_nobody_answers_for_fails_before_the_client_gives_up() {
    let rig = Rig::new();
    let silent = Upstream::start(&[Trick::Ignore; 9]);
    let web = forwarding(&rig, &[silent.address]);
    let start = Instant::now();
    let code = web.addresses("a.example", RecordType::A).unwrap_err();
    assert_eq!(code, ResponseCode::ServFail);
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "glibc waits for 5 s"
    );
    // Local names do not wait behind it.
    let refused = forwarding(&rig, &["127.0.0.1:1".parse().unwrap()]);
    let start = Instant::now();
    assert!(refused.addresses("a.example", RecordType::A).is_err());
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "refused is known at once"
    );
}

#[test]
fn a_cut_answer_is_passed_on_and_asked_for_again_over_tcp() {
    let rig = Rig::new();
    let upstream = Upstream::start(&[Trick::Cut; 2]);
    let web = forwarding(&rig, &[upstream.address]);
    assert!(web.ask("a.example", RecordType::A).metadata.truncation);
    let whole = web.namespace.run(|| tcp("a.example", RecordType::A));
    assert_eq!(data(&whole), ["192.0.2.8"]);
}

#[test]
fn a_killed_resolver_is_replaced_in_milliseconds() {
    let rig = Rig::new();
    let web = forwarding(&rig, &[]);
    let watch = UnixStream::connect(rig.resolver.socket_path()).unwrap();
    rig.kill();
    // Whoever holds a connection learns of it.
    let hung_up = |read: std::io::Result<usize>| read.is_ok_and(|n| n == 0);
    assert!(hung_up((&watch).read(&mut [0])) || (&watch).read(&mut [0]).is_ok_and(|n| n == 0));
    let start = Instant::now();
    rig.resolver.ensure().unwrap();
    let took = start.elapsed();
    assert_eq!(web.addresses("web", RecordType::A).unwrap(), ["10.0.1.2"]);
    assert!(took < Duration::from_millis(500), "{took:?}");
    println!("replaced in {took:?}");
    // Its predecessor's table was replaced, not added to.
    let table = web.namespace.run(|| shell("nft list ruleset"));
    assert_eq!(table.matches("udp dport 53").count(), 1, "{table}");
}

#[test]
fn the_process_ends_with_its_last_container_and_lets_go_of_the_namespace() {
    let rig = Rig::new();
    let mut web = forwarding(&rig, &[]);
    let mut db = Container::new("bbbb", vec![on("n", &["db"], &["10.0.1.3"])]);
    rig.register(&db);
    let server = rig.server().unwrap();
    web.end();
    soon("the name of a container that ended is gone", || {
        db.addresses("web", RecordType::A).is_err()
    });
    // Nobody withdrew it, but its file is gone too.
    soon("its file goes", || !rig.folder().join("aaaa.json").exists());
    // Two sockets and a process are all that is held of the other one.
    rig.resolver.withdraw(&db.registration.container).unwrap();
    soon("the process ends", || !alive(server));
    soon("the table goes from a namespace that lives on", || {
        db.namespace.run(|| shell("nft list ruleset")).is_empty()
    });
    rig.resolver.withdraw(&db.registration.container).unwrap();
    rig.resolver.ensure().unwrap();
    assert_eq!(rig.server(), None, "nobody needs one");
    db.end();
}

#[test]
fn rubbish_in_the_folder_is_named_and_passed_over() {
    let rig = Rig::new();
    let folder = rig.folder();
    std::fs::create_dir_all(&folder).unwrap();
    let mut ended = Container::new("dead", vec![on("n", &["dead"], &["10.0.1.9"])]);
    rig.register(&ended);
    let good = std::fs::read_to_string(folder.join("dead.json")).unwrap();
    rig.kill();
    ended.end();
    let half = &good[..good.len() / 2];
    for (name, text) in [
        ("half.json", half),
        ("empty.json", ""),
        ("moved.json", good.as_str()),
        (".new1.new", half),
    ] {
        std::fs::write(folder.join(name), text).unwrap();
    }
    std::fs::create_dir(folder.join("folder.json")).unwrap();
    shell(&format!("mkfifo {}", folder.join("pipe.json").display()));
    let listed = rig.resolver.list().unwrap();
    let broken: Vec<String> = listed
        .iter()
        .filter_map(|e| match e {
            Entry::Broken { path, reason } => Some(format!("{}: {reason}", path.display())),
            _ => None,
        })
        .collect();
    assert_eq!(broken.len(), 5, "{broken:?}");
    assert!(
        listed
            .iter()
            .any(|e| matches!(e, Entry::Dead(r) if r.pid == ended.registration.pid))
    );
    let web = forwarding(&rig, &[]);
    assert_eq!(web.addresses("web", RecordType::A).unwrap(), ["10.0.1.2"]);
    assert!(!folder.join("dead.json").exists() && !folder.join(".new1.new").exists());
    let log = rig.log();
    for name in [
        "half.json: it is no registration",
        "moved.json: it is container dead's",
    ] {
        assert!(log.contains(name), "{log}");
    }
}

#[test]
fn what_cannot_be_served_is_refused_with_the_reason() {
    let rig = Rig::new();
    let mut host = Container::new("host", vec![on("n", &["host"], &["10.0.1.9"])]);
    host.registration.netns = "/proc/thread-self/ns/net".into();
    let refused = rig.resolver.register(&host.registration).unwrap_err();
    assert!(refused.to_string().contains("is the host's"), "{refused}");
    assert!(rig.resolver.list().unwrap().is_empty());
    let mut ended = Container::new("gone", vec![on("n", &["gone"], &["10.0.1.9"])]);
    ended.end();
    let refused = rig.resolver.register(&ended.registration).unwrap_err();
    assert!(refused.to_string().contains("has ended"), "{refused}");
    let bad = Container::new("bad", vec![on("n", &["a..b"], &[])]);
    let refused = rig.resolver.register(&bad.registration).unwrap_err();
    assert!(
        refused.to_string().contains("is no name in DNS"),
        "{refused}"
    );
}

#[test]
fn many_starters_at_once_get_one_process() {
    let rig = Rig::new();
    let containers: Vec<Container> = (0..8)
        .map(|i| {
            let name = format!("c{i}");
            let address = format!("10.0.1.{}", i + 2);
            Container::new(&name, vec![on("n", &[&name], &[&address])])
        })
        .collect();
    std::thread::scope(|scope| {
        for c in &containers {
            scope.spawn(|| rig.register(c));
        }
    });
    for (i, c) in containers.iter().enumerate() {
        let other = format!("c{}", (i + 1) % 8);
        assert_eq!(c.addresses(&other, RecordType::A).unwrap().len(), 1);
    }
    let folder = rig.folder().display().to_string();
    soon("the others end", || {
        let serving = shell(&format!("pgrep -fc -- '{folder} --serve$' || true"));
        serving.trim() == "1"
    });
}

/// The last container leaves while another comes: whichever is first, the one that came is served.
#[test]
fn a_container_that_comes_as_the_last_one_leaves_is_served() {
    let rig = Rig::new();
    let a = Container::new("aaaa", vec![on("n", &["a"], &["10.0.1.2"])]);
    let b = Container::new("bbbb", vec![on("n", &["b"], &["10.0.1.3"])]);
    rig.register(&a);
    let (mut here, mut next) = (&a, &b);
    for round in 0..100 {
        std::thread::scope(|scope| {
            scope.spawn(|| rig.resolver.withdraw(&here.registration.container).unwrap());
            // Now before, now after.
            std::thread::sleep(Duration::from_micros(round * 17 % 1500));
            rig.register(next);
        });
        let name = if next.registration.pid == a.registration.pid {
            "a"
        } else {
            "b"
        };
        assert_eq!(
            next.addresses(name, RecordType::A).unwrap().len(),
            1,
            "round {round}"
        );
        std::mem::swap(&mut here, &mut next);
    }
}

#[test]
fn a_container_may_run_a_server_of_its_own_and_spoils_only_its_own_lookups() {
    let rig = Rig::new();
    let web = forwarding(&rig, &[]);
    let db = Container::new("bbbb", vec![on("n", &["db"], &["10.0.1.3"])]);
    rig.register(&db);
    web.namespace.run(|| {
        let _udp = UdpSocket::bind("0.0.0.0:53").unwrap();
        let _tcp = TcpListener::bind("0.0.0.0:53").unwrap();
        assert_eq!(data(&udp("db", RecordType::A).unwrap()), ["10.0.1.3"]);
        assert_eq!(data(&tcp("db", RecordType::A)), ["10.0.1.3"]);
    });
    web.namespace
        .run(|| shell("nft flush ruleset && ip link set lo down"));
    assert_eq!(db.addresses("web", RecordType::A).unwrap(), ["10.0.1.2"]);
    // A registration anew repairs what the container broke.
    web.namespace.run(|| shell("ip link set lo up"));
    rig.resolver.withdraw(&web.registration.container).unwrap();
    rig.register(&web);
    assert_eq!(web.addresses("db", RecordType::A).unwrap(), ["10.0.1.3"]);
}

#[test]
fn a_container_that_floods_does_not_keep_the_others_waiting() {
    let rig = Rig::new();
    let silent = Upstream::start(&[Trick::Ignore; 100_000]);
    let web = forwarding(&rig, &[silent.address]);
    let db = Container::new("bbbb", vec![on("n", &["db"], &["10.0.1.3"])]);
    rig.register(&db);
    let bytes = question("flood.example", RecordType::A).to_vec().unwrap();
    let until = Instant::now() + Duration::from_secs(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            web.namespace.run(|| {
                let sockets: Vec<UdpSocket> = (0..8)
                    .map(|_| UdpSocket::bind("0.0.0.0:0").unwrap())
                    .collect();
                let streams: Vec<_> = (0..100).map(|_| TcpStream::connect(SERVER)).collect();
                let mut garbage = vec![0xffu8; 300];
                while Instant::now() < until {
                    for socket in &sockets {
                        let _ = socket.send_to(&bytes, SERVER);
                        garbage[7] = garbage[7].wrapping_add(1);
                        let _ = socket.send_to(&garbage, SERVER);
                    }
                }
                drop(streams);
            });
        });
        std::thread::sleep(Duration::from_millis(200));
        let mut worst = Duration::ZERO;
        for _ in 0..50 {
            let start = Instant::now();
            assert_eq!(db.addresses("web", RecordType::A).unwrap(), ["10.0.1.2"]);
            worst = worst.max(start.elapsed());
        }
        println!("the slowest lookup beside a flood: {worst:?}");
        assert!(worst < Duration::from_millis(500), "{worst:?}");
    });
}
