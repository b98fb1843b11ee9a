//! The helper inside a guest. It owns the virtio-serial port and serves one request per substream.
//!
//! ```text
//! faultline-guest                     serve the port, as started by its systemd unit
//! faultline-guest trusted -- PROGRAM  run a program with the tools of the original image
//! ```
//!
//! It has one thread and uses a few megabytes, since sixty may run on one host. A failure in one substream (a program that
//! dies, a peer that stalls) doesn't affect the others; a failure of the port restarts the link.

mod exec;
mod files;
mod port;
mod queries;
mod refresh;
mod services;
mod spawn;
mod terminal;
mod trusted;

use std::{io, process::ExitCode, rc::Rc, time::Duration};

use faultline_guest::{
    link::{self, Substream},
    wire::{Reply, Request, Response, VERSION, read_header, write_header},
};

const PORT: &str = "/dev/virtio-ports/faultline.0";

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next().as_deref().and_then(|a| a.to_str()) {
        None => {}
        Some("trusted") => {
            let rest: Vec<_> = args.skip_while(|a| a == "--").collect();
            eprintln!("faultline-guest: {}", trusted::run(&rest));
            return ExitCode::from(126);
        }
        Some(other) => {
            eprintln!(
                "faultline-guest: unknown word {other:?}; without arguments it serves the guest link"
            );
            return ExitCode::from(2);
        }
    }
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("faultline-guest: no runtime: {e}");
            return ExitCode::FAILURE;
        }
    };
    if let Err(e) = spawn::remember_self() {
        eprintln!("faultline-guest: cannot open this program: {e}");
        return ExitCode::FAILURE;
    }
    let port = std::env::var("FAULTLINE_PORT").unwrap_or_else(|_| PORT.to_owned());
    tokio::task::LocalSet::new().block_on(&runtime, serve(&port))
}

/// Serves the port forever. Fails only if there is none, so that systemd reports it.
async fn serve(path: &str) -> ExitCode {
    let terminals = Rc::new(terminal::Terminals::default());
    let port = match port::open(path) {
        Ok(port) => port,
        Err(e) => {
            eprintln!("faultline-guest: cannot open {path}: {e}");
            return ExitCode::FAILURE;
        }
    };
    loop {
        port::wait_for_host(&port).await;
        let session = match port::Port::new(&port) {
            Ok(mut session) => {
                link::serve(&mut session, |stream| {
                    let terminals = Rc::clone(&terminals);
                    tokio::task::spawn_local(async move {
                        if let Err(e) = answer(stream, &terminals).await {
                            eprintln!("faultline-guest: a substream ended: {e}");
                        }
                    });
                })
                .await
            }
            Err(e) => Err(e),
        };
        // The host disconnected, or this is a clone: start again.
        if let Err(e) = session
            && e.kind() != io::ErrorKind::UnexpectedEof
        {
            eprintln!("faultline-guest: the link ended: {e}");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn answer(mut stream: Substream, terminals: &Rc<terminal::Terminals>) -> io::Result<()> {
    let request: Request = read_header(&mut stream).await?;
    let done = |result: io::Result<()>| result.map(|()| Reply::Done);
    let reply = match request {
        Request::Ping => Ok(pong()),
        Request::Hold => done(services::hold()),
        Request::Refresh(order) => done(refresh::refresh(&order)),
        Request::Reseed { seed } => done(refresh::mix_in(&seed)),
        Request::StepClock { unix_nanos } => done(refresh::step_clock(unix_nanos)),
        Request::Authorize { keys } => done(refresh::authorize(&keys)),
        Request::Exec(order) => return exec::serve(stream, order, terminals.announced()).await,
        Request::Terminal(order) => return terminals.attach(stream, order).await,
        Request::Look { id } => return terminals.look(stream, &id).await,
        Request::Terminals => Ok(Reply::Terminals {
            ids: terminals.ids(),
        }),
        Request::CloseTerminal { id } => done(terminals.close(&id)),
        Request::Announce { text } => {
            terminals.announce(&text);
            Ok(Reply::Done)
        }
        Request::Stat { path } => files::stat(&path).map(|file| Reply::Stat { file }),
        Request::ReadFile { path, max } => return files::read(stream, &path, max).await,
        Request::WriteFile { path, mode } => return files::write(stream, &path, mode).await,
        Request::Forward { host, port } => return files::forward(stream, &host, port).await,
    };
    respond(&mut stream, reply).await
}

/// Carries out a request.
async fn respond(stream: &mut Substream, reply: io::Result<Reply>) -> io::Result<()> {
    let response = match reply {
        Ok(reply) => Response::Ok(reply),
        Err(e) => Response::Error(e.to_string()),
    };
    write_header(stream, &response).await
}

/// Returns the seconds since boot, from a system call, because `/proc` may be the student's.
fn pong() -> Reply {
    let since_boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Reply::Pong {
        version: VERSION,
        uptime_seconds: since_boot.tv_sec.unsigned_abs(),
    }
}
