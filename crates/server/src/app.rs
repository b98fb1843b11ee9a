//! What every request and every reconciler shares.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use faultline_domain::{
    Clock, EnvironmentId, LabSlug, PersonId, TemplateRef, TenantId, attempt::Attempt,
    environment::Environment,
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
    hub::Hub,
    lock::lock,
    metrics::Metrics,
    problem::Problem,
    rates::Rates,
    reconcile::{Wake, authorize::Turns},
    status::Status,
};

/// A lab with an environment's values for its variables.
fn filled(lab: Arc<LabFolder>, id: &EnvironmentId) -> Arc<LabFolder> {
    match lab.of(id.as_str()) {
        Cow::Borrowed(_) => lab,
        Cow::Owned(filled) => Arc::new(filled),
    }
}

/// What an environment runs on.
pub(crate) fn tenant(e: &Environment) -> Result<&TenantId, faultline_provider::Error> {
    e.tenant_id().ok_or(faultline_provider::Error::NotFound)
}

#[derive(Debug)]
pub(crate) struct App {
    pub config: Config,
    pub store: Store,
    pub provider: Arc<dyn Provider>,
    pub clock: Clock,
    /// Pokes whoever watches an environment.
    pub hub: Hub,
    /// Wakes the reconcilers.
    pub wake: Wake,
    /// Who applies keys to which node.
    pub key_turns: Turns,
    pub metrics: Metrics,
    /// How many requests one may make.
    pub rates: Rates,
    /// How the last run of each reconciler went, by its name.
    pub statuses: Mutex<BTreeMap<&'static str, Status>>,
    /// Everything that outlives the request that began it.
    pub tasks: TaskTracker,
    /// Cancelled when the server is to stop.
    pub stopping: CancellationToken,
    /// Environments whose checks run now.
    pub checking: Mutex<HashSet<EnvironmentId>>,
    pub started_at: Timestamp,
    /// When images were found ready.
    ready: Mutex<HashMap<TemplateRef, Timestamp>>,
    /// Labs as they once were, by their hash: read once.
    kept: Mutex<HashMap<String, Arc<LabFolder>>>,
    catalogue: RwLock<Arc<Catalogue>>,
    rng: Mutex<StdRng>,
}

pub(crate) type Shared = Arc<App>;

