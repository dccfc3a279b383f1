//! The compiler. Code is emitted backwards, from the returns to the entry, so that every jump's target is
//! already placed when the jump is: BPF jumps forward only, and 255 instructions far if conditional.

use super::names::{Numbers, X32_BIT, resolve};
use super::program::{
    AND, Filter, Instruction, JUMP, JUMP_EQUAL, JUMP_GREATER, JUMP_GREATER_EQUAL, LOAD, RETURN,
};
use super::{Abi, Action, CompileError, Condition, Policy, Test};

const ENOSYS: u16 = 38;
const OFFSET_NUMBER: u32 = 0;
const OFFSET_AUDIT: u32 = 4;
const KERNEL_MAX: usize = 4096;

/// What happens to one number: the conditional rules, by their place in the policy, then an action.
#[derive(Clone, Debug)]
struct Verdict {
    conditional: Vec<u32>,
    otherwise: Action,
}

impl Verdict {
    /// Equality. Most have no conditions, and calling `memcmp` to learn that took half of all the compiler's time.
    fn is(&self, other: &Self) -> bool {
        self.otherwise == other.otherwise
            && self.conditional.len() == other.conditional.len()
            && (self.conditional.is_empty() || self.conditional == other.conditional)
    }
}

/// A rule with its alternatives taken apart.
struct Clause<'a> {
    conditions: &'a [Condition],
    action: Action,
}

pub(super) fn compile(policy: &Policy<'_>) -> Result<Filter, CompileError> {
    let indices = policy
        .rules
        .iter()
        .flat_map(|r| &r.conditions)
        .map(|c| c.index);
    if let Some(bad) = indices.filter(|i| *i > 5).max() {
        return Err(CompileError::Argument(bad));
    }
    let (clauses, of_rule) = clauses(policy);
    let numbers: Vec<(Numbers, u32)> = policy
        .rules
        .iter()
        .zip(0..)
        .flat_map(|(rule, at)| rule.names.iter().map(move |name| (resolve(name), at)))
        .collect();
    let rules = Rules {
        policy,
        of_rule,
        numbers,
    };
    let mut code = Backwards::default();
    // Entry: the audit architecture picks a tree; none fits: kill.
    let mut entry = code.action(Action::KILL_PROCESS);
    let mut audits: Vec<u32> = policy.abis.iter().map(|a| a.audit()).collect();
    audits.sort_unstable();
    audits.dedup();
    for audit in audits {
        let ranges = ranges(&rules, audit);
        let tree = code.tree(&ranges, &clauses);
        let tree = code.push(LOAD, 0, 0, OFFSET_NUMBER, tree);
        entry = code.branch(JUMP_EQUAL, audit, tree, entry);
    }
    code.push(LOAD, 0, 0, OFFSET_AUDIT, entry);
    code.instructions.reverse();
    if code.instructions.len() > KERNEL_MAX {
        return Err(CompileError::Long(code.instructions.len()));
    }
    Ok(Filter::new(&code.instructions, policy.flags))
}

/// A policy with its names looked up, once for all ABIs.
struct Rules<'a> {
    policy: &'a Policy<'a>,
    /// The clauses of each rule.
    of_rule: Vec<std::ops::Range<u32>>,
    /// Each name, and the place of its rule, in the policy's order.
    numbers: Vec<(Numbers, u32)>,
}

/// Splits rules that test one argument twice; returns the clauses, and those of each rule.
fn clauses<'a>(policy: &'a Policy<'_>) -> (Vec<Clause<'a>>, Vec<std::ops::Range<u32>>) {
    let mut clauses = Vec::new();
    let mut of_rule = Vec::new();
    for rule in &policy.rules {
        let start = clauses.len() as u32;
        let twice = (0..6).any(|n| rule.conditions.iter().filter(|c| c.index == n).count() > 1);
        let size = if twice { 1 } else { rule.conditions.len() };
        if size > 0 {
            clauses.extend(rule.conditions.chunks(size).map(|conditions| Clause {
                conditions,
                action: rule.action,
            }));
        }
        of_rule.push(start..clauses.len() as u32);
    }
    (clauses, of_rule)
}

