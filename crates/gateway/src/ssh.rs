//! The only module that uses the SSH library. Its callbacks decide only about authentication. Everything else they
//! translate into [`Event`]s, which the connection's loop consumes without waiting for a channel.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use russh::{
    Channel, ChannelId, ChannelOpenFailure, ChannelWriteHalf, Disconnect, MethodKind, MethodSet,
    Sig, SshId,
    keys::ssh_key,
    server::{
        Auth, ChannelOpenHandle, Handle, Handler, Msg, PublicKeyOffer, Session, VerifiedPublicKey,
    },
};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    sync::mpsc,
};

use crate::{
    Admission, Config, Directory, HostKey, Login, PublicKey,
    gate::{Gate, Gated, Held},
    limit::Ledger,
};

/// The number of a channel on its connection.
pub(crate) type Id = u32;

/// A logged-in client's admission, and its credentials, so that it can be authorized again.
pub(crate) struct Admitted {
    pub admission: Admission,
    pub login: Login,
    pub key: PublicKey,
}

/// An action of a client.
pub(crate) enum Event {
    /// It logged in.
    Authenticated(Admitted),
    /// It opened a session channel.
    Opened { id: Id, sender: Sender },
    /// It requested a connection to an address, made from inside the guest.
    Forward {
        id: Id,
        sender: Sender,
        host: String,
        port: u16,
        opening: Opening,
    },
    /// It requested a terminal.
    Pty {
        id: Id,
        term: String,
        rows: u16,
        cols: u16,
    },
    /// It set an allowed environment variable.
    Env { id: Id, name: String, value: String },
    /// It requested a shell.
    Shell { id: Id },
    /// It requested a command.
    Exec { id: Id, command: Vec<u8> },
    /// It requested file transfer.
    Sftp { id: Id },
    /// It resized its terminal.
    Resize {
        id: Id,
        rows: u16,
        cols: u16,
        held: Held,
    },
    /// It sent a signal for the program.
    Signal { id: Id, number: u8, held: Held },
    /// It sent input for the program or the forwarded connection.
    Data { id: Id, data: Held },
    /// It ended its input.
    Eof { id: Id },
    /// It closed the channel.
    Closed { id: Id },
}

/// The sending side of one channel. Writes wait for the client's window.
pub(crate) struct Sender(ChannelWriteHalf<Msg>);

/// An output stream to the client.
pub(crate) type Writer = Box<dyn AsyncWrite + Send + Unpin>;

impl Sender {
    pub(crate) fn stdout(&self) -> Writer {
        Box::new(self.0.make_writer())
    }

    pub(crate) fn stderr(&self) -> Writer {
        Box::new(self.0.make_writer_ext(Some(1)))
    }

    /// Ends a session channel with an exit code.
    pub(crate) async fn exit(&self, code: u32) {
        let _ = self.0.eof().await;
        let _ = self.0.exit_status(code).await;
        let _ = self.0.close().await;
    }

    /// Ends the output.
    pub(crate) async fn eof(&self) {
        let _ = self.0.eof().await;
    }

    /// Ends the channel.
    pub(crate) async fn close(&self) {
        let _ = self.0.close().await;
    }

    /// Writes a line to standard error. Gives up after 5 seconds if the client doesn't read it.
    pub(crate) async fn say(&self, line: &str) {
        let text = format!("{line}\r\n");
        let mut stderr = self.stderr();
        let _ =
            tokio::time::timeout(Duration::from_secs(5), stderr.write_all(text.as_bytes())).await;
    }
}

/// A requested channel, to be accepted or refused.
pub(crate) struct Opening(ChannelOpenHandle);

impl Opening {
    pub(crate) async fn accept(self) {
        self.0.accept().await;
    }

    pub(crate) async fn unreachable(self) {
        self.0.reject(ChannelOpenFailure::ConnectFailed).await;
    }
}

/// The library's side of an open connection.
pub(crate) struct Running {
    session: russh::server::RunningSession<Translator>,
    handle: Handle,
}

impl Running {
    /// Waits until the connection ends.
    pub(crate) async fn ended(&mut self) {
        if let Err(e) = (&mut self.session).await {
            tracing::debug!(error = %e, "SSH connection ended");
        }
    }

