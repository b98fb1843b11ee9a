//! Lint rules beyond what the types express.

mod markdown;
mod served;

use std::{
    collections::BTreeSet,
    io::Write,
    process::{Command, Stdio},
};

use faultline_domain::{
    NodeName,
    lab::{Check, Lab, Test},
};

pub use self::served::Served;

use self::markdown::{Text, unused};
use crate::{
    Diagnostic,
    files::{File, Files, MAX_WRONG, WRONG, purpose},
    images,
    script::{Interpreter, first_comment},
    yaml::{self, FILE, Places, point},
};

/// Applies every rule. `yaml` is the text of `lab.yaml`; without `lab`, only the rules about files apply.
pub(crate) fn run(files: &Files, yaml: &str, lab: Option<&Lab>, found: &mut Vec<Diagnostic>) {
    readme(files, found);
    solution(files, found);
    let wrong = files.keys().filter(|n| n.starts_with(WRONG)).count();
    if wrong > MAX_WRONG {
        found.push(Diagnostic::error(
            WRONG,
            format!("has {wrong} wrong repairs, of at most {MAX_WRONG}"),
        ));
    }
    for (name, file) in files {
        if name.starts_with("setup/") && name.ends_with(".yaml") {
            manifests(name, file, found);
        } else if name.starts_with("images/") {
            if name.ends_with(".yaml") {
                image(files, name, file, found);
            }
        } else if name.starts_with("setup/") || name.starts_with("checks/") || name == "solution.sh"
        {
            script(name, file, found);
        } else if name.starts_with(WRONG) && name.ends_with(".sh") {
            script(name, file, found);
            wrong_repair(name, file, found);
        } else if name.starts_with("files/") || name.starts_with("solution/") {
            // Checked by `texts`.
        } else if name.contains('/') {
            found.push(
                Diagnostic::warning(name, "nothing reads this file")
                    .help("put scripts into setup/, checks/ or, ending in `.sh`, wrong/, and files for students into files/ or solution/; remove other files"),
            );
        }
    }
    let places = yaml::places(yaml);
    texts(files, yaml, lab, &places, found);
    if let Some(lab) = lab {
        used_scripts(files, yaml, lab, &places, found);
        setup_nodes(yaml, lab, &places, found);
        checks(yaml, lab, &places, found);
        cluster(yaml, lab, &places, found);
    }
}

/// Checks the description of one of the lab's own container images.
fn image(files: &Files, name: &str, file: &File, found: &mut Vec<Diagnostic>) {
    let yaml = String::from_utf8_lossy(&file.content);
    let content = |name: &str| files.get(name).map(|f| f.content.clone());
    if let Err(why) = images::parse(&yaml, content) {
        found.push(
            Diagnostic::error(name, why)
                .help("name, packages, files, entrypoint, cmd, env, user; see docs/author.md"),
        );
    }
}

/// Requires a cluster for steps and checks that need one.
fn cluster(yaml: &str, lab: &Lab, places: &Places, found: &mut Vec<Diagnostic>) {
    if lab.needs.kubernetes.is_some() {
        cluster_patterns(yaml, lab, places, found);
        return;
    }
    let none = |what: &str| {
        Diagnostic::error(FILE, format!("{what} a cluster, but the lab has none"))
            .help("add `kubernetes: \"1.36\"` under needs")
    };
    for (index, step) in lab.setup.iter().enumerate() {
        if step.apply.is_some() || step.wait.is_some() || step.load.is_some() {
            let at = places.setup.get(index).and_then(|s| s.apply.as_ref());
            found.push(point(
                none("a step that applies, loads or waits needs"),
                yaml,
                at,
            ));
        }
    }
    for (index, check) in lab.checks.iter().enumerate() {
        if check.test.needs_cluster() {
            let at = places.checks.get(index).map(|c| &c.name);
            found.push(point(
                none(&format!("check {} needs", check.name)),
                yaml,
                at,
            ));
        }
    }
}

