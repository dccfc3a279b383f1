//! Which device nodes the group may use.
//!
//! The rules are OCI's: a list, of which the last that speaks about a device and
//! an access decides; what no rule mentions is denied. On v1 they are written one
//! by one to `devices.deny` and `devices.allow`. v2 has no files for it: the list
//! is compiled into a small eBPF program that the kernel asks at each `open` and
//! `mknod` (`BPF_PROG_TYPE_CGROUP_DEVICE`).

use std::os::fd::AsFd;

use corten_sys::bpf::{self, Instruction};
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use rustix::io::Errno;

use crate::Error;
use crate::group::Cgroup;

/// `BPF_DEVCG_ACC_*`.
const MKNOD: u8 = 1;
const READ: u8 = 2;
const WRITE: u8 = 4;
const ALL: u8 = MKNOD | READ | WRITE;

/// `BPF_DEVCG_DEV_*`.
const BLOCK: u16 = 1;
const CHAR: u16 = 2;

/// A rule, checked. `None` is any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    allow: bool,
    kind: Option<u16>,
    major: Option<u32>,
    minor: Option<u32>,
    access: u8,
}

impl Rule {
    const DENY_ALL: Self = Self {
        allow: false,
        kind: None,
        major: None,
        minor: None,
        access: ALL,
    };

    fn is_everything(&self) -> bool {
        self.kind.is_none() && self.major.is_none() && self.minor.is_none() && self.access == ALL
    }
}

/// What a list lets pass, in a form without order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Allowed {
    /// All but what single rules deny.
    Everything,
    List(Vec<Entry>),
}

/// `None` is any.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub block: bool,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub access: String,
}

/// The permissions of a list, without the denials that are narrower than a permission. `None`: no rules.
pub(crate) fn allowed(devices: &[LinuxDeviceCgroup]) -> Result<Option<Allowed>, Error> {
    if devices.is_empty() {
        return Ok(None);
    }
    let rules = devices.iter().map(checked).collect::<Result<Vec<_>, _>>()?;
    let start = rules.iter().rposition(Rule::is_everything);
    if start.is_some_and(|at| rules[at].allow) {
        return Ok(Some(Allowed::Everything));
    }
    let mut entries: Vec<(u16, Rule)> = Vec::new();
    for rule in &rules[start.map_or(0, |at| at + 1)..] {
        let kinds: &[u16] = match rule.kind {
            None => &[BLOCK, CHAR],
            Some(BLOCK) => &[BLOCK],
            Some(_) => &[CHAR],
        };
        for kind in kinds {
            let known = |(k, r): &&mut (u16, Rule)| {
                k == kind && r.major == rule.major && r.minor == rule.minor
            };
            match (entries.iter_mut().find(known), rule.allow) {
                (Some((_, entry)), true) => entry.access |= rule.access,
                (Some((_, entry)), false) => entry.access &= !rule.access,
                (None, true) => entries.push((*kind, *rule)),
                (None, false) => {}
            }
        }
    }
    let entries = entries.into_iter().filter(|(_, r)| r.access != 0);
    Ok(Some(Allowed::List(
        entries
            .map(|(kind, rule)| Entry {
                block: kind == BLOCK,
                major: rule.major,
                minor: rule.minor,
                access: letters(rule.access),
            })
            .collect(),
    )))
}

fn letters(access: u8) -> String {
    let all = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')];
    let set = all.iter().filter(|(bit, _)| access & bit != 0);
    set.map(|(_, letter)| letter).collect()
}

/// Applies the full list; an empty one leaves the group as it is.
pub(crate) fn apply(group: &Cgroup, devices: &[LinuxDeviceCgroup]) -> Result<(), Error> {
    if devices.is_empty() {
        return Ok(());
    }
    let rules = devices.iter().map(checked).collect::<Result<Vec<_>, _>>()?;
    if group.is_pure_v2() {
        return attach(group, &compile(&rules));
    }
    let holder = group.holder("devices")?;
    let Some(dir) = holder else {
        // A hybrid host that mounts no v1 devices hierarchy still has the program.
        if group.unified().is_some() {
            return attach(group, &compile(&rules));
        }
        return Err(Error::Unsupported {
            setting: "devices".into(),
            reason: "this host has no devices controller",
        });
    };
    for (file, line) in v1_lines(&rules) {
        dir.write(&group.path, file, &line)?;
    }
    Ok(())
}