/// Sorted starts of ranges with one verdict; the first starts at 0, the last has no end.
fn ranges(rules: &Rules<'_>, audit: u32) -> Vec<(u32, Verdict)> {
    let policy = rules.policy;
    let plain = |otherwise| Verdict {
        conditional: Vec::new(),
        otherwise,
    };
    let newer = match policy.default.lets_pass() {
        true => policy.default,
        false => Action::errno(ENOSYS),
    };
    let mut ranges = Vec::new();
    for (base, end, abi) in partitions(policy, audit) {
        let Some(abi) = abi else {
            ranges.push((base, plain(Action::KILL_PROCESS)));
            continue;
        };
        let mut at = base;
        for (number, verdict) in rules.verdicts(abi) {
            if number > at {
                ranges.push((at, plain(policy.default)));
            }
            ranges.push((number, verdict));
            at = number + 1;
        }
        // A policy that names nothing of this ABI tells nothing about its age.
        let rest = if at == base { policy.default } else { newer };
        if at < end {
            ranges.push((at, plain(rest)));
        }
    }
    ranges.dedup_by(|later, earlier| later.1.is(&earlier.1));
    ranges
}

/// The number space of one audit architecture: x86-64 shares it with x32.
fn partitions(policy: &Policy<'_>, audit: u32) -> Vec<(u32, u32, Option<Abi>)> {
    let listed = |abi: Abi| policy.abis.contains(&abi).then_some(abi);
    if audit == Abi::X32.audit() {
        return vec![
            (0, X32_BIT, listed(Abi::Native)),
            (X32_BIT, u32::MAX, listed(Abi::X32)),
        ];
    }
    let abi = policy.abis.iter().copied().find(|a| a.audit() == audit);
    vec![(0, u32::MAX, abi)]
}

impl Rules<'_> {
    /// What happens to each number that is named, ascending.
    fn verdicts(&self, abi: Abi) -> impl Iterator<Item = (u32, Verdict)> {
        let base = if abi == Abi::X32 { X32_BIT } else { 0 };
        // By number; the flag says that an unconditional rule has been seen.
        let mut found: Vec<Option<(Verdict, bool)>> = Vec::with_capacity(512);
        for (numbers, rule) in &self.numbers {
            let Some(number) = numbers.of(abi) else {
                continue;
            };
            let slot = (number - base) as usize;
            if slot >= found.len() {
                found.resize(slot + 1, None);
            }
            let (verdict, settled) = found[slot].get_or_insert_with(|| {
                let plain = Verdict {
                    conditional: Vec::new(),
                    otherwise: self.policy.default,
                };
                (plain, false)
            });
            let clauses = &self.of_rule[*rule as usize];
            if !clauses.is_empty() {
                verdict.conditional.extend(clauses.clone());
            } else if !*settled {
                (verdict.otherwise, *settled) = (self.policy.rules[*rule as usize].action, true);
            }
        }
        let numbered = found.into_iter().zip(base..);
        numbered.filter_map(|(verdict, number)| Some((number, verdict?.0)))
    }
}

/// Instructions from last to first. A place is counted from the end, so it stays valid as code grows.
#[derive(Default)]
struct Backwards {
    instructions: Vec<Instruction>,
    /// The latest `return` of each action.
    returns: Vec<(Action, Place)>,
}

/// Where an instruction is: how many follow it.
type Place = usize;

impl Backwards {
    /// How far a jump from the next instruction emitted would go to `to`.
    fn distance(&self, to: Place) -> usize {
        self.instructions.len() - to - 1
    }

    /// Emits an instruction that falls through to `next`, by way of a jump if that is not adjacent.
    fn push(&mut self, code: u16, jump_true: u8, jump_false: u8, k: u32, next: Place) -> Place {
        if !self.instructions.is_empty() && self.distance(next) > 0 {
            let k = self.distance(next) as u32;
            self.emit(JUMP, 0, 0, k);
        }
        self.emit(code, jump_true, jump_false, k)
    }

    fn emit(&mut self, code: u16, jump_true: u8, jump_false: u8, k: u32) -> Place {
        self.instructions.push(Instruction {
            code,
            jump_true,
            jump_false,
            k,
        });
        self.instructions.len() - 1
    }

    /// A `return` within reach of a conditional jump: an earlier one, or a new one.
    fn action(&mut self, action: Action) -> Place {
        // Some room is left for the instructions between this and the jump.
        const REACH: usize = 240;
        let nearest = self.instructions.len().saturating_sub(REACH);
        let known = self.returns.iter_mut().find(|(a, _)| *a == action);
        match known {
            Some((_, place)) if *place >= nearest => *place,
            Some((_, place)) => {
                *place = self.instructions.len();
                self.emit(RETURN, 0, 0, action.bits())
            }
            None => {
                self.returns.push((action, self.instructions.len()));
                self.emit(RETURN, 0, 0, action.bits())
            }
        }
    }

