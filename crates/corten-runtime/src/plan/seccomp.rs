//! The spec's seccomp section as a compiled filter.

use std::path::PathBuf;

use corten_sys::seccomp::{
    Abi, Action, Condition, FLAG_LOG, FLAG_NEW_LISTENER, FLAG_SPEC_ALLOW, FLAG_WAIT_KILLABLE_RECV,
    Filter, Policy, Rule, Test,
};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSeccompOperator, LinuxSyscall,
};

use serde::{Deserialize, Serialize};

use crate::error::{Error, invalid, unsupported};

const EPERM: u32 = 1;

/// A compiled policy.
#[derive(Debug)]
pub(crate) struct Seccomp {
    pub filter: Filter,
    /// Who decides on the calls that the policy leaves open; with the filter's flag for it.
    pub listener: Option<Listener>,
}

/// Where an agent waits for a filter's listener (config-linux.md, `listenerPath`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Listener {
    pub path: PathBuf,
    pub metadata: Option<String>,
}

/// `None`: a policy that lets everything pass.
pub(crate) fn compile(seccomp: &LinuxSeccomp) -> Result<Option<Seccomp>, Error> {
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
    let asks = rules.iter().any(|r| r.action == Action::NOTIFY);
    let listener = listener(seccomp, default, asks)?;
    let policy = Policy {
        default,
        abis: abis(seccomp.architectures().as_deref().unwrap_or_default()),
        rules,
        flags: flags(seccomp.flags().as_deref().unwrap_or_default(), asks),
    };
    let filter = policy
        .compile()
        .map_err(|e| invalid("linux.seccomp", format!("makes no filter: {e}")))?;
    // By this call the listener leaves the process. One that waits for the agent, who waits for the listener,
    // would wait for ever. (runc refuses to ask about `write` for the same reason.)
    if asks && !filter.lets_pass("sendmsg") {
        return Err(unsupported(
            "SCMP_ACT_NOTIFY with a policy that does not allow sendmsg, which hands the listener over,",
        ));
    }
    Ok(Some(Seccomp { filter, listener }))
}

