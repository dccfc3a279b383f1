//! Docker's default policy on system calls, as our own table: by what calls are for, not by alphabet.
//!
//! All that is not named fails with `EPERM`. Left out on purpose, beside what the capabilities below open:
//! kernel keyrings (not namespaced), `io_uring`, `userfaultfd`, obsolete calls, and sockets to the
//! hypervisor. New user namespaces need CAP_SYS_ADMIN: `clone` is filtered by its flags, and `clone3`, whose
//! flags a filter cannot see, fails with `ENOSYS` so that C libraries fall back to `clone`.

use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompBuilder, LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
const AF_VSOCK: u64 = 40;
/// All `CLONE_NEW*` flags but the time namespace's, which `clone` cannot take.
const CLONE_NEW: u64 = 0x7e02_0000;

const ALLOWED: &[&str] = &[
    // Processes and threads.
    "fork vfork execve execveat exit exit_group wait4 waitid waitpid getpid getppid gettid getpgid",
    "getpgrp getsid setpgid setsid kill tkill tgkill prctl pidfd_open pidfd_send_signal",
    "process_mrelease set_tid_address set_robust_list get_robust_list rseq membarrier restart_syscall",
    "ptrace process_vm_readv process_vm_writev uretprobe",
    // Who they are.
    "getuid getuid32 geteuid geteuid32 getgid getgid32 getegid getegid32 getresuid getresuid32",
    "getresgid getresgid32 getgroups getgroups32 setuid setuid32 setgid setgid32 setreuid setreuid32",
    "setregid setregid32 setresuid setresuid32 setresgid setresgid32 setgroups setgroups32 setfsuid",
    "setfsuid32 setfsgid setfsgid32 capget capset umask seccomp",
    "landlock_create_ruleset landlock_add_rule landlock_restrict_self",
    // Scheduling, limits, accounting.
    "sched_yield sched_getparam sched_setparam sched_getscheduler sched_setscheduler sched_getattr",
    "sched_setattr sched_getaffinity sched_setaffinity sched_get_priority_max sched_get_priority_min",
    "sched_rr_get_interval sched_rr_get_interval_time64 getpriority setpriority ioprio_get ioprio_set",
    "getrlimit setrlimit prlimit64 ugetrlimit getrusage times getcpu sysinfo uname",
    // Memory.
    "brk mmap mmap2 munmap mprotect mremap madvise mincore msync mlock mlock2 mlockall munlock",
    "munlockall memfd_create memfd_secret mseal map_shadow_stack remap_file_pages pkey_alloc pkey_free",
    "pkey_mprotect get_thread_area set_thread_area",
    // Signals.
    "rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend",
    "rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack sigprocmask sigreturn",
    "signalfd signalfd4 pause alarm",
    // Waiting and waking.
    "futex futex_time64 futex_wait futex_waitv futex_wake futex_requeue poll ppoll ppoll_time64 select",
    "_newselect pselect6 pselect6_time64 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait",
    "epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2",
    // Time.
    "time gettimeofday clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep",
    "clock_nanosleep_time64 nanosleep adjtimex clock_adjtime clock_adjtime64 getitimer setitimer",
    "timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime",
    "timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64",
    // Descriptors.
    "open openat openat2 creat close close_range dup dup2 dup3 fcntl fcntl64 flock ioctl pipe pipe2",
    "read readv pread64 preadv preadv2 write writev pwrite64 pwritev pwritev2 lseek _llseek sendfile",
    "sendfile64 splice tee vmsplice copy_file_range readahead fadvise64 fadvise64_64",
    "io_setup io_submit io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64",
    // Files.
    "stat stat64 lstat lstat64 fstat fstat64 fstatat64 newfstatat statx statfs statfs64 fstatfs",
    "fstatfs64 access faccessat faccessat2 chmod fchmod fchmodat fchmodat2 chown chown32 fchown fchown32",
    "fchownat lchown lchown32 truncate truncate64 ftruncate ftruncate64 fallocate fsync fdatasync sync",
    "syncfs sync_file_range sync_file_range2 utime utimes futimesat utimensat utimensat_time64 cachestat",
    "link linkat unlink unlinkat symlink symlinkat readlink readlinkat rename renameat renameat2 mkdir",
    "mkdirat rmdir mknod mknodat chdir fchdir getcwd getdents getdents64 name_to_handle_at",
    "getxattr lgetxattr fgetxattr getxattrat setxattr lsetxattr fsetxattr setxattrat listxattr",
    "llistxattr flistxattr listxattrat removexattr lremovexattr fremovexattr removexattrat",
    "inotify_init inotify_init1 inotify_add_watch inotify_rm_watch fanotify_mark",
    // Sockets.
    "socketcall socketpair bind listen accept accept4 connect shutdown getsockname getpeername",
    "getsockopt setsockopt send sendto sendmsg sendmmsg recv recvfrom recvmsg recvmmsg recvmmsg_time64",
    // System V and POSIX IPC.
    "ipc msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt",
    "shmget mq_open mq_unlink mq_notify mq_getsetattr mq_timedreceive mq_timedreceive_time64",
    "mq_timedsend mq_timedsend_time64",
    "getrandom",
];

