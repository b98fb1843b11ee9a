//! The words and the rules of Faultline, without I/O and without an async runtime.
//!
//! | module | holds |
//! |---|---|
//! | [`id`] | every identifier as a newtype, validated where it is made |
//! | [`attempt`] | a person's try at a lab |
//! | [`check`] | what checks found |
//! | [`clock`] | the injected clock; nothing else in the workspace asks the system for the time |
//! | [`container`] | a container image of packages and files, for labs and image recipes |
//! | [`environment`] | intent, states and transitions of an environment; the pure [`environment::plan`] |
//! | [`lab`] | what a `lab.yaml` says: needs, hints, checks, score |
//! | [`keys`] | versions of a person's public keys, and which nodes still have another |
//! | [`nodes`] | nodes added to a running environment: names, states, the pure [`nodes::plan`] |
//! | [`limits`] | what an environment may use, and admission of one more |
//! | [`memory`] | how much memory a host has |
//! | [`authz`] | who is asking, and the proofs a handler needs before it may act |
//! | [`progress`] | staged progress of long work |
//! | [`template`] | what tenants are cloned from |
//! | [`tenant`] | what a provider makes and frees: its states and the pure [`tenant::plan`] |
//! | [`shape`] | how many nodes, and which of them are control planes |
//! | [`score`] | what a solved lab is worth |

pub mod attempt;
pub mod authz;
pub mod check;
pub mod clock;
pub mod container;
pub mod environment;
pub mod id;
pub mod keys;
pub mod lab;
pub mod limits;
pub mod memory;
pub mod nodes;
pub mod progress;
pub mod score;
pub mod shape;
pub mod template;
pub mod tenant;

pub use clock::Clock;
pub use id::{AttemptId, EnvironmentId, LabSlug, NodeName, PersonId, TenantId};
pub use shape::Shape;
pub use template::TemplateRef;
