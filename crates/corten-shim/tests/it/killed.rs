//! Under containerd 1.6, somebody is killed: the daemon, the shim, init, in every state of a container. What is told
//! afterwards is the truth, the name can be used again, and nothing is left.

use std::path::Path;
use std::time::Duration;

use corten_shim::proto::task::Mount;
use prost_types::Any;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::containerd::{Containerd, IMAGE};
use super::grpc::Grpc;
use super::rig::eventually;
use super::traces;

/// Messages of containerd.services.tasks.v1, with the fields that are used.
mod messages {
    use super::{Any, Mount};

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Create {
        #[prost(string, tag = "1")]
        pub id: String,
        #[prost(message, repeated, tag = "3")]
        pub rootfs: Vec<Mount>,
    }

    /// Of a container or of one of its processes, in Start, Delete, Pause, Get and Kill.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Of {
        #[prost(string, tag = "1")]
        pub id: String,
        #[prost(string, tag = "2")]
        pub exec_id: String,
        #[prost(uint32, tag = "3")]
        pub signal: u32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Exec {
        #[prost(string, tag = "1")]
        pub id: String,
        #[prost(message, optional, tag = "6")]
        pub spec: Option<Any>,
        #[prost(string, tag = "7")]
        pub exec_id: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Process {
        #[prost(uint32, tag = "3")]
        pub pid: u32,
        #[prost(int32, tag = "4")]
        pub status: i32,
        #[prost(uint32, tag = "9")]
        pub exit_status: u32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Got {
        #[prost(message, optional, tag = "1")]
        pub process: Option<Process>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Deleted {
        #[prost(uint32, tag = "3")]
        pub exit_status: u32,
    }
}
use messages::*;

const STOPPED: i32 = 3;
/// Ends with a code of its own, once it has come so far as to hear of signals.
const SCRIPT: &str = "trap 'exit 7' TERM; echo; sleep 1000 & wait";

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Created,
    Running,
    Paused,
    ExecAdded,
    ExecRunning,
    Stopped,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Victim {
    Daemon,
    Shim,
    Init,
    /// The container ends while containerd is away.
    InitUnseen,
    /// The shim dies while containerd is away, and its container with it.
    ShimUnseen,
}

const VICTIMS: [Victim; 5] = [
    Victim::Daemon,
    Victim::Shim,
    Victim::Init,
    Victim::InitUnseen,
    Victim::ShimUnseen,
];

/// One container and containerd's tasks service, which can do a step at a time where ctr does several.
struct Stage {
    it: Containerd,
    id: String,
    tasks: Grpc,
}

impl Stage {
    fn start() -> Option<Self> {
        let it = Containerd::start()?;
        let (id, tasks) = (format!("{}-box", it.namespace), tasks(&it));
        Some(Self { it, id, tasks })
    }

    fn of(&self, exec_id: &str) -> Of {
        Of {
            id: self.id.clone(),
            exec_id: exec_id.into(),
            signal: 0,
        }
    }

    fn call<T: prost::Message + Default>(
        &mut self,
        method: &str,
        request: &impl prost::Message,
    ) -> T {
        let answer = self.tasks.call(method, request);
        answer.unwrap_or_else(|| panic!("{method} has failed"))
    }

    /// `None`: containerd knows no such task.
    fn look(&mut self) -> Option<Process> {
        let request = self.of("");
        self.tasks.call::<Got>("Get", &request)?.process
    }

    fn record(&self) {
        let runtime = ["--runtime", "io.containerd.corten.v2"];
        let script = ["--", IMAGE, &self.id, "sh", "-c", SCRIPT];
        let words = [&["container", "create"], &runtime[..], &script].concat();
        for _ in 0..8 {
            let output = self.it.ctr(&words);
            if output.status.success() {
                return;
            }
            let told = String::from_utf8_lossy(&output.stderr);
            let Some(folder) = stumbled(&told) else {
                panic!("ctr {words:?}: {told}");
            };
            clear_the_way(Path::new(folder));
            let _ = self.it.ctr(&["snapshot", "rm", &self.id]);
        }
        self.it.ok(&words);
    }

    fn create(&mut self) {
        let line = self.it.ok(&["snapshots", "mounts", "/x", &self.id]);
        let request = Create {
            id: self.id.clone(),
            rootfs: vec![mount(&line)],
        };
        self.call::<()>("Create", &request);
    }

    fn exec(&mut self) {
        let process = json!({"args": ["sleep", "1000"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}});
        let request = Exec {
            id: self.id.clone(),
            spec: Some(Any {
                type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(),
                value: process.to_string().into(),
            }),
            exec_id: "e".into(),
        };
        self.call::<()>("Exec", &request);
    }

    fn reach(&mut self, state: State) {
        self.record();
        self.create();
        if state == State::Created {
            return;
        }
        self.call::<()>("Start", &self.of(""));
        let pid = self.look().unwrap().pid;
        // Else its shell might not have set its trap.
        eventually("the shell's child", || {
            let children = format!("/proc/{pid}/task/{pid}/children");
            std::fs::read_to_string(children).is_ok_and(|c| !c.is_empty())
        });
        match state {
            State::Paused => self.call::<()>("Pause", &self.of("")),
            State::ExecAdded => self.exec(),
            State::ExecRunning => {
                self.exec();
                self.call::<()>("Start", &self.of("e"));
            }
            State::Stopped => {
                self.kill(15);
                self.stopped(7);
            }
            _ => {}
        }
    }

    fn kill(&mut self, signal: u32) {
        let request = Of {
            signal,
            ..self.of("")
        };
        self.call::<()>("Kill", &request);
    }

    fn stopped(&mut self, code: u32) {
        eventually("the exit", || {
            self.look().is_some_and(|p| p.status == STOPPED)
        });
        assert_eq!(self.look().unwrap().exit_status, code);
    }

    /// containerd dies, then something else happens, then it comes back.
    fn without_containerd(&mut self, happens: impl FnOnce(&Self)) {
        self.it.die();
        happens(self);
        self.it.back();
        self.tasks = tasks(&self.it);
    }

    /// What the victim's death must have led to. Whether the task is still there.
    fn strike(&mut self, state: State, victim: Victim) -> bool {
        let before = self.look().unwrap();
        let shim = *traces::shims(&self.it, &self.id).first().expect("no shim");
        let signal = match state {
            State::Running | State::ExecAdded | State::ExecRunning => 15,
            _ => 9,
        };
        match victim {
            Victim::Daemon => self.without_containerd(|_| {}),
            Victim::Shim => {
                end(shim, 9);
                eventually("containerd's cleaning", || self.look().is_none());
            }
            Victim::Init => end(before.pid as i32, 9),
            Victim::InitUnseen => self.without_containerd(|_| end(before.pid as i32, signal)),
            Victim::ShimUnseen => self.without_containerd(|_| end(shim, 9)),
        }
        match (victim, state) {
            (Victim::Shim | Victim::ShimUnseen, _) => {
                assert_eq!(self.look(), None);
                return false;
            }
            (_, State::Stopped) => self.stopped(7),
            (Victim::Daemon, _) => assert_eq!(self.look().unwrap(), before),
            (Victim::InitUnseen, _) if signal == 15 => self.stopped(7),
            _ => self.stopped(137),
        }
        true
    }

    /// Ends what is there, and says how.
    fn delete(&mut self) -> u32 {
        if self.look().unwrap().status != STOPPED {
            self.kill(9);
            eventually("the exit", || {
                self.look().is_some_and(|p| p.status == STOPPED)
            });
        }
        self.call::<Deleted>("Delete", &self.of("")).exit_status
    }

    fn forget(&self) {
        self.it.ok(&["container", "rm", &self.id]);
    }

    /// The name is free, for one that works.
    fn again(&mut self, story: &str) {
        traces::assert_none(&self.it, &self.id, story);
        self.reach(State::ExecRunning);
        assert_eq!(self.delete(), 137);
        self.forget();
        traces::assert_none(&self.it, &self.id, story);
    }
}

/// containerd 1.6 moves a snapshot's folder to its place before it commits the number: killed between the two, it gives
/// the number out again and stumbles over the folder, which this names.
fn stumbled(told: &str) -> Option<&str> {
    if !told.contains("failed to rename") || !told.contains("file exists") {
        return None;
    }
    told.split_whitespace().find_map(|word| {
        let word = word.strip_suffix(':')?;
        word.contains("/snapshots/").then_some(word)
    })
}

/// Its collector may be at that folder already. It does not look again whether the number is in use, so it goes first.
fn clear_the_way(folder: &Path) {
    for _ in 0..50 {
        if !folder.exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            panic!("{}: {error}", folder.display())
        }
        _ => {}
    }
}

fn tasks(it: &Containerd) -> Grpc {
    let service = "containerd.services.tasks.v1.Tasks";
    Grpc::to(&it.path().join("c.sock"), service, &it.namespace)
}

/// From the command that ctr prints for people: `mount -t TYPE SOURCE TARGET -o OPTIONS`.
fn mount(line: &str) -> Mount {
    let words: Vec<&str> = line.split_whitespace().collect();
    let ["mount", "-t", kind, source, _, "-o", options] = words[..] else {
        panic!("{line}");
    };
    Mount {
        r#type: kind.into(),
        source: source.into(),
        target: String::new(),
        options: options.split(',').map(String::from).collect(),
    }
}

/// A process that may have ended already.
fn end(pid: i32, signal: i32) {
    let signal = Signal::from_named_raw(signal).unwrap();
    let _ = kill_process(Pid::from_raw(pid).unwrap(), signal);
}

fn everybody_is_killed_when_it_is(state: State) {
    let Some(mut stage) = Stage::start() else {
        return;
    };
    for victim in VICTIMS {
        // A container that has ended has no init.
        if state == State::Stopped && matches!(victim, Victim::Init | Victim::InitUnseen) {
            continue;
        }
        let story = format!("{victim:?} when {state:?}");
        eprintln!("{story}");
        stage.reach(state);
        if stage.strike(state, victim) {
            let code = stage.look().unwrap();
            let code = if code.status == STOPPED {
                code.exit_status
            } else {
                137
            };
            assert_eq!(stage.delete(), code, "{story}");
        }
        stage.forget();
        stage.again(&story);
    }
    traces::assert_no_state(&stage.it);
}

#[test]
fn created() {
    everybody_is_killed_when_it_is(State::Created);
}

#[test]
fn running() {
    everybody_is_killed_when_it_is(State::Running);
}

#[test]
fn paused() {
    everybody_is_killed_when_it_is(State::Paused);
}

#[test]
fn with_an_exec_that_was_not_started() {
    everybody_is_killed_when_it_is(State::ExecAdded);
}

#[test]
fn with_an_exec() {
    everybody_is_killed_when_it_is(State::ExecRunning);
}

#[test]
fn stopped() {
    everybody_is_killed_when_it_is(State::Stopped);
}

/// The same moments each time, as far as the machine has moments.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        // Knuth's generator; its low bits are poor.
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) % limit
    }
}