/// Calls that a capability opens.
const BY_CAPABILITY: &[(Capability, &str)] = &[
    (Capability::DacReadSearch, "open_by_handle_at"),
    (
        Capability::SysAdmin,
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount \
         mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname \
         sethostname setns syslog umount umount2 unshare",
    ),
    (Capability::SysBoot, "reboot"),
    (Capability::SysChroot, "chroot"),
    (
        Capability::SysModule,
        "delete_module init_module finit_module",
    ),
    (Capability::SysPacct, "acct"),
    (Capability::SysPtrace, "kcmp pidfd_getfd process_madvise"),
    (Capability::SysRawio, "iopl ioperm"),
    (
        Capability::SysTime,
        "settimeofday stime clock_settime clock_settime64",
    ),
    (Capability::SysTtyConfig, "vhangup"),
    (
        Capability::SysNice,
        "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    ),
    (Capability::Syslog, "syslog"),
    (Capability::Bpf, "bpf"),
    (Capability::Perfmon, "perf_event_open"),
];

/// `PER_LINUX`, `PER_LINUX32`, both with `UNAME26`, and the query.
const PERSONALITIES: [u64; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The policy for a process with `capabilities`, which open the calls that need them.
pub fn docker_default(capabilities: &[Capability], arch: Arch) -> LinuxSeccomp {
    let has = |capability: &Capability| capabilities.contains(capability);
    let allow = LinuxSeccompAction::ScmpActAllow;
    let words = |lines: &[&str]| {
        lines
            .iter()
            .flat_map(|l| l.split_whitespace())
            .map(String::from)
            .collect()
    };
    let mut rules = vec![rule(words(ALLOWED), allow, None, vec![])];
    let opened: Vec<&str> = BY_CAPABILITY
        .iter()
        .filter(|(c, _)| has(c))
        .map(|(_, calls)| *calls)
        .collect();
    if !opened.is_empty() {
        rules.push(rule(words(&opened), allow, None, vec![]));
    }
    let of = |name: &str| vec![name.to_owned()];
    let equal = LinuxSeccompOperator::ScmpCmpEq;
    for persona in PERSONALITIES {
        rules.push(rule(
            of("personality"),
            allow,
            None,
            vec![test(0, equal, persona, None)],
        ));
    }
    let not_vsock = test(0, LinuxSeccompOperator::ScmpCmpNe, AF_VSOCK, None);
    rules.push(rule(of("socket"), allow, None, vec![not_vsock]));
    if !has(&Capability::SysAdmin) {
        // On s390 the flags are the second argument.
        let index = usize::from(matches!(arch, Arch::ScmpArchS390 | Arch::ScmpArchS390x));
        let masked = LinuxSeccompOperator::ScmpCmpMaskedEq;
        let no_namespace = test(index, masked, CLONE_NEW, Some(0));
        rules.push(rule(of("clone"), allow, None, vec![no_namespace]));
        let errno = LinuxSeccompAction::ScmpActErrno;
        rules.push(rule(of("clone3"), errno, Some(ENOSYS), vec![]));
    }
    for calls in of_arch(arch) {
        rules.push(rule(words(&[calls]), allow, None, vec![]));
    }
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .default_errno_ret(EPERM)
        .architectures(abis(arch))
        .syscalls(rules)
        .build()
        // Nothing above can be missing; and what would be left denies everything.
        .unwrap_or_else(|_| LinuxSeccomp::default())
}

fn of_arch(arch: Arch) -> &'static [&'static str] {
    match arch {
        Arch::ScmpArchX86_64 | Arch::ScmpArchX32 | Arch::ScmpArchNative => {
            &["arch_prctl modify_ldt"]
        }
        Arch::ScmpArchX86 => &["modify_ldt"],
        Arch::ScmpArchArm | Arch::ScmpArchAarch64 => {
            &["arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls"]
        }
        Arch::ScmpArchS390 | Arch::ScmpArchS390x => {
            &["s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr"]
        }
        Arch::ScmpArchRiscv64 => &["riscv_flush_icache riscv_hwprobe"],
        _ => &[],
    }
}

/// The architecture, and those that its kernel runs as well.
fn abis(arch: Arch) -> Vec<Arch> {
    match arch {
        Arch::ScmpArchX86_64 | Arch::ScmpArchNative => {
            vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32]
        }
        Arch::ScmpArchAarch64 => vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm],
        other => vec![other],
    }
}

