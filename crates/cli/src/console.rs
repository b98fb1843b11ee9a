//! The console output about background work: on a terminal, one line that is redrawn; otherwise, a line for each stage.

use std::{io::IsTerminal, pin::pin, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};

/// The interval between two updates.
const LOOK: Duration = Duration::from_secs(1);

/// The work in progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doing {
    /// The stage.
    pub stage: String,
    /// The stage and its progress.
    pub line: String,
}

/// Runs the work and shows its progress meanwhile. Prints nothing if the work is done at once.
pub async fn alongside<T>(doing: impl Fn() -> Option<Doing>, work: impl Future<Output = T>) -> T {
    let mut shown = None;
    let mut work = pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = tokio::time::sleep(LOOK) => {}
        }
        if let Some(doing) = doing() {
            shown.get_or_insert_with(Shown::on_stderr).show(doing);
        }
    }
}

/// Clears the progress line of a terminal, so that another line can be printed.
#[must_use]
pub fn wipe() -> &'static str {
    if std::io::stderr().is_terminal() {
        "\r\x1b[K"
    } else {
        ""
    }
}

enum Shown {
    Drawn(ProgressBar),
    /// The stage that was printed last.
    Written(String),
}

impl Shown {
    fn on_stderr() -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::Written(String::new());
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        Self::Drawn(bar)
    }

    fn show(&mut self, doing: Doing) {
        match self {
            Self::Drawn(bar) => bar.set_message(doing.line),
            Self::Written(stage) => {
                if let Some(line) = news(stage, doing) {
                    eprintln!("… {line}");
                }
            }
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Self::Drawn(bar) = self {
            bar.finish_and_clear();
        }
    }
}

/// Returns the line to print if a new stage has begun.
fn news(stage: &mut String, doing: Doing) -> Option<String> {
    if *stage == doing.stage {
        return None;
    }
    *stage = doing.stage;
    Some(doing.line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_has_a_line_for_each_stage() {
        let mut stage = String::new();
        let mut written = |stage_is: &str, line: &str| {
            let doing = Doing {
                stage: stage_is.to_owned(),
                line: line.to_owned(),
            };
            news(&mut stage, doing)
        };
        assert_eq!(written("disk", "disk, 10 %").as_deref(), Some("disk, 10 %"));
        assert_eq!(written("disk", "disk, 50 %"), None);
        assert_eq!(written("bake", "bake, 60 %").as_deref(), Some("bake, 60 %"));
    }

    #[tokio::test]
    async fn what_is_under_way_is_looked_at_until_the_work_is_done() {
        let looks = std::cell::Cell::new(0);
        let doing = || {
            looks.set(looks.get() + 1);
            None
        };
        assert_eq!(alongside(doing, async { "at once" }).await, "at once");
        assert_eq!(looks.get(), 0);
        let later = async {
            tokio::time::sleep(LOOK * 3 / 2).await;
            "later"
        };
        assert_eq!(alongside(doing, later).await, "later");
        assert_eq!(looks.get(), 1);
    }
}
