//! HTTP API, pages, reconcilers, wiring.