/// Checks the paths and regular expressions of cluster checks.
fn cluster_patterns(yaml: &str, lab: &Lab, places: &Places, found: &mut Vec<Diagnostic>) {
    let checks = lab.checks.iter().enumerate().filter_map(|(i, c)| {
        let at = places.checks.get(i).map(|c| &c.name);
        match &c.test {
            Test::Object(test) => Some((test, at)),
            _ => None,
        }
    });
    let waits = lab
        .setup
        .iter()
        .filter_map(|s| Some((s.wait.as_ref()?, None)));
    for (test, at) in checks.chain(waits) {
        for field in &test.fields {
            if let Err(e) = jsonpath_rust::parser::parse_json_path(&field.path) {
                let what = format!("{} is not a JSONPath: {e}", field.path);
                found.push(point(
                    Diagnostic::error(FILE, what)
                        .help("as in RFC 9535: $.status.conditions[?@.type=='Ready'].status"),
                    yaml,
                    at,
                ));
            }
            if let Some(Err(_)) = field.matches.as_deref().map(regex::Regex::new) {
                let what = format!("{:?} is not a regular expression", field.matches);
                found.push(point(Diagnostic::error(FILE, what), yaml, at));
            }
        }
    }
}

fn manifests(name: &str, file: &File, found: &mut Vec<Diagnostic>) {
    let text = String::from_utf8_lossy(&file.content);
    match crate::manifests::parse(&text) {
        Ok(objects) if objects.is_empty() => found.push(
            Diagnostic::error(name, "has no object").help("write a manifest or remove the file"),
        ),
        Ok(_) => {}
        Err(why) => found.push(
            Diagnostic::error(name, why).help("`kubectl apply --dry-run=client -f` says the same"),
        ),
    }
}

fn readme(files: &Files, found: &mut Vec<Diagnostic>) {
    for name in ["README.md", "SOLUTION.md"] {
        let Some(file) = files.get(name) else {
            continue;
        };
        let text = String::from_utf8_lossy(&file.content);
        let first = text.lines().find(|l| !l.trim().is_empty());
        match first {
            None => found.push(Diagnostic::error(name, "is empty").help(purpose(name))),
            Some(line) if !line.starts_with("# ") => found.push(
                Diagnostic::error(name, "does not begin with a title")
                    .at(&text, 1, 1)
                    .help("make its first line `# ` and a few words"),
            ),
            Some(_) => {}
        }
    }
}

/// Reports parts of texts that are not shown, and references to files that can't be shown.
fn texts(
    files: &Files,
    yaml: &str,
    lab: Option<&Lab>,
    places: &Places,
    found: &mut Vec<Diagnostic>,
) {
    let mut all = Vec::new();
    for name in ["README.md", "SOLUTION.md"] {
        let Some(Ok(text)) = files.get(name).map(|f| std::str::from_utf8(&f.content)) else {
            continue;
        };
        all.push(text);
        let text = Text {
            markdown: text,
            is_solution: name == "SOLUTION.md",
            files,
        };
        for flaw in text.flaws() {
            let line = u64::try_from(flaw.line).unwrap_or(0);
            found.push(flaw.found(name).at(text.markdown, line, 1));
        }
    }
    let Some(lab) = lab else {
        return;
    };
    for (index, hint) in lab.hints.iter().enumerate() {
        all.push(&hint.text);
        let text = Text {
            markdown: &hint.text,
            is_solution: false,
            files,
        };
        let at = places.hints.get(index).map(|h| &h.text);
        for flaw in text.flaws() {
            found.push(point(flaw.found(FILE), yaml, at));
        }
    }
    unused(files, all.into_iter(), found);
}

fn solution(files: &Files, found: &mut Vec<Diagnostic>) {
    if !files.contains_key("solution.sh") {
        found.push(
            Diagnostic::error("solution.sh", "solution.sh is missing").help(purpose("solution.sh")),
        );
    }
}

