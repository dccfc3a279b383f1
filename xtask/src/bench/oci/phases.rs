//! Each millisecond above the floor: a run cut into phases at events that every runtime has, and the system calls
//! that differ.

use std::collections::BTreeMap;

use super::super::report::{Series, quantile, skipped};
use super::trace::{Event, Tracer, What};
use super::{Rig, Subject};
use crate::failure::{Result, failure};

const PHASES: [&str; 8] = [
    "the bench's fork and exec of it",
    "before the clone",
    "clone, until the child runs",
    "the container's process, until its exec",
    "exec of the program",
    "the program, until its end",
    "namespaces end, the runtime hears of it",
    "afterwards, until the bench hears of it",
];

/// Calls that wait for somebody: their time is another process's.
const WAITS: [&str; 14] = [
    "wait4",
    "waitid",
    "poll",
    "ppoll",
    "epoll_wait",
    "epoll_pwait",
    "recvmsg",
    "recvfrom",
    "read",
    "accept4",
    "futex",
    "rt_sigsuspend",
    "rt_sigtimedwait",
    "exit_group",
];

const TOP: usize = 14;

pub fn measure(rig: &Rig) -> Result<()> {
    let tracer = match Tracer::new(&rig.folder.join("tracing"), &rig.v2) {
        Ok(tracer) => tracer,
        Err(why) => {
            skipped("phases", why);
            return Ok(());
        }
    };
    let variant = super::bundle::Variant::new(&["/bin/true"]).own_cgroups();
    let subjects = [
        rig.floor("floor", "phase-floor"),
        rig.oci("corten-oci", &rig.corten, "phase-corten", &variant)?,
        rig.oci("crun", super::CRUN, "phase-crun", &variant)?,
    ];
    let mut phases: Vec<Series> = PHASES.iter().map(|_| Series::default()).collect();
    let mut whole = Series::default();
    let mut calls = Calls::default();
    for round in 0..rig.rounds.div_ceil(4) + super::WARM_UP {
        for (index, subject) in subjects.iter().enumerate() {
            let events = tracer.record(&rig.v2, &subject.argv)?;
            if round < super::WARM_UP {
                continue;
            }
            let cut = cut(&events, rig.v2.pid())?;
            for (series, time) in phases.iter_mut().zip(cut) {
                series.add(subject.name, time / 1e3);
            }
            whole.add(subject.name, cut.iter().sum::<f64>() / 1e3);
            for (name, total) in totals(&events, rig.v2.pid()) {
                calls.of.entry(name).or_default()[index].push(total);
            }
        }
    }
    print_phases(&subjects, &phases, &whole);
    calls.print();
    Ok(())
}

/// The length of each phase in microseconds. `maker` is who started the runtime.
fn cut(events: &[Event], maker: u32) -> Result<[f64; 8]> {
    let mut missing = "";
    let mut need = |found: Option<f64>, what: &'static str| {
        found.unwrap_or_else(|| {
            missing = what;
            f64::NAN
        })
    };
    let enters = |event: &Event, names: &[&str]| matches!(&event.what, What::Enter(name) if names.contains(&name.as_str()));
    let clones = ["clone", "clone3", "vfork", "fork"];
    let executed = |event: &Event| matches!(&event.what, What::Leave(name, true) if name.starts_with("execve"));
    let spawned = events.iter().find(|e| e.pid == maker && enters(e, &clones));
    let own = events.iter().find(|e| e.pid != maker && executed(e));
    let program = events.iter().rev().find(|e| executed(e));
    let (runtime, pid) = match (own, program) {
        (Some(own), Some(program)) if own.pid != program.pid => (own.pid, program.pid),
        _ => return Err(failure("a trace without two execs")),
    };
    let born = events.iter().position(|e| e.pid == pid).unwrap_or(0);
    let cloned = events[..born]
        .iter()
        .rev()
        .find(|e| e.pid != maker && enters(e, &clones));
    let exec = events
        .iter()
        .rev()
        .find(|e| e.pid == pid && enters(e, &["execve", "execveat"]));
    let ended = events
        .iter()
        .position(|e| e.pid == pid && e.what == What::End)
        .unwrap_or(events.len());
    let heard = events[ended..].iter().find(|e| e.pid == runtime);
    let last = events.iter().rev().find(|e| {
        e.pid == maker && matches!(&e.what, What::Leave(name, true) if name.starts_with("wait"))
    });
    let at = |event: Option<&Event>| event.map(|e| e.at);
    let marks = [
        need(at(spawned), "the start"),
        need(at(own), "the runtime's exec"),
        need(at(cloned), "the clone"),
        need(at(events.get(born)), "the child"),
        need(at(exec), "the program's exec"),
        need(at(program), "the program"),
        need(at(events.get(ended)), "the program's end"),
        need(at(heard), "the runtime's wait"),
        need(at(last), "the end"),
    ];
    if !missing.is_empty() {
        return Err(failure(format!("a trace without {missing}")));
    }
    Ok(std::array::from_fn(|n| marks[n + 1] - marks[n]))
}