fn rule(
    names: Vec<String>,
    action: LinuxSeccompAction,
    errno: Option<u32>,
    args: Vec<LinuxSeccompArg>,
) -> LinuxSyscall {
    let mut builder = LinuxSyscallBuilder::default().names(names).action(action);
    if let Some(errno) = errno {
        builder = builder.errno_ret(errno);
    }
    if !args.is_empty() {
        builder = builder.args(args);
    }
    builder.build().unwrap_or_default()
}

fn test(
    index: usize,
    op: LinuxSeccompOperator,
    value: u64,
    second: Option<u64>,
) -> LinuxSeccompArg {
    let mut builder = LinuxSeccompArgBuilder::default()
        .index(index)
        .op(op)
        .value(value);
    if let Some(second) = second {
        builder = builder.value_two(second);
    }
    builder.build().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use corten_sys::seccomp::{Abi, Call};

    use super::*;

    fn judge(capabilities: &[Capability], name: &str, arguments: [u64; 6]) -> u32 {
        let profile = docker_default(capabilities, Arch::ScmpArchX86_64);
        let filter = crate::plan::seccomp::compile(&profile)
            .unwrap()
            .unwrap()
            .filter;
        filter.judge(&Call {
            audit: Abi::Native.audit(),
            number: Abi::Native.number(name).unwrap(),
            arguments,
        })
    }

    const ALLOW: u32 = 0x7fff_0000;
    const DENY: u32 = 0x0005_0001;

    #[test]
    fn the_policy_is_dockers() {
        assert_eq!(judge(&[], "read", [0; 6]), ALLOW);
        assert_eq!(judge(&[], "mount", [0; 6]), DENY);
        assert_eq!(judge(&[Capability::SysAdmin], "mount", [0; 6]), ALLOW);
        assert_eq!(judge(&[], "keyctl", [0; 6]), DENY);
        assert_eq!(judge(&[], "io_uring_setup", [0; 6]), DENY);
        assert_eq!(judge(&[], "personality", [8, 0, 0, 0, 0, 0]), ALLOW);
        assert_eq!(judge(&[], "personality", [9, 0, 0, 0, 0, 0]), DENY);
        assert_eq!(judge(&[], "socket", [40, 0, 0, 0, 0, 0]), DENY);
        assert_eq!(judge(&[], "socket", [2, 0, 0, 0, 0, 0]), ALLOW);
    }

    #[test]
    fn new_user_namespaces_need_the_capability() {
        let (thread, user) = ([0x3d_0f00, 0, 0, 0, 0, 0], [0x1000_0011, 0, 0, 0, 0, 0]);
        assert_eq!(judge(&[], "clone", thread), ALLOW);
        assert_eq!(judge(&[], "clone", user), DENY);
        assert_eq!(judge(&[], "clone3", [0; 6]), 0x0005_0000 | ENOSYS);
        assert_eq!(judge(&[Capability::SysAdmin], "clone", user), ALLOW);
        assert_eq!(judge(&[Capability::SysAdmin], "clone3", [0; 6]), ALLOW);
    }

    #[test]
    fn it_is_small_enough_to_be_fast() {
        let profile = docker_default(&[], Arch::ScmpArchX86_64);
        let filter = crate::plan::seccomp::compile(&profile)
            .unwrap()
            .unwrap()
            .filter;
        assert!(filter.len() < 700, "{} instructions", filter.len());
    }
}