/// Requires a comment that explains what is wrong with the repair.
fn wrong_repair(name: &str, file: &File, found: &mut Vec<Diagnostic>) {
    if first_comment(&file.content).is_none() {
        let text = String::from_utf8_lossy(&file.content);
        found.push(
            Diagnostic::error(name, "does not say what is wrong with it")
                .at(&text, 2, 1)
                .help(purpose(name)),
        );
    }
}

fn script(name: &str, file: &File, found: &mut Vec<Diagnostic>) {
    let text = String::from_utf8_lossy(&file.content);
    if !file.executable {
        found.push(
            Diagnostic::error(name, "is not executable").help(format!("run: chmod +x {name}")),
        );
    }
    let Some(interpreter) = Interpreter::of(&file.content) else {
        let what = if text.starts_with("#!") {
            "is for an interpreter that labs can't use"
        } else {
            "does not name its interpreter"
        };
        found.push(
            Diagnostic::error(name, what)
                .at(&text, 1, 1)
                .help("make its first line #!/bin/bash or #!/usr/bin/python3"),
        );
        return;
    };
    if file.content.contains(&0) {
        found.push(Diagnostic::error(name, "has a null byte").help("save it as plain text"));
        return;
    }
    if text.contains("\r\n") {
        found.push(
            Diagnostic::error(name, "has Windows line ends").help("save it with Unix line ends"),
        );
    }
    if interpreter == Interpreter::Bash
        && let Some((line, message)) = bash_syntax(&file.content)
    {
        found.push(
            Diagnostic::error(name, message)
                .at(&text, line, 1)
                .help("`bash -n` says the same; correct the syntax there or above"),
        );
    }
}

