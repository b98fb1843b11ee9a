//! Staged progress on a terminal: a line per stage with elapsed time and a bar where the part done is known.
//! Without a terminal a line when a stage begins and one when it ends.

use std::{
    collections::HashMap,
    io::IsTerminal,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use faultline_domain::progress::{Event, Progress};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Progress as JSON lines on standard error, for a program that started this one.
pub fn lines() -> Progress {
    Progress::new(|event| {
        if let Ok(line) = serde_json::to_string(&event) {
            eprintln!("{line}");
        }
    })
}

/// Progress that is drawn on standard error.
pub fn shown() -> Progress {
    if !std::io::stderr().is_terminal() {
        return Progress::new(|event| match event {
            Event::Started { text, .. } => eprintln!("… {text}"),
            Event::Done {
                stage,
                millis,
                cached,
            } => eprintln!("✓ {stage}{}", took(millis, cached)),
            Event::Update { .. } => {}
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
