//! What has been tried, in numbers.

use std::fmt;

use super::strategy::Strategy;
use super::window::Window;

/// Cuts during recovery that may follow on each other.
pub const DEPTH: usize = 3;

/// States, and those that differ from all others of the same run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Tally {
    pub states: u64,
    pub unique: u64,
}

/// What has been tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Crash states.
    pub all: Tally,
    /// By what was lost.
    pub strategies: [Tally; Strategy::ALL.len()],
    /// Of them: cuts during the recovery that followed so many cuts (the
    /// first: one).
    pub nested: [Tally; DEPTH],
    /// States looked at closely.
    pub closely: u64,
    /// Points at which the power was cut.
    pub points: u64,
    /// Of them: within each of the system's movements.
    pub windows: [u64; Window::ALL.len()],
}

impl Counts {
    /// Counts a state that so many cuts led to.
    pub fn state(&mut self, strategy: Strategy, cuts: usize, unique: bool) {
        let nested = cuts.checked_sub(1).and_then(|at| self.nested.get_mut(at));
        let tallies = [&mut self.all, &mut self.strategies[strategy as usize]];
        for tally in tallies.into_iter().chain(nested) {
            tally.states += 1;
            tally.unique += u64::from(unique);
        }
    }

    /// Points within a movement.
    pub fn within(&self, window: Window) -> u64 {
        self.windows[window as usize]
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, more: Tally) {
        self.states += more.states;
        self.unique += more.unique;
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, more: Counts) {
        self.all += more.all;
        let pairs = self.strategies.iter_mut().zip(more.strategies);
        pairs
            .chain(self.nested.iter_mut().zip(more.nested))
            .for_each(|(sum, more)| *sum += more);
        self.closely += more.closely;
        self.points += more.points;
        let windows = self.windows.iter_mut().zip(more.windows);
        windows.for_each(|(sum, more)| *sum += more);
    }
}

impl fmt::Display for Counts {
    /// A line for each strategy, depth and window.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (strategy, tally) in Strategy::ALL.iter().zip(self.strategies) {
            writeln!(f, "  {strategy:<20} {tally}")?;
        }
        for (cuts, tally) in (1..).zip(self.nested) {
            writeln!(f, "  {:<20} {tally}", format!("in recovery, depth {cuts}"))?;
        }
        let windows = Window::ALL.iter().zip(self.windows);
        let windows: Vec<String> = windows.map(|(w, points)| format!("{w} {points}")).collect();
        write!(f, "  {} points: {}", self.points, windows.join(", "))
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>9} states, {:>9} unique", self.states, self.unique)
    }
}
