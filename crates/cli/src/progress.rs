//! Prints progress by stage. On a terminal, a line per stage with the elapsed time, and a bar if the fraction is known.
//! Otherwise a line when a stage begins and ends, and one with its progress every ten seconds.

use std::{
    collections::HashMap,
    io::IsTerminal,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use faultline_domain::progress::{Event, Progress};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Prints progress as JSON lines on standard error, for a parent process.
pub fn lines() -> Progress {
    Progress::new(|event| {
        if let Ok(line) = serde_json::to_string(&event) {
            eprintln!("{line}");
        }
    })
}

/// Prints progress with a prefix, to tell labs apart that are proven concurrently.
pub fn named(name: &str, shown: &Progress) -> Progress {
    let (name, shown) = (name.to_owned(), shown.clone());
    Progress::new(move |mut event| {
        if let Event::Started { text, .. } = &mut event {
            *text = format!("{name}: {text}");
        }
        let stage = event.stage_mut();
        *stage = format!("{name}: {stage}").into();
        shown.report(event);
    })
}

/// Draws progress on standard error.
pub fn shown() -> Progress {
    if !std::io::stderr().is_terminal() {
        let lines: Mutex<Lines> = Mutex::default();
        return Progress::new(move |event| {
            let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(line) = lines.line(event, Instant::now()) {
                eprintln!("{line}");
            }
        });
    }
    let all = MultiProgress::new();
    let bars: Arc<Mutex<HashMap<String, (ProgressBar, String)>>> = Arc::default();
    Progress::new(move |event| {
        let mut bars = bars.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Started { stage, text } => {
                let bar = all.add(ProgressBar::new(1000));
                bar.set_style(style("{spinner} {msg}  {elapsed}"));
                bar.set_message(text.clone());
                bar.enable_steady_tick(Duration::from_millis(120));
                bars.insert(stage.into_owned(), (bar, text));
            }
            Event::Update {
                stage,
                fraction,
                text,
            } => {
                if let Some((bar, title)) = bars.get(stage.as_ref()) {
                    if let Some(fraction) = fraction {
                        bar.set_style(style("{spinner} {msg}  [{bar:24}] {percent} %  {elapsed}"));
                        #[expect(
                            clippy::cast_possible_truncation,
                            clippy::cast_sign_loss,
                            reason = "between 0 and 1000"
                        )]
                        bar.set_position((fraction.clamp(0.0, 1.0) * 1000.0) as u64);
                    }
                    bar.set_message(format!("{title} · {text}"));
                }
            }
            Event::Done {
                stage,
                millis,
                cached,
            } => {
                if let Some((bar, title)) = bars.remove(stage.as_ref()) {
                    bar.set_style(style("{msg}"));
                    bar.finish_with_message(format!("✓ {title}{}", took(millis, cached)));
                }
            }
        }
    })
}

/// The interval between two progress lines of a stage.
const REST: Duration = Duration::from_secs(10);

/// Prints progress as lines for people, in a log.
#[derive(Default)]
struct Lines {
    /// The running stages, each with the text and time of its last line.
    last: HashMap<String, (String, Instant)>,
}

impl Lines {
    fn line(&mut self, event: Event, now: Instant) -> Option<String> {
        match event {
            Event::Started { stage, text } => {
                let line = format!("… {text}");
                self.last.insert(stage.into_owned(), (text, now));
                Some(line)
            }
            Event::Update { stage, text, .. } => {
                let (said, at) = self.last.get_mut(stage.as_ref())?;
                if *said == text || now.duration_since(*at) < REST {
                    return None;
                }
                let line = format!("  {text}");
                (*said, *at) = (text, now);
                Some(line)
            }
            Event::Done {
                stage,
                millis,
                cached,
            } => {
                self.last.remove(stage.as_ref());
                Some(format!("✓ {stage}{}", took(millis, cached)))
            }
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸ ")
}

fn took(millis: u64, cached: bool) -> String {
    if cached {
        " (from the cache)".to_owned()
    } else {
        format!(" ({}.{} s)", millis / 1000, millis % 1000 / 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_has_no_more_than_a_line_every_ten_seconds() {
        let (mut lines, began) = (Lines::default(), Instant::now());
        let mut at = |seconds, event| lines.line(event, began + Duration::from_secs(seconds));
        let update = |text: &str| Event::Update {
            stage: "setup".into(),
            fraction: None,
            text: text.to_owned(),
        };
        let started = Event::Started {
            stage: "setup".into(),
            text: "Breaking it".to_owned(),
        };
        assert_eq!(at(0, started).unwrap(), "… Breaking it");
        assert_eq!(at(3, update("step 1 of 3")), None);
        assert_eq!(at(11, update("step 2 of 3")).unwrap(), "  step 2 of 3");
        assert_eq!(at(30, update("step 2 of 3")), None);
        assert_eq!(at(31, update("step 3 of 3")).unwrap(), "  step 3 of 3");
        let done = Event::Done {
            stage: "setup".into(),
            millis: 31_000,
            cached: false,
        };
        assert_eq!(at(31, done).unwrap(), "✓ setup (31.0 s)");
        assert_eq!(at(50, update("step 9 of 3")), None, "it is over");
    }
}