    /// Disconnects the client, with a reason.
    pub(crate) async fn disconnect(&self, why: &str) {
        let bye = self
            .handle
            .disconnect(Disconnect::ByApplication, why.to_owned(), String::new());
        let _ = tokio::time::timeout(Duration::from_secs(1), bye).await;
    }
}

/// The library's configuration, which all connections share.
pub(crate) struct Library(Arc<russh::server::Config>);

impl Library {
    pub(crate) fn new(key: &HostKey, config: &Config) -> Self {
        Self(Arc::new(russh::server::Config {
            server_id: SshId::Standard("SSH-2.0-Faultline".into()),
            methods: MethodSet::from([MethodKind::PublicKey].as_slice()),
            auth_rejection_time: config.rejection,
            // Every client first asks for the supported methods. The refusal of that reveals nothing.
            auth_rejection_time_initial: Some(Duration::ZERO),
            keys: vec![key.library()],
            max_auth_attempts: 12,
            inactivity_timeout: None,
            keepalive_interval: Some(config.keepalive),
            keepalive_max: 3,
            channel_buffer_size: 16,
            event_buffer_size: 16,
            nodelay: true,
            ..Default::default()
        }))
    }

    /// Exchanges versions with a client and starts the session. The receiver gets the client's events and ends with the
    /// connection.
    pub(crate) async fn run(
        &self,
        socket: Gated,
        gate: Arc<Gate>,
        peer: IpAddr,
        directory: Arc<dyn Directory>,
        ledger: Arc<Mutex<Ledger>>,
    ) -> Result<(Running, mpsc::Receiver<Event>), russh::Error> {
        let (events, receiver) = mpsc::channel(64);
        let translator = Translator {
            events,
            gate,
            peer,
            directory,
            ledger,
        };
        let session = russh::server::run_stream(self.0.clone(), socket, translator).await?;
        let handle = session.handle();
        Ok((Running { session, handle }, receiver))
    }
}

struct Translator {
    events: mpsc::Sender<Event>,
    gate: Arc<Gate>,
    peer: IpAddr,
    directory: Arc<dyn Directory>,
    ledger: Arc<Mutex<Ledger>>,
}

impl Translator {
    async fn tell(&self, event: Event) -> Result<(), russh::Error> {
        self.events
            .send(event)
            .await
            .map_err(|_| russh::Error::Disconnect)
    }

    /// Asks the directory. Counts refusals, and returns an error that ends the connection after too many.
    async fn authorize(
        &self,
        credential: Option<&(Login, PublicKey)>,
    ) -> Result<Option<Admission>, russh::Error> {
        let admission = match credential {
            Some((login, key)) => self.directory.authorize(login, key).await,
            None => None,
        };
        if admission.is_none() {
            let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
            if !ledger.failed(self.peer, Instant::now()) {
                return Err(russh::Error::Disconnect);
            }
        }
        Ok(admission)
    }
}

/// Parses the user name and the key that a client presents.
fn credential(user: &str, key: &ssh_key::PublicKey) -> Option<(Login, PublicKey)> {
    Some((Login::parse(user)?, PublicKey::from_library(key)?))
}

fn id(channel: ChannelId) -> Id {
    channel.number()
}

fn size(n: u32) -> u16 {
    u16::try_from(n).unwrap_or(u16::MAX)
}

/// Returns whether a client may set this environment variable to this value.
fn may_set(name: &str, value: &str) -> bool {
    matches!(name, "LANG" | "TERM")
        && value.len() <= 64
        && value
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-@+".contains(&b))
}

fn number(signal: &Sig) -> Option<u8> {
    Some(match signal {
        Sig::HUP => 1,
        Sig::INT => 2,
        Sig::QUIT => 3,
        Sig::ILL => 4,
        Sig::ABRT => 6,
        Sig::FPE => 8,
        Sig::KILL => 9,
        Sig::USR1 => 10,
        Sig::SEGV => 11,
        Sig::PIPE => 13,
        Sig::ALRM => 14,
        Sig::TERM => 15,
        Sig::Custom(name) if name == "USR2" => 12,
        Sig::Custom(_) => return None,
    })
}

