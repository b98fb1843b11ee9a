//! The commands of fake guests: `true`, `false`, `echo`, `cat`, `touch`, `rm`, `ls`, `test -e`, `hostname`, `sleep`,
//! `exit`, each optionally followed by `> FILE` or `>> FILE`. Any other command is not found (exit code 127).
//!
//! `bash -c TEXT` runs the lines of TEXT until one fails. If TEXT starts with `mapfile`, it runs the lines of standard
//! input instead. There are no variables and no pipes; the only quoting is a pair of quotes around a word.

use std::{fmt::Write, time::Duration};

use super::files::Files;

#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub stdout: String,
    pub stderr: String,
    pub code: i32,
    /// Whether the shell itself ends.
    pub end: bool,
}

impl Outcome {
    fn code(code: i32) -> Self {
        Self {
            code,
            ..Self::default()
        }
    }

    fn text(stdout: String) -> Self {
        Self {
            stdout,
            ..Self::default()
        }
    }

    fn error(code: i32, text: String) -> Self {
        Self {
            stderr: text + "\n",
            code,
            ..Self::default()
        }
    }
}

fn base(program: &str) -> &str {
    program.rsplit('/').next().unwrap_or(program)
}

fn script_of(argv: &[String]) -> Option<&str> {
    let is_shell = matches!(base(argv.first()?), "bash" | "sh");
    let at = argv.iter().position(|a| a == "-c")?;
    let text = argv.get(at + 1)?;
    is_shell.then_some(text)
}

pub(super) fn wants_input(argv: &[String]) -> bool {
    script_of(argv).is_some_and(|text| text.starts_with("mapfile"))
        || argv.iter().map(|a| base(a)).eq(["cat"])
}

pub(super) async fn exec(files: &Files, argv: &[String], input: &[u8]) -> Outcome {
    let input = String::from_utf8_lossy(input);
    if argv.iter().map(|a| base(a)).eq(["cat"]) {
        return Outcome::text(input.into_owned());
    }
    match script_of(argv) {
        Some(text) if text.starts_with("mapfile") => script(files, &input).await,
        Some(text) => script(files, text).await,
        None => run(files, argv.to_vec()).await,
    }
}

async fn script(files: &Files, text: &str) -> Outcome {
    let mut all = Outcome::default();
    for text in text.lines().map(str::trim) {
        if text.is_empty() || text.starts_with('#') || text.starts_with("set ") {
            continue;
        }
        let one = line(files, text).await;
        all.stdout.push_str(&one.stdout);
        all.stderr.push_str(&one.stderr);
        all.code = one.code;
        if one.code != 0 || one.end {
            break;
        }
    }
    all
}

pub(super) async fn line(files: &Files, text: &str) -> Outcome {
    let mut words = split(text);
    let at = words.iter().position(|w| w == ">" || w == ">>");
    let Some(at) = at else {
        return run(files, words).await;
    };
    let redirect = words.split_off(at);
    let (Some(kind), Some(path)) = (redirect.first(), redirect.get(1)) else {
        return Outcome::error(2, "bash: syntax error near `newline'".to_owned());
    };
    let mut outcome = run(files, words).await;
    let mut content = Vec::new();
    if kind == ">>" {
        content = files.read(path).unwrap_or_default();
    }
    content.extend_from_slice(std::mem::take(&mut outcome.stdout).as_bytes());
    files.write(path, 0o644, content);
    outcome
}

/// Splits a line into words, which may be quoted. `>file` is two words.
fn split(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut quoted = false;
    for c in text.chars() {
        match (quote, c) {
            (None, '"' | '\'') => {
                quote = Some(c);
                quoted = true;
            }
            (Some(q), c) if q == c => quote = None,
            (None, c) if c.is_whitespace() => {
                if !word.is_empty() || quoted {
                    words.push(std::mem::take(&mut word));
                }
                quoted = false;
            }
            (None, '>') => {
                if !word.is_empty() && word != ">" {
                    words.push(std::mem::take(&mut word));
                }
                word.push('>');
            }
            (_, c) => {
                if word.starts_with('>') && !quoted {
                    words.push(std::mem::take(&mut word));
                }
                word.push(c);
            }
        }
    }
    if !word.is_empty() || quoted {
        words.push(word);
    }
    words
}

async fn run(files: &Files, words: Vec<String>) -> Outcome {
    let Some((program, args)) = words.split_first() else {
        return Outcome::code(0);
    };
    match (base(program), args) {
        ("true", _) => Outcome::code(0),
        ("false", _) => Outcome::code(1),
        ("echo", args) => Outcome::text(args.join(" ") + "\n"),
        ("hostname", _) => Outcome::text(format!("{}\n", files.node)),
        ("cat", paths) => {
            let mut all = Outcome::default();
            for path in paths {
                match files.read(path) {
                    Some(content) => all.stdout.push_str(&String::from_utf8_lossy(&content)),
                    None => {
                        let _ = writeln!(all.stderr, "cat: {path}: No such file or directory");
                        all.code = 1;
                    }
                }
            }
            all
        }
        ("touch", paths) => {
            for path in paths {
                let content = files.read(path).unwrap_or_default();
                files.write(path, 0o644, content);
            }
            Outcome::code(0)
        }
        ("rm", args) => {
            let mut all = Outcome::default();
            for path in args.iter().filter(|a| !a.starts_with('-')) {
                if !files.remove(path) && !args.iter().any(|a| a == "-f") {
                    let _ = writeln!(all.stderr, "rm: cannot remove '{path}'");
                    all.code = 1;
                }
            }
            all
        }
        ("ls", args) => {
            let folder = args.first().map_or("/", String::as_str);
            let found = files
                .paths()
                .into_iter()
                .filter(|p| p.starts_with(folder))
                .fold(String::new(), |all, p| all + &p + "\n");
            Outcome::text(found)
        }
        ("test", [flag, path]) if flag == "-e" || flag == "-f" => {
            Outcome::code(i32::from(files.read(path).is_none()))
        }
        ("sleep", [seconds]) => {
            let seconds: f64 = seconds.parse().unwrap_or_default();
            tokio::time::sleep(Duration::from_secs_f64(seconds.clamp(0.0, 3600.0))).await;
            Outcome::code(0)
        }
        ("exit", args) => Outcome {
            code: args.first().and_then(|c| c.parse().ok()).unwrap_or(0),
            end: true,
            ..Outcome::default()
        },
        _ => Outcome::error(127, format!("bash: {program}: command not found")),
    }
}
