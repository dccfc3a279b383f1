//! systemd as the owner of the control groups: a container is a scope, started over D-Bus.
//!
//! ```text
//!   Manager::connect ── start_scope ───────── settle ─▶ (the container lives here)
//!                        │ a holder process is the scope's first: systemd starts none without
//!                        │ StartTransientUnit, then JobRemoved says "done"
//!                        └ the scope's group is delegated: limits go to its files as well
//!                       update ── SetUnitProperties, then the files
//!                       stop ──── StopUnit, JobRemoved, ResetFailedUnit
//! ```
//!
//! `gather` is for processes that are no containers, and must not end with the service that starts them.
//!
//! The client is our own: libsystemd or a D-Bus crate would cost every container that does not ask for
//! systemd. Nothing here is tried unless the caller asks.

mod address;
mod annotation;
mod client;
mod gather;
mod holder;
mod message;
mod name;
mod property;
mod value;

use std::path::Path;

use oci_spec::runtime::LinuxResources;

use crate::Error;
use crate::plan::Facts;
use client::{Address, Call, Connection};
use message::Message;
use property::Setting;
use value::Value;

pub use gather::service_of;
pub use holder::Holder;
pub use name::{Scope, slice_path};
pub use property::Property;

/// There exactly while systemd is the init of this host (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";

const NAME: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const BUS: &str = "org.freedesktop.DBus";
const BUS_PATH: &str = "/org/freedesktop/DBus";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// The properties that a spec's annotations ask for.
///
/// # Errors
/// A value that is no GVariant text, and properties that are the runtime's own.
pub fn annotated<'a>(
    annotations: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> Result<Vec<Property>, Error> {
    let found = annotations
        .into_iter()
        .filter_map(|(key, text)| annotation::property(key, text));
    let mut properties = found.collect::<Result<Vec<_>, _>>()?;
    // A spec's annotations have no order; what is sent should.
    properties.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(properties)
}

/// A systemd, spoken to: the host's, or a user's.
#[derive(Debug)]
pub struct Manager {
    connection: Connection,
    user: bool,
    version: u32,
    root: String,
    /// On a bus, systemd's unique name there: signals of others are not believed.
    owner: Option<String>,
}

