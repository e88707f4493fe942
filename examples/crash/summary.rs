//! What a campaign has shown, for the terminal and for the README.

use std::fmt;
use std::path::Path;

use journalfs::sim::Counts;
use journalfs::sim::sequence::Order;
use journalfs::sim::strategy::Strategy;
use journalfs::sim::window::Window;

const BEGIN: &str = "<!-- campaign: written by scripts/crash --readme -->\n";
const END: &str = "<!-- end of the campaign -->\n";

/// A campaign in numbers.
pub struct Summary {
    pub seed: u64,
    pub threads: usize,
    pub counts: Counts,
    pub seconds: f64,
    /// Rounds by kind.
    pub rounds: Vec<(String, u64)>,
    /// Of these sequences, how many were tried.
    pub sequences: Vec<(Order, u64)>,
    pub e2fsck: u64,
    pub kernel: u64,
}

impl Summary {
    /// The most important line.
    pub fn head(&self) -> String {
        let unique = self.counts.all.unique as f64;
        let busy = cpu_seconds().unwrap_or(self.seconds * self.threads as f64);
        let nested: u64 = self.counts.nested.iter().map(|tally| tally.unique).sum();
        format!(
            "{} states, {} unique ({nested} during recovery) in {:.0} s: {:.0} a second, {:.0} a second of one core",
            self.counts.all.states,
            self.counts.all.unique,
            self.seconds,
            unique / self.seconds,
            unique / busy,
        )
    }

    fn rounds(&self) -> String {
        let rounds = self.rounds.iter().filter(|(_, count)| *count > 0);
        let rounds = rounds.map(|(kind, count)| format!("{count} {kind}"));
        let sequences = self.sequences.iter().filter(|(_, count)| *count > 0);
        let sequences = sequences.map(|(order, count)| {
            let share = 100.0 * *count as f64 / order.len() as f64;
            format!("{count} sequences {order} ({share:.4} % of them)")
        });
        rounds.chain(sequences).collect::<Vec<_>>().join(", ")
    }

    /// Rewrites what stands between the markers of a file.
    pub fn write_into(&self, file: &Path) -> Result<(), String> {
        let text = std::fs::read_to_string(file).map_err(|e| e.to_string())?;
        let parts = text
            .split_once(BEGIN)
            .and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
        let (before, after) = parts.ok_or("the markers of the campaign are missing")?;
        let text = format!("{before}{BEGIN}{}{END}{after}", self.table());
        std::fs::write(file, text).map_err(|e| e.to_string())
    }

    fn table(&self) -> String {
        let Counts {
            all,
            strategies,
            nested,
            points,
            closely,
            ..
        } = self.counts;
        let mut lines = vec![
            format!(
                "\nFirst seed {}: {}. {} points, no violation.\n",
                self.seed,
                self.rounds(),
                points
            ),
            "| what was lost | crash states | unique |".to_owned(),
            "|---|--:|--:|".to_owned(),
        ];
        let mut row = |name: &str, tally: journalfs::sim::counts::Tally| {
            lines.push(format!("| {name} | {} | {} |", tally.states, tally.unique));
        };
        for (strategy, tally) in Strategy::ALL.iter().zip(strategies) {
            row(&strategy.to_string(), tally);
        }
        row("**all**", all);
        for (cuts, tally) in (1..).zip(nested) {
            row(&format!("of them in recovery, depth {cuts}"), tally);
        }
        let windows: Vec<String> = (Window::ALL.iter())
            .map(|window| format!("{window} {}", self.counts.within(*window)))
            .collect();
        lines.push(format!("\nPoints within: {}.", windows.join(", ")));
        lines.push(format!(
            "{closely} states looked at closely, {} judged by e2fsck, {} by the kernel. {:.0} unique states a \
             second, {:.0} a second of one core.\n",
            self.e2fsck,
            self.kernel,
            all.unique as f64 / self.seconds,
            all.unique as f64 / cpu_seconds().unwrap_or(self.seconds),
        ));
        lines.join("\n")
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.counts)?;
        writeln!(
            f,
            "  seed {}: {}; {} states looked at closely, {} judged by e2fsck, {} by the kernel",
            self.seed,
            self.rounds(),
            self.counts.closely,
            self.e2fsck,
            self.kernel
        )?;
        f.write_str(&self.head())
    }
}

/// What this process has used of all cores: a busy machine says little by the clock.
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / 100.0)
}