/// Kills somebody at a moment of what is going on. The victims are looked for at that moment, and may not be there.
fn strike_at(stage: &mut Stage, victim: Victim, after: Duration, work: &mut std::process::Command) {
    let mut work = work
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(after);
    let (it, id) = (&stage.it, &stage.id);
    match victim {
        Victim::Shim => traces::shims(it, id)
            .into_iter()
            .for_each(|pid| end(pid, 9)),
        Victim::Init => {
            let shims = traces::shims(it, id);
            let inside = traces::processes(it, id).into_iter();
            inside
                .filter(|pid| !shims.contains(pid))
                .for_each(|pid| end(pid, 9));
        }
        _ => stage.it.die(),
    }
    let _ = work.wait();
    if victim == Victim::Daemon {
        stage.it.back();
    }
    stage.tasks = tasks(&stage.it);
}

/// Whatever has become of it, it can be ended and forgotten.
fn clear(stage: &mut Stage, victim: Victim, story: &str) {
    // A shim that has just died may still be in the list.
    eventually("an end of the task", || {
        let Some(seen) = stage.look() else {
            return true;
        };
        if seen.status != STOPPED {
            let request = Of {
                signal: 9,
                ..stage.of("")
            };
            stage.tasks.call::<()>("Kill", &request);
            return false;
        }
        let request = stage.of("");
        stage.tasks.call::<Deleted>("Delete", &request).is_some()
    });
    // ctr may have come to this itself, or never to the making.
    for what in ["container", "snapshot"] {
        let _ = stage.it.ctr(&[what, "rm", &stage.id]);
    }
    traces::remove_fifos(&stage.id);
    // A bundle is renamed before it is removed. containerd 1.6 forgets one that it was killed over, and
    // then cannot rename the next.
    let _ = std::fs::remove_dir_all(stage.it.bundle(&format!(".{}", stage.id)));
    let left = stage.it.ok(&["container", "ls", "-q"]);
    assert!(left.is_empty(), "{story}: {left}");
    if victim == Victim::Shim {
        // Killed between its answer to start and containerd's first call, or between Delete and Shutdown, it was nobody's:
        // containerd never asks for its removal, and the next start of this name takes its place.
        let bundle = stage.it.bundle(&stage.id);
        eventually("an end of the bundle", || !bundle.exists());
        traces::remove_dead_socket(&stage.it, &stage.id);
    }
    stage.again(story);
}

