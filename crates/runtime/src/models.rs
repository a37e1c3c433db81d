//! Several models in the memory of one machine: loaded when somebody asks for them, let go when another needs their place.
//!
//! Every model is opened once at the start, because its offer names its root. From then on the one that was used longest ago and that
//! nobody uses makes place for one that is asked for; pinned ones stay. What a model holds is its weights and all the memory that its
//! keys and values may take.

use crate::backend::{Backend, CancelFlag, Emit, Generation, ModelFacts, Prepared, RunError};
use crate::exact::{ExactBackend, ExactOptions, OpenError, cache_wished};
use crate::memory::available_memory;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use stoa_engine::{MemoryEstimate, Model, Stats};
use stoa_nodes::message::RefusalReason;
use stoa_nodes::work::Work;
use stoa_types::Digest;

/// How long one who asks for a model waits for place before it is told that there is none now.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a model that could not be loaded is left alone: others would be let go for it in vain.
const RETRY: Duration = Duration::from_secs(5);
/// How often it is looked whether a model in use was given back.
const PAUSE: Duration = Duration::from_millis(20);

/// A model to serve.
#[derive(Debug, Clone)]
pub struct ModelEntry {
    /// GGUF file, safetensors folder or pack.
    pub path: PathBuf,
    /// How to open it; its `memory_limit` counts for all models together, and the first one's is taken.
    pub options: ExactOptions,
    /// Never let go.
    pub pinned: bool,
}

/// Why models cannot be served together. None of them is in memory.
#[derive(Debug, thiserror::Error)]
pub enum ModelsError {
    /// One of them cannot be opened.
    #[error("{path}: {error}")]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        error: OpenError,
    },
    /// Two have one name or one root.
    #[error(
        "{path}: a model called {name} is served already; each is named once, and each needs a name of its own"
    )]
    Twice {
        /// The second one.
        path: PathBuf,
        /// Its name.
        name: String,
    },
    /// It never finds place beside the pinned ones.
    #[error(
        "{path}: {need} bytes of memory are needed beside the pinned models, which hold {pinned} of {limit}; pin fewer models, serve \
         fewer, or use a machine with more memory"
    )]
    NoPlace {
        /// Which.
        path: PathBuf,
        /// Bytes for its weights and one full context, or for opening it.
        need: u64,
        /// Bytes of those that stay.
        pinned: u64,
        /// Bytes for all.
        limit: u64,
    },
}

/// What an operator sees of one model.
#[derive(Debug, Clone)]
pub struct ModelView {
    /// Its name.
    pub model: String,
    /// Bytes of its weights and of what its keys and values may take; 0 when it is not loaded.
    pub memory: u64,
    /// What its engine holds, and did since the start.
    pub stats: Stats,
    /// How often it was loaded.
    pub loads: u64,
}

/// Models that share a machine.
#[derive(Debug)]
pub struct Models {
    state: Mutex<State>,
    changed: Condvar,
    /// Bytes for all of them.
    limit: u64,
}

#[derive(Debug, Default)]
struct State {
    shelf: Vec<Place>,
    /// Counts uses.
    clock: u64,
    /// One is being loaded: its memory is not free, and not counted among those that are loaded.
    loading: bool,
}

#[derive(Debug)]
struct Place {
    entry: ModelEntry,
    estimate: MemoryEstimate,
    /// Name and root that the offers name.
    name: String,
    root: Option<Digest>,
    loaded: Option<Arc<ExactBackend>>,
    /// When it was used last, by the clock of the shelf.
    used: u64,
    loads: u64,
    /// What its engines did before it was let go.
    done: Stats,
    /// When and why it could not be loaded the last time.
    fault: Option<(Instant, String)>,
}

/// Why a model is not there.
enum Absent {
    /// Others are in use.
    NoPlace,
    /// It cannot be opened any more.
    Fault(String),
}

impl Models {
    /// Opens every model once and says how each is served, in this order. Clients ask by name, so that no two may have one.
    pub fn open(entries: Vec<ModelEntry>) -> Result<Vec<PooledBackend>, ModelsError> {
        Self::open_if(entries, |served, place, facts| {
            let same = served.facts.model == facts.model;
            if !same && served.facts.model_root != facts.model_root {
                return Ok(true);
            }
            Err(ModelsError::Twice {
                path: place.entry.path.clone(),
                name: facts.model.clone(),
            })
        })
    }

