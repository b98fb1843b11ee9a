//! The agenda of all people, the clock, and the crashes.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use faultline_domain::{Clock, EnvironmentId, PersonId, environment::EndReason};
use faultline_provider::Provider;
use jiff::{SignedDuration, Timestamp};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};

use super::{
    Settings,
    figures::{Class, Figures, millis},
    host::{Answer, Host, slug},
    people::{Habit, Plan, Visit, plan},
    whole,
};
use crate::bench::{
    Report,
    demand::{DAY, at},
};

/// How often somebody who waits looks at the environment.
const LOOK: SignedDuration = SignedDuration::from_mins(4);
/// How long somebody waits who isn't patient.
const PATIENCE: SignedDuration = SignedDuration::from_mins(12);
/// When somebody who got no response tries again.
const AGAIN: SignedDuration = SignedDuration::from_secs(5);
/// The longest jump of the clock, since people and pools have deadlines of minutes.
const MAX_STEP: SignedDuration = SignedDuration::from_secs(90);
const MIN_STEP: SignedDuration = SignedDuration::from_secs(5);
/// The real time within which everything that is in progress must end.
const QUIET: Duration = Duration::from_secs(300);
/// The reconcilers that must have seen the present time before it goes on.
const AWAITED: [&str; 3] = ["tenants", "environments", "save points"];

/// Something that happens at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Act {
    Start,
    Look,
    Reset,
    Save,
    Restore,
    End,
}

/// What is known of a visit.
#[derive(Debug, Clone, Default)]
struct Course {
    environment: Option<String>,
    save: Option<String>,
    /// When the person began to wait.
    waits_since: Option<Timestamp>,
}

/// Advances the clock as fast as the real one.
struct Ticker {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Ticker {
    fn of(clock: Clock) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut last = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
                let now = Instant::now();
                let passed = SignedDuration::try_from(now - last).unwrap_or_default();
                clock.advance(passed);
                last = now;
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has no result.
            let _ = thread.join();
        }
    }
}

/// Runs the simulation.
pub(super) struct Driver {
    settings: Settings,
    host: Host,
    visits: Vec<Visit>,
    courses: Vec<Course>,
    classes: Vec<(Timestamp, Timestamp)>,
    begun_classes: Vec<Class>,
    agenda: BinaryHeap<Reverse<(Timestamp, usize, Act)>>,
    crashes: Vec<Timestamp>,
    /// When machines die.
    deaths: Vec<Timestamp>,
    in_flight: HashMap<u64, (usize, Act)>,
    known: BTreeSet<EnvironmentId>,
    /// The starts without a response, by person and lab, which are repeated.
    unsure: BTreeSet<(usize, usize)>,
    figures: Figures,
    rng: StdRng,
    began: Instant,
    _ticker: Ticker,
}

impl Driver {
    pub fn new(settings: Settings) -> anyhow::Result<Self> {
        let clock = Clock::stopped(at(0));
        let host = Host::new(
            settings.people,
            settings.places(),
            settings.seed,
            clock.clone(),
        )?;
        let Plan {
            visits,
            classes,
            events,
        } = plan(&settings);
        let (store, now) = (host.store()?, clock.now());
        host.block_on(async {
            for event in &events {
                store.announce_event(event, &PersonId::local(), now).await?;
            }
            Ok(())
        })?;
        let mut rng = StdRng::seed_from_u64(settings.seed ^ 0xc4a5);
        let seconds = i64::from(settings.days.max(1)) * DAY;
        let random = |rng: &mut StdRng| at(rng.random_range(seconds / 4..seconds));
        // A third of the crashes comes while a class begins.
        let in_class = |rng: &mut StdRng, (from, to): &(Timestamp, Timestamp)| {
            let micros = rng.random_range(0..=to.duration_since(*from).as_micros().max(1));
            let micros = i64::try_from(micros).unwrap_or_default();
            from.saturating_add(SignedDuration::from_micros(micros))
                .unwrap_or(*from)
        };
        let mut crashes: Vec<Timestamp> = (0..settings.crashes)
            .map(|n| match classes.choose(&mut rng) {
                Some(class) if n % 3 == 0 => in_class(&mut rng, class),
                _ => random(&mut rng),
            })
            .collect();
        crashes.sort_unstable_by_key(|at| Reverse(*at));
        let deaths = settings.environments / 300;
        let mut deaths: Vec<Timestamp> = (0..deaths).map(|_| random(&mut rng)).collect();
        deaths.sort_unstable_by_key(|at| Reverse(*at));
        let agenda = visits.iter().enumerate();
        let agenda = agenda.map(|(n, visit)| Reverse((visit.at, n, Act::Start)));
        Ok(Self {
            agenda: agenda.collect(),
            courses: vec![Course::default(); visits.len()],
            visits,
            classes,
            begun_classes: Vec::new(),
            crashes,
            deaths,
            in_flight: HashMap::new(),
            known: BTreeSet::new(),
            unsure: BTreeSet::new(),
            figures: Figures::new(),
            rng,
            began: Instant::now(),
            _ticker: Ticker::of(clock),
            host,
            settings,
        })
    }