impl Handler for Translator {
    type Error = russh::Error;

    async fn auth_publickey_offered(
        &mut self,
        user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, Self::Error> {
        Ok(
            match self
                .authorize(credential(user, offer.public_key).as_ref())
                .await?
            {
                Some(_) => Auth::Accept,
                None => Auth::reject(),
            },
        )
    }

    async fn auth_publickey(
        &mut self,
        user: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        let credential = credential(user, key.public_key);
        Ok(
            match (self.authorize(credential.as_ref()).await?, credential) {
                (Some(admission), Some((login, key))) => {
                    let admitted = Admitted {
                        admission,
                        login,
                        key,
                    };
                    self.tell(Event::Authenticated(admitted)).await?;
                    Auth::Accept
                }
                _ => Auth::reject(),
            },
        )
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        reply.accept().await;
        let id = id(channel.id());
        let (_, write) = channel.split();
        self.tell(Event::Opened {
            id,
            sender: Sender(write),
        })
        .await
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        let (Ok(port), true) = (u16::try_from(port), host.len() <= 255) else {
            reply.reject(ChannelOpenFailure::ConnectFailed).await;
            return Ok(());
        };
        let id = id(channel.id());
        let (_, write) = channel.split();
        self.tell(Event::Forward {
            id,
            sender: Sender(write),
            host: host.to_owned(),
            port,
            opening: Opening(reply),
        })
        .await
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        term: &str,
        cols: u32,
        rows: u32,
        _: u32,
        _: u32,
        _: &[(russh::Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let term = if may_set("TERM", term) && !term.is_empty() {
            term
        } else {
            "xterm-256color"
        };
        self.tell(Event::Pty {
            id: id(channel),
            term: term.to_owned(),
            rows: size(rows),
            cols: size(cols),
        })
        .await?;
        session.channel_success(channel)
    }

    async fn env_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        value: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        if !may_set(name, value) {
            return session.channel_failure(channel);
        }
        self.tell(Event::Env {
            id: id(channel),
            name: name.to_owned(),
            value: value.to_owned(),
        })
        .await?;
        session.channel_success(channel)
    }

    async fn shell_request(
        &mut self,
        channel: ChannelId,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_success(channel)?;
        self.tell(Event::Shell { id: id(channel) }).await
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_success(channel)?;
        self.tell(Event::Exec {
            id: id(channel),
            command: command.to_vec(),
        })
        .await
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        if name != "sftp" {
            return session.channel_failure(channel);
        }
        session.channel_success(channel)?;
        self.tell(Event::Sftp { id: id(channel) }).await
    }

    async fn window_change_request(
        &mut self,
        channel: ChannelId,
        cols: u32,
        rows: u32,
        _: u32,
        _: u32,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        self.tell(Event::Resize {
            id: id(channel),
            rows: size(rows),
            cols: size(cols),
            held: self.gate.hold(Bytes::new()),
        })
        .await
    }

    async fn signal(
        &mut self,
        channel: ChannelId,
        signal: Sig,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        match number(&signal) {
            Some(number) => {
                self.tell(Event::Signal {
                    id: id(channel),
                    number,
                    held: self.gate.hold(Bytes::new()),
                })
                .await
            }
            None => Ok(()),
        }
    }

    async fn x11_request(
        &mut self,
        channel: ChannelId,
        _: bool,
        _: &str,
        _: &str,
        _: u32,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_failure(channel)
    }

    async fn data(
        &mut self,
        channel: ChannelId,
        data: &[u8],
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        if data.is_empty() {
            return Ok(());
        }
        let data = self.gate.hold(Bytes::copy_from_slice(data));
        self.tell(Event::Data {
            id: id(channel),
            data,
        })
        .await
    }

    async fn channel_eof(
        &mut self,
        channel: ChannelId,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        self.tell(Event::Eof { id: id(channel) }).await
    }

    async fn channel_close(
        &mut self,
        channel: ChannelId,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        self.tell(Event::Closed { id: id(channel) }).await
    }
}
