//! The types that the API returns and accepts.
//!
//! | module | holds |
//! |---|---|
//! | [`account`] | the caller's own keys, tokens and sessions |
//! | [`environments`] | environments, their nodes, clusters and places in the queue |
//! | [`groups`] | groups, their members and progress |
//! | [`labs`] | labs, hints, solutions, attempts and check runs |
//! | [`mail`] | mail |
//! | [`maintenance`] | maintenance |
//! | [`operator`] | the installation, its audit log and its capacity |
//! | [`people`] | people and invitations |
//! | [`pools`] | warm pools and events |

pub(crate) mod account;
pub(crate) mod environments;
pub(crate) mod groups;
pub(crate) mod labs;
pub(crate) mod mail;
pub(crate) mod maintenance;
pub(crate) mod operator;
pub(crate) mod people;
pub(crate) mod pools;
