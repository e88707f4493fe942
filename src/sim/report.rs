//! What a failure looks like to somebody who wants to see it again.
//!
//! A report ends in a test, ready to paste into `tests/law/found.rs`: the
//! set-up, the steps that are left, and the cut in one line of text
//! (`power 0 120: +3 -1; 12: ~7`: in era 0 after 120 changes, three of the
//! pending ones kept, one lost, and again 12 changes into the recovery). Of an
//! image that is being made, the only era is mkfs's, and the steps are what
//! was done before with the image that stood there.

use std::fmt;
use std::str::FromStr;

use super::explore::{Cut, Violation};
use super::round::{Failure, Origin};
use super::system::Setup;
use super::workload::Workload;

/// A failure, made as small as it could be.
pub struct Report {
    /// Where it comes from.
    pub origin: Origin,
    /// Image and journal.
    pub setup: Setup,
    /// Of the image that mkfs found, if any.
    pub used: Option<Setup>,
    /// The steps that are left.
    pub workload: Workload,
    /// What they lead to.
    pub failure: Failure,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the law is violated: {}, {:?}", self.origin, self.setup)?;
        writeln!(f, "{}", self.failure)?;
        writeln!(f, "after these steps (shrunk):\n{}", self.workload)?;
        writeln!(f, "again: {}", self.command())?;
        write!(f, "as a test, for tests/law/found.rs:\n\n{}", self.test())
    }
}

impl Report {
    fn command(&self) -> String {
        match self.origin {
            Origin::Seed(seed) => format!("scripts/crash --only seeds --seed {seed} --rounds 1"),
            Origin::Soak(seed) => format!("scripts/crash --only soak --seed {seed} --rounds 1"),
            Origin::Adopted(seed) => {
                format!("scripts/crash --only adopted --seed {seed} --rounds 1")
            }
            Origin::Mkfs(seed) => format!("scripts/crash --only mkfs --seed {seed} --rounds 1"),
            Origin::Sequence(n, blocks) => {
                let end = n + 1;
                format!("scripts/crash --sequences {n}..{end} --block-size {blocks}")
            }
            Origin::Written => "the same test".to_owned(),
        }
    }

    /// A test in Rust.
    pub fn test(&self) -> String {
        let name = self.origin.to_string().replace(' ', "_");
        let cut = match &self.failure {
            Failure::Run(_) => "None".to_owned(),
            Failure::Law(violation) => format!("Some(\"{}\")", violation.cut),
        };
        let setup = literal("setup", &self.setup);
        let used = (self.used.iter()).map(|setup| literal("used", setup));
        let steps = match (self.origin, &self.used) {
            (Origin::Mkfs(_), None) => String::new(),
            _ => steps(&self.workload),
        };
        let holds = match (self.origin, &self.used) {
            (Origin::Adopted(_), _) => "holds_when_adopted(&setup, steps,",
            (Origin::Mkfs(_), None) => "mkfs_holds(&setup, None,",
            (Origin::Mkfs(_), Some(_)) => "mkfs_holds(&setup, Some((&used, steps)),",
            _ => "holds(&setup, steps,",
        };
        let why = self.failure.to_string();
        let mut lines = vec![format!("// {}", why.lines().last().unwrap_or_default())];
        lines.push(setup);
        lines.extend(used);
        lines.push(steps);
        lines.push(format!("{holds} {cut});"));
        let body: String = (lines.iter().flat_map(|text| text.lines()))
            .map(|line| format!("    {line}\n"))
            .collect();
        format!("#[test]\nfn found_by_{name}() {{\n{body}}}\n")
    }
}

/// A set-up in Rust.
fn literal(name: &str, setup: &Setup) -> String {
    let Setup {
        size,
        block_size,
        segment_size,
        segments,
        atime,
        discard,
        seed,
    } = setup;
    format!(
        "let {name} = Setup {{\n    \
             size: {size},\n    \
             block_size: {block_size},\n    \
             segment_size: {segment_size},\n    \
             segments: {segments},\n    \
             atime: Atime::{atime:?},\n    \
             discard: {discard},\n    \
             seed: {seed},\n\
         }};"
    )
}

/// Steps in Rust.
fn steps(workload: &Workload) -> String {
    let lines: String = (workload.0.iter())
        .map(|step| format!("    {step}\n"))
        .collect();
    format!("let steps = \"\n{lines}\";")
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cut {
            era,
            at,
            plan,
            killed,
            again,
        } = &self.cut;
        let how = match killed {
            true => "the daemon was killed",
            false => "the power was cut",
        };
        writeln!(
            f,
            "in era {era}, {how} after {at} changes; fates of what was pending:\n  {plan}"
        )?;
        for (at, plan) in again {
            writeln!(
                f,
                "and again during recovery, after {at} changes:\n  {plan}"
            )?;
        }
        f.write_str(&self.what)
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.killed { "kill" } else { "power" };
        write!(f, "{how} {} {}:", self.era, self.at)?;
        let fates = |plan: &crate::device::crash::Plan| {
            let text = plan.to_string();
            text.trim_end_matches("and the rest lost").trim().to_owned()
        };
        write!(f, " {}", fates(&self.plan))?;
        for (at, plan) in &self.again {
            write!(f, "; {at}: {}", fates(plan))?;
        }
        Ok(())
    }
}

impl FromStr for Cut {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let strange = || format!("{text:?} is no cut");
        let mut cuts = Vec::new();
        for part in text.split(';') {
            let (place, plan) = part.split_once(':').ok_or_else(strange)?;
            cuts.push((place.trim(), plan.parse()?));
        }
        let number = |word: &str| word.parse::<usize>().map_err(|_| strange());
        let (place, plan) = cuts.remove(0);
        let [how, era, at] = place.split(' ').collect::<Vec<_>>()[..] else {
            return Err(strange());
        };
        Ok(Cut {
            era: number(era)?,
            at: number(at)?,
            plan,
            killed: how == "kill",
            again: (cuts.into_iter())
                .map(|(at, plan)| Ok((number(at)?, plan)))
                .collect::<Result<_, String>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_survives_the_way_through_its_text() {
        for text in ["power 0 120: +3 -1; 12: ~7; 0:", "kill 2 5: +2"] {
            let cut: Cut = text.parse().unwrap();
            assert_eq!(cut.to_string().trim_end(), text);
            assert_eq!(cut.to_string().parse(), Ok(cut));
        }
        assert!("power 1: +1".parse::<Cut>().is_err());
    }
}
