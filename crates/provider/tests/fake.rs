//! Checks that the fake passes the same suite as real machines.

use faultline_provider::{
    conformance,
    fake::{FakeProvider, IMAGE},
};

#[tokio::test]
async fn the_fake_passes_the_conformance_suite() {
    conformance::run(&FakeProvider::default(), IMAGE).await;
}
