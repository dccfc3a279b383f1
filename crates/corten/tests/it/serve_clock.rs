//! The machine's clock jumps, by days and years, forwards and backwards, as NTP, an administrator or a virtual machine that was asleep sets
//! it. Nothing that was to last a second lasts for ever, or ends at once; nothing that runs is taken for something else. In a guest, whose
//! clock is the test's to set.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use corten_cri::proto::*;
use corten_testkit::{Result, Sandbox, need, tool, wait};
use tonic::Code;

use super::daemon::{block, get};
use super::pods::{Client, Node};
use super::{SOON, with_busybox};

const DAY: i64 = 24 * 3600;
/// By how many seconds it jumps, one after the other.
const JUMPS: [i64; 4] = [DAY, -2 * DAY, 400 * DAY, -399 * DAY];

/// The clock, which tells the time again in the end.
struct Clock {
    since: Instant,
    was: i64,
}

impl Clock {
    /// `None`: it is not ours.
    fn take() -> Option<Self> {
        need::guest("uml").then(|| Self {
            since: Instant::now(),
            was: now(),
        })
    }

    #[track_caller]
    fn jump(&self, seconds: i64) {
        set(now() + seconds);
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        set(self.was + self.since.elapsed().as_secs() as i64);
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("a time after 1970").as_secs() as i64
}

#[track_caller]
fn set(seconds: i64) {
    tool::call("date", &["-s", &format!("@{seconds}")]).expect("date");
    assert!((now() - seconds).abs() < 5, "it stands at {}", now());
}

#[test]
fn pods_do_not_mind() -> Result<()> {
    let Some(clock) = Clock::take() else {
        return Ok(());
    };
    let mut node = Node::start()?;
    let (pod, runs) = block(async {
        let mut client = node.client().await;
        let pod = client.run(&client.pod("p")).await.expect("a pod");
        let script = "while :; do echo line; sleep 0.1; done";
        let runs = client.go(&pod, &client.container("runs", script)).await;
        (pod, runs)
    });
    for (attempt, jump) in JUMPS.into_iter().enumerate() {
        eprintln!("the clock jumps by {jump} s");
        let ends = block(async {
            let mut client = node.client().await;
            calls_go_on(&mut client, &clock, jump, &runs).await;
            let mut container = client.container("ends", "sleep 1; exit 7");
            container.metadata.as_mut().expect("metadata").attempt = attempt as u32;
            client.go(&pod, &container).await
        });
        node.daemon.child.kill().expect("kill");
        node.daemon.child.wait().expect("wait");
        clock.jump(jump / 2);
        std::thread::sleep(Duration::from_millis(1200));
        node.again();
        block(async {
            let mut client = node.client().await;
            let state = client.pod_status(&pod).await.expect("a status").state();
            assert_eq!(state, PodSandboxState::SandboxReady, "{jump}");
            assert_eq!(client.says(&runs, "echo here").await, "here", "{jump}");
            let ended = client.ended(&ends).await;
            assert_eq!(ended.exit_code, 7, "{jump}: {ended:?}");
            assert!(ended.finished_at > 0, "{jump}: {ended:?}");
            client.remove(&ends).await.expect("a removal");
        });
        clock.jump(-jump / 2);
    }
    node.finish();
    Ok(())
}

/// Calls that are under way while it jumps, and some after that.
async fn calls_go_on(client: &mut Client, clock: &Clock, jump: i64, runs: &str) {
    let ask = ExecRequest {
        container_id: runs.into(),
        cmd: vec!["true".into()],
        stdout: true,
        ..ExecRequest::default()
    };
    let url = client.runtime.exec(ask).await.expect("a URL");
    let url = url.into_inner().url;
    let before = client.log("p", "runs").lines().count();

    // A process with more time than it needs.
    let mut other = client.clone();
    let id = runs.to_owned();
    let slow = tokio::spawn(async move { other.exec(&id, "sleep 1; echo done", 30).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    clock.jump(jump);
    let done = slow.await.expect("a task").expect("an exec");
    assert_eq!(done.stdout, b"done\n", "{jump}");

    // One with less.
    let since = Instant::now();
    let late = client.exec(runs, "sleep 100", 1).await;
    assert_eq!(late.expect_err("too long").code(), Code::DeadlineExceeded);
    between(since, 900, jump);

    // A URL from before is good still; no other is.
    let (address, path) = url
        .strip_prefix("http://")
        .and_then(|u| u.split_once('/'))
        .expect("a URL");
    let answer = get(address, &format!("/{path}"));
    assert!(answer.starts_with("HTTP/1.1 400"), "{jump}: {answer}");
    let answer = get(address, "/exec/unknown0");
    assert!(answer.starts_with("HTTP/1.1 404"), "{jump}: {answer}");

    let pod = client.status(runs).await.expect("a status");
    assert_eq!(pod.state(), ContainerState::ContainerRunning, "{jump}");
    figures(client, runs, jump).await;
    let more = wait::until("more of the log", SOON, || {
        (client.log("p", "runs").lines().count() > before + 20).then_some(())
    });
    more.unwrap_or_else(|e| panic!("{jump}: {e}"));
    deaf(client, clock, jump).await;
}

/// The use of the processor is measured between two looks, which lie a jump apart.
async fn figures(client: &mut Client, id: &str, jump: i64) {
    for _ in 0..3 {
        let ask = ContainerStatsRequest {
            container_id: id.into(),
        };
        let stats = client.runtime.container_stats(ask).await.expect("figures");
        let stats = stats.into_inner().stats.expect("figures");
        let cpu = stats.cpu.expect("the processor's");
        assert!(cpu.timestamp > 0, "{jump}: {cpu:?}");
        let nano = cpu.usage_nano_cores.map_or(0, |v| v.value);
        assert!(nano < 4_000_000_000, "{jump}: {cpu:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A container that does not hear SIGTERM has its two seconds: the clock jumps there and back meanwhile.
async fn deaf(client: &mut Client, clock: &Clock, jump: i64) {
    let pods = client.pods().await;
    let script = "trap '' TERM; echo up; while :; do sleep 1; done";
    let mut config = client.container("deaf", script);
    config.log_path = format!("deaf{jump}.log");
    let id = client.go(&pods[0].id, &config).await;
    client.logged("p", &format!("deaf{jump}"), "up");
    let mut other = client.clone();
    let name = id.clone();
    let since = Instant::now();
    let stop = tokio::spawn(async move { other.stop(&name, 2).await });
    for there in [jump, -jump] {
        tokio::time::sleep(Duration::from_millis(500)).await;
        clock.jump(there);
    }
    stop.await.expect("a task").expect("a stop");
    between(since, 1900, jump);
    assert_eq!(client.ended(&id).await.exit_code, 137, "{jump}");
    client.remove(&id).await.expect("a removal");
}

/// As long as it should take, and some seconds that a slow guest may take beside.
#[track_caller]
fn between(since: Instant, least: u64, jump: i64) {
    let took = since.elapsed();
    let most = Duration::from_millis(least) + Duration::from_secs(15);
    assert!(
        took >= Duration::from_millis(least) && took < most,
        "{jump}: {took:?}"
    );
}

fn inspect(sandbox: &Sandbox, name: &str, template: &str) -> String {
    sandbox.corten(&["inspect", "-f", template, name]).ok()
}

#[test]
fn restarts_checks_and_stops_do_not_mind() -> Result<()> {
    let Some(clock) = Clock::take() else {
        return Ok(());
    };
    let (sandbox, image) = with_busybox()?;
    let plain = ["run", "-d", "--network", "none"];
    let again = ["--name", "again", "--restart", "always", &image];
    let script = ["sh", "-c", "sleep 0.2; exit 1"];
    sandbox.corten(&[&plain[..], &again, &script].concat()).ok();
    let check = ["--health-interval", "200ms", "--health-cmd", "date +%s"];
    let well = ["--name", "well", &image, "sleep", "1000"];
    sandbox.corten(&[&plain[..], &check, &well].concat()).ok();
    let restarts = || {
        let count = inspect(&sandbox, "again", "{{.RestartCount}}");
        count.parse::<u32>().expect("a number")
    };
    let checked = || {
        let last = "{{range .State.Health.Log}}{{.Output}} {{end}}";
        let outputs = inspect(&sandbox, "well", last);
        let last = outputs.split_whitespace().next_back();
        last.and_then(|s| s.parse::<i64>().ok()).unwrap_or_default()
    };
    wait::until("a restart", SOON, || (restarts() > 0).then_some(()))?;
    // A pause doubles at each failure, up to a minute.
    let long = Duration::from_secs(70);
    for jump in JUMPS {
        let before = restarts();
        clock.jump(jump);
        wait::until("a restart", long, || (restarts() > before).then_some(()))?;
        wait::until("a check", SOON, || {
            ((checked() - now()).abs() < 30).then_some(())
        })?;
        assert_eq!(
            inspect(&sandbox, "well", "{{.State.Health.Status}}"),
            "healthy"
        );
        let since = Instant::now();
        sandbox.corten(&["stop", "-t", "1", "well"]).ok();
        between(since, 900, jump);
        sandbox.corten(&["start", "well"]).ok();
        wait::until("a healthy one", SOON, || {
            (inspect(&sandbox, "well", "{{.State.Health.Status}}") == "healthy").then_some(())
        })?;
        assert!(!sandbox.corten(&["ps"]).ok().contains("-1"), "{jump}");
    }
    sandbox.corten(&["rm", "-f", "again", "well"]).ok();
    sandbox.finish();
    Ok(())
}
