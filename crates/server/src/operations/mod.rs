//! What people can do, one operation per file. Each takes a proof of authorization, changes intent or progress in one
//! transaction, and wakes the reconcilers. Pages and API change things only through operations.

use crate::problem::Problem;

pub(crate) mod add_node;
pub(crate) mod authoring;
pub(crate) mod check;
pub(crate) mod credential;
pub(crate) mod end;
pub(crate) mod export;
pub(crate) mod exposures;
pub(crate) mod extend;
pub(crate) mod give_up;
pub(crate) mod groups;
pub(crate) mod invitations;
pub(crate) mod keys;
pub(crate) mod limits;
pub(crate) mod look;
pub(crate) mod mail;
pub(crate) mod maintenance;
pub(crate) mod oidc;
pub(crate) mod passkeys;
pub(crate) mod passwords;
pub(crate) mod people;
pub(crate) mod pools;
pub(crate) mod remove_node;
pub(crate) mod reset;
pub(crate) mod restore;
pub(crate) mod resume;
pub(crate) mod reveal_hint;
pub(crate) mod save;
pub(crate) mod sessions;
pub(crate) mod sign_in_link;
pub(crate) mod start;
pub(crate) mod suspend;
pub(crate) mod tokens;

/// Returns a text without what [`tidy`] removes. A text that is too long is an error rather than cut.
fn line(what: &str, text: &str, most: usize) -> Result<String, Problem> {
    let tidied = tidy(text, usize::MAX);
    match tidied.chars().count() {
        n if n > most => Err(Problem::bad_request(format!(
            "{what} has {n} characters; at most {most} are allowed."
        ))),
        _ => Ok(tidied),
    }
}

/// Removes control characters, characters that hide or reorder text, and surrounding white space. Limits the length.
fn tidy(text: &str, most: usize) -> String {
    let line = text.replace(['\n', '\r', '\t'], " ");
    let clean = faultline_lab::text::clean(line.as_bytes(), usize::MAX);
    clean.trim().chars().take(most).collect()
}
