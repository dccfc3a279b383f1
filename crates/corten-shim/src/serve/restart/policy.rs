//! The decision: is a container that has ended started again, and after what pause? Pure.

use std::path::PathBuf;
use std::time::Duration;

use crate::proto::corten::Restart as Asked;
use crate::ttrpc::status::{Code, Status};

/// docker's numbers (moby's `restartmanager`): the first pause, doubled each time up to the longest, and from the
/// beginning again for a container that has run for so long.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(60);
const STEADY: Duration = Duration::from_secs(10);

/// When a container is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    #[default]
    No,
    /// After an exit code other than 0; at most so many times in a row, 0 being without end.
    OnFailure(u32),
    Always,
    /// As always, here: the difference is made when the host starts.
    UnlessStopped,
}

/// A policy, and how it is carried out.
#[derive(Debug, Default)]
pub struct Terms {
    pub policy: Policy,
    pub command: Vec<String>,
    /// A file that is there once the user has stopped the container.
    pub stopped: PathBuf,
}

impl TryFrom<Asked> for Terms {
    type Error = Status;

    fn try_from(asked: Asked) -> Result<Self, Status> {
        let policy = match asked.policy.as_str() {
            "" | "no" => Policy::No,
            "on-failure" => Policy::OnFailure(asked.max_retries),
            "always" => Policy::Always,
            "unless-stopped" => Policy::UnlessStopped,
            other => {
                let text = format!("{other:?} is no restart policy");
                return Err(Status::new(Code::InvalidArgument, text));
            }
        };
        if asked.command.is_empty() || asked.stopped.is_empty() {
            let text = "a restart policy needs a command, and a file that says stopped";
            return Err(Status::new(Code::InvalidArgument, text));
        }
        Ok(Self {
            policy,
            command: asked.command,
            stopped: asked.stopped.into(),
        })
    }
}

/// What is known of an end.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    pub status: u32,
    pub ran: Duration,
    pub stopped: bool,
    /// Whatever the policy says: by its health check's `on_failure`.
    pub forced: bool,
}

/// How long until the next start, if there is to be one. `count`: restarts so far. `last`: the pause before this one.
pub fn decide(policy: Policy, count: u32, last: Duration, ended: Ended) -> Option<Duration> {
    let wanted = match policy {
        _ if ended.stopped => false,
        _ if ended.forced => true,
        Policy::No => false,
        Policy::OnFailure(max) => ended.status != 0 && (max == 0 || count < max),
        Policy::Always | Policy::UnlessStopped => true,
    };
    wanted.then(|| match ended.ran >= STEADY || last.is_zero() {
        true => FIRST,
        false => (last * 2).min(LONGEST),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(status: u32) -> Ended {
        Ended {
            status,
            ran: Duration::from_millis(5),
            stopped: false,
            forced: false,
        }
    }

    #[test]
    fn who_is_started_again() {
        for (policy, count, status, again) in [
            (Policy::No, 0, 1, false),
            (Policy::Always, 900, 0, true),
            (Policy::UnlessStopped, 900, 137, true),
            (Policy::OnFailure(0), 900, 1, true),
            (Policy::OnFailure(0), 0, 0, false),
            (Policy::OnFailure(3), 2, 1, true),
            (Policy::OnFailure(3), 3, 1, false),
        ] {
            let next = decide(policy, count, Duration::ZERO, ended(status));
            assert_eq!(next.is_some(), again, "{policy:?} {count} {status}");
            let stopped = Ended {
                stopped: true,
                forced: true,
                ..ended(status)
            };
            assert_eq!(decide(policy, count, FIRST, stopped), None);
            let forced = Ended {
                forced: true,
                ..ended(status)
            };
            assert!(decide(policy, count, FIRST, forced).is_some());
        }
    }

    #[test]
    fn the_pause_doubles_up_to_a_minute_and_begins_anew_after_ten_seconds_of_running() {
        let mut last = Duration::ZERO;
        let mut pauses = Vec::new();
        for count in 0..12 {
            last = decide(Policy::Always, count, last, ended(1)).unwrap();
            pauses.push(last.as_millis());
        }
        assert_eq!(
            pauses,
            [
                100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 60_000, 60_000
            ]
        );
        let steady = Ended {
            ran: STEADY,
            ..ended(1)
        };
        assert_eq!(decide(Policy::Always, 12, last, steady), Some(FIRST));
    }

    proptest::proptest! {
        #[test]
        fn a_pause_is_within_its_bounds_and_stopped_is_stopped(
            runs in proptest::collection::vec((0u32..300, 0u64..20, proptest::bool::ANY, proptest::bool::ANY), 1..50),
            max in 0u32..5,
        ) {
            let mut last = Duration::ZERO;
            for (count, (status, seconds, stopped, forced)) in (0..).zip(runs) {
                let ended = Ended { status, ran: Duration::from_secs(seconds), stopped, forced };
                for policy in [Policy::No, Policy::OnFailure(max), Policy::Always, Policy::UnlessStopped] {
                    match decide(policy, count, last, ended) {
                        Some(pause) => {
                            proptest::prop_assert!(!stopped && (FIRST..=LONGEST).contains(&pause));
                            proptest::prop_assert!(seconds < 10 || pause == FIRST);
                            proptest::prop_assert!(pause >= last || seconds >= 10);
                        }
                        None => proptest::prop_assert!(stopped || (!forced && !matches!(policy, Policy::Always | Policy::UnlessStopped))),
                    }
                }
                last = decide(Policy::Always, count, last, ended).unwrap_or(last);
            }
        }
    }

    fn asked(policy: &str) -> Asked {
        Asked {
            policy: policy.into(),
            max_retries: 2,
            command: vec!["/bin/false".into()],
            stopped: "/nowhere/stopped".into(),
        }
    }

    #[test]
    fn terms_that_cannot_be_kept_are_refused() {
        let kept = Terms::try_from(asked("on-failure")).unwrap();
        assert_eq!(kept.policy, Policy::OnFailure(2));
        assert!(Terms::try_from(asked("sometimes")).is_err());
        let silent = Asked {
            command: vec![],
            ..asked("always")
        };
        assert!(Terms::try_from(silent).is_err());
    }
}
