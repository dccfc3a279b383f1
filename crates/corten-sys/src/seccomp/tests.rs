//! The compiled program against a naive reading of the policy, on arbitrary policies and calls.

use proptest::prelude::*;

use super::*;

/// What the module's page promises, word by word.
fn naive(policy: &Policy<'_>, call: &Call) -> u32 {
    let x32 = call.audit == Abi::X32.audit() && call.number >= 0x4000_0000;
    let abi = policy.abis.iter().copied().find(|a| match a {
        Abi::X32 => x32,
        a => a.audit() == call.audit && !x32,
    });
    let Some(abi) = abi else {
        return Action::KILL_PROCESS.bits();
    };
    let named = |name: &String| abi.number(name);
    let mut otherwise = None;
    for rule in &policy.rules {
        if !rule.names.iter().any(|n| named(n) == Some(call.number)) {
            continue;
        }
        if rule.conditions.is_empty() {
            otherwise = otherwise.or(Some(rule.action));
        } else if meets(rule, call) {
            return rule.action.bits();
        }
    }
    if let Some(action) = otherwise {
        return action.bits();
    }
    let newest = policy
        .rules
        .iter()
        .flat_map(|r| r.names)
        .filter_map(named)
        .max();
    match newest {
        Some(newest) if call.number > newest && !policy.default.lets_pass() => {
            Action::errno(38).bits()
        }
        _ => policy.default.bits(),
    }
}

fn meets(rule: &Rule<'_>, call: &Call) -> bool {
    let holds = |c: &Condition| {
        let value = call.arguments[usize::from(c.index)];
        match c.test {
            Test::NotEqual(v) => value != v,
            Test::Less(v) => value < v,
            Test::LessOrEqual(v) => value <= v,
            Test::Equal(v) => value == v,
            Test::GreaterOrEqual(v) => value >= v,
            Test::Greater(v) => value > v,
            Test::Masked { mask, value: v } => value & mask == v & mask,
        }
    };
    let twice = (0..6).any(|n| rule.conditions.iter().filter(|c| c.index == n).count() > 1);
    match twice {
        true => rule.conditions.iter().any(holds),
        false => rule.conditions.iter().all(holds),
    }
}

/// Values around which comparisons change.
fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        0u64..4,
        Just(u64::MAX),
        Just(1 << 32),
        Just((1 << 32) - 1),
        Just((1 << 32) + 1),
        any::<u64>(),
    ]
}

fn condition() -> impl Strategy<Value = Condition> {
    let test = (0..7, value(), value()).prop_map(|(kind, v, w)| match kind {
        0 => Test::NotEqual(v),
        1 => Test::Less(v),
        2 => Test::LessOrEqual(v),
        3 => Test::Equal(v),
        4 => Test::GreaterOrEqual(v),
        5 => Test::Greater(v),
        _ => Test::Masked { mask: w, value: v },
    });
    (0u8..6, test).prop_map(|(index, test)| Condition { index, test })
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        Just(Action::ALLOW),
        Just(Action::KILL_PROCESS),
        Just(Action::KILL_THREAD),
        Just(Action::LOG),
        Just(Action::TRAP),
        Just(Action::NOTIFY),
        (0u16..200).prop_map(Action::errno),
        (0u16..9).prop_map(Action::trace),
    ]
}

/// Names by number, so that neighbours and gaps both are common.
fn names() -> impl Strategy<Value = Vec<String>> {
    let all: Vec<String> = syscalls::Sysno::iter()
        .map(|s| s.name().to_owned())
        .chain(["bogus".to_owned()])
        .collect();
    prop_oneof![
        proptest::sample::subsequence(all.clone(), 0..12),
        proptest::sample::subsequence(all.clone(), 100..all.len()),
    ]
}

fn rules() -> impl Strategy<Value = Vec<(Vec<String>, Action, Vec<Condition>)>> {
    let conditions = prop_oneof![
        Just(Vec::new()),
        proptest::collection::vec(condition(), 1..4)
    ];
    proptest::collection::vec((names(), action(), conditions), 0..12)
}