/// How often each call was made, and the microseconds in it, by all but the maker.
fn totals(events: &[Event], maker: u32) -> BTreeMap<String, (f64, f64)> {
    let mut since: BTreeMap<u32, f64> = BTreeMap::new();
    let mut totals: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    for event in events.iter().filter(|event| event.pid != maker) {
        match &event.what {
            What::Enter(name) => {
                since.insert(event.pid, event.at);
                totals.entry(name.clone()).or_default().0 += 1.0;
            }
            What::Leave(name, _) => {
                if let Some(entered) = since.remove(&event.pid) {
                    totals.entry(name.clone()).or_default().1 += event.at - entered;
                }
            }
            What::End => {}
        }
    }
    totals
}

fn print_phases(subjects: &[Subject], phases: &[Series], whole: &Series) {
    println!("\nwhere a run's time goes (spec B, v2; ms, medians of traced runs)");
    print!("  {:<42}", "");
    for subject in subjects {
        print!(" {:>11}", subject.name);
    }
    println!(" {:>16}", "above the floor");
    let row = |name: &str, series: &Series| {
        print!("  {name:<42}");
        for subject in subjects {
            print!(" {:>11.3}", series.median(subject.name).unwrap_or(f64::NAN));
        }
        let above = series.median("corten-oci").zip(series.median("floor"));
        println!(
            " {:>16.3}",
            above.map_or(f64::NAN, |(ours, floor)| ours - floor)
        );
    };
    for (name, series) in PHASES.iter().zip(phases) {
        row(name, series);
    }
    row("all", whole);
}

/// How often each call was made and the microseconds in it, a run each, by the index of the subject.
#[derive(Default)]
struct Calls {
    of: BTreeMap<String, [Vec<(f64, f64)>; 3]>,
}

impl Calls {
    /// The calls by what they cost us more than the floor.
    fn print(&self) {
        // A call that few runs make is no part of the usual run, whose cost is asked for.
        let median = |runs: &[Vec<(f64, f64)>; 3], who: usize| {
            let of = |pick: fn(&(f64, f64)) -> f64| {
                let samples: Vec<f64> = runs[who].iter().map(pick).collect();
                if samples.is_empty() {
                    0.0
                } else {
                    quantile(&samples, 0.5)
                }
            };
            (of(|run| run.0), of(|run| run.1))
        };
        let (floor, ours) = (0, 1);
        let rows = self
            .of
            .iter()
            .filter(|(name, _)| !WAITS.contains(&name.as_str()));
        let mut rows: Vec<_> = rows
            .map(|(name, runs)| (name, median(runs, ours), median(runs, floor)))
            .collect();
        rows.sort_by(|a, b| (b.1.1 - b.2.1).total_cmp(&(a.1.1 - a.2.1)));
        println!(
            "\nsystem calls by what they cost above the floor (us a run, medians; waits left out)"
        );
        println!(
            "  {:<20} {:>9} {:>7} {:>9} {:>7} {:>9}",
            "", "ours", "calls", "floor", "calls", "above"
        );
        let mut others = 0.0;
        for (place, (name, (our_calls, ours), (floor_calls, floor))) in rows.iter().enumerate() {
            let above = ours - floor;
            if place >= TOP {
                others += above;
                continue;
            }
            println!(
                "  {name:<20} {ours:>9.1} {our_calls:>7.1} {floor:>9.1} {floor_calls:>7.1} {above:>9.1}"
            );
        }
        println!("  {:<56} {others:>9.1}", "the others");
    }
}
