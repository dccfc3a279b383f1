//! Processes that are to outlive the service which starts them, gathered in one scope.
//!
//! Whatever a service has started counts as its own, and `systemctl kill` ends all of it, whatever the unit's `KillMode=` says of a
//! stop. What systemd is told is elsewhere is spared, and is counted elsewhere.
//!
//! ```text
//!   is the scope there? ── yes ──▶ AttachProcessesToUnit
//!                       └─ no ───▶ StartTransientUnit, with the process as its first
//! ```
//! The scope ends with the last of them, so nothing is left of it to be cleared.

use super::property::Property;
use super::value::Value;
use super::{Manager, Scope};
use crate::Error;

/// Between two looks the scope may end, or somebody else may start it.
const TRIES: u32 = 8;

impl Manager {
    /// Moves a process into `scope`, which is started with it if it is not there.
    pub fn gather(&mut self, scope: &Scope, description: &str, pid: u32) -> Result<(), Error> {
        let mut last = None;
        for _ in 0..TRIES {
            match self.attach(&scope.unit, &[pid]) {
                // Not there, or about to go.
                Err(Error::Refused { .. }) => {}
                answer => return answer,
            }
            match self.start(scope, &properties(scope, description, pid)) {
                Err(error @ Error::Refused { .. }) => last = Some(error),
                answer => return answer,
            }
        }
        last.map_or(Ok(()), Err)
    }
}

fn properties(scope: &Scope, description: &str, pid: u32) -> Vec<Property> {
    vec![
        Property::new("Description", Value::text(description)),
        Property::new("Slice", Value::text(&scope.slice)),
        // One of them that the kernel ends for its memory does not end the others with it: where groups are delegated, that is
        // what systemd leaves alone (OOMPolicy=continue).
        Property::new("Delegate", Value::Bool(true)),
        Property::new("TasksMax", Value::U64(u64::MAX)),
        // As their containers: no conflict with shutdown.target.
        Property::new("DefaultDependencies", Value::Bool(false)),
        Property::new("PIDs", Value::Array("u".into(), vec![Value::U32(pid)])),
    ]
}

/// The service that a process belongs to, by the groups that it is in. `None`: it is in a scope, or no systemd's at all.
pub fn service_of(pid: u32) -> Result<Option<String>, Error> {
    let path = std::path::PathBuf::from(format!("/proc/{pid}/cgroup"));
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(service_in(&text)),
        Err(error) => Err(Error::Probe {
            path,
            source: rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO),
        }),
    }
}

/// Lines are `ID:CONTROLLERS:PATH`.
fn service_in(text: &str) -> Option<String> {
    let mut paths = text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.find_map(|path| {
        // A user's manager is a service too, and what is in there is its own matter.
        let of_user = path.split('/').any(|part| part.starts_with("user@"));
        let mut parts = path.split('/').filter(|part| part.ends_with(".service"));
        parts.next().filter(|_| !of_user).map(str::to_owned)
    })
}

#[cfg(test)]
mod tests {
    use super::service_in;

    #[test]
    fn a_service_is_known_by_its_group() {
        let of = |text: &str| service_in(text);
        assert_eq!(
            of("0::/system.slice/corten.service\n").as_deref(),
            Some("corten.service")
        );
        let hybrid = "4:pids:/\n1:name=systemd:/system.slice/corten.service/a\n0::/\n";
        assert_eq!(of(hybrid).as_deref(), Some("corten.service"));
        assert_eq!(of("0::/user.slice/user-0.slice/session-3.scope\n"), None);
        assert_eq!(
            of("0::/user.slice/user-0.slice/user@0.service/app.slice/a.service\n"),
            None
        );
        assert_eq!(of("0::/\n"), None);
    }
}