fn checked(rule: &LinuxDeviceCgroup) -> Result<Rule, Error> {
    let invalid = |value: String, reason| Error::Invalid {
        setting: "devices".into(),
        value,
        reason,
    };
    let kind = match rule.typ() {
        None | Some(LinuxDeviceType::A) => None,
        Some(LinuxDeviceType::B) => Some(BLOCK),
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(CHAR),
        Some(LinuxDeviceType::P) => {
            return Err(invalid(rule.to_string(), "a FIFO is no device"));
        }
    };
    let number = |n: Option<i64>| match n {
        None | Some(-1) => Ok(None),
        Some(n) => u32::try_from(n)
            .map(Some)
            .map_err(|_| invalid(rule.to_string(), "a device number is out of range")),
    };
    let mut access = 0;
    // No access letters at all means every access, as the specification's default.
    for letter in rule
        .access()
        .as_deref()
        .filter(|a| !a.is_empty())
        .unwrap_or("rwm")
        .chars()
    {
        access |= match letter {
            'r' => READ,
            'w' => WRITE,
            'm' => MKNOD,
            _ => return Err(invalid(rule.to_string(), "access is made of r, w and m")),
        };
    }
    Ok(Rule {
        allow: rule.allow(),
        kind,
        major: number(rule.major())?,
        minor: number(rule.minor())?,
        access,
    })
}

/// The writes for v1. A group starts with its parent's rules, hence the deny-all in front.
fn v1_lines(rules: &[Rule]) -> Vec<(&'static str, String)> {
    let mut lines = vec![("devices.deny", "a".to_string())];
    // Only what follows the last rule about everything has an effect.
    let start = rules.iter().rposition(Rule::is_everything);
    if let Some(at) = start
        && rules[at].allow
    {
        lines.push(("devices.allow", "a".into()));
    }
    for rule in &rules[start.map_or(0, |at| at + 1)..] {
        let file = if rule.allow {
            "devices.allow"
        } else {
            "devices.deny"
        };
        // The kernel reads `a` as everything and ignores what follows it, so a
        // partial rule for both sorts must be written as two.
        let kinds: &[char] = match rule.kind {
            None => &['b', 'c'],
            Some(BLOCK) => &['b'],
            Some(_) => &['c'],
        };
        let number = |n: Option<u32>| n.map_or("*".into(), |n| n.to_string());
        let access = letters(rule.access);
        for kind in kinds {
            let line = format!(
                "{kind} {}:{} {access}",
                number(rule.major),
                number(rule.minor)
            );
            lines.push((file, line));
        }
    }
    lines
}

/// The program for v2. Registers: r2 device type, r3 the accesses that no rule has
/// decided yet, r4 major, r5 minor.
///
/// Rules are met last to first. A matching deny that covers an open access ends
/// with 0; a matching allow strikes its accesses out, and when none is left it ends with
/// 1. That is exact for a request of several accesses that different rules decide.
fn compile(rules: &[Rule]) -> Vec<Instruction> {
    const LDX_W: u8 = 0x61;
    const AND32_K: u8 = 0x54;
    const RSH32_K: u8 = 0x74;
    const MOV32_X: u8 = 0xbc;
    const MOV64_K: u8 = 0xb7;
    const JNE32_K: u8 = 0x56;
    const JSET32_K: u8 = 0x46;
    const EXIT: u8 = 0x95;
    let op = Instruction::new;
    let mut program = vec![
        // struct bpf_cgroup_dev_ctx { u32 access_type /* access << 16 | type */, major, minor }
        op(LDX_W, 2, 1, 0, 0),
        op(MOV32_X, 3, 2, 0, 0),
        op(AND32_K, 2, 0, 0, 0xffff),
        op(RSH32_K, 3, 0, 0, 16),
        op(LDX_W, 4, 1, 4, 0),
        op(LDX_W, 5, 1, 8, 0),
    ];
    // What precedes the last rule about everything is never reached.
    let start = rules.iter().rposition(Rule::is_everything).unwrap_or(0);
    for rule in rules[start..].iter().rev().chain([&Rule::DENY_ALL]) {
        let body: &[Instruction] = match (rule.access == ALL, rule.allow) {
            (true, allow) => &[op(MOV64_K, 0, 0, 0, i32::from(allow)), op(EXIT, 0, 0, 0, 0)],
            (false, false) => &[
                op(JSET32_K, 3, 0, 1, i32::from(rule.access)),
                op(0x05, 0, 0, 2, 0),
                op(MOV64_K, 0, 0, 0, 0),
                op(EXIT, 0, 0, 0, 0),
            ],
            (false, true) => &[
                op(AND32_K, 3, 0, 0, i32::from(ALL & !rule.access)),
                op(0x56, 3, 0, 2, 0),
                op(MOV64_K, 0, 0, 0, 1),
                op(EXIT, 0, 0, 0, 0),
            ],
        };
        let tests = [
            (2, rule.kind.map(u32::from)),
            (4, rule.major),
            (5, rule.minor),
        ];
        let mut left = tests.iter().filter(|(_, v)| v.is_some()).count();
        for (register, value) in tests {
            let Some(value) = value else { continue };
            left -= 1;
            let skip = (left + body.len()) as i16;
            program.push(op(JNE32_K, register, 0, skip, value as i32));
        }
        program.extend_from_slice(body);
        // Nothing after an unconditional verdict is reached, and the verifier refuses unreachable code.
        if rule.is_everything() {
            break;
        }
    }
    program
}

