//! `kill -9` at random moments of `run` and `rm`: first the command line, then the supervisor.
//! After a repair nothing is left that the host did not have before.

use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use corten_testkit::registry::free_port;
use corten_testkit::{Result, Sandbox, tool, wait};

use super::{SOON, with_busybox};

const MOMENTS: u32 = 20;

/// Random moments, the same ones for one seed (`CORTEN_SEED`), which a failure names.
pub struct Moments(u64);

impl Moments {
    pub fn new() -> Moments {
        let asked = std::env::var("CORTEN_SEED")
            .ok()
            .and_then(|text| text.parse().ok());
        let seed = asked.unwrap_or_else(|| u64::from(std::process::id()) << 20 | 1);
        eprintln!("CORTEN_SEED={seed}");
        Moments(seed)
    }

    /// Somewhere within this time.
    pub fn within(&mut self, whole: Duration) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        whole.mul_f64((self.0 >> 11) as f64 / (1u64 << 53) as f64)
    }
}

pub fn start(sandbox: &Sandbox, args: &[&str]) -> Child {
    let child = sandbox
        .command()
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    child.expect("corten")
}

/// The end of a command that nobody killed: it comes, whatever happened to others.
#[track_caller]
pub fn ends(mut child: Child) {
    let ended = wait::until("the command line to end", SOON, || {
        child.try_wait().ok().flatten()
    });
    if ended.is_err() {
        kill(child.id());
        panic!("the command line hangs after its supervisor was killed");
    }
    let code = ended.ok().and_then(|status| status.code());
    assert!(code.is_some(), "the command line was killed too");
}

/// How long a command takes when nobody kills it.
pub fn whole(sandbox: &Sandbox, args: &[&str]) -> Duration {
    let since = Instant::now();
    sandbox.corten(args).ok();
    since.elapsed()
}

pub fn kill(pid: u32) {
    // It may have ended just before.
    let _ = tool::call("kill", &["-KILL", &pid.to_string()]);
}

/// The supervisors of this sandbox, if any has come up.
pub fn supervisors(sandbox: &Sandbox) -> Vec<u32> {
    let named = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains("containerd-shim-corten-v2")
    };
    sandbox.processes().into_iter().filter(named).collect()
}

/// What a person does after a crash; then the engine finds nothing, and nothing of it runs.
#[track_caller]
pub fn repaired(sandbox: &Sandbox) {
    sandbox.corten(&["system", "check", "--repair"]).ok();
    for id in sandbox.containers() {
        sandbox.corten(&["rm", "-f", &id]).ok();
    }
    assert_eq!(sandbox.corten(&["system", "check"]).ok(), "");
    // The resolver ends by itself once it sees that nobody needs it.
    let mut left = Vec::new();
    let gone = wait::until("everything to end", SOON, || {
        left = sandbox.processes();
        left.is_empty().then_some(())
    });
    let lines: Vec<String> = left
        .iter()
        .filter_map(|pid| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok())
        .collect();
    assert!(gone.is_ok(), "still there: {lines:?}");
    assert_eq!(sandbox.bridge_ports(), "", "links are left on the bridge");
}

#[test]
fn the_command_line_dies_in_run() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    let publish = format!("{}:80", free_port()?);
    let args = [
        "run", "-d", "--name", "c", "-p", &publish, &image, "sleep", "1000",
    ];
    let usual = whole(&sandbox, &args);
    sandbox.corten(&["rm", "-f", "c"]).ok();
    let mut moments = Moments::new();
    for _ in 0..MOMENTS {
        let mut child = start(&sandbox, &args);
        thread::sleep(moments.within(usual));
        kill(child.id());
        child.wait().expect("corten");
        repaired(&sandbox);
    }
    // The port and the name are free.
    sandbox.corten(&args).ok();
    sandbox.finish();
    Ok(())
}

#[test]
fn the_command_line_dies_in_rm() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    let publish = format!("{}:80", free_port()?);
    let run = [
        "run", "-d", "--name", "c", "-p", &publish, &image, "sleep", "1000",
    ];
    sandbox.corten(&run).ok();
    let usual = whole(&sandbox, &["rm", "-f", "c"]);
    let mut moments = Moments::new();
    for _ in 0..MOMENTS {
        sandbox.corten(&run).ok();
        let mut child = start(&sandbox, &["rm", "-f", "c"]);
        thread::sleep(moments.within(usual));
        kill(child.id());
        child.wait().expect("corten");
        repaired(&sandbox);
    }
    sandbox.finish();
    Ok(())
}

#[test]
fn the_supervisor_dies_in_run() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    let publish = format!("{}:80", free_port()?);
    let args = [
        "run", "-d", "--name", "c", "-p", &publish, &image, "sleep", "1000",
    ];
    let usual = whole(&sandbox, &args);
    sandbox.corten(&["rm", "-f", "c"]).ok();
    let mut moments = Moments::new();
    for _ in 0..MOMENTS {
        let child = start(&sandbox, &args);
        thread::sleep(moments.within(usual));
        // Before its supervisor is there the moment is the command line's, which has its own test.
        let deadline = Instant::now() + usual;
        let mut found = supervisors(&sandbox);
        while found.is_empty() && Instant::now() < deadline {
            found = supervisors(&sandbox);
        }
        found.into_iter().for_each(kill);
        // Whether the run noticed or not, it ends by itself.
        ends(child);
        repaired(&sandbox);
    }
    sandbox.finish();
    Ok(())
}

#[test]
fn the_supervisor_dies_in_rm() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    let publish = format!("{}:80", free_port()?);
    let run = [
        "run", "-d", "--name", "c", "-p", &publish, &image, "sleep", "1000",
    ];
    sandbox.corten(&run).ok();
    let usual = whole(&sandbox, &["rm", "-f", "c"]);
    let mut moments = Moments::new();
    for _ in 0..MOMENTS {
        sandbox.corten(&run).ok();
        let found = supervisors(&sandbox);
        assert_eq!(found.len(), 1, "one container, one supervisor");
        let child = start(&sandbox, &["rm", "-f", "c"]);
        thread::sleep(moments.within(usual));
        found.into_iter().for_each(kill);
        ends(child);
        repaired(&sandbox);
    }
    sandbox.finish();
    Ok(())
}
