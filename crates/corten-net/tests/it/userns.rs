//! Everything once more where root is nobody: in a network namespace that belongs to an unprivileged
//! user's own user namespace. The tests are the same ones, run again by this executable.

use std::process::{Command, Stdio};

use corten_net::wayout;

use crate::rig::{Host, Namespace, shell};

/// Some user of no privilege; it need not be known by name.
const USER: &str = "--reuid=1000 --regid=1000 --clear-groups";

/// Whether this machine can: else it says why not.
pub fn possible() -> bool {
    let executable = std::env::current_exe().unwrap();
    let check = format!(
        "setpriv {USER} test -x {} && setpriv {USER} unshare -Urn true",
        executable.display()
    );
    let output = Command::new("sh").args(["-c", &check]).output().unwrap();
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr).into_owned();
        println!("skipped: no unprivileged user namespace here: {reason}");
    }
    output.status.success()
}

/// Runs the tests whose names begin so.
fn again(tests: &[&str]) {
    if !possible() {
        return;
    }
    let executable = std::env::current_exe().unwrap();
    let output = Command::new("setpriv")
        .args(USER.split(' '))
        .args(["unshare", "--user", "--map-root-user", "--net", "--mount"])
        .arg(executable)
        .args(["--test-threads", "4"])
        .args(tests)
        // The caller's may be root's alone.
        .env("TMPDIR", "/tmp")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let ran = text
        .lines()
        .filter(|l| l.starts_with("test ") && l.ends_with("... ok"))
        .count();
    assert!(ran > 0, "nothing was run: {text}");
    println!("{ran} tests");
}

#[test]
fn attaching_works_where_root_is_nobody() {
    again(&["attach::", "parallel::", "peers::"]);
}

#[test]
fn firewall_and_ports_work_where_root_is_nobody() {
    // Ten thousand ports in one transaction are more than a socket's buffer holds without privilege.
    again(&["firewall::", "traffic::", "--skip", "ten_thousand_ports"]);
}

#[test]
fn names_work_where_root_is_nobody() {
    again(&["names::"]);
}

/// But for those with dnsmasq, which wants more of root than its name.
#[test]
fn leases_work_where_root_is_nobody() {
    again(&[
        "dhcp::a_lease_is_renewed",
        "dhcp::rubbish",
        "dhcp::an_address_that_was_taken_back",
    ]);
}

/// Where real root is needed, the plugin says what it may not, and nothing has changed.
#[test]
fn what_needs_roots_own_namespace_fails_clearly() {
    if !possible() {
        return;
    }
    let host = Host::new();
    let folder = host.executables();
    let namespace = Namespace::new();
    let config = host.dir.path().join("config");
    let ipam = format!("/tmp/corten-denied-{}", std::process::id());
    let text = format!(
        r#"{{"cniVersion":"1.1.0","name":"n","type":"bridge","bridge":"corten0",
            "ipam":{{"type":"host-local","dataDir":"{ipam}","ranges":[[{{"subnet":"10.90.0.0/24"}}]]}}}}"#
    );
    std::fs::write(&config, text).unwrap();
    shell(&format!("chmod -R a+rX {}", host.dir.path().display()));
    let before = shell("ip -o link");
    let called = shell(&format!(
        "CNI_COMMAND=ADD CNI_CONTAINERID=c CNI_NETNS={} CNI_IFNAME=eth0 CNI_PATH={} \
         setpriv {USER} {}/bridge < {} || true",
        namespace.path().display(),
        folder.display(),
        folder.display(),
        config.display(),
    ));
    assert!(
        called.contains("ermission denied") || called.contains("not permitted"),
        "{called}"
    );
    assert!(called.contains("\"code\": 10"), "{called}");
    assert_eq!(shell("ip -o link"), before);
    let held = format!("{ipam}/n/10.90.0.2");
    assert!(
        !std::path::Path::new(&held).exists(),
        "an address is still held"
    );
    let _ = std::fs::remove_dir_all(&ipam);
}

