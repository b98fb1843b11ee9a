//! Image recipes, built into images and baked into snapshots; the cache that holds them.
