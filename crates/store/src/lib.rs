//! Intent, observation and progress in SQL; the only place with SQL in it.