    /// The same for who asks by root: names do not matter, and the second one of a root is left out.
    pub fn open_for_judging(entries: Vec<ModelEntry>) -> Result<Vec<PooledBackend>, ModelsError> {
        Self::open_if(entries, |served, place, facts| {
            let other = served.facts.model_root != facts.model_root;
            if !other {
                tracing::warn!(path = %place.entry.path.display(), root = %facts.model_root, "this model was named before");
            }
            Ok(other)
        })
    }

    /// Opens every model, and keeps those that may stand `beside` each that was opened before.
    fn open_if(
        entries: Vec<ModelEntry>,
        beside: impl Fn(&PooledBackend, &Place, &ModelFacts) -> Result<bool, ModelsError>,
    ) -> Result<Vec<PooledBackend>, ModelsError> {
        let limit = entries.first().and_then(|e| e.options.memory_limit);
        let models = Arc::new(Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            limit: limit.or_else(available_memory).unwrap_or(u64::MAX),
        });
        models.set_up(entries)?;
        let mut served: Vec<PooledBackend> = Vec::new();
        let order = models.state().pinned_first();
        for number in order {
            let opened = models.first_opening(number)?;
            let facts = opened.facts().clone();
            let mut state = models.state();
            let place = &mut state.shelf[number];
            let mut wanted = true;
            for other in &served {
                wanted &= beside(other, place, &facts)?;
            }
            if !wanted {
                continue;
            }
            place.root = Some(facts.model_root);
            place.name.clone_from(&facts.model);
            served.push(PooledBackend {
                models: Arc::clone(&models),
                number,
                facts,
            });
        }
        served.sort_by_key(|model| model.number);
        Ok(served)
    }

    /// Places for all, if the largest one fits beside those that stay.
    fn set_up(&self, entries: Vec<ModelEntry>) -> Result<(), ModelsError> {
        let mut state = self.state();
        for entry in entries {
            let most = entry.options.context_max;
            let estimate = Model::memory_estimate_within(&entry.path, most);
            let estimate = estimate.map_err(|error| open_error(&entry, error.into()))?;
            state.shelf.push(Place {
                entry,
                estimate,
                name: String::new(),
                root: None,
                loaded: None,
                used: 0,
                loads: 0,
                done: Stats::default(),
                fault: None,
            });
        }
        for (number, place) in state.shelf.iter().enumerate() {
            let others = state.shelf.iter().enumerate();
            let pinned = others.filter(|(i, other)| *i != number && other.entry.pinned);
            let pinned: u64 = pinned.map(|(_, other)| other.least()).sum();
            if pinned > 0 && place.least() > self.limit.saturating_sub(pinned) {
                return Err(ModelsError::NoPlace {
                    path: place.entry.path.clone(),
                    need: place.least(),
                    pinned,
                    limit: self.limit,
                });
            }
        }
        Ok(())
    }

    fn first_opening(&self, number: usize) -> Result<Arc<ExactBackend>, ModelsError> {
        let (entry, evicted, free) = {
            let mut state = self.state();
            // Nobody uses anything yet; what is not enough is told by who opens it.
            let place = state.make_place(number, self.limit);
            let (evicted, free) = place.unwrap_or((Vec::new(), self.limit));
            (state.shelf[number].entry.clone(), evicted, free)
        };
        drop(evicted);
        let opened = entry
            .open(free)
            .map_err(|error| open_error(&entry, error))?;
        let mut state = self.state();
        state.put(number, &opened);
        Ok(opened)
    }

    /// The model, loaded if it is not; it stays as long as the answer is held.
    fn take(&self, number: usize) -> Result<Arc<ExactBackend>, Absent> {
        let end = Instant::now() + PATIENCE;
        let mut state = self.state();
        loop {
            if let Some(model) = state.touch(number) {
                return Ok(model);
            }
            if let Some(fault) = state.shelf[number].fault() {
                return Err(Absent::Fault(fault.to_owned()));
            }
            if !state.loading
                && let Some((evicted, free)) = state.make_place(number, self.limit)
            {
                state.loading = true;
                let entry = state.shelf[number].entry.clone();
                drop(state);
                // Their memory is given back before more is asked for.
                drop(evicted);
                return self.load(number, &entry, free);
            }
            if Instant::now() > end {
                return Err(Absent::NoPlace);
            }
            let waited = self.changed.wait_timeout(state, PAUSE);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn load(
        &self,
        number: usize,
        entry: &ModelEntry,
        free: u64,
    ) -> Result<Arc<ExactBackend>, Absent> {
        // Told also when it panics: others wait for it.
        let _loading = Loading(self);
        let began = Instant::now();
        let offered = self.state().shelf[number].root;
        let opened = entry.open(free).map_err(|error| error.to_string());
        let opened = opened.and_then(|opened| {
            let root = opened.facts().model_root;
            match offered {
                Some(offered) if offered != root => Err(format!(
                    "the file is another model than at the start (root {root}, not {offered}); start again to offer it"
                )),
                _ => Ok(opened),
            }
        });
        let mut state = self.state();
        let place = &mut state.shelf[number];
        let path = entry.path.display();
        match opened {
            Ok(opened) => {
                place.fault = None;
                state.put(number, &opened);
                tracing::info!(%path, bytes = opened.memory(), took = ?began.elapsed(), "model loaded");
                Ok(opened)
            }
            Err(fault) => {
                tracing::error!(%path, %fault, "a model cannot be loaded again; work for it is refused, and it is tried again after some seconds");
                place.fault = Some((Instant::now(), fault.clone()));
                Err(Absent::Fault(fault))
            }
        }
    }

    /// What an operator sees, in the order in which they were given.
    pub fn view(&self) -> Vec<ModelView> {
        let state = self.state();
        let views = state.shelf.iter().map(|place| ModelView {
            model: place.name.clone(),
            memory: place.memory(),
            stats: place.stats(),
            loads: place.loads,
        });
        views.collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held but with a number that is no model's.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The model if it is loaded; it counts as used.
    fn touch(&mut self, number: usize) -> Option<Arc<ExactBackend>> {
        self.clock += 1;
        let place = &mut self.shelf[number];
        place.used = self.clock;
        place.loaded.clone()
    }

    fn put(&mut self, number: usize, opened: &Arc<ExactBackend>) {
        let place = &mut self.shelf[number];
        place.loaded = Some(Arc::clone(opened));
        place.loads += 1;
        self.touch(number);
    }

    /// Numbers of all models, those that stay first.
    fn pinned_first(&self) -> Vec<usize> {
        let mut numbers: Vec<_> = (0..self.shelf.len()).collect();
        numbers.sort_by_key(|number| !self.shelf[*number].entry.pinned);
        numbers
    }

    /// Takes down idle models, least recently used first, until this one has all the memory that it can use; and how much it has. The
    /// caller drops them outside of the lock. `None` when those in use leave too little: then nothing is taken down.
    fn make_place(&mut self, number: usize, limit: u64) -> Option<(Vec<Arc<ExactBackend>>, u64)> {
        let place = &self.shelf[number];
        // No more than its part of what those that stay leave: two large ones would otherwise drive out each other for ever.
        let (least, wished) = (place.least(), place.wished().min(self.part(number, limit)));
        let limit = limit.saturating_sub(self.owed(number));
        let held = |places: &[Place], idle: bool| -> u64 {
            let counted = places.iter().filter(|place| idle || !place.is_idle());
            counted.map(Place::memory).sum()
        };
        if limit.saturating_sub(held(&self.shelf, false)) < least {
            return None;
        }
        let mut evicted = Vec::new();
        loop {
            let free = limit.saturating_sub(held(&self.shelf, true));
            let idle = self.shelf.iter_mut().filter(|place| place.is_idle());
            let oldest = idle.min_by_key(|place| place.used);
            let Some(oldest) = oldest.filter(|_| free < wished) else {
                return Some((evicted, free.min(wished)));
            };
            tracing::info!(model = %oldest.name, bytes = oldest.memory(), "model let go for another");
            oldest.done = Stats::default().after(&oldest.stats());
            evicted.extend(oldest.loaded.take());
        }
    }

    /// What a model may have beside the others: those that stay as much as they use, of the others each as much, or what it needs at least.
    fn part(&self, number: usize, limit: u64) -> u64 {
        if self.shelf[number].entry.pinned {
            return u64::MAX;
        }
        let (pinned, rest): (Vec<_>, Vec<_>) =
            self.shelf.iter().partition(|place| place.entry.pinned);
        let pinned: u64 = pinned.iter().map(|place| place.memory()).sum();
        let part = limit.saturating_sub(pinned) / rest.len().max(1) as u64;
        part.max(self.shelf[number].least())
    }

    /// What one that stays may never take: the least of the other pinned ones that are not there yet, and of the largest of the rest.
    fn owed(&self, number: usize) -> u64 {
        if !self.shelf[number].entry.pinned {
            return 0;
        }
        let others = self.shelf.iter().enumerate();
        let others = others.filter(|(other, place)| *other != number && place.loaded.is_none());
        let (pinned, rest): (Vec<_>, Vec<_>) = others
            .map(|(_, place)| place)
            .partition(|place| place.entry.pinned);
        let pinned: u64 = pinned.iter().map(|place| place.least()).sum();
        pinned.saturating_add(rest.iter().map(|place| place.least()).max().unwrap_or(0))
    }
}

impl Place {
    /// Why it is not tried now.
    fn fault(&self) -> Option<&str> {
        let (since, fault) = self.fault.as_ref()?;
        (since.elapsed() < RETRY).then_some(fault)
    }

    fn stats(&self) -> Stats {
        match &self.loaded {
            Some(model) => model.stats().after(&self.done),
            None => self.done,
        }
    }

    /// Bytes that it holds.
    fn memory(&self) -> u64 {
        self.loaded.as_ref().map_or(0, |model| model.memory())
    }

    /// Bytes without which it cannot be opened.
    fn least(&self) -> u64 {
        let MemoryEstimate {
            weights,
            cache,
            loading,
        } = self.estimate;
        weights.saturating_add(cache.max(loading))
    }

    /// Bytes beyond which it has no use for more.
    fn wished(&self) -> u64 {
        let cache = cache_wished(self.estimate, self.entry.options.slots);
        // An eighth of what is left beside the weights is left alone.
        let around = cache
            .saturating_add(cache / 7 + 1)
            .max(self.estimate.loading);
        self.estimate.weights.saturating_add(around)
    }

    /// Loaded, used by nobody, and not to stay.
    fn is_idle(&self) -> bool {
        let held = self.loaded.as_ref().map(Arc::strong_count);
        held == Some(1) && !self.entry.pinned
    }
}

impl ModelEntry {
    fn open(&self, free: u64) -> Result<Arc<ExactBackend>, OpenError> {
        let options = ExactOptions {
            memory_limit: Some(free),
            ..self.options.clone()
        };
        ExactBackend::open(&self.path, &options).map(Arc::new)
    }
}

fn open_error(entry: &ModelEntry, error: OpenError) -> ModelsError {
    ModelsError::Open {
        path: entry.path.clone(),
        error,
    }
}

/// Tells those that wait that nothing is being loaded any more.
struct Loading<'a>(&'a Models);

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        self.0.state().loading = false;
        self.0.changed.notify_all();
    }
}

