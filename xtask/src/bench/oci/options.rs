//! What the bench is told.

use crate::failure::{Result, failure};

pub const PARTS: &[&str] = &["run", "lifecycle", "cost", "throughput", "phases"];

const ROUNDS: usize = 100;
const QUICK_ROUNDS: usize = 20;

pub struct Options {
    pub quick: bool,
    pub fifo: bool,
    pub rounds: usize,
    /// Milliseconds of rest between the steps of a lifecycle: an idle machine ends RCU grace periods later.
    pub gap: u64,
    pub parts: Vec<String>,
}

impl Options {
    pub fn parse(args: &[String]) -> Result<Options> {
        let mut options = Options {
            quick: false,
            fifo: false,
            rounds: 0,
            gap: 0,
            parts: Vec::new(),
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut number = || {
                let number = args.next().and_then(|text| text.parse::<u64>().ok());
                number.ok_or_else(|| failure(format!("{arg} needs a number")))
            };
            match arg.as_str() {
                "--quick" => options.quick = true,
                "--fifo" => options.fifo = true,
                "--rounds" => options.rounds = usize::try_from(number()?).unwrap_or(ROUNDS),
                "--gap" => options.gap = number()?,
                part if PARTS.contains(&part) => options.parts.push(part.to_owned()),
                other => {
                    return Err(failure(format!(
                        "bench oci knows no {other}; it has --quick, --fifo, --rounds N, --gap MS, and the parts {}",
                        PARTS.join(", ")
                    )));
                }
            }
        }
        if options.rounds == 0 {
            options.rounds = if options.quick { QUICK_ROUNDS } else { ROUNDS };
        }
        if options.parts.is_empty() {
            options.parts = PARTS.iter().map(|&part| part.to_owned()).collect();
        }
        Ok(options)
    }

    /// The same, to be parsed again on the inside.
    pub fn words(&self) -> Vec<String> {
        let mut words = vec![
            "--rounds".to_owned(),
            self.rounds.to_string(),
            "--gap".to_owned(),
            self.gap.to_string(),
        ];
        if self.quick {
            words.push("--quick".to_owned());
        }
        if self.fifo {
            words.push("--fifo".to_owned());
        }
        words.extend(self.parts.iter().cloned());
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_survive_the_way_inside() {
        let given = ["--quick", "--gap", "30", "run"].map(str::to_owned);
        let once = Options::parse(&given).ok().map(|o| o.words());
        let twice = once.clone().and_then(|w| Options::parse(&w).ok());
        assert_eq!(once, twice.map(|o| o.words()));
        assert!(Options::parse(&["--fast".to_owned()]).is_err());
    }
}