/// A namespace of an unprivileged user's, on a host with a network of its own.
struct Rootless {
    host: Host,
    outside: Namespace,
    children: Vec<std::process::Child>,
    /// The process in the namespace.
    inside: u32,
}

impl Rootless {
    /// The host's servers: 192.0.2.2 on another machine, 127.0.0.1 on its loopback, 80 both.
    fn new() -> Self {
        let host = Host::new();
        let outside = host.outside();
        shell("ip route add default via 192.0.2.2");
        // On this thread: the machine's own files stay as they are.
        #[expect(deprecated)]
        rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNS).unwrap();
        let dir = host.dir.path().display().to_string();
        shell(&format!(
            "mount --make-rprivate / && chmod a+rx {dir} && mkdir -m 777 {dir}/user \
             && mknod -m 666 {dir}/tun c 10 200 && mount --bind {dir}/tun /dev/net/tun \
             && echo nameserver 192.0.2.2 > {dir}/resolv.conf \
             && mount --bind {dir}/resolv.conf /etc/resolv.conf"
        ));
        let dnsmasq = outside.run(|| {
            Command::new("dnsmasq")
                .args(["-k", "--conf-file=/dev/null", "--pid-file=", "--user=root"])
                .args(["--no-resolv", "--no-hosts", "--address=/example/192.0.2.7"])
                .args(["--listen-address=192.0.2.2", "--bind-interfaces"])
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        });
        let sleeper = Command::new("setpriv")
            .args(USER.split(' '))
            .args([
                "unshare",
                "--user",
                "--map-root-user",
                "--net",
                "sleep",
                "600",
            ])
            .spawn()
            .unwrap();
        let inside = sleeper.id();
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let path = format!("/proc/{inside}/ns/net");
        while std::fs::read_link(&path).is_ok_and(|n| n == own)
            || !std::fs::read_to_string(format!("/proc/{inside}/comm"))
                .unwrap()
                .starts_with("sleep")
        {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        Self {
            host,
            outside,
            children: vec![dnsmasq, sleeper],
            inside,
        }
    }

    fn folder(&self) -> String {
        self.host.dir.path().join("user/way").display().to_string()
    }

    /// Calls the library as the user would.
    fn way_out(&self, words: &str) -> Result<String, String> {
        let executable = std::env::current_exe().unwrap();
        let program = executable
            .ancestors()
            .nth(2)
            .unwrap()
            .join("examples/way-out");
        assert!(program.exists(), "{} is not built", program.display());
        let output = Command::new("setpriv")
            .args(USER.split(' '))
            .arg(program)
            .args(words.split(' '))
            .output()
            .unwrap();
        match output.status.success() {
            true => Ok(String::from_utf8(output.stdout).unwrap().trim().into()),
            false => Err(String::from_utf8(output.stderr).unwrap()),
        }
    }

    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let path = format!("/proc/{}/ns/net", self.inside);
        let file = std::fs::File::open(&path).unwrap();
        corten_net::link::netns::inside(&file, path.as_ref(), || Ok(work())).unwrap()
    }

    /// Only this program is there.
    fn only(&self, name: &str) -> String {
        let folder = self.host.dir.path().join("only");
        shell(&format!(
            "rm -rf {0} && mkdir {0} && ln -s /usr/bin/{name} {0}/",
            folder.display()
        ));
        folder.display().to_string()
    }
}