    fn now(&self) -> Timestamp {
        self.host.clock.now()
    }

    pub fn run(mut self) -> anyhow::Result<Report> {
        let end = at(i64::from(self.settings.days.max(1)) * DAY);
        let mut day = 1;
        while self.now() < end {
            self.settle()?;
            let midnight = at(day * DAY);
            if self.now() >= midnight {
                self.check()?;
                tracing::info!(day, known = self.known.len(), "a simulated day has passed");
                day += 1;
            }
            self.jump(end);
        }
        self.end()
    }

    /// Jumps to what happens next, in steps that fit the real time.
    fn jump(&self, end: Timestamp) {
        let now = self.now();
        let left = end.duration_since(now).as_secs_f64();
        let budget = f64::from(self.settings.minutes) * 60.0 - self.began.elapsed().as_secs_f64();
        // Each step takes about 50 ms.
        let seconds =
            (left * 0.05 / budget.max(0.01)).clamp(MIN_STEP.as_secs_f64(), MAX_STEP.as_secs_f64());
        let step = SignedDuration::try_from_secs_f64(seconds).unwrap_or(MAX_STEP);
        let next = self.agenda.peek().map_or(end, |Reverse((at, ..))| *at);
        let events = [self.crashes.last(), self.deaths.last()];
        let next = events
            .into_iter()
            .flatten()
            .fold(next, |next, at| next.min(*at));
        let farthest = now.saturating_add(MAX_STEP).unwrap_or(end);
        let nearest = now.saturating_add(step).unwrap_or(end);
        let mut target = next.clamp(nearest.min(farthest), farthest);
        // A class begins at its time, and at the real speed.
        for (begins, _) in &self.classes {
            if now < *begins {
                target = target.min(*begins);
            }
        }
        self.host.clock.advance(target.duration_since(now));
    }

