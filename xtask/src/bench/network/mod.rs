//! (e) Networks: what plugins cost, what a packet costs, what a name costs; beside the reference plugins, podman
//! (netavark, aardvark-dns), docker, and no engine at all.
//!
//! Traffic is made by the host's own programs inside the containers' network namespaces, so that every engine carries
//! the same.
//!
//! ```text
//!   namespace `out` 192.0.2.2 ── 192.0.2.1 the bench's "host" ── a bridge for each engine ── containers
//! ```

mod names;
mod plugins;
mod ports;
mod wire;

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use super::peer::{Engine, Kind};
use super::report::quantile;
use super::{Bench, call};
use crate::failure::{Context, Result, failure};

/// A namespace that stands for another machine, and the host's address towards it.
const OUT: &str = "out";
const HOST: &str = "192.0.2.1";

pub fn measure(bench: &Bench) -> Result<()> {
    outside()?;
    plugins::measure(bench)?;
    wire::measure(bench)?;
    ports::measure(bench)?;
    names::measure(bench)
}

fn outside() -> Result<()> {
    call("ip", &["netns", "add", OUT])?;
    let words = "link add out0 type veth peer name eth0 netns out";
    call("ip", &words.split(' ').collect::<Vec<_>>())?;
    for line in [
        "addr add 192.0.2.1/24 dev out0",
        "link set out0 up",
        "-n out addr add 192.0.2.2/24 dev eth0",
        "-n out link set lo up",
        "-n out link set eth0 up",
        "-n out route add default via 192.0.2.1",
    ] {
        call("ip", &line.split(' ').collect::<Vec<_>>())?;
    }
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("ip_forward")
}

/// Engines that have networks of their own.
fn engines(bench: &Bench) -> impl Iterator<Item = &Engine> {
    // One podman is enough: the runtime below it does not matter here.
    let fits = |e: &&Engine| e.kind != Kind::Containerd && e.name != "podman + runc";
    bench.engines.iter().filter(fits)
}

/// A container that sleeps, and goes when this is dropped.
struct Guest<'b> {
    engine: &'b Engine,
    name: String,
    pid: String,
    address: String,
}

impl<'b> Guest<'b> {
    fn start(engine: &'b Engine, name: &str, options: &[&str]) -> Result<Guest<'b>> {
        let name = format!("bench-{name}");
        engine.place.run(&engine.start_with(&name, options))?;
        let mut guest = Guest {
            engine,
            name,
            pid: String::new(),
            address: String::new(),
        };
        guest.pid = guest.inspect("{{.State.Pid}}")?;
        guest.address =
            guest.inspect("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")?;
        Ok(guest)
    }

    fn inspect(&self, format: &str) -> Result<String> {
        let argv = self
            .engine
            .words(&["inspect", "--format", format, &self.name]);
        Ok(self.engine.place.run(&argv)?.stdout)
    }

    /// What a command begins with to run in its network namespace.
    fn entering(&self) -> Vec<String> {
        ["nsenter", "--target", &self.pid, "--net"]
            .map(str::to_owned)
            .to_vec()
    }

    fn command(&self, argv: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(&self.entering()[1..]).args(argv);
        command
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        for argv in self.engine.remove(std::slice::from_ref(&self.name)) {
            if let Err(why) = self.engine.place.run(&argv) {
                eprintln!("bench: {why}");
            }
        }
    }
}

/// A child that is ended when this is dropped.
struct Server(std::process::Child);

impl Server {
    fn start(command: &mut Command) -> Result<Server> {
        use std::process::Stdio;
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Ok(Server(child.context("cannot start a server")?))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// This executable, for the two tasks below.
fn own() -> Result<String> {
    let own = std::env::current_exe().context("cannot find this executable")?;
    Ok(own.to_string_lossy().into_owned())
}

/// `bench-accept PORT…`: takes connections and closes them.
pub fn accept(ports: &[String]) -> Result<()> {
    let mut threads = Vec::new();
    for port in ports {
        let listener = TcpListener::bind(format!("0.0.0.0:{port}")).context(port)?;
        threads.push(std::thread::spawn(move || {
            for stream in listener.incoming() {
                drop(stream);
            }
        }));
    }
    for thread in threads {
        thread.join().map_err(|_| failure("a listener ended"))?;
    }
    Ok(())
}

/// `bench-lookup SERVER NAME COUNT`: asks for addresses of a name, one after the other, and prints the median in
/// microseconds.
pub fn look_up(args: &[String]) -> Result<()> {
    let [server, name, count] = args else {
        return Err(failure("bench-lookup is started by bench"));
    };
    let count: u16 = count.parse().context(count)?;
    let socket = UdpSocket::bind("0.0.0.0:0").context("a socket")?;
    socket.connect((server.as_str(), 53)).context(server)?;
    socket
        .set_read_timeout(Some(Duration::from_secs(2)))
        .context(server)?;
    let mut times = Vec::new();
    for id in 0..count {
        let mut query = id.to_be_bytes().to_vec();
        // One question, recursion desired; type A, class IN (RFC 1035, section 4.1).
        query.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        query.push(u8::try_from(name.len()).context(name)?);
        query.extend(name.as_bytes());
        query.extend([0, 0, 1, 0, 1]);
        let mut answer = [0; 512];
        let since = Instant::now();
        socket.send(&query).context(server)?;
        let length = socket.recv(&mut answer).context(server)?;
        times.push(since.elapsed().as_secs_f64() * 1e6);
        // No error, and an answer at least.
        let good = length > query.len() && answer[3] & 15 == 0 && answer[7] > 0;
        if !good || answer[..2] != query[..2] {
            return Err(failure(format!("{server} does not know {name}")));
        }
    }
    println!("{}", quantile(&times, 0.5));
    Ok(())
}

/// `bench-connect ADDRESS COUNT`: connects, and prints the median in microseconds.
pub fn connect(args: &[String]) -> Result<()> {
    let [to, count] = args else {
        return Err(failure("bench-connect is started by bench"));
    };
    let to: SocketAddr = to.parse().context(to)?;
    let count: usize = count.parse().context(count)?;
    let mut times = Vec::new();
    for _ in 0..count {
        let since = Instant::now();
        let stream = TcpStream::connect(to).context(to)?;
        times.push(since.elapsed().as_secs_f64() * 1e6);
        // A reset: thousands that wait to be forgotten would be searched for each new one.
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).context(to)?;
        drop(stream);
    }
    println!("{}", quantile(&times, 0.5));
    Ok(())
}
