//! The loop of one connection: consumes its events, owns its channels, never waits for one of them.

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

/// At most so often the directory hears that an environment is used.
const USED_EVERY: Duration = Duration::from_secs(30);
/// How long one may stay who can't enter.
const READ: Duration = Duration::from_secs(10);

/// A connection's state.
pub(crate) struct Connection {
    pub config: Arc<Config>,
    pub directory: Arc<dyn Directory>,
    pub provider: Arc<dyn Provider>,
    pub gate: Arc<Gate>,
    admitted: Option<Admitted>,
    channels: HashMap<Id, Stage>,
    tasks: JoinSet<()>,
    told: Option<Instant>,
    since: Instant,
}

/// What a channel is doing.
enum Stage {
    /// Opened, and nothing is run yet.
    Waiting {
        sender: Sender,
        pty: Option<Pty>,
        env: BTreeMap<String, String>,
    },
    /// A task has it. Input is queued without waiting; the connection's gate bounds it.
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
            told: None,
            since: Instant::now(),
        }
    }

    /// Serves the connection to its end. Dropping it ends all its tasks.
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
                    running.disconnect("the gateway is stopping; your environment goes on, connect again in a moment").await;
                    break;
                }
                _ = recheck.tick(), if self.admitted.is_some() => {
                    if let Err(why) = self.still_may().await {
                        running.disconnect(&why).await;
                        break;
                    }
                }
                () = &mut late, if self.admitted.is_none() => {
                    running.disconnect("too slow to log in").await;
                    break;
                }
            }
        }
        self.tasks.shutdown().await;
        self.gate.cut();
        // The library's own task ends once its socket does; it is given a moment to say what is left to say.
        let _ = tokio::time::timeout(Duration::from_secs(2), running.ended()).await;
    }

    fn on(&mut self, event: Event) {
        match event {
            Event::Authenticated(admitted) => {
                tracing::info!(environment = %admitted.login.environment, "ssh login");
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
                // Dropping what waits to be opened refuses it.
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
            // The task sees its queue end.
            Event::Closed { id } => {
                self.channels.remove(&id);
            }
        }
    }

    /// Whether the client could log in now as it did. A reset has given the environment another tenant: what the client
    /// opens from here on is opened there.
    async fn still_may(&mut self) -> Result<(), String> {
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
            // Who came to a closed door has a moment to read why.
            Some(Admission::Closed(why))
                if matches!(admission, Admission::Enter(_)) || self.since.elapsed() >= READ =>
            {
                return Err(why);
            }
            Some(Admission::Closed(_)) => {}
            None => return Err("this key does not open this environment any more".to_owned()),
        }
        Ok(())
    }

    /// Why nothing can be entered, if that is so.
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

    /// Takes a waiting channel into a running one.
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
        if self.told.is_some_and(|at| at.elapsed() < USED_EVERY) {
            return;
        }
        self.told = Some(Instant::now());
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
