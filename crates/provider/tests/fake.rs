//! The fake behaves: it passes the suite that real machines pass.

use faultline_provider::{
    conformance,
    fake::{FakeProvider, IMAGE},
};

#[tokio::test]
async fn the_fake_passes_the_conformance_suite() {
    conformance::run(&FakeProvider::default(), IMAGE).await;
}
