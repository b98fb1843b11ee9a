//! Helpers of the end-to-end tests.
//!
//! | module | holds |
//! |---|---|
//! | [`browser`] | a headless Chromium, which ends when the value is dropped |
//! | [`installation`] | `faultline up` with its own folder and ports |
//! | [`serving`] | an in-process server with the fake provider |
//! | [`idp`] | a real identity provider |
//! | [`pypi`] | packages from PyPI, installed once |
//! | [`student`] | a student's actions, from the sign-in link to the solved lab, on any server |
//! | [`access`] | an automated accessibility check of a page |

pub mod access;
pub mod browser;
pub mod idp;
pub mod installation;
pub mod pypi;
pub mod serving;
pub mod student;

pub use browser::Browser;
