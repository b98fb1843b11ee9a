//! Lab folders: loading, linting, schema, the evaluation of checks, and proofs.
