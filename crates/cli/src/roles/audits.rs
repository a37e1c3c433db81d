//! The router's side of audits: keeps works sealed to the validators, and answers what validators ask.

use super::audit_watch::AuditWatch;
use super::forger::Forger;
use super::journal::RouterJournal;
use super::router::{RouterHandle, now};
use super::shelf::Shelf;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use stoa_chain::AuditState;
use stoa_crypto::{Domain, receipt_leaf};
use stoa_ledger::audit::PANEL;
use stoa_ledger::audit::hash::job_subject;
use stoa_ledger::audit::panel::panel;
use stoa_ledger::audit::rounds::Phase;
use stoa_ledger::book::Entry;
use stoa_net::{Answer, Answerer};
use stoa_nodes::audit::{KeptWork, Question, WorkRequest};
use stoa_nodes::router::{ChainEvent, Input, Keeping};
use stoa_nodes::validator::{RoundView, Voted};
use stoa_types::{Address, Digest, JobId, SignedTicket};

/// Leaf files that are kept encoded: whoever asks again costs nothing more.
const FILES_CACHED: usize = 8;
/// Rounds whose drawn jobs are remembered.
const ROUNDS_CACHED: usize = 4;
/// What is written together at most.
const TOGETHER: usize = 256;

type SharedShelf = Arc<Mutex<Shelf>>;

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half done by a panic: places are entered after what they name was written.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What goes to the disk, in order.
enum Item {
    Keep {
        job: JobId,
        ticket: Box<SignedTicket>,
        work: Vec<u8>,
    },
    Entry(u64, Box<Entry>),
    Erase(Vec<JobId>),
}

/// Where works are kept and for whom.
pub struct Kept {
    /// The shelf, opened.
    pub shelf: Shelf,
    /// Names the validators and their keys.
    pub watch: AuditWatch,
    /// What tickets are signed for.
    pub domain: Domain,
}

/// Writes works to the shelf, and journal entries behind them: a charge is never durable before the work that it pays for can be shown.
pub struct Keeper {
    items: Sender<Item>,
    shelf: SharedShelf,
}

impl Keeper {
    /// Starts the writer in front of the journal.
    pub fn start(kept: Kept, journal: Arc<RouterJournal>) -> std::io::Result<Self> {
        let (items, receiver) = channel();
        let shelf = Arc::new(Mutex::new(kept.shelf));
        let writer = Writer {
            shelf: shelf.clone(),
            watch: kept.watch,
            domain: kept.domain,
            journal,
        };
        std::thread::Builder::new()
            .name("router-audits".to_owned())
            .spawn(move || writer.run(&receiver))?;
        Ok(Self { items, shelf })
    }

    /// The shelf, to answer from.
    pub fn shelf(&self) -> SharedShelf {
        self.shelf.clone()
    }

    /// Carries out what the router wants kept or erased.
    pub fn keep(&self, keeping: Keeping) {
        let item = match keeping {
            Keeping::Keep { job, ticket, work } => Item::Keep { job, ticket, work },
            Keeping::Erase { jobs } => Item::Erase(jobs),
        };
        // The writer ends with this sender.
        let _ = self.items.send(item);
    }

    /// Hands an entry to the journal, behind all that came before.
    pub fn write(&self, sequence: u64, entry: Box<Entry>) {
        let _ = self.items.send(Item::Entry(sequence, entry));
    }
}

struct Writer {
    shelf: SharedShelf,
    watch: AuditWatch,
    domain: Domain,
    journal: Arc<RouterJournal>,
}

impl Writer {
    fn run(self, items: &Receiver<Item>) {
        while let Ok(first) = items.recv() {
            let more = items.try_iter().take(TOGETHER);
            let mut entries = Vec::new();
            let mut put = false;
            for item in std::iter::once(first).chain(more) {
                match item {
                    Item::Keep { job, ticket, work } => put |= self.put(job, *ticket, &work),
                    Item::Entry(sequence, entry) => entries.push((sequence, entry)),
                    Item::Erase(jobs) => lock(&self.shelf).erase(&jobs),
                }
            }
            if put && let Err(error) = lock(&self.shelf).sync() {
                failed(&error);
            }
            for (sequence, entry) in entries {
                self.journal.write(sequence, &entry);
            }
            metrics::gauge!("stoa_router_works_kept").set(lock(&self.shelf).len() as f64);
        }
    }

