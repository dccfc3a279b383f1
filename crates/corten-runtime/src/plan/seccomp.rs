//! The spec's seccomp section as a compiled filter.

use corten_sys::seccomp::{
    Abi, Action, Condition, FLAG_LOG, FLAG_SPEC_ALLOW, Filter, Policy, Rule, Test,
};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSeccompOperator, LinuxSyscall,
};

use crate::error::{Error, invalid, unsupported};

const EPERM: u32 = 1;

/// `None`: a policy that lets everything pass.
pub(crate) fn compile(seccomp: &LinuxSeccomp) -> Result<Option<Filter>, Error> {
    if seccomp.listener_path().is_some() {
        return Err(unsupported(
            "linux.seccomp.listenerPath (user notification)",
        ));
    }
    let default = action(
        "linux.seccomp.defaultAction",
        seccomp.default_action(),
        seccomp.default_errno_ret(),
    )?;
    let syscalls = seccomp.syscalls().as_deref().unwrap_or_default();
    if default == Action::ALLOW && syscalls.is_empty() {
        return Ok(None);
    }
    let rules = syscalls
        .iter()
        .map(rule)
        .collect::<Result<Vec<_>, Error>>()?;
    let policy = Policy {
        default,
        abis: abis(seccomp.architectures().as_deref().unwrap_or_default()),
        rules,
        flags: flags(seccomp.flags().as_deref().unwrap_or_default())?,
    };
    let filter = policy.compile();
    filter
        .map(Some)
        .map_err(|e| invalid("linux.seccomp", format!("makes no filter: {e}")))
}

fn rule(syscall: &LinuxSyscall) -> Result<Rule<'_>, Error> {
    let conditions = syscall.args().iter().flatten().map(condition);
    Ok(Rule {
        names: syscall.names(),
        action: action(
            "linux.seccomp.syscalls.action",
            syscall.action(),
            syscall.errno_ret(),
        )?,
        conditions: conditions.collect::<Result<_, _>>()?,
    })
}

fn condition(arg: &LinuxSeccompArg) -> Result<Condition, Error> {
    use LinuxSeccompOperator as Op;
    let value = arg.value();
    let test = match arg.op() {
        Op::ScmpCmpNe => Test::NotEqual(value),
        Op::ScmpCmpLt => Test::Less(value),
        Op::ScmpCmpLe => Test::LessOrEqual(value),
        Op::ScmpCmpEq => Test::Equal(value),
        Op::ScmpCmpGe => Test::GreaterOrEqual(value),
        Op::ScmpCmpGt => Test::Greater(value),
        Op::ScmpCmpMaskedEq => Test::Masked {
            mask: value,
            value: arg.value_two().unwrap_or(0),
        },
    };
    let index = u8::try_from(arg.index()).ok().filter(|i| *i < 6);
    let index = index.ok_or_else(|| {
        let problem = format!("is {}, and a call has six arguments", arg.index());
        invalid("linux.seccomp.syscalls.args.index", problem)
    })?;
    Ok(Condition { index, test })
}

fn action(field: &str, action: LinuxSeccompAction, value: Option<u32>) -> Result<Action, Error> {
    use LinuxSeccompAction as Asked;
    let number = || {
        let value = value.unwrap_or(EPERM);
        let small = u16::try_from(value).ok().filter(|v| *v <= 4095);
        small.ok_or_else(|| invalid(field, format!("has the error number {value}, above 4095")))
    };
    Ok(match action {
        Asked::ScmpActKill | Asked::ScmpActKillThread => Action::KILL_THREAD,
        Asked::ScmpActKillProcess => Action::KILL_PROCESS,
        Asked::ScmpActTrap => Action::TRAP,
        Asked::ScmpActErrno => Action::errno(number()?),
        Asked::ScmpActTrace => Action::trace(number()?),
        Asked::ScmpActLog => Action::LOG,
        Asked::ScmpActAllow => Action::ALLOW,
        Asked::ScmpActNotify => return Err(unsupported("SCMP_ACT_NOTIFY in linux.seccomp")),
    })
}

/// The ABIs of this machine that the spec lists; its own is always among them.
fn abis(listed: &[Arch]) -> Vec<Abi> {
    let mut abis = vec![Abi::Native];
    if cfg!(target_arch = "x86_64") {
        if listed.contains(&Arch::ScmpArchX86) {
            abis.push(Abi::X86);
        }
        if listed.contains(&Arch::ScmpArchX32) {
            abis.push(Abi::X32);
        }
    }
    abis
}

fn flags(asked: &[LinuxSeccompFilterFlag]) -> Result<u32, Error> {
    use LinuxSeccompFilterFlag as Flag;
    let mut flags = 0;
    for flag in asked {
        flags |= match flag {
            Flag::SeccompFilterFlagLog => FLAG_LOG,
            Flag::SeccompFilterFlagSpecAllow => FLAG_SPEC_ALLOW,
            // A process that has just been made has one thread: nothing to synchronise.
            Flag::SeccompFilterFlagTsync => 0,
            Flag::SeccompFilterFlagWaitKillableRecv => {
                return Err(unsupported("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"));
            }
        };
    }
    Ok(flags)
}
