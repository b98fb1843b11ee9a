//! Labs: folders of files that break a machine, define what a repair must achieve, and prove both.
//!
//! | module | holds |
//! |---|---|
//! | [`folder`] | one lab's folder, read whole and bounded: [`LabFolder`] |
//! | [`catalogue`] | all labs of a directory: [`Catalogue`]; a broken one never takes the others down |
//! | [`diagnostic`] | what is wrong with a file: line, column, caret, what to do |
//! | [`lint`] | the rules beyond what the types say |
//! | [`markdown`] | the lab's texts as HTML, made safe |
//! | [`schema`] | the JSON Schema of `lab.yaml` for editors |
//! | [`script`] | running a script in a guest without leaving it there |
//! | [`images`] | container images of a lab's own |
//! | [`manifests`] | Kubernetes objects of a lab, applied as the administrator |
//! | [`setup`] | breaking a machine: [`set_up`] |
//! | [`check`] | finding out whether it is repaired: [`check::check`] |
//! | [`prove`] | start → checks must fail → solution → checks must pass → destroy: [`prove::prove`]; wrong repairs: [`prove::try_wrong`] |
//! | `variables` | values that differ from environment to environment: [`LabFolder::of`] |
//! | [`junit`] | proofs as JUnit XML |
//! | [`scaffold`] | the files of a new lab |
//! | [`suggest`] | what somebody may have meant who wrote a name that there is not |
//!
//! ```no_run
//! # async fn example(provider: &dyn faultline_provider::Provider, env: faultline_domain::TenantId) -> Result<(), Box<dyn std::error::Error>> {
//! use faultline_domain::progress::Progress;
//! use faultline_lab::{Catalogue, check, set_up};
//!
//! let catalogue = Catalogue::load("labs".as_ref());
//! for broken in catalogue.broken() {
//!     eprintln!("{}", broken.render());
//! }
//! let lab = catalogue.get(&"disk-full".parse()?).ok_or("no such lab")?;
//! set_up(provider, &env, lab, &Progress::ignored()).await?;
//! let outcome = check::check(provider, &env, lab, |result| println!("{}: {}", result.title, result.passed)).await;
//! println!("{}", outcome.passed());
//! # Ok(()) }
//! ```

pub mod catalogue;
pub mod check;
pub mod diagnostic;
mod events;
mod files;
pub mod folder;
mod images;
pub mod junit;
pub mod lint;
pub mod manifests;
pub mod markdown;
pub mod prove;
mod quantity;
pub mod scaffold;
pub mod schema;
pub mod script;
pub mod setup;
pub mod suggest;
#[cfg(test)]
mod testing;
pub mod text;

mod tree;
mod variables;
mod violations;
mod yaml;

/// The private parts that `fuzz/` reaches.
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing {
    /// Parses, lints and renders a folder that holds only this `lab.yaml`.
    pub fn lab_yaml(text: &str) {
        let lab = crate::yaml::parse(text);
        let mut found = lab.as_ref().err().cloned().unwrap_or_default();
        let files = crate::files::Files::new();
        crate::lint::run(&files, text, lab.as_ref().ok(), &mut found);
        for diagnostic in found {
            assert!(!diagnostic.render("lab").is_empty());
        }
    }
}

pub use catalogue::{Broken, Catalogue};
pub use check::{check, longest};
pub use diagnostic::{Diagnostic, Severity};
pub use folder::LabFolder;
pub use lint::Served;
pub use setup::{SetupError, set_up};