    /// A place within a conditional jump's reach from which `to` is reached.
    fn near(&mut self, to: Place) -> Place {
        // The other side of the same branch may need a jump of its own in between.
        if self.distance(to) < 250 {
            return to;
        }
        let k = self.distance(to) as u32;
        self.emit(JUMP, 0, 0, k)
    }

    /// A conditional jump to either place.
    fn branch(&mut self, code: u16, k: u32, if_true: Place, if_false: Place) -> Place {
        let if_true = self.near(if_true);
        let if_false = self.near(if_false);
        let (t, f) = (self.distance(if_true), self.distance(if_false));
        debug_assert!(t < 256 && f < 256);
        self.emit(code, t as u8, f as u8, k)
    }

    /// A balanced search over ranges, with the number in the accumulator.
    fn tree(&mut self, ranges: &[(u32, Verdict)], clauses: &[Clause<'_>]) -> Place {
        match ranges {
            [] => self.action(Action::KILL_PROCESS),
            [(_, verdict)] => self.leaf(verdict, clauses),
            _ => {
                let (low, high) = ranges.split_at(ranges.len() / 2);
                let start = high[0].0;
                let high = self.tree(high, clauses);
                let low = self.tree(low, clauses);
                // An unconditional leaf may have been placed long ago; find it nearer.
                self.branch(JUMP_GREATER_EQUAL, start, high, low)
            }
        }
    }

    fn leaf(&mut self, verdict: &Verdict, clauses: &[Clause<'_>]) -> Place {
        let mut next = self.action(verdict.otherwise);
        for clause in verdict.conditional.iter().rev() {
            let clause = &clauses[*clause as usize];
            let mut matched = self.action(clause.action);
            for condition in clause.conditions.iter().rev() {
                matched = self.condition(*condition, matched, next);
            }
            next = matched;
        }
        next
    }

    /// Tests one argument, high word first: BPF compares 32 bits.
    fn condition(&mut self, condition: Condition, yes: Place, no: Place) -> Place {
        let index = condition.index;
        match condition.test {
            Test::Equal(v) => self.equal(index, None, v, yes, no),
            Test::NotEqual(v) => self.equal(index, None, v, no, yes),
            // Bits of the value outside of the mask mean nothing, as in libseccomp.
            Test::Masked { mask, value } => self.equal(index, Some(mask), value & mask, yes, no),
            Test::Greater(v) => self.ordered(index, JUMP_GREATER, v, yes, no),
            Test::GreaterOrEqual(v) => self.ordered(index, JUMP_GREATER_EQUAL, v, yes, no),
            Test::Less(v) => self.ordered(index, JUMP_GREATER_EQUAL, v, no, yes),
            Test::LessOrEqual(v) => self.ordered(index, JUMP_GREATER, v, no, yes),
        }
    }

    fn equal(&mut self, index: u8, mask: Option<u64>, value: u64, yes: Place, no: Place) -> Place {
        let low = self.branch(JUMP_EQUAL, value as u32, yes, no);
        let low = self.load(index, false, mask.map(|m| m as u32), low);
        let high = self.branch(JUMP_EQUAL, (value >> 32) as u32, low, no);
        self.load(index, true, mask.map(|m| (m >> 32) as u32), high)
    }

    fn ordered(&mut self, index: u8, low_code: u16, value: u64, yes: Place, no: Place) -> Place {
        let high_word = (value >> 32) as u32;
        let low = self.branch(low_code, value as u32, yes, no);
        let low = self.load(index, false, None, low);
        let same = self.branch(JUMP_EQUAL, high_word, low, no);
        let high = self.branch(JUMP_GREATER, high_word, yes, same);
        self.load(index, true, None, high)
    }

    fn load(&mut self, index: u8, high: bool, mask: Option<u32>, next: Place) -> Place {
        let second = high == cfg!(target_endian = "little");
        let offset = 16 + 8 * u32::from(index) + if second { 4 } else { 0 };
        let next = match mask {
            Some(mask) => self.push(AND, 0, 0, mask, next),
            None => next,
        };
        self.push(LOAD, 0, 0, offset, next)
    }
}
