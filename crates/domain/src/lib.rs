//! The types and rules of Faultline, without I/O and without an async runtime.
//!
//! | module | holds |
//! |---|---|
//! | [`access_code`] | the codes by which people join an event |
//! | [`id`] | identifiers as newtypes, validated when they are made |
//! | [`attempt`] | a person's attempt at a lab |
//! | [`burst`] | CPU credits: for how long an environment may use its whole CPU limit |
//! | [`check`] | the results of checks |
//! | [`clock`] | the injected clock; nothing else in the workspace reads the system's clock |
//! | [`container`] | descriptions of container images, in labs and image recipes |
//! | [`environment`] | intent, states and transitions of an environment; the pure [`environment::plan`] |
//! | [`exposure`] | what a tenant exposes: names, limits, host names |
//! | [`group`] | groups of people and their instructors |
//! | [`lab`] | the content of a `lab.yaml`: needs, setup, checks, hints, score |
//! | [`keys`] | versions of a person's public keys, and the nodes that still lack the current one |
//! | [`nodes`] | nodes added to a running environment: names, states, the pure [`nodes::plan`] |
//! | [`limits`] | the limits of an environment, and the admission of a new one |
//! | [`mail`] | mail addresses, and when a mail that could not be sent is tried again |
//! | [`maintenance`] | a time in which nothing can be started; the pure [`maintenance::plan`] |
//! | [`memory`] | the memory of a host |
//! | [`person`] | people, and the invitations by which they join |
//! | [`authz`] | the person who makes a request, and the proofs of authorization that handlers need |
//! | [`pool`] | warm pools: the forecast of their sizes, and what to make and release |
//! | [`pressure`] | which environments are suspended when the host is short of memory |
//! | [`progress`] | the progress of long operations, in stages |
//! | [`queue`] | the queue of environments that wait for room on the host |
//! | [`quota`] | how much a person, a group and all people together may use |
//! | [`save_point`] | save points of environments, and who may make another |
//! | [`template`] | the templates that tenants are cloned from |
//! | [`tenant`] | the machines that a provider makes and frees: states and the pure [`tenant::plan`] |
//! | [`shape`] | the number of nodes, and which of them are control planes |
//! | [`score`] | the points for a solved lab |

pub mod access_code;
pub mod attempt;
pub mod authz;
pub mod burst;
pub mod check;
pub mod clock;
pub mod container;
pub mod environment;
pub mod exposure;
pub mod group;
pub mod id;
pub mod keys;
pub mod lab;
pub mod limits;
pub mod mail;
pub mod maintenance;
pub mod memory;
pub mod nodes;
pub mod person;
pub mod pool;
pub mod pressure;
pub mod progress;
pub mod queue;
pub mod quota;
pub mod save_point;
pub mod score;
pub mod shape;
pub mod template;
pub mod tenant;

pub use access_code::AccessCode;
pub use clock::Clock;
pub use id::{
    AttemptId, EnvironmentId, ExposureName, LabSlug, Login, NodeName, PersonId, SavePointId,
    TenantId,
};
pub use mail::MailAddress;
pub use shape::Shape;
pub use template::TemplateRef;
