//! Writes proofs as JUnit XML, for CI.

use std::io;

use quick_xml::{
    Writer,
    events::{BytesDecl, BytesText, Event},
};

use crate::{prove::Proof, text};

/// A test case: one lab.
pub struct Case<'a> {
    /// The lab.
    pub lab: &'a str,
    /// The proof; `None` if the lab could not be loaded, for the reason in `failure`.
    pub proof: Option<&'a Proof>,
    /// The reason of the failure, if any.
    pub failure: Option<String>,
    /// True if the proof came from the cache.
    pub cached: bool,
    /// True if the lab was skipped for lack of time.
    pub left_out: bool,
    /// The results of its wrong repairs, a line each.
    pub wrong: Vec<String>,
}

/// Writes the document.
pub fn document(cases: &[Case<'_>]) -> io::Result<String> {
    let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
    writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    let skipped = cases.iter().filter(|c| c.left_out).count();
    let failures = cases.iter().filter(|c| c.failure.is_some()).count();
    let total: u64 = cases
        .iter()
        .filter_map(|c| c.proof)
        .map(Proof::millis)
        .sum();
    writer
        .create_element("testsuite")
        .with_attributes([
            ("name", "faultline-labs"),
            ("tests", cases.len().to_string().as_str()),
            ("failures", failures.to_string().as_str()),
            ("skipped", skipped.to_string().as_str()),
            ("time", seconds(total).as_str()),
        ])
        .write_inner_content(|w| {
            for case in cases {
                write_case(w, case)?;
            }
            Ok(())
        })?;
    let mut text = String::from_utf8(writer.into_inner()).map_err(io::Error::other)?;
    text.push('\n');
    Ok(text)
}

fn seconds(millis: u64) -> String {
    format!("{}.{:03}", millis / 1000, millis % 1000)
}

fn write_case(w: &mut Writer<Vec<u8>>, case: &Case<'_>) -> io::Result<()> {
    let time = seconds(case.proof.map_or(0, Proof::millis));
    w.create_element("testcase")
        .with_attributes([
            ("classname", "labs"),
            ("name", case.lab),
            ("time", time.as_str()),
        ])
        .write_inner_content(|w| {
            if let Some(failure) = &case.failure {
                let failure = text::clean(failure.as_bytes(), 8000);
                let first = failure.lines().next().unwrap_or_default();
                w.create_element("failure")
                    .with_attribute(("message", first))
                    .write_text_content(BytesText::new(&failure))?;
            }
            if case.left_out {
                w.create_element("skipped")
                    .with_attribute(("message", "left out: the time ran out"))
                    .write_empty()?;
            }
            let mut out = String::new();
            if case.cached {
                out.push_str("taken from the cache of proofs\n");
            }
            if let Some(proof) = case.proof {
                for step in &proof.steps {
                    let word = if step.failure.is_some() {
                        "failed"
                    } else {
                        "ok"
                    };
                    out.push_str(&format!(
                        "{:<9} {:>9} s {word}\n",
                        step.name,
                        seconds(step.millis)
                    ));
                }
                for note in &proof.notes {
                    out.push_str(&format!("note: {note}\n"));
                }
            }
            for line in &case.wrong {
                out.push_str(&format!("{line}\n"));
            }
            if !out.is_empty() {
                w.create_element("system-out")
                    .write_text_content(BytesText::new(&out))?;
            }
            Ok(())
        })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(lab: &str) -> Case<'_> {
        Case {
            lab,
            proof: None,
            failure: None,
            cached: false,
            left_out: false,
            wrong: Vec::new(),
        }
    }

    #[test]
    fn what_was_left_out_is_neither_passed_nor_failed() {
        let left_out = Case {
            left_out: true,
            ..case("later")
        };
        let text = document(&[case("now"), left_out]).unwrap();
        assert!(text.contains("tests=\"2\" failures=\"0\" skipped=\"1\""));
        let (now, later) = text.split_once("\"later\"").unwrap();
        assert!(
            !now.contains("<skipped") && later.contains("<skipped"),
            "{text}"
        );
    }

    #[test]
    fn hostile_text_stays_well_formed() {
        let text = document(&[Case {
            failure: Some("]]> <x> \u{1b}[31m & \u{0}\"".to_owned()),
            ..case("a<b")
        }])
        .unwrap();
        assert!(text.contains("failures=\"1\""));
        assert!(text.contains("a&lt;b"));
        assert!(!text.contains('\u{1b}') && !text.contains('\u{0}') && !text.contains("<x>"));
    }
}
