//! The state that all requests and reconcilers share.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use faultline_domain::{
    Clock, EnvironmentId, LabSlug, PersonId, TemplateRef, TenantId,
    attempt::Attempt,
    burst::Credits,
    environment::{EndReason, Environment, State},
    maintenance::{self, Maintenance},
    pool::Pool,
    queue::Place,
};
use faultline_lab::{Catalogue, LabFolder};
use faultline_provider::{Provider, Readiness};
use faultline_store::{
    Secret, Store,
    stages::{Typical, Usual},
};
use jiff::{SignedDuration, Timestamp};
use rand::rngs::StdRng;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Config,
    auth::{oidc, passkeys::Passkeys, pending::Pending},
    config::SettingsError,
    counts::Counts,
    hub::Hub,
    lock::lock,
    looks::Looks,
    mail::Mailer,
    metrics::Metrics,
    operations::{oidc::Begun, save},
    probes::Probes,
    problem::Problem,
    rates::Rates,
    reconcile::{Wake, authorize::Turns},
    status::Status,
    usage::Measurements,
};

/// Returns the lab with its variables set to the environment's values.
fn filled(lab: Arc<LabFolder>, id: &EnvironmentId) -> Arc<LabFolder> {
    match lab.of(id.as_str()) {
        Cow::Borrowed(_) => lab,
        Cow::Owned(filled) => Arc::new(filled),
    }
}

/// Returns the tenant that an environment runs on.
pub(crate) fn tenant(e: &Environment) -> Result<&TenantId, faultline_provider::Error> {
    e.tenant_id().ok_or(faultline_provider::Error::NotFound)
}

#[derive(Debug)]
pub(crate) struct App {
    pub config: Config,
    pub store: Store,
    pub provider: Arc<dyn Provider>,
    pub clock: Clock,
    /// Notifies the watchers of an environment.
    pub hub: Hub,
    /// Wakes the reconcilers.
    pub wake: Wake,
    /// Lets only one task at a time change the keys of a node.
    pub key_turns: Turns,
    pub metrics: Metrics,
    pub rates: Rates,
    /// The status of each reconciler's last run, by the reconciler's name.
    pub statuses: Mutex<BTreeMap<&'static str, Status>>,
    /// Tasks that outlive the request that started them.
    pub tasks: TaskTracker,
    /// Cancelled when the server stops.
    pub stopping: CancellationToken,
    /// The number of open WebSockets of each person.
    pub sockets: Counts<PersonId>,
    /// Who looks into which environment's terminals.
    pub looks: Looks,
    /// The places of the environments that wait for room, as of the last run of the environments' reconciler.
    pub queue: Mutex<HashMap<EnvironmentId, Place>>,
    /// The maintenance that is in effect, as of the last change or the last run of its reconciler.
    pub maintenance: Mutex<Option<Maintenance>>,
    /// What answered at exposures when somebody last looked.
    pub probes: Probes,
    /// What tenants used when they were last measured.
    pub measurements: Measurements,
    /// The CPU credits of environments, and the tenant that they were last observed for.
    pub credits: Mutex<HashMap<EnvironmentId, (TenantId, Credits)>>,
    /// False while there is no disk space for suspended environments.
    pub space_to_suspend: AtomicBool,
    /// Environments with a check run in progress.
    pub checking: Mutex<HashSet<EnvironmentId>>,
    pub started_at: Timestamp,
    /// The identity provider by which people sign in, if one is configured.
    pub identity_provider: Option<Arc<oidc::Provider>>,
    /// The sign-ins through the identity provider that have begun.
    pub sign_ins: Pending<Begun>,
    /// The client of the mail server, if one is configured.
    pub mail: Option<Mailer>,
    /// What passkeys need; none if browsers offer no passkeys at the public URL.
    pub passkeys: Option<Passkeys>,
    /// When each image was last found ready, and as what.
    ready: Mutex<HashMap<TemplateRef, (Timestamp, Readiness)>>,
    /// Previous versions of labs by their hash, so that each is read only once.
    kept: Mutex<HashMap<String, Arc<LabFolder>>>,
    catalogue: RwLock<Arc<Catalogue>>,
    rng: Mutex<StdRng>,
    #[cfg(test)]
    pub crash: crate::crash::Crash,
}

pub(crate) type Shared = Arc<App>;