fn in_the_middle_of_a_run(victim: Victim, seed: u64) {
    let Some(mut stage) = Stage::start() else {
        return;
    };
    let mut dice = Dice(seed);
    for round in 0..12 {
        let after = Duration::from_micros(dice.below(200_000));
        let story = format!("round {round}: {victim:?} {after:?} into a run");
        eprintln!("{story}");
        let flags = ["run", "-d", "--runtime", "io.containerd.corten.v2", IMAGE];
        let mut work = stage
            .it
            .command(&[&flags[..], &[&stage.id, "sleep", "1000"]].concat());
        strike_at(&mut stage, victim, after, &mut work);
        clear(&mut stage, victim, &story);
    }
    traces::assert_no_state(&stage.it);
}

#[test]
fn containerd_in_the_middle_of_a_run() {
    in_the_middle_of_a_run(Victim::Daemon, 1);
}

#[test]
fn the_shim_in_the_middle_of_a_run() {
    in_the_middle_of_a_run(Victim::Shim, 2);
}

#[test]
fn init_in_the_middle_of_a_run() {
    in_the_middle_of_a_run(Victim::Init, 3);
}

fn in_the_middle_of_a_delete(victim: Victim, seed: u64) {
    let Some(mut stage) = Stage::start() else {
        return;
    };
    let mut dice = Dice(seed);
    for round in 0..12 {
        let after = Duration::from_micros(dice.below(60_000));
        let story = format!("round {round}: {victim:?} {after:?} into a delete");
        eprintln!("{story}");
        stage.reach(State::Stopped);
        let mut work = stage.it.command(&["task", "rm", &stage.id]);
        strike_at(&mut stage, victim, after, &mut work);
        clear(&mut stage, victim, &story);
    }
    traces::assert_no_state(&stage.it);
}

