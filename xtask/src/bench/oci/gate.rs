//! The gates: what was promised, what was measured, met or missed.

use super::super::report::Series;

/// How a figure is judged: always by medians.
enum Rule {
    /// Ours divided by the other's; and the same of the minima, to be looked at.
    Ratio {
        other: f64,
        at_most: f64,
        least: f64,
    },
    /// The other way round: more is better.
    AtLeast { other: f64, times: f64 },
    /// By itself.
    AtMost(f64),
}

struct Gate {
    name: String,
    unit: &'static str,
    ours: f64,
    rule: Rule,
}

#[derive(Default)]
pub struct Gates(Vec<Gate>);

impl Gates {
    /// The first name's times in `series` are at most `at_most` times the second's.
    pub fn ratio(&mut self, name: &str, series: &Series, [ours, other]: [&str; 2], at_most: f64) {
        let least = series.least(ours).zip(series.least(other));
        let rule = Rule::Ratio {
            other: series.median(other).unwrap_or(f64::NAN),
            at_most,
            least: least.map_or(f64::NAN, |(ours, other)| ours / other),
        };
        self.add(name, "ms", series.median(ours), rule);
    }

    /// The first name's rate in `series` is at least `times` the second's.
    pub fn at_least(&mut self, name: &str, series: &Series, [ours, other]: [&str; 2], times: f64) {
        let other = series.median(other).unwrap_or(f64::NAN);
        self.add(
            name,
            "1/s",
            series.median(ours),
            Rule::AtLeast { other, times },
        );
    }

    pub fn at_most(&mut self, name: &str, unit: &'static str, ours: Option<f64>, limit: f64) {
        self.add(name, unit, ours, Rule::AtMost(limit));
    }

    fn add(&mut self, name: &str, unit: &'static str, ours: Option<f64>, rule: Rule) {
        self.0.push(Gate {
            name: name.to_owned(),
            unit,
            ours: ours.unwrap_or(f64::NAN),
            rule,
        });
    }

    pub fn print(&self) {
        if self.0.is_empty() {
            return;
        }
        println!("\ngates");
        println!(
            "  {:<44} {:>9} {:>9} {:>7} {:>9} {:>8}",
            "", "ours", "beside", "ratio", "of minima", "gate"
        );
        for gate in &self.0 {
            let (other, least, bound) = match gate.rule {
                Rule::Ratio {
                    other,
                    at_most,
                    least,
                } => (other, least, format!("<= {at_most}")),
                Rule::AtLeast { other, times } => (other, f64::NAN, format!(">= {times}")),
                Rule::AtMost(limit) => (f64::NAN, f64::NAN, format!("<= {limit}")),
            };
            let show = |number: f64, places: usize| match number.is_nan() {
                true => "-".to_owned(),
                false => format!("{number:.places$}"),
            };
            println!(
                "  {:<44} {:>9} {:>9} {:>7} {:>9} {:>8}  {}",
                format!("{} ({})", gate.name, gate.unit),
                show(gate.ours, 2),
                show(other, 2),
                show(gate.ours / other, 3),
                show(least, 3),
                bound,
                gate.verdict()
            );
        }
        let missed = self.0.iter().filter(|gate| gate.verdict() != "met").count();
        println!("  {} of {} met", self.0.len() - missed, self.0.len());
    }
}

impl Gate {
    fn verdict(&self) -> &'static str {
        let met = match self.rule {
            _ if self.ours.is_nan() => return "not measured",
            Rule::Ratio { other, .. } | Rule::AtLeast { other, .. } if other.is_nan() => {
                return "not measured";
            }
            Rule::Ratio { other, at_most, .. } => self.ours <= at_most * other,
            Rule::AtLeast { other, times } => self.ours >= times * other,
            Rule::AtMost(limit) => self.ours <= limit,
        };
        if met { "met" } else { "MISSED" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(gates: &Gates) -> Vec<&'static str> {
        gates.0.iter().map(Gate::verdict).collect()
    }

    #[test]
    fn gates_judge_in_their_own_direction() {
        let mut gates = Gates::default();
        let mut series = Series::default();
        for (name, value) in [("a", 3.0), ("b", 6.0), ("c", 3.1)] {
            series.add(name, value);
        }
        gates.ratio("run", &series, ["a", "b"], 0.5);
        gates.ratio("run", &series, ["c", "b"], 0.5);
        gates.at_least("many", &series, ["b", "a"], 2.0);
        gates.at_least("many", &series, ["b", "c"], 2.0);
        gates.at_most("calls", "n", Some(200.0), 200.0);
        gates.at_most("calls", "n", None, 200.0);
        gates.ratio("run", &series, ["a", "nobody"], 0.5);
        let expected = [
            "met",
            "MISSED",
            "met",
            "MISSED",
            "met",
            "not measured",
            "not measured",
        ];
        assert_eq!(verdicts(&gates), expected);
    }
}