impl App {
    pub(crate) fn new(parts: crate::Parts) -> Shared {
        Arc::new(Self {
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
            checking: Mutex::default(),
            ready: Mutex::default(),
            kept: Mutex::default(),
            catalogue: RwLock::new(Arc::new(parts.catalogue)),
            rng: Mutex::new(parts.rng),
        })
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

    /// The lab as an environment has it: as it was at its start, with the values of its variables. What has changed in its
    /// folder since then is for environments to come.
    pub(crate) async fn lab_of(&self, environment: &Environment) -> Option<Arc<LabFolder>> {
        Some(filled(self.lab_begun(environment).await?, &environment.id))
    }

    /// The lab as it was at an environment's start, without the values of its variables.
    pub(crate) async fn lab_begun(&self, environment: &Environment) -> Option<Arc<LabFolder>> {
        let today = self.lab(&environment.lab);
        match &environment.lab_hash {
            Some(hash) if today.as_ref().is_none_or(|lab| lab.hash != *hash) => {
                self.kept(&environment.lab, hash).await.or(today)
            }
            _ => today,
        }
    }

    /// A lab as it once was.
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
            tracing::warn!(lab = %slug, hash, "a lab of before is not understood any more; as it is now, it takes its place");
            return None;
        };
        let lab = Arc::new(lab);
        lock(&self.kept).insert(hash.to_owned(), lab.clone());
        Some(lab)
    }

    /// The lab as somebody sees it, and the environment of it that they have open: with its values, or with an example's
    /// as long as there is none.
    pub(crate) async fn lab_shown(
        &self,
        slug: &LabSlug,
        person: &PersonId,
    ) -> Result<(Arc<LabFolder>, Option<Environment>), Problem> {
        let lab = self.lab(slug).ok_or_else(Problem::not_found)?;
        let mine = self.store.unfinished_of(person).await?;
        let open = mine.into_iter().find(|e| e.lab == *slug && e.is_open());
        // Always the same example: a page that is loaded again says the same.
        let values = open.as_ref().map(|e| e.id.clone());
        let lab = match (&open, values.or_else(|| "example".parse().ok())) {
            (Some(e), _) => self.lab_of(e).await.unwrap_or(lab),
            (None, Some(id)) => filled(lab, &id),
            (None, None) => lab,
        };
        Ok((lab, open))
    }

    /// Whether the image that a lab needs can be cloned, for pages. To look means to read and to hash a recipe, so an
    /// image that was found ready is taken to be so for a while; a start looks for itself.
    pub(crate) async fn readiness(&self, template: TemplateRef) -> Readiness {
        const FOR: SignedDuration = SignedDuration::from_secs(10);
        let now = self.now();
        let fresh = |at: &Timestamp| now.duration_since(*at) < FOR;
        if lock(&self.ready).get(&template).is_some_and(fresh) {
            return Readiness::Ready;
        }
        let found = self.provider.readiness(&template).await;
        if found == Readiness::Ready {
            lock(&self.ready).insert(template, now);
        }
        found
    }

    /// The stages that a start of this lab goes through and how long they take: in its own recent starts, or until it
    /// was started, in those of labs on the same image and shape.
    pub(crate) async fn typical_stages(
        &self,
        slug: &LabSlug,
    ) -> Result<Vec<Typical>, faultline_store::Error> {
        self.store.typical_stages(slug, &self.alike(slug)).await
    }

    /// How long a start of this lab usually takes, measured in the same way.
    pub(crate) async fn usual_start(
        &self,
        slug: &LabSlug,
    ) -> Result<Option<Usual>, faultline_store::Error> {
        self.store.usual_start(slug, &self.alike(slug)).await
    }

    /// The labs on the same image and shape.
    fn alike(&self, slug: &LabSlug) -> Vec<LabSlug> {
        let catalogue = self.catalogue();
        let template = |lab: &LabFolder| lab.lab.needs.template();
        let mine = catalogue.get(slug).map(|lab| template(lab));
        let labs = catalogue.labs().into_iter();
        labs.filter(|lab| mine.as_ref() == Some(&template(lab)))
            .map(|lab| lab.slug.clone())
            .collect()
    }

    /// The attempt that an environment belongs to.
    pub(crate) async fn attempt(&self, environment: &Environment) -> Result<Attempt, Problem> {
        self.store
            .attempt(&environment.attempt)
            .await?
            .ok_or_else(Problem::not_found)
    }

    /// Runs `make` with the generator of random numbers.
    pub(crate) fn random<T>(&self, make: impl FnOnce(&mut StdRng) -> T) -> T {
        make(&mut lock(&self.rng))
    }

    pub(crate) fn secret(&self) -> Secret {
        self.random(Secret::generate)
    }

    /// A short id for rows that nobody outside types: keys, tokens, check runs.
    pub(crate) fn row_id(&self) -> String {
        self.random(|rng| faultline_domain::AttemptId::generate(rng).to_string())
    }

    /// Something about the environment changed: its watchers look again, and so do the reconcilers.
    pub(crate) fn changed(&self, id: &EnvironmentId) {
        self.hub.poke(id);
        self.wake.all();
    }

    /// Its owner does something in it. A failure to write that is logged and otherwise ignored.
    pub(crate) async fn touch(&self, environment: &EnvironmentId) {
        let touched = self.store.touch_environment(environment, self.now()).await;
        if let Err(e) = touched {
            tracing::warn!(error = &e as &dyn std::error::Error, "use was not noted");
        }
    }
}