#[test]
fn containerd_in_the_middle_of_a_delete() {
    in_the_middle_of_a_delete(Victim::Daemon, 4);
}

#[test]
fn the_shim_in_the_middle_of_a_delete() {
    in_the_middle_of_a_delete(Victim::Shim, 5);
}

/// containerd dies while it starts a hundred containers. Those that it knows afterwards are there, and the others are not.
#[test]
fn containerd_among_a_hundred() {
    let Some(mut it) = Containerd::start() else {
        return;
    };
    let ids: Vec<String> = (0..100).map(|n| format!("{}-{n}", it.namespace)).collect();
    let flags = ["run", "-d", "--runtime", "io.containerd.corten.v2", IMAGE];
    let work = |id: &String| {
        let mut command = it.command(&[&flags[..], &[id, "sleep", "1000"]].concat());
        command
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        command.spawn().unwrap()
    };
    let mut works: Vec<_> = ids.iter().map(work).collect();
    eventually("some of them", || {
        ids.iter().filter(|id| it.bundle(id).exists()).count() > 40
    });
    it.die();
    for work in &mut works {
        let _ = work.wait();
    }
    it.back();
    let listed = it.ok(&["task", "ls"]);
    let known = |id: &str| {
        let mut lines = listed
            .lines()
            .map(|l| l.split_whitespace().collect::<Vec<_>>());
        lines.any(|words| words.first() == Some(&id))
    };
    for id in &ids {
        match known(id) {
            true => assert!(!traces::processes(&it, id).is_empty(), "{id}: {listed}"),
            false => traces::assert_none(&it, id, "a hundred"),
        }
    }
    for id in &ids {
        if known(id) {
            it.ok(&["task", "rm", "-f", id]);
        }
        let _ = it.ctr(&["container", "rm", id]);
        traces::remove_fifos(id);
        traces::assert_none(&it, id, "a hundred");
    }
    assert_eq!(it.ok(&["container", "ls", "-q"]), "");
    traces::assert_no_state(&it);
    assert!(
        !Path::new("/run/corten/containerd")
            .join(&it.namespace)
            .join(&ids[0])
            .exists()
    );
}
