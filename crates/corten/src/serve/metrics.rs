//! Figures of what was asked and how it went, in Prometheus' text form (exposition format 0.0.4).
//!
//! Counted without locks: a fixed row of counters for each call of the interface, so that nobody can make rows.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use corten_cri::server::{Ended, METHODS, Observer};

/// Upper bounds of the histogram, in seconds: from a status to a large pull.
const BOUNDS: [f64; 16] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0,
    300.0,
];

/// gRPC's codes by number.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The calls so far.
pub struct Calls {
    rows: Vec<Row>,
    under_way: AtomicI64,
}

struct Row {
    service: &'static str,
    method: &'static str,
    codes: [AtomicU64; CODES.len()],
    /// Not cumulative; the last is of those above every bound.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    nanoseconds: AtomicU64,
}

impl Row {
    fn new(service: &'static str, method: &'static str) -> Self {
        Self {
            service,
            method,
            codes: [const { AtomicU64::new(0) }; CODES.len()],
            buckets: [const { AtomicU64::new(0) }; BOUNDS.len() + 1],
            nanoseconds: AtomicU64::new(0),
        }
    }
}

impl Calls {
    pub fn new() -> Self {
        let known = METHODS.iter().flat_map(|(service, methods)| {
            methods.iter().map(move |method| Row::new(service, method))
        });
        let mut rows: Vec<Row> = known.collect();
        rows.push(Row::new("", "unknown"));
        Self {
            rows,
            under_way: AtomicI64::new(0),
        }
    }

    /// The lines about calls.
    pub fn write(&self, out: &mut String) {
        head(
            out,
            "corten_cri_calls_total",
            "counter",
            "Calls that have ended.",
        );
        for row in &self.rows {
            for (code, count) in CODES.iter().zip(&row.codes) {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    let labels = [
                        ("service", row.service),
                        ("method", row.method),
                        ("code", code),
                    ];
                    line(out, "corten_cri_calls_total", &labels, count);
                }
            }
        }
        head(
            out,
            "corten_cri_call_seconds",
            "histogram",
            "How long calls took.",
        );
        for row in &self.rows {
            row.write_histogram(out);
        }
        gauge(
            out,
            "corten_cri_calls_under_way",
            "Calls that have begun and not ended.",
            self.under_way.load(Ordering::Relaxed).max(0),
        );
    }
}

impl Row {
    fn write_histogram(&self, out: &mut String) {
        let counts = self.buckets.iter().map(|b| b.load(Ordering::Relaxed));
        let counts: Vec<u64> = counts.collect();
        let total: u64 = counts.iter().sum();
        if total == 0 {
            return;
        }
        let mut below = 0;
        for (count, bound) in counts.iter().zip(BOUNDS) {
            below += count;
            let labels = [("method", self.method), ("le", &bound.to_string())];
            line(out, "corten_cri_call_seconds_bucket", &labels, below);
        }
        let labels = [("method", self.method), ("le", "+Inf")];
        line(out, "corten_cri_call_seconds_bucket", &labels, total);
        let labels = [("method", self.method)];
        let seconds = self.nanoseconds.load(Ordering::Relaxed) as f64 / 1e9;
        line(out, "corten_cri_call_seconds_sum", &labels, seconds);
        line(out, "corten_cri_call_seconds_count", &labels, total);
    }
}

impl Observer for Calls {
    fn began(&self) {
        self.under_way.fetch_add(1, Ordering::Relaxed);
    }

    fn ended(&self, call: &Ended<'_>) {
        self.under_way.fetch_sub(1, Ordering::Relaxed);
        let same = |r: &&Row| r.method == call.method && r.service == call.service;
        let Some(row) = self.rows.iter().find(same).or(self.rows.last()) else {
            return;
        };
        let seconds = call.took.as_secs_f64();
        let bucket = BOUNDS
            .iter()
            .position(|b| seconds <= *b)
            .unwrap_or(BOUNDS.len());
        let nanoseconds = u64::try_from(call.took.as_nanos()).unwrap_or(u64::MAX);
        row.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        row.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
        if let Some(count) = row.codes.get(call.code as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What a family of lines is.
pub fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _infallible = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

pub fn line(out: &mut String, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
    out.push_str(name);
    for (i, (key, text)) in labels.iter().enumerate() {
        out.push(if i == 0 { '{' } else { ',' });
        out.push_str(key);
        out.push_str("=\"");
        for c in text.chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                c => out.push(c),
            }
        }
        out.push('"');
    }
    if !labels.is_empty() {
        out.push('}');
    }
    let _infallible = writeln!(out, " {value}");
}

pub fn gauge(out: &mut String, name: &str, help: &str, value: impl std::fmt::Display) {
    head(out, name, "gauge", help);
    line(out, name, &[], value);
}

pub fn counter(out: &mut String, name: &str, help: &str, value: impl std::fmt::Display) {
    head(out, name, "counter", help);
    line(out, name, &[], value);
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn calls_are_counted_by_method_code_and_time() {
        let calls = Calls::new();
        for (method, code, ms) in [
            ("Version", tonic::Code::Ok, 3),
            ("Version", tonic::Code::Ok, 700_000),
            ("Version", tonic::Code::Internal, 1),
        ] {
            calls.began();
            calls.ended(&Ended {
                service: "runtime.v1.RuntimeService",
                method,
                code,
                began: SystemTime::now(),
                took: Duration::from_millis(ms),
                subject: &Default::default(),
                parent: None,
            });
        }
        let mut text = String::new();
        calls.write(&mut text);
        for expected in [
            r#"corten_cri_calls_total{service="runtime.v1.RuntimeService",method="Version",code="OK"} 2"#,
            r#"corten_cri_calls_total{service="runtime.v1.RuntimeService",method="Version",code="INTERNAL"} 1"#,
            r#"corten_cri_call_seconds_bucket{method="Version",le="0.001"} 1"#,
            r#"corten_cri_call_seconds_bucket{method="Version",le="0.005"} 2"#,
            r#"corten_cri_call_seconds_bucket{method="Version",le="300"} 2"#,
            r#"corten_cri_call_seconds_bucket{method="Version",le="+Inf"} 3"#,
            r#"corten_cri_call_seconds_sum{method="Version"} 700.004"#,
            "corten_cri_calls_under_way 0",
        ] {
            assert!(text.lines().any(|l| l == expected), "{expected}\n{text}");
        }
        assert!(!text.contains("ListImages"), "{text}");
    }

    #[test]
    fn labels_are_quoted() {
        let mut out = String::new();
        line(&mut out, "m", &[("a", "x\"\\\n")], 1);
        assert_eq!(out, "m{a=\"x\\\"\\\\\\n\"} 1\n");
    }
}