/// `asks`: a rule has the action that needs an agent.
fn listener(
    seccomp: &LinuxSeccomp,
    default: Action,
    asks: bool,
) -> Result<Option<Listener>, Error> {
    const PATH: &str = "linux.seccomp.listenerPath";
    let path = seccomp.listener_path().as_ref();
    let path = path.filter(|p| !p.as_os_str().is_empty());
    let metadata = seccomp.listener_metadata().clone();
    if default == Action::NOTIFY {
        return Err(unsupported(
            "SCMP_ACT_NOTIFY as linux.seccomp.defaultAction",
        ));
    }
    match (path, asks) {
        (None, _) if metadata.as_ref().is_some_and(|m| !m.is_empty()) => {
            let problem = "is set without linux.seccomp.listenerPath";
            Err(invalid("linux.seccomp.listenerMetadata", problem))
        }
        (None, true) => Err(invalid(PATH, "is missing, and SCMP_ACT_NOTIFY needs it")),
        (Some(path), true) if !path.is_absolute() => {
            Err(invalid(PATH, format!("is {path:?}, which is not absolute")))
        }
        (Some(path), true) => Ok(Some(Listener {
            path: path.clone(),
            metadata,
        })),
        (_, false) => Ok(None),
    }
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
    let action = match action {
        Asked::ScmpActErrno => return number().map(Action::errno),
        Asked::ScmpActTrace => return number().map(Action::trace),
        Asked::ScmpActKill | Asked::ScmpActKillThread => Action::KILL_THREAD,
        Asked::ScmpActKillProcess => Action::KILL_PROCESS,
        Asked::ScmpActTrap => Action::TRAP,
        Asked::ScmpActLog => Action::LOG,
        Asked::ScmpActAllow => Action::ALLOW,
        Asked::ScmpActNotify => Action::NOTIFY,
    };
    match value {
        // config-linux.md: "when the action doesn't support an errno, the runtime MUST print and error and fail".
        Some(number) => Err(invalid(
            field,
            format!("has the error number {number}, and is an action that takes none"),
        )),
        None => Ok(action),
    }
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

fn flags(asked: &[LinuxSeccompFilterFlag], asks: bool) -> u32 {
    use LinuxSeccompFilterFlag as Flag;
    let listener = if asks { FLAG_NEW_LISTENER } else { 0 };
    asked.iter().fold(listener, |flags, flag| {
        flags
            | match flag {
                Flag::SeccompFilterFlagLog => FLAG_LOG,
                Flag::SeccompFilterFlagSpecAllow => FLAG_SPEC_ALLOW,
                // A process that has just been made has one thread: nothing to synchronise.
                Flag::SeccompFilterFlagTsync => 0,
                // It is about waiting for a listener's answer: nothing where nobody is asked.
                Flag::SeccompFilterFlagWaitKillableRecv if asks => FLAG_WAIT_KILLABLE_RECV,
                Flag::SeccompFilterFlagWaitKillableRecv => 0,
            }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn compiled(policy: Value) -> Result<Option<Seccomp>, String> {
        compile(&serde_json::from_value(policy).unwrap()).map_err(|e| e.to_string())
    }

    fn asking(change: impl FnOnce(&mut Value)) -> Result<Option<Seccomp>, String> {
        let mut policy = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": "/run/agent.sock",
            "listenerMetadata": "m",
            "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", "SECCOMP_FILTER_FLAG_TSYNC"],
            "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}],
        });
        change(&mut policy);
        compiled(policy)
    }

    #[test]
    fn a_policy_that_asks_has_a_listener() {
        let seccomp = asking(|_| {}).unwrap().unwrap();
        let flags = FLAG_NEW_LISTENER | FLAG_WAIT_KILLABLE_RECV;
        assert_eq!(seccomp.filter.flags(), flags);
        let listener = seccomp.listener.unwrap();
        assert_eq!(listener.path, PathBuf::from("/run/agent.sock"));
        assert_eq!(listener.metadata.as_deref(), Some("m"));
    }

    #[test]
    fn a_policy_that_does_not_ask_ignores_the_listener() {
        let policy = asking(|p| p["syscalls"][0]["action"] = json!("SCMP_ACT_ERRNO"));
        let seccomp = policy.unwrap().unwrap();
        assert_eq!((seccomp.filter.flags(), seccomp.listener), (0, None));
    }

    #[test]
    fn what_cannot_be_asked_is_refused() {
        let error = |change: fn(&mut Value)| asking(change).unwrap_err();
        assert!(error(|p| p["defaultAction"] = json!("SCMP_ACT_NOTIFY")).contains("defaultAction"));
        assert!(error(|p| p["syscalls"][0]["names"] = json!(["sendmsg"])).contains("sendmsg"));
        assert!(error(|p| p["listenerPath"] = json!("a.sock")).contains("not absolute"));
        let orphan = error(|p| p["listenerPath"] = Value::Null);
        assert!(orphan.contains("listenerMetadata"), "{orphan}");
        let error = error(|p| {
            p["listenerPath"] = Value::Null;
            p["listenerMetadata"] = Value::Null;
        });
        assert!(
            error.contains("listenerPath of the spec is missing"),
            "{error}"
        );
    }

    #[test]
    fn numbers_are_for_actions_that_take_one() {
        let policy = |action: &str, number: u32| {
            compiled(json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["mkdir"], "action": action, "errnoRet": number}],
            }))
        };
        assert!(policy("SCMP_ACT_ERRNO", 0).is_ok());
        assert!(policy("SCMP_ACT_TRACE", 4095).is_ok());
        assert!(
            policy("SCMP_ACT_ERRNO", 4096)
                .unwrap_err()
                .contains("above 4095")
        );
        assert!(
            policy("SCMP_ACT_TRAP", 1)
                .unwrap_err()
                .contains("takes none")
        );
    }
}
