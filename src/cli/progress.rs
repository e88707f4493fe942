//! Progress of long work: a line on a terminal while it lasts, nothing
//! anywhere else.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// How often it is drawn.
const TICK: Duration = Duration::from_millis(200);

/// A line on standard error, gone when this is dropped.
pub struct Progress(ProgressBar);

impl Progress {
    /// Of work of which nobody knows how much there is.
    pub fn of(what: &'static str) -> Progress {
        Self::shown(ProgressBar::no_length(), "{spinner} {msg} {elapsed}", what)
    }

    /// Of so many steps.
    pub fn through(what: &'static str, steps: u64) -> Progress {
        let template = "{msg} {wide_bar} {human_pos} of {human_len}, {eta} left";
        Self::shown(ProgressBar::new(steps), template, what)
    }

    fn shown(bar: ProgressBar, template: &str, what: &'static str) -> Progress {
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(what);
        bar.enable_steady_tick(TICK);
        Progress(bar)
    }

    /// A step is done.
    pub fn step(&self) {
        self.0.inc(1);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