impl Manager {
    /// The host's manager, or with `user` the one of the calling user.
    pub fn connect(user: bool) -> Result<Self, Error> {
        let booted = Path::new(BOOTED);
        if !booted.is_dir() {
            return Err(Error::NoSystemd {
                path: booted.into(),
            });
        }
        let places = match user {
            true => address::of_user(|name| std::env::var(name).ok()),
            false => address::of_host(),
        };
        let mut last = Error::NoBus {
            problem: "neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR is set",
        };
        for (place, direct) in places {
            match Self::at(&place, user, direct) {
                Ok(manager) => return Ok(manager),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// `direct`: systemd itself listens there, without a bus between.
    pub(crate) fn at(place: &Address, user: bool, direct: bool) -> Result<Self, Error> {
        let mut manager = Self {
            connection: Connection::open(place)?,
            user,
            version: 0,
            root: String::new(),
            owner: None,
        };
        if !direct {
            manager.bus("Hello", Vec::new())?;
        }
        let version = manager.property("Version")?;
        manager.version = major_version(&version);
        // The host's own manager says "": its units are at the top.
        manager.root = manager.property("ControlGroup")?;
        if !direct {
            let rule = format!(
                "type='signal',sender='{NAME}',path='{PATH}',interface='{MANAGER}',member='JobRemoved'"
            );
            manager.bus("AddMatch", vec![Value::Str(rule)])?;
            manager.owner = manager.manager("Subscribe", Vec::new())?.sender;
        }
        Ok(manager)
    }

    /// The manager's own group, below which its slices are.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// Whether it is a user's.
    pub fn is_user(&self) -> bool {
        self.user
    }

    /// Starts a scope with one process in it, and waits until it is there. A failed unit of the same name,
    /// which an earlier container left, is cleared first.
    pub(crate) fn start(&mut self, scope: &Scope, properties: &[Property]) -> Result<(), Error> {
        let body = || {
            vec![
                Value::text(&scope.unit),
                Value::text("replace"),
                list(properties),
                Value::Array("(sa(sv))".into(), Vec::new()),
            ]
        };
        let reply = match self.manager("StartTransientUnit", body()) {
            Err(Error::Refused { name, .. }) if name.ends_with(".UnitExists") => {
                self.reset_failed(&scope.unit)?;
                self.manager("StartTransientUnit", body())?
            }
            answer => answer?,
        };
        self.wait_job("start", &scope.unit, &reply)
    }

    /// Changes properties until the next boot.
    pub(crate) fn set(&mut self, unit: &str, properties: &[Property]) -> Result<(), Error> {
        if properties.is_empty() {
            return Ok(());
        }
        let body = vec![Value::text(unit), Value::Bool(true), list(properties)];
        self.manager("SetUnitProperties", body).map(drop)
    }

    /// Tells systemd of changed limits. The group's files are the caller's next step.
    pub fn update(
        &mut self,
        unit: &str,
        group: &crate::Cgroup,
        resources: &LinuxResources,
    ) -> Result<(), Error> {
        let facts = group.facts(resources)?;
        let properties = self.decide(resources, &facts, group.is_pure_v2())?;
        self.set(unit, &properties)
    }

    /// Stops a unit and forgets its failure. One that systemd does not know is no error.
    pub fn stop(&mut self, unit: &str) -> Result<(), Error> {
        let body = vec![Value::text(unit), Value::text("replace")];
        match self.manager("StopUnit", body) {
            Ok(reply) => self.wait_job("stop", unit, &reply)?,
            Err(Error::Refused { name, .. }) if name.ends_with(".NoSuchUnit") => {}
            Err(error) => return Err(error),
        }
        self.reset_failed(unit)
    }

    /// Moves processes into a unit, where we may not: out of a session into a user's own services.
    pub fn attach(&mut self, unit: &str, pids: &[u32]) -> Result<(), Error> {
        let pids = pids.iter().map(|pid| Value::U32(*pid)).collect();
        let body = vec![
            Value::text(unit),
            Value::text(""),
            Value::Array("u".into(), pids),
        ];
        self.manager("AttachProcessesToUnit", body).map(drop)
    }

    /// The resources as properties.
    pub(crate) fn decide(
        &self,
        resources: &LinuxResources,
        facts: &Facts,
        v2: bool,
    ) -> Result<Vec<Property>, Error> {
        let wildcards = resources.devices().iter().flatten();
        let wanted = wildcards.filter(|d| d.major().is_some()).count() > 0;
        let majors = match wanted {
            // Without it the lists of whole majors are shorter, which is the safe side.
            true => std::fs::read_to_string("/proc/devices").unwrap_or_default(),
            false => String::new(),
        };
        property::properties(
            resources,
            &Setting {
                version: self.version,
                v2,
                facts,
                majors: &majors,
                user: self.user,
            },
        )
    }

    fn reset_failed(&mut self, unit: &str) -> Result<(), Error> {
        match self.manager("ResetFailedUnit", vec![Value::text(unit)]) {
            Err(Error::Refused { name, .. }) if name.ends_with(".NoSuchUnit") => Ok(()),
            answer => answer.map(drop),
        }
    }

    fn wait_job(&mut self, job: &'static str, unit: &str, reply: &Message) -> Result<(), Error> {
        let Some(Value::Path(path)) = reply.body.first() else {
            return Err(self.connection.protocol("a job without a path"));
        };
        let owner = self.owner.clone();
        let result = self.connection.wait_signal("a job", |signal| {
            if signal.member.as_deref() != Some("JobRemoved")
                || signal.interface.as_deref() != Some(MANAGER)
                // Anybody on a bus can send a signal to anybody.
                || (owner.is_some() && signal.sender != owner)
            {
                return None;
            }
            match &signal.body[..] {
                [
                    Value::U32(_),
                    Value::Path(job),
                    Value::Str(_),
                    Value::Str(result),
                ] if job == path => Some(result.clone()),
                _ => None,
            }
        })?;
        match result.as_str() {
            "done" => Ok(()),
            _ => Err(Error::Job {
                job,
                unit: unit.into(),
                result,
            }),
        }
    }

    fn manager(&mut self, method: &'static str, body: Vec<Value>) -> Result<Message, Error> {
        self.connection.call(Call {
            destination: NAME,
            path: PATH,
            interface: MANAGER,
            method,
            body,
        })
    }

    fn bus(&mut self, method: &'static str, body: Vec<Value>) -> Result<Message, Error> {
        self.connection.call(Call {
            destination: BUS,
            path: BUS_PATH,
            interface: BUS,
            method,
            body,
        })
    }

    /// A property of the manager's that is text.
    fn property(&mut self, name: &str) -> Result<String, Error> {
        let reply = self.connection.call(Call {
            destination: NAME,
            path: PATH,
            interface: PROPERTIES,
            method: "Get",
            body: vec![Value::text(MANAGER), Value::text(name)],
        })?;
        match reply.body.first().and_then(Value::as_text) {
            Some(text) => Ok(text.into()),
            None => Err(self.connection.protocol("a property that is no text")),
        }
    }
}

/// `a(sv)`.
fn list(properties: &[Property]) -> Value {
    let pair = |p: &Property| {
        Value::Struct(vec![
            Value::text(&p.name),
            Value::Variant(Box::new(p.value.clone())),
        ])
    };
    Value::Array("(sv)".into(), properties.iter().map(pair).collect())
}

/// 252 of `252.39-1~deb12u2`, `v252` or `systemd 252`; 0 if there is no number.
fn major_version(text: &str) -> u32 {
    let digits = text.trim_start_matches(|c: char| !c.is_ascii_digit());
    let end = digits.find(|c: char| !c.is_ascii_digit());
    digits[..end.unwrap_or(digits.len())].parse().unwrap_or(0)
}

#[cfg(test)]
mod tests;
