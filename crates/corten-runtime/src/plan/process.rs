//! A process: program, identity, privileges, limits. The same for a container's init and for what is
//! added to it later.

use std::ffi::CString;

use corten_sys::schedule::Scheduler;
use corten_sys::seccomp::Filter;
use oci_spec::runtime::{
    Capability, IOPriorityClass, LinuxCapabilities, LinuxIOPriority, LinuxMemoryPolicy,
    LinuxPersonality, LinuxPersonalityDomain, LinuxSchedulerFlag, LinuxSchedulerPolicy,
    LinuxSeccomp, MemoryPolicyFlagType, MemoryPolicyModeType, PosixRlimitType, Process,
    ProcessBuilder,
};

use super::c_string;
use super::seccomp::{self, Listener};
use crate::error::{Error, invalid, unsupported};

/// What the plan of a process depends on besides its own section.
#[derive(Clone, Copy)]
pub(crate) struct Facts<'a> {
    pub capabilities: u64,
    pub terminal: bool,
    pub seccomp: Option<&'a LinuxSeccomp>,
    pub personality: Option<&'a LinuxPersonality>,
    pub memory_policy: Option<&'a LinuxMemoryPolicy>,
}

#[derive(Debug)]
pub(crate) struct Plan {
    /// Where the program may be, in order.
    pub paths: Vec<CString>,
    pub arguments: Vec<CString>,
    pub environment: Vec<CString>,
    /// `HOME` is not set, and is looked up in the container.
    pub wants_home: bool,
    pub cwd: CString,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub group_rule: GroupRule,
    pub umask: Option<u32>,
    pub capabilities: Capabilities,
    pub no_new_privileges: bool,
    pub limits: Vec<Limit>,
    pub oom_score_adj: Option<i32>,
    pub filter: Option<Filter>,
    /// Where the filter's listener goes.
    pub listener: Option<Listener>,
    pub apparmor: Option<String>,
    pub selinux: Option<String>,
    pub scheduler: Option<Scheduler>,
    /// Class and level.
    pub io_priority: Option<(u32, u32)>,
    pub personality: Option<u32>,
    /// Mode and nodes.
    pub memory_policy: Option<(u32, Vec<u64>)>,
    /// CPUs before and after the change of cgroup, for added processes.
    pub affinity: Affinity,
}

/// What becomes of supplementary groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GroupRule {
    Set,
    /// An empty list need not be set where the user namespace denies `setgroups(2)`: who starts a process there
    /// could not drop groups before either.
    SetUnlessDenied,
    /// The maker's stay.
    Keep,
}

/// Masks of CPUs, the first before and the second after the change of cgroup.
pub(crate) type Affinity = (Option<Vec<u64>>, Option<Vec<u64>>);

/// Masks; bit n is capability n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Capabilities {
    pub bounding: u64,
    pub permitted: u64,
    pub effective: u64,
    pub inheritable: u64,
    pub ambient: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    pub name: &'static str,
    pub resource: u32,
    pub soft: u64,
    pub hard: u64,
}

pub(crate) fn plan(
    process: &Process,
    facts: &Facts<'_>,
    warnings: &mut Vec<String>,
) -> Result<Plan, Error> {
    let arguments = strings("process.args", process.args())?;
    let environment = strings("process.env", process.env())?;
    if process.terminal().unwrap_or(false) != facts.terminal {
        let (given, asked) = match facts.terminal {
            true => ("given", "false"),
            false => ("not given", "true"),
        };
        let problem = format!("is {asked}, but a terminal was {given}");
        return Err(invalid("process.terminal", problem));
    }
    let user = process.user();
    let cwd = process.cwd();
    if !cwd.is_absolute() {
        return Err(invalid(
            "process.cwd",
            format!("is {cwd:?}, which is not absolute"),
        ));
    }
    let is_home = |v: &CString| {
        v.as_bytes()
            .strip_prefix(b"HOME=")
            .is_some_and(|h| !h.is_empty())
    };
    let seccomp = facts.seccomp.map(seccomp::compile).transpose()?.flatten();
    let (filter, listener) = match seccomp {
        Some(seccomp) => (Some(seccomp.filter), seccomp.listener),
        None => (None, None),
    };
    Ok(Plan {
        paths: paths(&arguments, &environment)?,
        wants_home: !environment.iter().any(is_home),
        arguments,
        environment,
        cwd: c_string("process.cwd", cwd.as_os_str().as_encoded_bytes())?,
        uid: user.uid(),
        gid: user.gid(),
        groups: user.additional_gids().clone().unwrap_or_default(),
        group_rule: GroupRule::Set,
        umask: user.umask(),
        capabilities: capabilities(
            process.capabilities().as_ref(),
            facts.capabilities,
            warnings,
        ),
        no_new_privileges: process.no_new_privileges().unwrap_or(false),
        limits: limits(process)?,
        oom_score_adj: oom_score(process)?,
        filter,
        listener,
        apparmor: process.apparmor_profile().clone().filter(|p| !p.is_empty()),
        selinux: process.selinux_label().clone().filter(|l| !l.is_empty()),
        scheduler: scheduler(process)?,
        io_priority: process
            .io_priority()
            .as_ref()
            .map(io_priority)
            .transpose()?,
        personality: facts.personality.map(personality).transpose()?,
        memory_policy: facts.memory_policy.map(memory_policy).transpose()?,
        affinity: affinity(process)?,
    })
}

