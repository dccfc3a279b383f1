//! Numbers for a person: medians, spread, ratios, and what they were taken on.

use std::collections::BTreeMap;
use std::fs;

use super::call;

/// The samples of each subject, in the order in which they joined.
#[derive(Default)]
pub struct Series {
    names: Vec<String>,
    samples: BTreeMap<String, Vec<f64>>,
}

impl Series {
    pub fn add(&mut self, name: &str, value: f64) {
        if !self.samples.contains_key(name) {
            self.names.push(name.to_owned());
        }
        self.samples.entry(name.to_owned()).or_default().push(value);
    }

    pub fn median(&self, name: &str) -> Option<f64> {
        self.samples.get(name).map(|samples| quantile(samples, 0.5))
    }

    pub fn quantile(&self, name: &str, at: f64) -> Option<f64> {
        self.samples.get(name).map(|samples| quantile(samples, at))
    }

    pub fn least(&self, name: &str) -> Option<f64> {
        self.samples.get(name).map(|samples| quantile(samples, 0.0))
    }

    /// A table with a column of ratios for each of `against` that was measured.
    pub fn print(&self, title: &str, unit: &str, against: &[&str]) {
        let against: Vec<&str> = against
            .iter()
            .copied()
            .filter(|name| self.median(name).is_some())
            .collect();
        println!("\n{title}");
        print!(
            "  {:<34} {:>9} {:>9} {:>9} {:>4}",
            format!("({unit})"),
            "median",
            "min",
            "p90",
            "n"
        );
        for name in &against {
            print!("  {:>16}", format!("/ {name}"));
        }
        println!();
        for name in &self.names {
            let samples = &self.samples[name];
            let median = quantile(samples, 0.5);
            let (low, high) = (quantile(samples, 0.0), quantile(samples, 0.9));
            print!(
                "  {name:<34} {median:>9.2} {low:>9.2} {high:>9.2} {:>4}",
                samples.len()
            );
            for other in &against {
                let ratio = self.median(other).map_or(f64::NAN, |other| median / other);
                print!("  {ratio:>16.3}");
            }
            println!();
        }
    }
}

/// The value below which this share of the samples lies, between neighbours.
pub fn quantile(samples: &[f64], at: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = at * (sorted.len().saturating_sub(1)) as f64;
    let (low, high) = (place.floor() as usize, place.ceil() as usize);
    match (sorted.get(low), sorted.get(high)) {
        (Some(a), Some(b)) => a + (b - a) * place.fract(),
        _ => f64::NAN,
    }
}

pub fn skipped(name: &str, why: impl std::fmt::Display) {
    println!("skipped: {name}: {why}");
}

/// Kernel, processor, load, control groups and the peers' versions.
pub fn machine() {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or("?");
    let count = cpuinfo
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    println!("kernel {}", read("/proc/sys/kernel/osrelease").trim());
    println!(
        "processor {count} x {}",
        model.trim_start_matches([' ', '\t', ':'])
    );
    println!("load {}", read("/proc/loadavg").trim());
    println!("control groups {}", layout(&read("/proc/self/mountinfo")));
    let versions = [
        ("podman", "--version"),
        ("docker", "--version"),
        ("containerd", "--version"),
        ("crun", "--version"),
        ("runc", "--version"),
        ("conmon", "--version"),
    ];
    for (program, flag) in versions {
        // /usr/bin: a client of another version may come first in PATH.
        let path = if program == "runc" {
            "/usr/sbin/runc".to_owned()
        } else {
            format!("/usr/bin/{program}")
        };
        if let Ok(text) = call(&path, &[flag]) {
            println!("{}", text.lines().next().unwrap_or_default());
        }
    }
}

fn layout(mountinfo: &str) -> String {
    let kinds = mountinfo
        .lines()
        .filter_map(|line| line.split_once(" - ")?.1.split(' ').next());
    let kinds: Vec<&str> = kinds.collect();
    match (kinds.contains(&"cgroup"), kinds.contains(&"cgroup2")) {
        (true, true) => "hybrid",
        (true, false) => "v1",
        (false, true) => "v2",
        (false, false) => "none",
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::quantile;

    #[test]
    fn quantiles_lie_between_their_neighbours() {
        assert_eq!(quantile(&[3.0, 1.0, 2.0], 0.5), 2.0);
        assert_eq!(quantile(&[4.0, 1.0, 2.0, 3.0], 0.5), 2.5);
        assert_eq!(quantile(&[1.0, 2.0], 0.0), 1.0);
        assert!(quantile(&[], 0.5).is_nan());
    }
}