/// One of several models. Clones are the same.
#[derive(Debug, Clone)]
pub struct PooledBackend {
    models: Arc<Models>,
    number: usize,
    facts: ModelFacts,
}

impl PooledBackend {
    /// All models that share the machine with it, and itself.
    pub fn models(&self) -> &Arc<Models> {
        &self.models
    }
}

impl Backend for PooledBackend {
    fn facts(&self) -> &ModelFacts {
        &self.facts
    }

    /// Loads the model if it must. [`RefusalReason::Busy`] when others are in use that leave it no place.
    fn prepare(&self, work: &Work) -> Result<Prepared, RefusalReason> {
        let model = self
            .models
            .take(self.number)
            .map_err(|absent| match absent {
                Absent::NoPlace => RefusalReason::Busy,
                Absent::Fault(_) => RefusalReason::UnknownModel,
            })?;
        let prepared = model.prepare(work)?;
        Ok(prepared.held_by(model))
    }

    fn run(
        &self,
        prepared: &Prepared,
        cancel: &CancelFlag,
        emit: &mut Emit<'_>,
    ) -> Result<Generation, RunError> {
        if let Some(model) = prepared.model() {
            return model.run(prepared, cancel, emit);
        }
        let model = self.models.take(self.number).map_err(|absent| {
            RunError::Machine(match absent {
                Absent::NoPlace => "other models take all memory".to_owned(),
                Absent::Fault(fault) => fault,
            })
        })?;
        model.run(prepared, cancel, emit)
    }

    fn ready(&self) -> Result<(), String> {
        match self.models.state().shelf[self.number].fault() {
            Some(fault) => Err(fault.to_owned()),
            None => Ok(()),
        }
    }
}
