//! Under containerd's CRI plugin, somebody of a pod of three containers is killed.

use super::cri::{Cri, EXITED, ExecResult, List, PodList, named};
use super::rig::eventually;
use super::traces;
use rustix::process::{Pid, Signal, kill_process};

const RUNNING: i32 = 1;
/// Of a pod.
const READY: i32 = 0;

struct Pod {
    it: Cri,
    id: String,
    containers: Vec<String>,
}

impl Pod {
    fn start() -> Option<Self> {
        let mut it = Cri::start()?;
        let id = it.run_pod();
        let script = "echo; sleep 1000 & wait";
        let containers = ["one", "two", "three"]
            .map(|n| it.run(&id, n, script))
            .into();
        Some(Self { it, id, containers })
    }

    fn states(&mut self) -> Vec<i32> {
        let ids = self.containers.clone();
        ids.iter().map(|id| self.it.status(id).state).collect()
    }

    fn is_ready(&mut self) -> bool {
        let pods: PodList = self.it.call("ListPodSandbox", &named(""));
        pods.items
            .iter()
            .any(|p| p.id == self.id && p.state == READY)
    }

    /// Stops and removes it with all that is in it, whoever is still alive.
    fn finish(mut self, story: &str) {
        let id = self.id.clone();
        for method in ["StopPodSandbox", "RemovePodSandbox"] {
            // While a shim's death is being dealt with, it may be refused.
            eventually(method, || {
                self.it.grpc.call::<()>(method, &named(&id)).is_some()
            });
        }
        let left: List = self.it.call("ListContainers", &named(""));
        assert!(left.items.is_empty(), "{story}: {left:?}");
        for container in self.containers.iter().chain([&id]) {
            traces::assert_none(&self.it.containerd, container, story);
        }
        let mut second = Self {
            id: self.it.run_pod(),
            containers: Vec::new(),
            ..self
        };
        second
            .containers
            .push(second.it.run(&second.id, "one", "sleep 1000"));
        let (it, id) = (&mut second.it, &second.id);
        assert_eq!(
            it.exec(&second.containers[0], "echo again").stdout,
            b"again\n"
        );
        it.call::<()>("StopPodSandbox", &named(id));
        it.call::<()>("RemovePodSandbox", &named(id));
        traces::assert_none(&it.containerd, id, story);
        traces::assert_none(&it.containerd, &second.containers[0], story);
    }
}

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

#[test]
fn its_shim() {
    let Some(mut pod) = Pod::start() else { return };
    let shims = traces::shims(&pod.it.containerd, &pod.id);
    assert_eq!(shims.len(), 1);
    kill(shims[0]);
    eventually("the end of all", || pod.states() == [EXITED; 3]);
    eventually("the end of the pod", || !pod.is_ready());
    pod.finish("the pod's shim");
}

#[test]
fn its_shim_while_containerd_is_away() {
    let Some(mut pod) = Pod::start() else { return };
    let shims = traces::shims(&pod.it.containerd, &pod.id);
    pod.it.containerd.die();
    kill(shims[0]);
    pod.it.back();
    eventually("the end of all", || pod.states() == [EXITED; 3]);
    eventually("the end of the pod", || !pod.is_ready());
    pod.finish("the pod's shim, unseen");
}

#[test]
fn the_init_of_one() {
    let Some(mut pod) = Pod::start() else { return };
    let inside = traces::processes(&pod.it.containerd, &pod.containers[1]);
    kill(*inside.iter().min().unwrap());
    eventually("its end", || pod.states() == [RUNNING, EXITED, RUNNING]);
    let id = pod.containers[1].clone();
    assert_eq!(pod.it.status(&id).exit_code, 137);
    assert!(pod.is_ready());
    pod.it.call::<()>("RemoveContainer", &named(&id));
    traces::assert_none(&pod.it.containerd, &id, "one init");
    pod.containers[1] = pod.it.run(&pod.id, "two", "sleep 1000");
    assert_eq!(pod.states(), [RUNNING; 3]);
    pod.finish("one init");
}

#[test]
fn the_init_of_one_while_containerd_is_away() {
    let Some(mut pod) = Pod::start() else { return };
    let inside = traces::processes(&pod.it.containerd, &pod.containers[1]);
    pod.it.containerd.die();
    kill(*inside.iter().min().unwrap());
    pod.it.back();
    eventually("its end", || pod.states() == [RUNNING, EXITED, RUNNING]);
    let id = pod.containers[1].clone();
    assert_eq!(pod.it.status(&id).exit_code, 137);
    pod.finish("one init, unseen");
}

/// At twelve moments of a start.
#[test]
fn containerd_while_a_container_starts() {
    let Some(mut pod) = Pod::start() else { return };
    let mut all = Vec::new();
    for round in 0..12u64 {
        let name = format!("round{round}");
        let Some(id) = pod.it.make(&pod.id, &name, "sleep 1000") else {
            panic!("no container in round {round}");
        };
        let socket = pod.it.containerd.path().join("c.sock");
        let (start, asked) = (named(&id), round * 7);
        let mut grpc = super::grpc::Grpc::connect(&socket);
        let caller = std::thread::spawn(move || {
            grpc.call::<()>("StartContainer", &start);
        });
        std::thread::sleep(std::time::Duration::from_millis(asked));
        pod.it.containerd.die();
        caller.join().unwrap();
        pod.it.back();
        // Whatever has become of it: running means that it runs, and it can be removed and made again.
        let status = pod.it.status(&id);
        let works = pod
            .it
            .grpc
            .call::<ExecResult>("ExecSync", &pod.it.asking(&id, "echo yes"));
        assert_eq!(
            status.state == RUNNING,
            works.is_some(),
            "round {round}: {status:?}"
        );
        pod.it.call::<()>("RemoveContainer", &named(&id));
        // Of one that came as far as `start` but not to its making, containerd 1.6 keeps the bundle until the pod's end.
        let bundle = pod.it.containerd.bundle(&id).display().to_string();
        let mut left = traces::of(&pod.it.containerd, &id);
        left.retain(|trace| works.is_some() || !trace.starts_with(&bundle));
        assert!(left.is_empty(), "round {round}: {left:?}");
        all.push(id);
        let again = pod.it.run(&pod.id, &name, "sleep 1000");
        pod.it.call::<()>("RemoveContainer", &named(&again));
        traces::assert_none(&pod.it.containerd, &again, "made again");
        assert_eq!(pod.states(), [RUNNING; 3]);
        assert!(pod.is_ready());
    }
    pod.containers.extend(all);
    pod.finish("starts");
}
