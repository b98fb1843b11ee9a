//! What the end-to-end tests share.
//!
//! | module | holds |
//! |---|---|
//! | [`browser`] | a headless Chromium of one's own, ended with the value |
//! | [`installation`] | `faultline up` in a folder and on ports of its own |
//! | [`serving`] | the server on the fake provider, in-process |
//! | [`pypi`] | packages from PyPI, installed once |
//! | [`student`] | what a student does, from the sign-in link to the solved lab; takes any server's link |
//! | [`access`] | an automated accessibility check of a page |

pub mod access;
pub mod browser;
pub mod installation;
pub mod pypi;
pub mod serving;
pub mod student;

pub use browser::Browser;
