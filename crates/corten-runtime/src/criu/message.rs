//! What is said to criu and what it says: the words of its `images/rpc.proto`, by their numbers.
//!
//! Only what we use is here. Numbers of fields never change meaning; they were read off criu 3.17 and 4.2.

use super::wire::{Malformed, Reader, Value, Writer};

/// `criu_req_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Dump = 1,
    Restore = 2,
    PreDump = 4,
    Notify = 6,
    FeatureCheck = 9,
    Version = 10,
}

impl Kind {
    fn of(number: u64) -> Option<Self> {
        [
            Self::Dump,
            Self::Restore,
            Self::PreDump,
            Self::Notify,
            Self::FeatureCheck,
            Self::Version,
        ]
        .into_iter()
        .find(|kind| *kind as u64 == number)
    }
}

/// What becomes of control groups (`criu_cg_mode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ManageCgroups {
    Ignore = 0,
    /// Properties of groups that criu has to make.
    Soft = 3,
    /// Properties of all groups.
    Full = 4,
    /// As full, and every group must be missing or empty.
    Strict = 5,
    /// criu's own choice: soft.
    #[default]
    Default = 6,
}

impl std::str::FromStr for ManageCgroups {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "" => Ok(Self::Default),
            "ignore" => Ok(Self::Ignore),
            "soft" => Ok(Self::Soft),
            "full" => Ok(Self::Full),
            "strict" => Ok(Self::Strict),
            _ => Err(()),
        }
    }
}

/// Mounts that come from outside: (place, name) at a dump, (name, the host's path) at a restore.
pub(crate) type Mounts = Vec<(Vec<u8>, Vec<u8>)>;

/// `criu_opts`: what dump and restore have in common, and what only one of them has. What is empty, `None` or
/// false is not sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    /// Descriptors of this process, which criu finds in `/proc`.
    pub images: i32,
    pub work: Option<i32>,
    pub log_file: &'static str,
    pub config_file: Option<String>,
    pub pid: Option<u32>,
    pub root: Vec<u8>,
    pub parent: Vec<u8>,
    pub leave_running: bool,
    pub external_unix: bool,
    pub tcp_established: bool,
    pub tcp_skip_in_flight: bool,
    pub shell_job: bool,
    pub file_locks: bool,
    pub link_remap: bool,
    pub auto_dedup: bool,
    pub lazy_pages: bool,
    pub track_memory: bool,
    pub evasive_devices: bool,
    /// The restored process is our child.
    pub sibling: bool,
    pub page_server: Option<(String, u16)>,
    pub mounts: Mounts,
    pub manage_cgroups: ManageCgroups,
    /// (controller, path) to restore into.
    pub cgroup_roots: Vec<(String, String)>,
    /// (name, descriptor of criu's).
    pub inherit: Vec<(String, i32)>,
    pub external: Vec<String>,
    /// `CLONE_NEW*` bits of namespaces that are restored without content.
    pub empty_namespaces: u32,
    /// (kind, path).
    pub join: Vec<(&'static str, Vec<u8>)>,
    pub freezer: Vec<u8>,
    /// Where control groups are mounted, by the names that criu has for them.
    pub yard: Vec<u8>,
    pub lsm_profile: Option<String>,
    pub lsm_mount_context: Option<String>,
}

/// Errors, warnings, and what is being done: what a person needs to understand a failure.
const LOG_LEVEL: i64 = 4;

impl Options {
    fn write(&self) -> Writer {
        let mut w = Writer::default();
        w.int(1, self.images.into());
        if let Some(pid) = self.pid {
            w.int(2, pid.into());
        }
        w.flag(3, self.leave_running)
            .flag(4, self.external_unix)
            .flag(5, self.tcp_established)
            .flag(6, self.evasive_devices)
            .flag(7, self.shell_job)
            .flag(8, self.file_locks)
            .int(9, LOG_LEVEL)
            .bytes(10, self.log_file.as_bytes());
        if let Some((address, port)) = &self.page_server {
            let mut server = Writer::default();
            server.bytes(1, address.as_bytes()).int(2, (*port).into());
            w.message(11, &server);
        }
        // Scripts by notification: we want to hear of every step.
        w.flag(12, true);
        some(&mut w, 13, &self.root);
        some(&mut w, 14, &self.parent);
        w.flag(15, self.track_memory).flag(16, self.auto_dedup);
        if let Some(work) = self.work {
            w.int(17, work.into());
        }
        w.flag(18, self.link_remap);
        for (name, path) in &self.mounts {
            pair(&mut w, 23, name, path);
        }
        // The older of the two fields for the same; without it the newer one is not looked at.
        w.flag(24, true);
        for (controller, path) in &self.cgroup_roots {
            pair(&mut w, 25, controller.as_bytes(), path.as_bytes());
        }
        w.flag(26, self.sibling);
        for (name, fd) in &self.inherit {
            let mut inherit = Writer::default();
            inherit.bytes(1, name.as_bytes()).int(2, (*fd).into());
            w.message(27, &inherit);
        }
        w.int(34, self.manage_cgroups as i64);
        self.write_later(&mut w);
        w
    }

