//! What runs in the demo's container: a web server of one page, and a look at itself.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};

/// Lines of the report: a name and what was seen.
pub type Report = Vec<(&'static str, String)>;

/// What this process can see of itself.
pub fn look() -> Report {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name));
        line.map_or("?".into(), |v| v.trim_start_matches(':').trim().to_owned())
    };
    let words = |path: &str| {
        let text = fs::read_to_string(path).unwrap_or_else(|e| e.to_string());
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let seccomp = match field("Seccomp").as_str() {
        "2" => format!("filter ({} installed)", field("Seccomp_filters")),
        other => format!("mode {other}"),
    };
    vec![
        ("pid", std::process::id().to_string()),
        ("processes", processes().to_string()),
        (
            "uid, gid",
            format!("{}, {}", first(&field("Uid")), first(&field("Gid"))),
        ),
        ("uid map", words("/proc/self/uid_map")),
        ("host name", words("/proc/sys/kernel/hostname")),
        ("address", address("198.51.100.1:9")),
        ("address (v6)", address("[2001:db8::1]:9")),
        (
            "memory limit",
            limit(&["memory/memory.limit_in_bytes", "memory.max"]),
        ),
        ("cpu limit", limit(&["cpu/cpu.cfs_quota_us", "cpu.max"])),
        ("pids limit", limit(&["pids/pids.max", "pids.max"])),
        ("capabilities", field("CapEff")),
        ("no new privs", field("NoNewPrivs")),
        ("seccomp", seccomp),
        ("root is", root_filesystem()),
    ]
}

fn first(text: &str) -> &str {
    text.split_whitespace().next().unwrap_or("?")
}

fn processes() -> usize {
    let number =
        |name: &std::ffi::OsStr| name.to_string_lossy().bytes().all(|b| b.is_ascii_digit());
    fs::read_dir("/proc").map_or(0, |d| {
        d.flatten().filter(|e| number(&e.file_name())).count()
    })
}

/// The address that a packet to `towards` would carry; connecting a UDP socket sends none.
fn address(towards: &str) -> String {
    let any = if towards.starts_with('[') {
        "[::]:0"
    } else {
        "0.0.0.0:0"
    };
    let asked = UdpSocket::bind(any).and_then(|s| {
        s.connect(towards)?;
        s.local_addr()
    });
    asked.map_or_else(|e| e.to_string(), |a| a.ip().to_string())
}

fn limit(files: &[&str]) -> String {
    let read = |f: &&str| fs::read_to_string(format!("/sys/fs/cgroup/{f}")).ok();
    files
        .iter()
        .find_map(read)
        .map_or("not to be seen".into(), |t| t.trim().to_owned())
}

fn root_filesystem() -> String {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let root = mounts
        .lines()
        .map(|l| l.split(' ').collect::<Vec<_>>())
        .find(|f| f.get(1) == Some(&"/"));
    root.map_or("?".into(), |f| f[2].to_owned())
}

/// Answers every request with the report, until killed.
pub fn serve() -> io::Result<()> {
    // One socket for both families.
    let listener = TcpListener::bind("[::]:80").or_else(|_| TcpListener::bind("0.0.0.0:80"))?;
    println!("listening on port 80");
    for connection in listener.incoming() {
        if let Err(e) = connection.and_then(answer) {
            eprintln!("a request failed: {e}");
        }
    }
    Ok(())
}

fn answer(connection: TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(connection);
    let mut line = String::new();
    // Requests of the demo have no body: they end at the first empty line.
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let body = text(&look());
    let mut connection = reader.into_inner();
    write!(
        connection,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// One line for each thing seen.
pub fn text(report: &Report) -> String {
    report
        .iter()
        .map(|(name, value)| format!("{:<14}{value}\n", format!("{name}:")))
        .collect()
}