impl Drop for Rootless {
    fn drop(&mut self) {
        let _ = self.way_out(&format!("stop {}", self.folder()));
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn connects(to: &str) -> bool {
    let to = to.parse().unwrap();
    std::net::TcpStream::connect_timeout(&to, std::time::Duration::from_secs(1)).is_ok_and(
        |mut s| {
            // Both accept first and find out then.
            let mut text = String::new();
            let _ = s.set_read_timeout(Some(std::time::Duration::from_secs(1)));
            std::io::Read::read_to_string(&mut s, &mut text).is_ok() && !text.is_empty()
        },
    )
}

fn resolves() -> bool {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    socket
        .set_read_timeout(Some(std::time::Duration::from_secs(2)))
        .unwrap();
    socket.connect((wayout::NAMESERVER, 53)).unwrap();
    let query =
        b"\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x07example\x00\x00\x01\x00\x01";
    socket.send(query).unwrap();
    let mut answer = [0; 512];
    socket
        .recv(&mut answer)
        .is_ok_and(|n| answer[..n].ends_with(&[192, 0, 2, 7]))
}

fn a_way_out_through(name: &str) {
    if !possible() {
        return;
    }
    let rootless = Rootless::new();
    let _server = rootless.outside.serve(80);
    let local = std::net::TcpListener::bind("127.0.0.1:8080").unwrap();
    std::thread::spawn(move || {
        while let Ok((mut peer, _)) = local.accept() {
            let _ = std::io::Write::write_all(&mut peer, b"loopback");
        }
    });
    let (folder, programs) = (rootless.folder(), rootless.only(name));
    let start = format!("start {folder} {}", rootless.inside);
    let only = format!("in {programs}");
    let running = rootless.way_out(&format!("{start} {only}")).unwrap();
    assert!(running.starts_with(name), "{running}");
    assert!(rootless.inside(|| connects("192.0.2.2:80")));
    assert!(rootless.inside(resolves));
    assert!(
        !rootless.inside(|| connects("10.0.2.2:8080")),
        "the host's loopback is reached"
    );
    // Started again it is the same one; anybody who has the folder finds it.
    assert_eq!(
        rootless.way_out(&format!("{start} {only}")).unwrap(),
        running
    );
    assert_eq!(
        rootless.way_out(&format!("find {folder}")).unwrap(),
        running
    );
    // Whoever started it died before noting its number: the next start ends it and has its own.
    let record = format!("{folder}/way-out.json");
    let text = std::fs::read_to_string(&record).unwrap();
    let (before, _) = text.split_once("\"process\":").unwrap();
    std::fs::write(&record, format!("{before}\"process\":null}}")).unwrap();
    let again = rootless.way_out(&format!("{start} {only}")).unwrap();
    assert_ne!(again, running);
    assert!(rootless.inside(|| connects("192.0.2.2:80")));
    // To the host's loopback only if that is asked for.
    rootless
        .way_out(&format!("{start} host-loopback {only}"))
        .unwrap();
    assert!(rootless.inside(|| connects("10.0.2.2:8080")));
    rootless.way_out(&format!("stop {folder}")).unwrap();
    assert!(!rootless.inside(|| connects("192.0.2.2:80")));
    assert_eq!(rootless.way_out(&format!("find {folder}")).unwrap(), "none");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
    rootless.way_out(&format!("stop {folder}")).unwrap();
    let running = shell("cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' || true");
    assert!(!running.contains(&folder), "something is left");
}

#[test]
fn pasta_is_a_way_out() {
    a_way_out_through("pasta");
}

#[test]
fn slirp4netns_is_a_way_out() {
    a_way_out_through("slirp4netns");
}

#[test]
fn without_either_program_the_error_names_both() {
    if !possible() {
        return;
    }
    let rootless = Rootless::new();
    let start = format!("start {} {}", rootless.folder(), rootless.inside);
    let refused = rootless
        .way_out(&format!("{start} in /nowhere"))
        .unwrap_err();
    assert!(
        refused.contains("neither pasta (of passt) nor slirp4netns is installed"),
        "{refused}"
    );
    // And what a program says when it cannot.
    let programs = rootless.only("pasta");
    let nobody = format!("start {} 4194303 in {programs}", rootless.folder());
    let refused = rootless.way_out(&nobody).unwrap_err();
    assert!(refused.contains("pasta ended with status 1 ("), "{refused}");
    assert_eq!(
        rootless
            .way_out(&format!("find {}", rootless.folder()))
            .unwrap(),
        "none"
    );
}