    /// Fields that came to criu from 2.0 on.
    fn write_later(&self, w: &mut Writer) {
        for external in &self.external {
            w.bytes(37, external.as_bytes());
        }
        w.int(38, self.empty_namespaces.into());
        for (kind, path) in &self.join {
            pair(w, 39, kind.as_bytes(), path);
        }
        some(w, 44, &self.freezer);
        w.flag(46, self.tcp_skip_in_flight)
            .flag(48, self.lazy_pages)
            // A terminal whose other end was the engine's: the master comes to us, with a notification.
            .flag(50, true);
        some(w, 60, &self.yard);
        let texts = [
            (51, &self.config_file),
            (53, &self.lsm_profile),
            (63, &self.lsm_mount_context),
        ];
        for (field, text) in texts {
            if let Some(text) = text {
                w.bytes(field, text.as_bytes());
            }
        }
    }
}

fn some(w: &mut Writer, field: u32, bytes: &[u8]) {
    if !bytes.is_empty() {
        w.bytes(field, bytes);
    }
}

fn pair(w: &mut Writer, field: u32, first: &[u8], second: &[u8]) {
    let mut message = Writer::default();
    message.bytes(1, first).bytes(2, second);
    w.message(field, &message);
}

/// A request with options.
pub(crate) fn request(kind: Kind, options: &Options) -> Writer {
    let mut w = Writer::default();
    w.int(1, kind as i64).message(2, &options.write());
    w
}

/// "What version are you?"; the process stays for another request.
pub(crate) fn ask_version() -> Writer {
    let mut w = Writer::default();
    w.int(1, Kind::Version as i64).flag(4, true);
    w
}

/// "Can you track memory, and fault pages in later?"; the process stays.
pub(crate) fn ask_features() -> Writer {
    let mut features = Writer::default();
    features.flag(1, true).flag(2, true);
    let mut w = Writer::default();
    w.int(1, Kind::FeatureCheck as i64)
        .flag(4, true)
        .message(5, &features);
    w
}

/// The answer to a notification.
pub(crate) fn acknowledge(success: bool) -> Writer {
    let mut w = Writer::default();
    // In full: a request without the word would not be an answer.
    w.int(1, Kind::Notify as i64).int(3, success.into());
    w
}

/// `criu_resp`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Response {
    pub kind: Option<Kind>,
    pub success: bool,
    /// The name of a step, and the process that it is about.
    pub script: Option<String>,
    pub pid: Option<u32>,
    pub errno: i32,
    pub message: String,
    /// Major, minor, and the level below.
    pub version: Option<(u32, u32, u32)>,
    pub tracks_memory: bool,
    pub lazy_pages: bool,
}

impl Response {
    pub fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut response = Self::default();
        for field in Reader::new(bytes) {
            match field? {
                (1, Value::Int(kind)) => response.kind = Kind::of(kind),
                (2, Value::Int(success)) => response.success = success != 0,
                (4, Value::Bytes(restore)) => {
                    response.pid = number(restore, 1)?.or(response.pid);
                }
                (5, Value::Bytes(notify)) => {
                    response.script = text(notify, 1)?;
                    response.pid = number(notify, 2)?;
                }
                (7, Value::Int(errno)) => response.errno = errno as i32,
                (8, Value::Bytes(features)) => {
                    response.tracks_memory = number(features, 1)? == Some(1);
                    response.lazy_pages = number(features, 2)? == Some(1);
                }
                (9, Value::Bytes(message)) => {
                    response.message = String::from_utf8_lossy(message).trim().to_owned();
                }
                (10, Value::Bytes(version)) => {
                    let part = |field| number(version, field).map(Option::unwrap_or_default);
                    response.version = Some((part(1)?, part(2)?, part(4)?));
                }
                _ => {}
            }
        }
        Ok(response)
    }
}

/// A number that means something: criu sends -1 for a process that is not there yet.
fn number(bytes: &[u8], wanted: u32) -> Result<Option<u32>, Malformed> {
    let mut found = None;
    for field in Reader::new(bytes) {
        if let (number, Value::Int(value)) = field?
            && number == wanted
        {
            found = u32::try_from(value).ok();
        }
    }
    Ok(found)
}

fn text(bytes: &[u8], wanted: u32) -> Result<Option<String>, Malformed> {
    let mut found = None;
    for field in Reader::new(bytes) {
        if let (number, Value::Bytes(value)) = field?
            && number == wanted
        {
            found = Some(String::from_utf8_lossy(value).into_owned());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn responses() {
        // As criu 3.17.1 sends them: setup-namespaces with a process, a version, a refusal.
        let notify = b"\x08\x06\x10\x01\x2a\x14\x0a\x10setup-namespaces\x10\x2a";
        let read = Response::read(notify).unwrap();
        assert_eq!(read.kind, Some(Kind::Notify));
        assert_eq!(read.script.as_deref(), Some("setup-namespaces"));
        assert_eq!((read.pid, read.success), (Some(42), true));
        let version = b"\x08\x0a\x10\x01\x52\x06\x08\x03\x10\x11\x20\x01";
        assert_eq!(Response::read(version).unwrap().version, Some((3, 17, 1)));
        let refusal = b"\x08\x01\x10\x00\x38\x10\x4a\x04why?";
        let read = Response::read(refusal).unwrap();
        assert_eq!(
            (read.success, read.errno, &*read.message),
            (false, 16, "why?")
        );
    }

    #[test]
    fn a_refused_step_says_so() {
        assert_eq!(acknowledge(false).as_bytes(), b"\x08\x06\x18\x00");
        assert_eq!(acknowledge(true).as_bytes(), b"\x08\x06\x18\x01");
    }

    proptest! {
        #[test]
        fn no_response_is_a_panic(bytes in any::<Vec<u8>>()) {
            let _ = Response::read(&bytes);
        }
    }
}
