//! The SSH gateway: the trust boundary between people and environments.