/// Stands for a process that is not there.
pub(crate) fn nothing() -> Result<Process, Error> {
    let process = ProcessBuilder::default().args(vec![String::from("/")]);
    let process = process.cwd("/").terminal(false).no_new_privileges(false);
    process
        .build()
        .map_err(|error| invalid("process", error.to_string()))
}

fn strings(field: &str, strings: &Option<Vec<String>>) -> Result<Vec<CString>, Error> {
    let strings = strings.iter().flatten();
    strings.map(|s| c_string(field, s.as_bytes())).collect()
}

/// A name with a slash is a path, any other is looked for in each folder of PATH, as execvp(3).
fn paths(arguments: &[CString], environment: &[CString]) -> Result<Vec<CString>, Error> {
    const USUAL: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let name = match arguments.first() {
        Some(name) if !name.is_empty() => name.as_bytes(),
        _ => return Err(invalid("process.args", "is empty")),
    };
    if name.contains(&b'/') {
        return Ok(vec![c_string("process.args", name)?]);
    }
    let path = environment
        .iter()
        .find_map(|v| v.as_bytes().strip_prefix(b"PATH="));
    let folders = path.unwrap_or(USUAL).split(|b| *b == b':');
    folders
        .map(|folder| {
            let folder = if folder.is_empty() { b"." } else { folder };
            c_string("process.env", &[folder, b"/", name].concat())
        })
        .collect()
}

fn capabilities(
    asked: Option<&LinuxCapabilities>,
    available: u64,
    warnings: &mut Vec<String>,
) -> Capabilities {
    // Without the section there are none, as with runc.
    let Some(asked) = asked else {
        return Capabilities::default();
    };
    let set = |set: &Option<oci_spec::runtime::Capabilities>| {
        set.iter()
            .flatten()
            .fold(0u64, |mask, c| mask | 1 << number(*c))
    };
    let bounding = set(asked.bounding());
    let (permitted, effective) = (set(asked.permitted()), set(asked.effective()));
    let (inheritable, ambient) = (set(asked.inheritable()), set(asked.ambient()));
    let missing = (bounding | permitted | effective | inheritable | ambient) & !available;
    if missing != 0 {
        let names = (0..64).filter(|n| missing & 1 << n != 0).map(name);
        let names: Vec<String> = names.collect();
        warnings.push(format!(
            "capabilities that this host does not give were left out: {}",
            names.join(", ")
        ));
    }
    // The kernel takes only what is permitted and inheritable as well; documents that ask for more (`runc spec`
    // has for years) mean nothing by it.
    let ambient = ambient & available & inheritable & permitted;
    Capabilities {
        bounding: bounding & available,
        permitted: permitted & available,
        effective: effective & available,
        inheritable: inheritable & available,
        ambient,
    }
}

/// The kernel's number (linux/capability.h).
pub(crate) fn number(capability: Capability) -> u32 {
    NAMES
        .iter()
        .position(|(c, _)| *c == capability)
        .unwrap_or(0) as u32
}

fn name(number: u32) -> String {
    NAMES
        .get(number as usize)
        .map_or_else(|| number.to_string(), |(_, name)| format!("CAP_{name}"))
}