fn call() -> impl Strategy<Value = Call> {
    let number = prop_oneof![0u32..600, 0x4000_0000u32..0x4000_0300, any::<u32>()];
    let audit = prop_oneof![
        4 => Just(Abi::Native.audit()),
        2 => Just(Abi::X86.audit()),
        1 => any::<u32>(),
    ];
    (audit, number, proptest::array::uniform6(value())).prop_map(|(audit, number, arguments)| {
        Call {
            audit,
            number,
            arguments,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn the_program_says_what_the_policy_says(
        default in action(),
        x86 in any::<bool>(),
        x32 in any::<bool>(),
        rules in rules(),
        calls in proptest::collection::vec(call(), 300),
    ) {
        let mut abis = vec![Abi::Native];
        if x86 { abis.push(Abi::X86) }
        if x32 { abis.push(Abi::X32) }
        let policy = Policy {
            default,
            abis,
            rules: rules
                .iter()
                .map(|(names, action, conditions)| Rule {
                    names,
                    action: *action,
                    conditions: conditions.clone(),
                })
                .collect(),
            flags: 0,
        };
        match policy.compile() {
            Err(CompileError::Long(_)) => {}
            Err(other) => prop_assert!(false, "{other}"),
            Ok(filter) => {
                for call in calls {
                    prop_assert_eq!(filter.judge(&call), naive(&policy, &call), "{:?}", call);
                }
            }
        }
    }
}

/// The kernel's own verdicts. `tuxcall` has a number and no meaning, so an allowed one is `ENOSYS` whatever its
/// arguments.
#[cfg(target_arch = "x86_64")]
mod kernel {
    use super::*;

    const TUXCALL: u32 = 184;

    fn call_of(arguments: [u64; 6]) -> Call {
        Call {
            audit: Abi::Native.audit(),
            number: TUXCALL,
            arguments,
        }
    }

    /// What a child sees that makes these calls under the filter: the place of the first surprise, or 0.
    fn surprise(filter: &Filter, calls: &[([u64; 6], i32)]) -> u8 {
        let child = || {
            if crate::capability::set_no_new_privileges().is_err() || filter.install().is_err() {
                return 255;
            }
            let wrong = calls.iter().position(|(a, expected)| {
                // SAFETY: the kernel has nothing behind this number, so the arguments are numbers only.
                let answer =
                    unsafe { libc::syscall(TUXCALL.into(), a[0], a[1], a[2], a[3], a[4], a[5]) };
                answer != -1 || crate::call::last().raw_os_error() != *expected
            });
            wrong.map_or(0, |at| at as i32 + 1)
        };
        let child = crate::process::clone(&Default::default(), child).unwrap();
        crate::process::wait(&child.pidfd).unwrap().status()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn the_kernel_says_what_the_policy_says(
            rules in proptest::collection::vec(
                (proptest::collection::vec(condition(), 0..4), 60u16..70), 0..6),
            calls in proptest::collection::vec(proptest::array::uniform6(value()), 100),
        ) {
            let names = ["tuxcall".to_owned()];
            let policy = Policy {
                default: Action::ALLOW,
                abis: vec![Abi::Native, Abi::X86, Abi::X32],
                rules: rules
                    .iter()
                    .map(|(conditions, errno)| Rule {
                        names: &names,
                        action: Action::errno(*errno),
                        conditions: conditions.clone(),
                    })
                    .collect(),
                flags: FLAG_LOG | FLAG_SPEC_ALLOW,
            };
            let calls: Vec<([u64; 6], i32)> = calls
                .into_iter()
                .map(|a| match naive(&policy, &call_of(a)) {
                    verdict if verdict == Action::ALLOW.bits() => (a, 38),
                    verdict => (a, (verdict & 0xffff) as i32),
                })
                .collect();
            let filter = policy.compile().unwrap();
            let at = surprise(&filter, &calls);
            prop_assert_eq!(at, 0, "{:?}", calls.get(usize::from(at).saturating_sub(1)));
        }
    }
}

#[test]
fn an_index_above_five_is_refused() {
    let names = ["read".to_owned()];
    let policy = Policy {
        default: Action::ALLOW,
        abis: vec![Abi::Native],
        rules: vec![Rule {
            names: &names,
            action: Action::TRAP,
            conditions: vec![Condition {
                index: 6,
                test: Test::Equal(1),
            }],
        }],
        flags: 0,
    };
    assert_eq!(policy.compile(), Err(CompileError::Argument(6)));
}