    /// Whether something was put.
    fn put(&self, job: JobId, ticket: SignedTicket, work: &[u8]) -> bool {
        let keys: Vec<_> = self
            .watch
            .state()
            .validators()
            .map(|(_, key)| key)
            .collect();
        if keys.is_empty() {
            return false; // Nobody could ask for it.
        }
        let mut fresh = [0; 32];
        let sealed = getrandom::fill(&mut fresh)
            .map_err(|error| error.to_string())
            .and_then(|()| {
                KeptWork::seal(&self.domain, ticket, work, &keys, fresh)
                    .map_err(|error| error.to_string())
            });
        match sealed {
            Ok(kept) => {
                let done = lock(&self.shelf).put(job, &kept);
                done.as_ref().err().into_iter().for_each(failed);
                done.is_ok()
            }
            Err(error) => {
                tracing::error!(%job, %error, "the work of a job could not be sealed: an audit of it will find it withheld");
                false
            }
        }
    }
}

fn failed(error: &std::io::Error) {
    tracing::error!(%error, "works could not be kept for audits: they will be found withheld, which costs stake; free some disk space");
}

/// Answers validators for one router.
pub struct Answers {
    router: RouterHandle,
    account: Address,
    watch: AuditWatch,
    shelf: SharedShelf,
    forger: Option<Arc<Forger>>,
    caches: Mutex<Caches>,
}

#[derive(Default)]
struct Caches {
    /// Encoded leaf files, the newest last.
    files: VecDeque<(u64, Arc<[u8]>)>,
    /// Jobs that a round may have drawn.
    drawn: BTreeMap<u64, Arc<BTreeSet<JobId>>>,
    /// Ballots that were left here.
    ballots: BTreeMap<(u64, Address), Voted>,
}