/// In the kernel's order, so that the place is the number.
pub(crate) const NAMES: [(Capability, &str); 41] = [
    (Capability::Chown, "CHOWN"),
    (Capability::DacOverride, "DAC_OVERRIDE"),
    (Capability::DacReadSearch, "DAC_READ_SEARCH"),
    (Capability::Fowner, "FOWNER"),
    (Capability::Fsetid, "FSETID"),
    (Capability::Kill, "KILL"),
    (Capability::Setgid, "SETGID"),
    (Capability::Setuid, "SETUID"),
    (Capability::Setpcap, "SETPCAP"),
    (Capability::LinuxImmutable, "LINUX_IMMUTABLE"),
    (Capability::NetBindService, "NET_BIND_SERVICE"),
    (Capability::NetBroadcast, "NET_BROADCAST"),
    (Capability::NetAdmin, "NET_ADMIN"),
    (Capability::NetRaw, "NET_RAW"),
    (Capability::IpcLock, "IPC_LOCK"),
    (Capability::IpcOwner, "IPC_OWNER"),
    (Capability::SysModule, "SYS_MODULE"),
    (Capability::SysRawio, "SYS_RAWIO"),
    (Capability::SysChroot, "SYS_CHROOT"),
    (Capability::SysPtrace, "SYS_PTRACE"),
    (Capability::SysPacct, "SYS_PACCT"),
    (Capability::SysAdmin, "SYS_ADMIN"),
    (Capability::SysBoot, "SYS_BOOT"),
    (Capability::SysNice, "SYS_NICE"),
    (Capability::SysResource, "SYS_RESOURCE"),
    (Capability::SysTime, "SYS_TIME"),
    (Capability::SysTtyConfig, "SYS_TTY_CONFIG"),
    (Capability::Mknod, "MKNOD"),
    (Capability::Lease, "LEASE"),
    (Capability::AuditWrite, "AUDIT_WRITE"),
    (Capability::AuditControl, "AUDIT_CONTROL"),
    (Capability::Setfcap, "SETFCAP"),
    (Capability::MacOverride, "MAC_OVERRIDE"),
    (Capability::MacAdmin, "MAC_ADMIN"),
    (Capability::Syslog, "SYSLOG"),
    (Capability::WakeAlarm, "WAKE_ALARM"),
    (Capability::BlockSuspend, "BLOCK_SUSPEND"),
    (Capability::AuditRead, "AUDIT_READ"),
    (Capability::Perfmon, "PERFMON"),
    (Capability::Bpf, "BPF"),
    (Capability::CheckpointRestore, "CHECKPOINT_RESTORE"),
];

fn limits(process: &Process) -> Result<Vec<Limit>, Error> {
    const FIELD: &str = "process.rlimits";
    let mut limits: Vec<Limit> = Vec::new();
    for limit in process.rlimits().iter().flatten() {
        let (name, resource) = resource(limit.typ());
        if limits.iter().any(|l| l.resource == resource) {
            return Err(invalid(FIELD, format!("holds {name} twice")));
        }
        if limit.soft() > limit.hard() {
            return Err(invalid(
                FIELD,
                format!("gives {name} a soft limit above the hard one"),
            ));
        }
        limits.push(Limit {
            name,
            resource,
            soft: limit.soft(),
            hard: limit.hard(),
        });
    }
    Ok(limits)
}

fn resource(kind: PosixRlimitType) -> (&'static str, u32) {
    use PosixRlimitType as Limit;
    match kind {
        Limit::RlimitCpu => ("RLIMIT_CPU", 0),
        Limit::RlimitFsize => ("RLIMIT_FSIZE", 1),
        Limit::RlimitData => ("RLIMIT_DATA", 2),
        Limit::RlimitStack => ("RLIMIT_STACK", 3),
        Limit::RlimitCore => ("RLIMIT_CORE", 4),
        Limit::RlimitRss => ("RLIMIT_RSS", 5),
        Limit::RlimitNproc => ("RLIMIT_NPROC", 6),
        Limit::RlimitNofile => ("RLIMIT_NOFILE", 7),
        Limit::RlimitMemlock => ("RLIMIT_MEMLOCK", 8),
        Limit::RlimitAs => ("RLIMIT_AS", 9),
        Limit::RlimitLocks => ("RLIMIT_LOCKS", 10),
        Limit::RlimitSigpending => ("RLIMIT_SIGPENDING", 11),
        Limit::RlimitMsgqueue => ("RLIMIT_MSGQUEUE", 12),
        Limit::RlimitNice => ("RLIMIT_NICE", 13),
        Limit::RlimitRtprio => ("RLIMIT_RTPRIO", 14),
        Limit::RlimitRttime => ("RLIMIT_RTTIME", 15),
    }
}

