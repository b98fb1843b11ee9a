//! The process `forward`: makes the API server reachable at a port of the machine's loopback.
//!
//! It listens in the machine's network namespace and then enters the control plane's, where it opens its connections. No
//! interface connects the two, so packets of pods have no way to the machine, and nothing has to be configured there.

use std::{
    fs::File,
    io::{self, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::fd::AsFd,
    path::Path,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::{io::copy_bidirectional, net::TcpStream};

use crate::{
    member::pid_file,
    place::{API_PORT, Member},
    process,
    state::State,
};

/// Listens at the port that the cluster's state names, or at any free one, and prints its number. Runs before any thread
/// was started.
pub(crate) fn run(folder: &Path) -> io::Result<()> {
    process::wait_for_group()?;
    let port = State::load(folder)?.port;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(|e| {
        let next = "pass another one with --port, or leave it out to take any free one";
        io::Error::new(
            e.kind(),
            format!("cannot listen on 127.0.0.1:{port}: {e}; {next}"),
        )
    })?;
    let pid: u32 = process::read(&pid_file(folder, Member::ControlPlane))?;
    let namespace = File::open(format!("/proc/{pid}/ns/net"))?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    println!("{}", listener.local_addr()?.port());
    io::stdout().flush()?;
    let nowhere = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(nowhere.as_fd())?;
    rustix::stdio::dup2_stderr(nowhere.as_fd())?;
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(listener))
}

async fn serve(listener: TcpListener) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let to = SocketAddr::from((Member::ControlPlane.address(), API_PORT));
    loop {
        // Accepting fails for a moment when there are no file descriptors left.
        let Ok((mut client, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        tokio::spawn(async move {
            let _ = client.set_nodelay(true);
            if let Ok(mut server) = TcpStream::connect(to).await {
                let _ = server.set_nodelay(true);
                let _ = copy_bidirectional(&mut client, &mut server).await;
            }
        });
    }
}
