//! The loop of one connection. It consumes events and owns the channels, and never waits for one of them.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsString,
    os::unix::ffi::OsStringExt,
    sync::Arc,
    time::{Duration, Instant},
};

use faultline_guest::wire::{Exec, Pty};
use faultline_provider::Provider;
use tokio::{sync::mpsc, task::JoinSet, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::{
    Admission, Config, Directory,
    channel::{self, Guest, Input},
    gate::Gate,
    ssh::{Admitted, Event, Id, Running, Sender},
};

/// The minimum interval between reports to the directory that an environment is in use.
const USED_EVERY: Duration = Duration::from_secs(30);
/// The time that clients who can't enter may stay connected, to read why.
const READING_TIME: Duration = Duration::from_secs(10);

/// The state of a connection.
pub(crate) struct Connection {
    pub config: Arc<Config>,
    pub directory: Arc<dyn Directory>,
    pub provider: Arc<dyn Provider>,
    pub gate: Arc<Gate>,
    admitted: Option<Admitted>,
    channels: HashMap<Id, Stage>,
    tasks: JoinSet<()>,
    use_reported_at: Option<Instant>,
    connected_at: Instant,
}

/// The stage of a channel.
enum Stage {
    /// It is open, and nothing runs on it yet.
    Waiting {
        sender: Sender,
        pty: Option<Pty>,
        env: BTreeMap<String, String>,
    },
    /// A task serves it. Input is queued without waiting; the connection's gate limits the queue.
    Running(mpsc::UnboundedSender<Input>),
}

impl Connection {
    pub(crate) fn new(
        config: Arc<Config>,
        directory: Arc<dyn Directory>,
        provider: Arc<dyn Provider>,
        gate: Arc<Gate>,
    ) -> Self {
        Self {
            config,
            directory,
            provider,
            gate,
            admitted: None,
            channels: HashMap::new(),
            tasks: JoinSet::new(),
            use_reported_at: None,
            connected_at: Instant::now(),
        }
    }

    /// Serves the connection until it ends. Dropping the future ends all its tasks.
    pub(crate) async fn serve(
        mut self,
        mut running: Running,
        mut events: mpsc::Receiver<Event>,
        stop: CancellationToken,
    ) {
        let late = tokio::time::sleep(self.config.login_grace);
        tokio::pin!(late);
        let mut recheck = tokio::time::interval(self.config.recheck);
        recheck.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => self.on(event),
                    None => break,
                },
                Some(_) = self.tasks.join_next() => {}
                () = stop.cancelled() => {
                    running.disconnect("the gateway is stopping; your environment keeps running, connect again in a moment").await;
                    break;
                }
                _ = recheck.tick(), if self.admitted.is_some() => {
                    if let Err(why) = self.reauthorize().await {
                        running.disconnect(&why).await;
                        break;
                    }
                }
                () = &mut late, if self.admitted.is_none() => {
                    running.disconnect("login timed out").await;
                    break;
                }
            }
        }
        self.tasks.shutdown().await;
        self.gate.cut();
        // The library's own task ends when its socket does. This gives it a moment to send what is left.
        let _ = tokio::time::timeout(Duration::from_secs(2), running.ended()).await;
    }

    fn on(&mut self, event: Event) {
        match event {
            Event::Authenticated(admitted) => {
                tracing::info!(environment = %admitted.login.environment, "SSH login");
                self.admitted = Some(admitted);
            }
            Event::Opened { id, sender } => self.opened(id, sender),
            Event::Forward {
                id,
                sender,
                host,
                port,
                opening,
            } => {
                // Dropping `opening` refuses the channel.
                if let (Some(guest), true) = (self.guest(), self.has_room()) {
                    let (queue, input) = mpsc::unbounded_channel();
                    self.channels.insert(id, Stage::Running(queue));
                    self.tasks
                        .spawn(channel::forward(guest, sender, opening, host, port, input));
                    self.used();
                }
            }
            Event::Pty {
                id,
                term,
                rows,
                cols,
            } => {
                if let Some(Stage::Waiting { pty, .. }) = self.channels.get_mut(&id) {
                    *pty = Some(Pty { term, rows, cols });
                }
            }
            Event::Env { id, name, value } => {
                if let Some(Stage::Waiting { env, .. }) = self.channels.get_mut(&id) {
                    env.insert(name, value);
                }
            }
            Event::Shell { id } => self.run(id, Vec::new()),
            Event::Exec { id, command } => {
                let command = OsString::from_vec(command);
                self.run(id, vec!["/bin/bash".into(), "-c".into(), command]);
            }
            Event::Sftp { id } => self.sftp(id),
            Event::Resize {
                id,
                rows,
                cols,
                held,
            } => match self.channels.get_mut(&id) {
                Some(Stage::Waiting { pty: Some(pty), .. }) => {
                    (pty.rows, pty.cols) = (rows, cols);
                }
                _ => self.input(id, Input::Resize { rows, cols, held }),
            },
            Event::Signal { id, number, held } => self.input(id, Input::Signal(number, held)),
            Event::Data { id, data } => {
                self.input(id, Input::Data(data));
                self.used();
            }
            Event::Eof { id } => self.input(id, Input::Eof),
            // Its task sees the queue end.
            Event::Closed { id } => {
                self.channels.remove(&id);
            }
        }
    }

    /// Checks that the client may still log in as it did, or returns why not. After a reset, the environment has
    /// another tenant, in which new channels are opened.
    async fn reauthorize(&mut self) -> Result<(), String> {
        let Some(Admitted {
            login,
            key,
            admission,
        }) = &mut self.admitted
        else {
            return Ok(());
        };
        match self.directory.authorize(login, key).await {
            Some(enter @ Admission::Enter(_)) => *admission = enter,
            // A client that could not enter in the first place has some time to read why.
            Some(Admission::Closed(why))
                if matches!(admission, Admission::Enter(_))
                    || self.connected_at.elapsed() >= READING_TIME =>
            {
                return Err(why);
            }
            Some(Admission::Closed(_)) => {}
            None => return Err("this key no longer gives access to this environment".to_owned()),
        }
        Ok(())
    }

    /// Returns why the environment can't be entered, if so.
    fn closed(&self) -> Option<String> {
        match &self.admitted.as_ref()?.admission {
            Admission::Closed(why) => Some(why.clone()),
            Admission::Enter(_) => None,
        }
    }

    fn guest(&self) -> Option<Guest> {
        match &self.admitted.as_ref()?.admission {
            Admission::Enter(access) => Some(Guest {
                provider: self.provider.clone(),
                access: access.clone(),
            }),
            Admission::Closed(_) => None,
        }
    }

    fn has_room(&mut self) -> bool {
        self.channels.len() < self.config.max_channels
    }

    fn opened(&mut self, id: Id, sender: Sender) {
        if let Some(why) = self.closed() {
            self.tasks.spawn(async move {
                sender.say(&format!("faultline: {why}")).await;
                sender.exit(255).await;
            });
        } else if self.has_room() {
            self.channels.insert(
                id,
                Stage::Waiting {
                    sender,
                    pty: None,
                    env: BTreeMap::new(),
                },
            );
        } else {
            self.tasks.spawn(async move {
                sender
                    .say("faultline: too many sessions on this connection")
                    .await;
                sender.exit(255).await;
            });
        }
    }

    fn input(&self, id: Id, input: Input) {
        if let Some(Stage::Running(queue)) = self.channels.get(&id) {
            let _ = queue.send(input);
        }
    }

    /// Turns a waiting channel into a running one.
    fn begin(&mut self, id: Id) -> Option<(Guest, Begun)> {
        let guest = self.guest()?;
        match self.channels.remove(&id)? {
            Stage::Waiting { sender, pty, env } => {
                let (queue, input) = mpsc::unbounded_channel();
                self.channels.insert(id, Stage::Running(queue));
                self.used();
                Some((guest, (sender, pty, env, input)))
            }
            running @ Stage::Running(_) => {
                self.channels.insert(id, running);
                None
            }
        }
    }

    fn run(&mut self, id: Id, argv: Vec<OsString>) {
        if let Some((guest, (sender, pty, mut env, input))) = self.begin(id) {
            if pty.is_some() {
                env.remove("TERM");
            }
            env.entry("LANG".to_owned())
                .or_insert_with(|| "C.UTF-8".to_owned());
            let exec = Exec {
                argv,
                env,
                pty,
                ..Exec::default()
            };
            self.tasks.spawn(channel::run(guest, sender, exec, input));
        }
    }

    fn sftp(&mut self, id: Id) {
        if let Some((guest, (sender, _, _, input))) = self.begin(id) {
            self.tasks.spawn(channel::sftp(guest, sender, input));
        }
    }

    fn used(&mut self) {
        let Some(Admitted {
            admission: Admission::Enter(access),
            ..
        }) = &self.admitted
        else {
            return;
        };
        if self
            .use_reported_at
            .is_some_and(|at| at.elapsed() < USED_EVERY)
        {
            return;
        }
        self.use_reported_at = Some(Instant::now());
        let (directory, environment) = (self.directory.clone(), access.environment.clone());
        self.tasks
            .spawn(async move { directory.used(&environment).await });
    }
}

type Begun = (
    Sender,
    Option<Pty>,
    BTreeMap<String, String>,
    mpsc::UnboundedReceiver<Input>,
);