impl Answers {
    /// Answers from the books of `router` and from what was kept.
    pub fn new(
        router: RouterHandle,
        account: Address,
        (watch, shelf): (AuditWatch, SharedShelf),
        forger: Option<Arc<Forger>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            router,
            account,
            watch,
            shelf,
            forger,
            caches: Mutex::default(),
        })
    }

    /// For the endpoint. Questions are answered where blocking is allowed.
    pub fn answerer(self: Arc<Self>) -> Answerer {
        Arc::new(move |question| {
            let answers = self.clone();
            Box::pin(async move {
                let answered = tokio::task::spawn_blocking(move || answers.answer(question));
                let failed = |_| Answer::Nothing("the question could not be answered".to_owned());
                answered.await.unwrap_or_else(failed)
            })
        })
    }

    fn answer(&self, question: Question) -> Answer {
        let (kind, answer) = match question {
            Question::Leaves { post } => ("leaves", self.leaves(post)),
            Question::Work(request) => ("work", self.work(&request)),
            Question::Ballot { round, validator } => {
                let found = lock(&self.caches).ballots.get(&(round, validator)).cloned();
                (
                    "ballot",
                    found.map(Answer::Ballot).ok_or("it was not left here"),
                )
            }
            Question::Show { validator, voted } => ("show", self.take(validator, voted)),
            Question::Payouts(_) => ("payouts", Err("that is asked elsewhere")),
        };
        let given = if answer.is_ok() { "yes" } else { "no" };
        metrics::counter!("stoa_router_audit_questions_total", "kind" => kind, "given" => given)
            .increment(1);
        answer.unwrap_or_else(|reason| Answer::Nothing(reason.to_owned()))
    }

    fn leaves(&self, post: u64) -> Result<Answer, &'static str> {
        let cached = {
            let caches = lock(&self.caches);
            let mut files = caches.files.iter();
            files.find_map(|(known, file)| (*known == post).then(|| file.clone()))
        };
        if let Some(file) = cached {
            return Ok(Answer::Leaves(file));
        }
        let file = {
            let core = self.router.core();
            let posted = post <= core.book().posted_count();
            let file = || match &self.forger {
                Some(forger) => forger.shown(core.book(), post),
                None => core.book().leaf_file(post),
            };
            posted.then(file).flatten()
        };
        let file = file.ok_or("no such post")?;
        let file: Arc<[u8]> = file.encode().into();
        let mut caches = lock(&self.caches);
        caches.files.push_back((post, file.clone()));
        if caches.files.len() > FILES_CACHED {
            caches.files.pop_front();
        }
        Ok(Answer::Leaves(file))
    }

    /// A job's work is for members of its panel, once it is drawn, and for nobody else.
    fn work(&self, request: &WorkRequest) -> Result<Answer, &'static str> {
        if !request.is_signed_for(self.account) {
            return Err("the request is not signed by its validator for this router");
        }
        let (round, leaf) = {
            let core = self.router.core();
            let post = core.book().batch_of(request.job).map(|(post, _)| post);
            let round = self.round(post.ok_or("no such job")?, request.round)?;
            let signed = core.book().receipt(request.job).ok_or("no such job")?;
            (round, receipt_leaf(&signed.receipt))
        };
        let subject = job_subject(self.account, leaf);
        let seats = panel(&round.committee, round.beacon, subject, PANEL);
        let mut seated = seats.iter().filter_map(|place| round.committee.get(*place));
        if !seated.any(|member| member.validator == request.validator) {
            return Err("the validator does not sit on the panel of this job");
        }
        if !self.drawn(&round)?.contains(&request.job) {
            return Err("this job is not audited");
        }
        let kept = lock(&self.shelf).get(request.job);
        let kept = kept.ok_or("nothing is kept of this job")?;
        Ok(Answer::Work(Box::new(kept)))
    }

    /// The round that covers a post, which must be the one that is asked about and drawn.
    fn round(&self, post: u64, asked: u64) -> Result<RoundView, &'static str> {
        let state = self.watch.state();
        if state.round_covering(self.account, post) != Some(asked) {
            return Err("the job is not in this round");
        }
        let round = state.round_of(asked, now()).ok_or("no such round")?;
        if round.phase < Phase::Ballot {
            return Err("the round is not drawn yet");
        }
        Ok(round)
    }

    /// Jobs of this router that a round audits. Validators count a provider's jobs over all routers, this router its own, so that it knows
    /// all that they draw and perhaps some more.
    fn drawn(&self, round: &RoundView) -> Result<Arc<BTreeSet<JobId>>, &'static str> {
        let cached = lock(&self.caches).drawn.get(&round.number).cloned();
        if let Some(drawn) = cached {
            return Ok(drawn);
        }
        let (sampling, standings) = {
            let state = self.watch.state();
            let standings = state.standings_at(round.number).ok_or("no such round")?;
            (state.params().sampling, standings.clone())
        };
        let covered = round.covers.iter().find(|c| c.router == self.account);
        let covered = covered.ok_or("the round covers nothing of this router")?;
        let mut drawn = BTreeSet::new();
        let mut ordinals: BTreeMap<Address, u32> = BTreeMap::new();
        for post in (covered.before + 1..).take(covered.posts.len()) {
            for (job, provider, leaf) in self.receipts_of(post) {
                let subject = job_subject(self.account, leaf);
                let standing = standings.get(&provider).copied().unwrap_or_default();
                let ordinal = ordinals.entry(provider).or_default();
                if sampling.audits(round.beacon, subject, standing, *ordinal) {
                    drawn.insert(job);
                }
                *ordinal = ordinal.saturating_add(1);
            }
        }
        let drawn = Arc::new(drawn);
        let mut caches = lock(&self.caches);
        caches.drawn.insert(round.number, drawn.clone());
        if caches.drawn.len() > ROUNDS_CACHED {
            caches.drawn.pop_first();
        }
        Ok(drawn)
    }

    fn receipts_of(&self, post: u64) -> Vec<(JobId, Address, Digest)> {
        let core = self.router.core();
        let book = core.book();
        let jobs = book.jobs_of(post).iter();
        let receipts = jobs.filter_map(|job| Some((*job, book.receipt(*job)?)));
        let facts = receipts.map(|(job, signed)| {
            let receipt = &signed.receipt;
            (job, receipt.provider, receipt_leaf(receipt))
        });
        facts.collect()
    }

    /// Takes a ballot whose root the contract shows: strangers can leave nothing here.
    fn take(&self, validator: Address, voted: Voted) -> Result<Answer, &'static str> {
        let round = self.watch.state().round_of(voted.round, now());
        let round = round.ok_or("no such round")?;
        let subjects = round.covers.iter().flat_map(|covered| &covered.posts);
        let subjects = subjects.fold(0u64, |sum, post| sum + 1 + u64::from(post.job_count));
        let rising = voted.verdicts.windows(2).all(|pair| pair[0].0 < pair[1].0);
        if !rising || voted.verdicts.len() as u64 > subjects {
            return Err("this is no ballot about this round");
        }
        let shown = round.shown.contains(&validator) && round.phase > Phase::Unseal;
        let root = voted.ballot().root();
        if !shown || round.committed.get(&validator) != Some(&root) {
            return Err("the contract does not show this ballot, or not all have shown theirs");
        }
        let state = self.watch.state();
        let mut caches = lock(&self.caches);
        caches.ballots.insert((voted.round, validator), voted);
        // Rounds end in their order: one look is enough but for those that ended.
        while let Some(((oldest, _), _)) = caches.ballots.first_key_value() {
            let oldest = *oldest;
            if state.round_of(oldest, now()).is_some() {
                break;
            }
            caches.ballots.retain(|(round, _), _| *round != oldest);
        }
        Ok(Answer::Taken)
    }
}

/// Tells a router what no ruling can be about any more. Ends with the watch.
pub async fn follow(watch: AuditWatch, router: RouterHandle, account: Address) {
    let over = |state: &AuditState| state.over(account);
    let mut changes = watch.changes();
    let mut told = 0;
    loop {
        let posts = over(&watch.state());
        if posts > told {
            told = posts;
            router.input(Input::Chain(ChainEvent::AuditsOver { posts }));
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}
