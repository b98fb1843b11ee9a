//! The pages on the fake provider, to look at while working on them:
//! `cargo run -p faultline-server --example pages -- LABS [MILLISECONDS A START TAKES]`.

use std::{sync::Arc, time::Duration};

use faultline_domain::Clock;
use faultline_lab::Catalogue;
use faultline_provider::fake::FakeProvider;
use faultline_server::{Config, Parts, Server, Shutdown};
use faultline_store::Store;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let labs = args.next().unwrap_or_else(|| "labs".to_owned());
    let millis = args.next().and_then(|ms| ms.parse().ok()).unwrap_or(2000);
    let folder = tempfile::tempdir()?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let server = Server::new(Parts {
        config: Config {
            public_url: format!("http://{address}"),
            data_dir: folder.path().to_owned(),
            ..Config::default()
        },
        store: Store::open(&folder.path().join("pages.db")).await?,
        provider: Arc::new(FakeProvider::new().with_latency(Duration::from_millis(millis))),
        catalogue: Catalogue::load(labs.as_ref()),
        clock: Clock::system(),
        rng: rand::SeedableRng::from_os_rng(),
    })
    .await?;
    println!("{}", server.sign_in_link().await?);
    let shutdown = Shutdown::default();
    let soft = shutdown.soft.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            soft.cancel();
        }
    });
    server.serve(listener, shutdown).await;
    Ok(())
}