fn oom_score(process: &Process) -> Result<Option<i32>, Error> {
    match process.oom_score_adj() {
        Some(score) if !(-1000..=1000).contains(&score) => Err(invalid(
            "process.oomScoreAdj",
            format!("is {score}, and must be from -1000 to 1000"),
        )),
        score => Ok(score),
    }
}

fn scheduler(process: &Process) -> Result<Option<Scheduler>, Error> {
    const FIELD: &str = "process.scheduler";
    let Some(asked) = process.scheduler() else {
        return Ok(None);
    };
    // sched(7), numbers of linux/sched.h.
    let policy = match asked.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => return Err(unsupported("SCHED_ISO")),
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let mut flags = 0;
    for flag in asked.flags().iter().flatten() {
        flags |= match flag {
            LinuxSchedulerFlag::SchedResetOnFork => 0x01,
            LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
            LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
            LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
            LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
            // The specification has the flags and no values: those are 0, as all that is not set.
            LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
            LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
        };
    }
    let priority = u32::try_from(asked.priority().unwrap_or(0));
    let mut scheduler = Scheduler::default();
    scheduler.policy = policy;
    scheduler.flags = flags;
    scheduler.nice = asked.nice().unwrap_or(0);
    scheduler.priority = priority.map_err(|_| invalid(FIELD, "has a negative priority"))?;
    scheduler.runtime = asked.runtime().unwrap_or(0);
    scheduler.deadline = asked.deadline().unwrap_or(0);
    scheduler.period = asked.period().unwrap_or(0);
    Ok(Some(scheduler))
}

fn io_priority(asked: &LinuxIOPriority) -> Result<(u32, u32), Error> {
    let class = match asked.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    let level = u32::try_from(asked.priority())
        .ok()
        .filter(|level| *level < 8);
    let level = level.ok_or_else(|| {
        let problem = format!("is {}, and must be from 0 to 7", asked.priority());
        invalid("process.ioPriority.priority", problem)
    })?;
    Ok((class, level))
}

fn personality(asked: &LinuxPersonality) -> Result<u32, Error> {
    if asked.flags().as_ref().is_some_and(|f| !f.is_empty()) {
        return Err(unsupported("linux.personality.flags"));
    }
    Ok(match asked.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    })
}

fn memory_policy(asked: &LinuxMemoryPolicy) -> Result<(u32, Vec<u64>), Error> {
    const FIELD: &str = "linux.memoryPolicy";
    // linux/mempolicy.h
    let mut mode = match asked.mode() {
        MemoryPolicyModeType::MpolDefault => 0,
        MemoryPolicyModeType::MpolPreferred => 1,
        MemoryPolicyModeType::MpolBind => 2,
        MemoryPolicyModeType::MpolInterleave => 3,
        MemoryPolicyModeType::MpolLocal => 4,
        MemoryPolicyModeType::MpolPreferredMany => 5,
        MemoryPolicyModeType::MpolWeightedInterleave => 6,
    };
    for flag in asked.flags().iter().flatten() {
        mode |= match flag {
            MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
            MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
            MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
        };
    }
    let nodes = asked.nodes().as_deref().unwrap_or("");
    Ok((mode, bits(FIELD, nodes)?))
}

fn affinity(process: &Process) -> Result<Affinity, Error> {
    const FIELD: &str = "process.execCPUAffinity";
    let Some(asked) = process.exec_cpu_affinity() else {
        return Ok((None, None));
    };
    let mask = |list: &Option<String>| {
        let list = list.as_deref().filter(|l| !l.is_empty());
        list.map(|l| bits(FIELD, l)).transpose()
    };
    Ok((mask(asked.initial())?, mask(asked.cpu_affinity_final())?))
}

/// `0-3,7` as a mask.
fn bits(field: &str, list: &str) -> Result<Vec<u64>, Error> {
    const MAX: usize = 8192;
    let mut mask = Vec::new();
    for part in list.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let range = match (first.parse::<usize>(), last.parse::<usize>()) {
            (Ok(first), Ok(last)) if first <= last && last < MAX => first..=last,
            _ => return Err(invalid(field, format!("holds {part:?}, which is no range"))),
        };
        for bit in range {
            if mask.len() <= bit / 64 {
                mask.resize(bit / 64 + 1, 0u64);
            }
            mask[bit / 64] |= 1 << (bit % 64);
        }
    }
    Ok(mask)
}