    /// Lets the server work until nothing is in progress and nothing is due.
    fn settle(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        let mut quiet = 0;
        while quiet < 2 {
            ensure!(
                began.elapsed() < QUIET,
                "it does not settle: {} requests, {:?}",
                self.in_flight.len(),
                self.host.reconcilers()
            );
            let is_busy = self.act()?;
            self.figures.sample(&self.host)?;
            if is_busy || !self.in_flight.is_empty() || !self.host.is_idle() {
                quiet = 0;
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            self.pass()?;
            quiet = if self.host.is_idle() { quiet + 1 } else { 0 };
        }
        Ok(())
    }

    /// Waits until the reconcilers have seen the present time.
    fn pass(&mut self) -> anyhow::Result<()> {
        let runs = |host: &Host| -> anyhow::Result<Vec<u64>> {
            let all = host.reconcilers()?.runs();
            let of = |name: &str| {
                all.iter()
                    .find(|r| r.reconciler == name)
                    .map_or(0, |r| r.runs)
            };
            Ok(AWAITED.iter().map(|name| of(name)).collect())
        };
        let before = runs(&self.host)?;
        self.host.reconcilers()?.wake();
        let began = Instant::now();
        loop {
            std::thread::sleep(Duration::from_micros(200));
            self.figures.sample(&self.host)?;
            let now = runs(&self.host)?;
            if now.iter().zip(&before).all(|(now, before)| now > before) {
                return Ok(());
            }
            ensure!(began.elapsed() < QUIET, "the reconcilers don't run");
        }
    }

    /// Does what is due. Returns true if there was something, or if a class begins just now.
    fn act(&mut self) -> anyhow::Result<bool> {
        for answer in self.host.answers() {
            self.hear(&answer)?;
        }
        let now = self.now();
        if self.crashes.last().is_some_and(|at| *at <= now) {
            self.crashes.pop();
            self.crash()?;
            return Ok(true);
        }
        if self.deaths.last().is_some_and(|at| *at <= now) {
            self.deaths.pop();
            self.kill_machine()?;
        }
        while let Some((begins, ends)) = self.classes.first().copied()
            && begins <= now
        {
            self.classes.remove(0);
            let free = self.free_places()?;
            self.begun_classes.push(Class { begins, ends, free });
        }
        let mut is_busy = self
            .begun_classes
            .last()
            .is_some_and(|class| now < class.ends);
        while let Some(Reverse((at, visit, act))) = self.agenda.peek().copied()
            && at <= now
        {
            self.agenda.pop();
            self.take(visit, act)?;
            is_busy = true;
        }
        Ok(is_busy)
    }

    fn free_places(&self) -> anyhow::Result<usize> {
        let store = self.host.store()?;
        let open = self
            .host
            .block_on(async { Ok(store.unfinished_environments().await?) })?;
        let taken = open.iter().filter(|e| e.tenant.is_some()).count();
        let places = usize::try_from(self.settings.places()).unwrap_or(usize::MAX);
        Ok(places.saturating_sub(taken))
    }

    fn later(&mut self, visit: usize, act: Act, after: SignedDuration) {
        let at = self.now().saturating_add(after).unwrap_or(Timestamp::MAX);
        self.agenda.push(Reverse((at, visit, act)));
    }

    /// Sends the request of an act.
    fn take(&mut self, visit: usize, act: Act) -> anyhow::Result<()> {
        let (of, course) = (
            self.visits.get(visit).context("no such visit")?,
            self.courses.get(visit).context("no such visit")?,
        );
        let environment = course.environment.as_deref().unwrap_or_default();
        let path = format!("/environments/{environment}");
        let (method, path, body) = match act {
            Act::Start => ("POST", format!("/labs/{}/environments", slug(of.lab)), None),
            Act::Look => ("GET", path, None),
            Act::Reset => ("POST", format!("{path}/reset"), None),
            Act::Save => ("POST", format!("{path}/save-points"), Some(json!({}))),
            Act::Restore => {
                let Some(save) = &course.save else {
                    return Ok(());
                };
                let body = json!({ "save_point": save });
                ("POST", format!("{path}/restore"), Some(body))
            }
            Act::End => ("DELETE", path, None),
        };
        let number = self.host.send(of.person, method, &path, body)?;
        self.in_flight.insert(number, (visit, act));
        Ok(())
    }

    /// Takes note of a response, and decides what the person does next.
    fn hear(&mut self, answer: &Answer) -> anyhow::Result<()> {
        let Some((visit, act)) = self.in_flight.remove(&answer.request) else {
            return Ok(());
        };
        if let (Act::Start, Some(of)) = (act, self.visits.get(visit)) {
            self.unsure.remove(&(of.person, of.lab));
        }
        let text = |name: &str| answer.body.get(name).and_then(Value::as_str);
        let is_refused = matches!(answer.status, 404 | 409 | 429);
        ensure!(
            answer.status < 300 || is_refused,
            "{act:?} got {}: {}",
            answer.status,
            answer.body
        );
        match act {
            Act::Start if is_refused => self.figures.refused += 1,
            Act::Start => {
                self.figures.starts.push(millis(answer.took));
                let id = text("id").context("no id")?.to_owned();
                self.known.insert(id.parse()?);
                let now = self.now();
                if let Some(course) = self.courses.get_mut(visit) {
                    course.environment = Some(id);
                    course.waits_since.get_or_insert(now);
                }
                self.later(visit, Act::Look, LOOK);
            }
            Act::Look => match text("phase") {
                Some("active") => self.use_it(visit)?,
                Some("requested" | "preparing") => {
                    let of = self.visits.get(visit).context("no such visit")?;
                    let since = self.courses.get(visit).and_then(|c| c.waits_since);
                    let waited = since.map(|since| self.now().duration_since(since));
                    // Whoever doesn't look any more leaves the queue.
                    if of.is_patient || waited.is_none_or(|waited| waited < PATIENCE) {
                        self.later(visit, Act::Look, LOOK);
                    }
                }
                _ => {}
            },
            Act::Save => {
                let save = text("id").map(str::to_owned);
                if let Some(course) = self.courses.get_mut(visit) {
                    course.save = save;
                }
            }
            Act::Reset | Act::Restore | Act::End => {}
        }
        Ok(())
    }

    /// Plans what a person does with an active environment.
    fn use_it(&mut self, visit: usize) -> anyhow::Result<()> {
        let (stay, habit) = {
            let of = self.visits.get(visit).context("no such visit")?;
            (of.stay, of.habit)
        };
        match habit {
            Habit::Forgets => return Ok(()),
            Habit::Resets => self.later(visit, Act::Reset, stay / 2),
            Habit::Saves => {
                self.later(visit, Act::Save, stay / 4);
                self.later(visit, Act::Restore, stay / 2);
            }
            Habit::Ends => {}
        }
        self.later(visit, Act::End, stay);
        Ok(())
    }

    /// Breaks one of the machines.
    fn kill_machine(&mut self) -> anyhow::Result<()> {
        let provider = self.host.provider.clone();
        let all = self.host.block_on(async { Ok(provider.list().await?) })?;
        if let Some((id, _)) = all.choose(&mut self.rng) {
            provider.crash(id);
        }
        Ok(())
    }

    /// Crashes the server, starts the next one, and repeats what got no response.
    fn crash(&mut self) -> anyhow::Result<()> {
        for answer in self.host.crash() {
            self.hear(&answer)?;
        }
        let began = Instant::now();
        self.host.start()?;
        self.figures.recoveries.push(millis(began.elapsed()));
        let unanswered: Vec<_> = self.in_flight.drain().collect();
        for (_, (visit, act)) in unanswered {
            if let (Act::Start, Some(of)) = (act, self.visits.get(visit)) {
                self.unsure.insert((of.person, of.lab));
            }
            self.later(visit, act, AGAIN);
        }
        Ok(())
    }

    fn check(&self) -> anyhow::Result<()> {
        let (store, provider) = (self.host.store()?, &self.host.provider);
        // Who got no response may have an environment that nobody knows of yet.
        let known = self.unsure.is_empty().then_some(&self.known);
        self.host.block_on(whole::check(&store, provider, known))
    }

    /// Ends everything, and checks that nothing is left.
    fn end(mut self) -> anyhow::Result<Report> {
        self.agenda.clear();
        self.settle()?;
        self.check()?;
        let store = self.host.store()?;
        let now = self.now();
        self.host.block_on(async {
            for e in store.unfinished_environments().await? {
                let reason = EndReason::EndedByOperator;
                store.end_environment(&e.id, reason, None, now).await?;
            }
            Ok(())
        })?;
        self.settle()?;
        let times = self
            .host
            .block_on(async { Ok(store.start_times().await?) })?;
        drop(store);
        // Until no start of the last weeks fills a pool, and all save points have expired.
        for _ in 0..2 {
            self.host.clock.advance(SignedDuration::from_hours(24 * 40));
            self.settle()?;
        }
        let store = self.host.store()?;
        let provider = self.host.provider.clone();
        let patient = self.visits.iter().zip(&self.courses);
        let patient = patient.filter(|(visit, _)| visit.is_patient);
        let patient = patient.filter_map(|(_, course)| course.environment.as_ref()?.parse().ok());
        let patient: BTreeSet<EnvironmentId> = patient.collect();
        let (figures, classes) = (self.figures, self.begun_classes);
        let (host, _ticker) = (self.host, self._ticker);
        host.block_on(async {
            whole::check_end(&store, &provider, &times, &patient).await?;
            figures.report(&times, &classes)
        })
    }
}