impl App {
    pub(crate) fn new(parts: crate::Parts) -> Result<Shared, SettingsError> {
        parts.config.check_exposure()?;
        let url = &parts.config.public_url;
        let provider = |settings| oidc::Provider::new(settings, url, parts.clock.clone());
        let identity_provider = parts.config.oidc.clone().map(provider).transpose()?;
        let host = parts.config.host();
        let mailer = |settings| Mailer::new(settings, host);
        let mail = parts.config.mail.clone().map(mailer).transpose()?;
        Ok(Arc::new(Self {
            mail,
            identity_provider: identity_provider.map(Arc::new),
            sign_ins: Pending::default(),
            passkeys: Passkeys::at(&parts.config.public_url),
            started_at: parts.clock.now(),
            rates: Rates::new(&parts.config),
            config: parts.config,
            store: parts.store,
            provider: parts.provider,
            clock: parts.clock,
            hub: Hub::default(),
            wake: Wake::default(),
            key_turns: Turns::default(),
            metrics: Metrics::default(),
            statuses: Mutex::default(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            sockets: Counts::default(),
            looks: Looks::default(),
            queue: Mutex::default(),
            credits: Mutex::default(),
            space_to_suspend: AtomicBool::new(true),
            maintenance: Mutex::default(),
            probes: Probes::default(),
            measurements: Measurements::default(),
            checking: Mutex::default(),
            ready: Mutex::default(),
            kept: Mutex::default(),
            catalogue: RwLock::new(Arc::new(parts.catalogue)),
            rng: Mutex::new(parts.rng),
            #[cfg(test)]
            crash: crate::crash::Crash::default(),
        }))
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn catalogue(&self) -> Arc<Catalogue> {
        self.catalogue
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn set_catalogue(&self, catalogue: Catalogue) {
        *self
            .catalogue
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(catalogue);
    }

    pub(crate) fn lab(&self, slug: &LabSlug) -> Option<Arc<LabFolder>> {
        self.catalogue().get(slug).cloned()
    }

    /// Returns the lab as it was when the environment started, with its variables set. Later changes to its folder
    /// apply only to new environments.
    pub(crate) async fn lab_of(&self, environment: &Environment) -> Option<Arc<LabFolder>> {
        Some(filled(
            self.lab_at_start(environment).await?,
            &environment.id,
        ))
    }

    /// Returns the title of an environment's lab.
    pub(crate) async fn title_of(&self, e: &Environment) -> String {
        let lab = self.lab_of(e).await;
        lab.map_or_else(|| e.lab.to_string(), |lab| lab.lab.title.clone())
    }

    /// Returns a person's name.
    pub(crate) async fn name_of(
        &self,
        person: &PersonId,
    ) -> Result<String, faultline_store::Error> {
        let found = self.store.person(person).await?;
        Ok(found.map_or_else(|| person.to_string(), |found| found.name))
    }

    /// Returns the lab as it was when the environment started, without setting its variables.
    pub(crate) async fn lab_at_start(&self, environment: &Environment) -> Option<Arc<LabFolder>> {
        let today = self.lab(&environment.lab);
        match &environment.lab_hash {
            Some(hash) if today.as_ref().is_none_or(|lab| lab.hash != *hash) => {
                self.kept(&environment.lab, hash).await.or(today)
            }
            _ => today,
        }
    }

    /// Returns the lab of a pool as it was when the tenant was requested.
    pub(crate) async fn lab_with_hash(&self, pool: &Pool, hash: &str) -> Option<Arc<LabFolder>> {
        let Pool::Lab(slug) = pool else {
            return None;
        };
        match self.lab(slug) {
            Some(today) if today.hash == hash => Some(today),
            _ => self.kept(slug, hash).await,
        }
    }

    /// Returns a previous version of a lab, from the store.
    async fn kept(&self, slug: &LabSlug, hash: &str) -> Option<Arc<LabFolder>> {
        if let Some(lab) = lock(&self.kept).get(hash) {
            return Some(lab.clone());
        }
        let content = match self.store.lab_content(hash).await {
            Ok(content) => content?,
            Err(e) => {
                tracing::error!(error = &e as &dyn std::error::Error, "the store failed");
                return None;
            }
        };
        let Some(lab) = LabFolder::restore(slug, hash, &content) else {
            tracing::warn!(lab = %slug, hash, "can't read the stored version of a lab; using the current one");
            return None;
        };
        let lab = Arc::new(lab);
        lock(&self.kept).insert(hash.to_owned(), lab.clone());
        Some(lab)
    }

    /// Returns the lab as its page shows it to a person, and their open environment of it. Variables have the values of
    /// that environment, or example values if there is none.
    pub(crate) async fn lab_shown(
        &self,
        slug: &LabSlug,
        person: &PersonId,
    ) -> Result<(Arc<LabFolder>, Option<Environment>), Problem> {
        let lab = self.lab(slug).ok_or_else(Problem::not_found)?;
        let mine = self.store.unfinished_of(person).await?;
        let open = mine.into_iter().find(|e| e.lab == *slug && e.is_open());
        // Always the same example, so that reloading the page doesn't change it.
        let values = open.as_ref().map(|e| e.id.clone());
        let lab = match (&open, values.or_else(|| "example".parse().ok())) {
            (Some(e), _) => self.lab_of(e).await.unwrap_or(lab),
            (None, Some(id)) => filled(lab, &id),
            (None, None) => lab,
        };
        Ok((lab, open))
    }

    /// Returns whether an image can be cloned, for pages. The provider has to read and hash a recipe, so "ready" is
    /// cached for a few seconds. A start asks the provider itself.
    pub(crate) async fn readiness(&self, template: TemplateRef) -> Readiness {
        const FOR: SignedDuration = SignedDuration::from_secs(10);
        let now = self.now();
        if let Some((at, found)) = lock(&self.ready).get(&template)
            // The host's clock may have been set back.
            && now.duration_since(*at).abs() < FOR
        {
            return found.clone();
        }
        let found = self.provider.readiness(&template).await;
        if matches!(found, Readiness::Ready { .. }) {
            lock(&self.ready).insert(template, (now, found.clone()));
        }
        found
    }

    /// Returns the stages of a start of this lab and how long they take: in its own recent starts or, if it was never
    /// started, in those of labs with the same image and shape.
    pub(crate) async fn typical_stages(
        &self,
        slug: &LabSlug,
    ) -> Result<Vec<Typical>, faultline_store::Error> {
        self.store.typical_stages(slug, &self.alike(slug)).await
    }

    /// Returns how long a start of this lab usually takes, from the same starts as [`Self::typical_stages`].
    pub(crate) async fn usual_start(
        &self,
        slug: &LabSlug,
    ) -> Result<Option<Usual>, faultline_store::Error> {
        self.store.usual_start(slug, &self.alike(slug)).await
    }

    /// Returns the labs with the same image and shape.
    fn alike(&self, slug: &LabSlug) -> Vec<LabSlug> {
        let catalogue = self.catalogue();
        let template = |lab: &LabFolder| lab.lab.needs.template();
        let mine = catalogue.get(slug).map(|lab| template(lab));
        let labs = catalogue.labs().into_iter();
        labs.filter(|lab| mine.as_ref() == Some(&template(lab)))
            .map(|lab| lab.slug.clone())
            .collect()
    }

    /// Returns the attempt that an environment belongs to.
    pub(crate) async fn attempt(&self, environment: &Environment) -> Result<Attempt, Problem> {
        self.store
            .attempt(&environment.attempt)
            .await?
            .ok_or_else(Problem::not_found)
    }

    /// Returns the maintenance that is in effect.
    pub(crate) fn maintenance(&self) -> Option<Maintenance> {
        lock(&self.maintenance).clone()
    }

    /// Returns when the maintenance that is in effect ends environments.
    fn ends_at(&self) -> Option<Timestamp> {
        lock(&self.maintenance).as_ref()?.end_environments_at
    }

    /// Returns true if idle environments are suspended to disk instead of ended.
    pub(crate) fn suspends(&self) -> bool {
        save::can_suspend(self) && self.space_to_suspend.load(Ordering::Relaxed)
    }

    /// Returns when and why an environment ends if nothing changes.
    pub(crate) fn end_of(&self, e: &Environment) -> (Timestamp, EndReason) {
        maintenance::end(e, self.ends_at())
    }

    /// Returns when an environment ends if it is used all the time.
    pub(crate) fn end_if_used(&self, e: &Environment) -> Timestamp {
        let own = e.lifetime.expires_at.min(e.lifetime.hard_end);
        self.ends_at()
            .filter(|_| e.tenant.is_some())
            .map_or(own, |at| at.min(own))
    }

    /// Returns the seconds until an environment ends; negative afterwards.
    pub(crate) fn seconds_left(&self, e: &Environment) -> i64 {
        self.end_of(e).0.duration_since(self.now()).as_secs()
    }

    /// Runs `make` with the random number generator.
    pub(crate) fn random<T>(&self, make: impl FnOnce(&mut StdRng) -> T) -> T {
        make(&mut lock(&self.rng))
    }

    pub(crate) fn secret(&self) -> Secret {
        self.random(Secret::generate)
    }

    /// Returns a new short ID for rows whose ID nobody types: keys, tokens, check runs.
    pub(crate) fn row_id(&self) -> String {
        self.random(|rng| faultline_domain::AttemptId::generate(rng).to_string())
    }

    /// Notifies the environment's watchers and the reconcilers of a change.
    pub(crate) fn changed(&self, id: &EnvironmentId) {
        self.hub.poke(id);
        self.wake.all();
    }

    /// Records that somebody waits for an environment in the queue.
    pub(crate) async fn touch_in_queue(&self, e: &Environment) {
        if matches!(e.state, State::Requested { .. }) && e.tenant.is_none() {
            self.touch(&e.id).await;
        }
    }

    /// Records that the owner uses the environment. An error is logged and otherwise ignored.
    pub(crate) async fn touch(&self, environment: &EnvironmentId) {
        let touched = self.store.touch_environment(environment, self.now()).await;
        if let Err(e) = touched {
            tracing::warn!(
                error = &e as &dyn std::error::Error,
                "could not record the use of an environment"
            );
        }
    }
}