/// Attaches the new program, then takes older ones off: at no moment is the group without.
fn attach(group: &Cgroup, program: &[Instruction]) -> Result<(), Error> {
    let fail = |step| {
        let group = group.path.clone();
        move |source: Errno| Error::Program {
            step,
            group,
            source,
        }
    };
    let Some(dir) = group.unified() else {
        return Err(Error::NotFound {
            group: group.path.clone(),
        });
    };
    let at = dir.fd.as_fd();
    let new = bpf::load_device_program(program).map_err(fail("load"))?;
    let old = bpf::device_programs(at).map_err(fail("list"))?;
    match old.as_slice() {
        [one] => bpf::replace_device_program(at, new.as_fd(), one.as_fd()).map_err(fail("replace")),
        _ => {
            bpf::attach_device_program(at, new.as_fd()).map_err(fail("attach"))?;
            for program in &old {
                bpf::detach_device_program(at, program.as_fd()).map_err(fail("detach"))?;
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A device and the accesses asked for.
    type Request = (u16, u32, u32, u8);

    /// What the rules say, each access by itself.
    fn said(rules: &[Rule], (kind, major, minor, access): Request) -> bool {
        let fits = |r: &&Rule| {
            r.kind.is_none_or(|k| k == kind)
                && r.major.is_none_or(|m| m == major)
                && r.minor.is_none_or(|m| m == minor)
        };
        [READ, WRITE, MKNOD]
            .into_iter()
            .filter(|bit| access & bit != 0)
            .all(|bit| {
                let last = rules
                    .iter()
                    .rev()
                    .filter(fits)
                    .find(|r| r.access & bit != 0);
                last.is_some_and(|r| r.allow)
            })
    }

    /// Runs a program as the kernel does; only what `compile` emits is known.
    fn run(program: &[Instruction], (kind, major, minor, access): Request) -> bool {
        let context = [u32::from(access) << 16 | u32::from(kind), major, minor];
        let (mut r, mut at) = ([0u64; 6], 0usize);
        loop {
            let (code, dst, src, offset, value) = program[at].fields();
            let (dst, src) = (usize::from(dst), usize::from(src));
            at += 1;
            let jump = |yes: bool| if yes { offset as usize } else { 0 };
            match code {
                0x61 => r[dst] = context[offset as usize / 4].into(),
                0xbc => r[dst] = u64::from(r[src] as u32),
                0x54 => r[dst] = u64::from(r[dst] as u32 & value as u32),
                0x74 => r[dst] = u64::from(r[dst] as u32 >> value),
                0xb7 => r[dst] = value as u64,
                0x05 => at += jump(true),
                0x56 => at += jump(r[dst] as u32 != value as u32),
                0x46 => at += jump(r[dst] as u32 & value as u32 != 0),
                0x95 => return r[0] == 1,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    fn rule() -> impl Strategy<Value = Rule> {
        let number = || proptest::option::of(0u32..3);
        (
            any::<bool>(),
            proptest::option::of(1u16..3),
            number(),
            number(),
            1u8..8,
        )
            .prop_map(|(allow, kind, major, minor, access)| Rule {
                allow,
                kind,
                major,
                minor,
                access,
            })
    }

    proptest! {
        #[test]
        fn the_program_decides_as_the_rules_do(
            rules in proptest::collection::vec(rule(), 0..8),
            request in (1u16..3, 0u32..4, 0u32..4, 1u8..8),
        ) {
            prop_assert_eq!(run(&compile(&rules), request), said(&rules, request));
        }
    }

    #[test]
    fn a_partial_rule_for_both_sorts_is_two_lines_on_v1() {
        let rule = Rule {
            allow: true,
            kind: None,
            major: Some(1),
            minor: None,
            access: READ | MKNOD,
        };
        let lines = v1_lines(&[Rule::DENY_ALL, rule]);
        let text: Vec<String> = lines.iter().map(|(f, l)| format!("{f} {l}")).collect();
        assert_eq!(
            text,
            [
                "devices.deny a",
                "devices.allow b 1:* rm",
                "devices.allow c 1:* rm"
            ]
        );
    }
}