/// Returns the line and message of the first error that `bash -n` reports. Returns `None` if bash is not installed.
fn bash_syntax(content: &[u8]) -> Option<(u64, String)> {
    let mut child = Command::new("bash")
        .arg("-n")
        .env_clear()
        .env("LC_ALL", "C")
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    // Bash reads its input as it goes and may stop at the error, so a broken pipe is expected.
    let mut input = child.stdin.take()?;
    let _ = input.write_all(content);
    drop(input);
    let output = child.wait_with_output().ok()?;
    if output.status.success() {
        return None;
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let first = said.lines().next().unwrap_or("bash: syntax error");
    let (_, rest) = first.split_once("line ").unwrap_or(("", first));
    let (line, message) = rest.split_once(": ").unwrap_or(("1", rest));
    Some((line.parse().unwrap_or(1), message.to_owned()))
}

fn used_scripts(
    files: &Files,
    yaml: &str,
    lab: &Lab,
    places: &Places,
    found: &mut Vec<Diagnostic>,
) {
    let mut used = BTreeSet::new();
    let setup = lab.setup.iter().filter_map(|s| {
        s.script
            .as_deref()
            .or(s.apply.as_deref())
            .or(s.load.as_deref())
    });
    let setup_at = places
        .setup
        .iter()
        .filter(|s| s.script.is_some() || s.apply.is_some() || s.load.is_some())
        .map(|s| s.script.as_ref().or(s.apply.as_ref()).or(s.load.as_ref()));
    let checks = lab.checks.iter().filter_map(|c| match &c.test {
        Test::Script(name) => Some(name.as_str()),
        _ => None,
    });
    let checks_at = places
        .checks
        .iter()
        .filter_map(|c| c.test.script.as_ref().map(Some));
    for (name, at) in setup.zip(setup_at).chain(checks.zip(checks_at)) {
        used.insert(name);
        if !files.contains_key(name) {
            found.push(point(
                Diagnostic::error(FILE, format!("{name} is named here and does not exist"))
                    .help("write the script or correct the name"),
                yaml,
                at,
            ));
        }
    }
    for name in files.keys() {
        let of_lab = name.starts_with("setup/")
            || name.starts_with("checks/")
            || name.starts_with("images/") && name.ends_with(".yaml");
        if of_lab && !used.contains(name.as_str()) {
            found.push(
                Diagnostic::warning(name, "nothing in lab.yaml uses this file")
                    .help("name it in lab.yaml or remove it"),
            );
        }
    }
}

fn setup_nodes(yaml: &str, lab: &Lab, places: &Places, found: &mut Vec<Diagnostic>) {
    let mut names = lab.needs.node_names();
    let mut further = lab.setup_nodes().into_iter();
    for (step, at) in lab.setup.iter().zip(&places.setup) {
        if step.add_node {
            names.extend(further.next());
        }
        for (node, at) in step.nodes.iter().zip(&at.nodes) {
            if !names.contains(node) {
                found.push(point(no_node(&names, node.as_str()), yaml, Some(at)));
            }
        }
    }
}

fn no_node(names: &[NodeName], node: &str) -> Diagnostic {
    let names: Vec<&str> = names.iter().map(NodeName::as_str).collect();
    Diagnostic::error(FILE, format!("the lab has no node {node}")).help(format!(
        "it has {}; needs.nodes says how many, and setup may add some",
        names.join(", ")
    ))
}

fn checks(yaml: &str, lab: &Lab, places: &Places, found: &mut Vec<Diagnostic>) {
    let names = lab.node_names();
    let mut seen = BTreeSet::new();
    for (index, check) in lab.checks.iter().enumerate() {
        let at = places.checks.get(index);
        if !seen.insert(check.name.as_str()) {
            found.push(point(
                Diagnostic::error(FILE, format!("two checks are called {}", check.name))
                    .help("give each check a name of its own"),
                yaml,
                at.map(|c| &c.name),
            ));
        }
        if let Some(hint) = check.hint
            && !(1..=lab.hints.len()).contains(&(hint as usize))
        {
            found.push(point(
                Diagnostic::error(FILE, format!("there is no hint {hint}")).help(format!(
                    "the lab has {} hints, counted from 1",
                    lab.hints.len()
                )),
                yaml,
                at.and_then(|c| c.hint.as_ref()),
            ));
        }
        if !names.contains(&check.node) {
            found.push(point(
                no_node(&names, check.node.as_str()),
                yaml,
                at.and_then(|c| c.node.as_ref()),
            ));
        }
        patterns(yaml, check, at, found);
    }
}

fn patterns(
    yaml: &str,
    check: &Check,
    at: Option<&yaml::CheckPlaces>,
    found: &mut Vec<Diagnostic>,
) {
    let test = at.map(|c| &c.test);
    let http = test.and_then(|t| t.http.as_ref());
    let file = test.and_then(|t| t.file.as_ref());
    let candidates = match &check.test {
        Test::Http(t) => vec![(&t.body, http.and_then(|p| p.body.as_ref()))],
        Test::File(t) => vec![
            (&t.matches, file.and_then(|p| p.matches.as_ref())),
            (&t.lacks, file.and_then(|p| p.lacks.as_ref())),
        ],
        Test::Dns(t) => {
            if simple_dns::Name::new(&t.name).is_err() {
                let place = test
                    .and_then(|t| t.dns.as_ref())
                    .and_then(|p| p.name.as_ref());
                found.push(point(
                    Diagnostic::error(FILE, format!("{:?} is not a domain name", t.name)),
                    yaml,
                    place,
                ));
            }
            return;
        }
        Test::Script(_)
        | Test::Tcp(_)
        | Test::Object(_)
        | Test::FromPod(_)
        | Test::CanI(_)
        | Test::Cluster(_) => return,
    };
    for (pattern, place) in candidates {
        let Some(Err(e)) = pattern.as_deref().map(regex::bytes::Regex::new) else {
            continue;
        };
        let e = e.to_string();
        let why = e
            .lines()
            .rev()
            .find_map(|l| l.strip_prefix("error: "))
            .unwrap_or("it can't be compiled");
        found.push(point(
            Diagnostic::error(FILE, format!("not a regular expression: {why}")).help(
                "put it in single quotes, and a backslash before a character that is meant itself",
            ),
            yaml,
            place,
        ));
    }
}

#[cfg(test)]
mod tests;
