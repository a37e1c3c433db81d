//! Which tokens go into the next pass. No thread, clock or channel: [`super::Scheduler`] drives it.

use super::fair::Shares;
use super::guess::{Guesses, guess, reading};
use super::prefix::PrefixCache;
use super::{Ended, Request, Sink, Tenant};
use crate::cache::{CacheShape, PAGE, Pages, Sequence};
use crate::error::EngineError;
use crate::generate::{Finish, Generation, TokenEvent};
use crate::pass::{Entry, ROWS, Runner, Wanted};
use std::sync::Arc;

/// A logit is looked at in the time of so many multiplications.
const LOGIT: usize = 8;

/// Rows of a pass that prompts have in any case.
const PROMPT_ROWS: usize = 16;

/// Steps for which an answer may stand still with its memory while others wait for it: some seconds of a model at work.
const STANDS_MAX: u32 = 512;

/// Multiplications of a pass that take about as long as one step of a constraint.
const STEP_WORK: u64 = 1_000;

/// An answer in the making, with its place in the cache.
struct Running {
    number: u64,
    tenant: Tenant,
    /// Prompt, then what was chosen.
    tokens: Vec<u32>,
    /// Tokens of the prompt.
    prompt: usize,
    generation: Generation,
    sequence: Sequence,
    logits: Vec<i32>,
    /// What the logits are made of; empty unless its answer has checkpoints.
    state: Vec<i32>,
    /// Whether the logits are those after its last token, and not yet used.
    turned: bool,
    guesses: Guesses,
    /// Tokens at the end that are guessed, during a pass.
    guessed: usize,
    chosen: Vec<TokenEvent>,
    /// Steps of its constraint for all tokens of the last pass.
    steps: u64,
    failed: Option<EngineError>,
    /// Steps since it could go on for the last time, but for its reader.
    stood: u32,
    /// Rows of passes as long as what its constraint took beyond the passes that it had. While others have something to do, it sits out
    /// so many.
    owes: u64,
    /// Pages that it may come to hold.
    pages: usize,
    sink: Box<dyn Sink>,
}

impl Running {
    /// Tokens that are not in the cache yet: the rest of the prompt, or the one chosen last.
    fn ahead(&self) -> &[u32] {
        &self.tokens[self.sequence.len()..]
    }

    /// Whether its prompt is in the cache.
    fn answers(&self) -> bool {
        self.sequence.len() >= self.prompt
    }

    /// Guesses what may be chosen in the next pass, which has `rows` rows so far.
    fn guess(&mut self, rows: usize, reading: u32) {
        // Checkpoints are made of one state at a time.
        let most = match self.generation.makes_checkpoints() {
            true => 0,
            false => self.guesses.worth(rows, reading),
        };
        // The last token needs no place.
        let chosen = self.generation.tokens().len();
        let places = self.generation.limit().saturating_sub(chosen + 1);
        let most = most.min(places).min(ROWS.saturating_sub(rows));
        self.guessed = guess(&mut self.tokens, most);
    }

    /// Chooses from the logits of the last pass, as long as what was guessed is what is chosen, and forgets the guesses.
    fn choose(&mut self, vocab: usize) {
        let known = self.tokens.len() - self.guessed;
        let mut after = self.tokens[known..].iter();
        for logits in self.logits.chunks_exact(vocab) {
            let choice = self.generation.choose_from(logits, &self.state);
            self.steps = (self.steps).saturating_add(self.generation.take_constraint_steps());
            match choice {
                Ok(event) => self.chosen.push(event),
                Err(error) => {
                    self.failed = Some(error);
                    break;
                }
            }
            let chosen = self.chosen.last().map(|event| event.id);
            if self.generation.finish().is_some() || after.next().copied() != chosen {
                break;
            }
        }
        self.tokens.truncate(known);
        let right = self.chosen.len().saturating_sub(1);
        self.guesses.learn(self.guessed, right);
        self.sequence.truncate(self.tokens.len() + right);
    }

    /// Pages that it may still ask for.
    fn to_come(&self) -> usize {
        self.pages.saturating_sub(self.sequence.pages().len())
    }
}

struct Waiting {
    number: u64,
    request: Request,
    pages: usize,
    /// Whether it ran before and made place, since its reader had no room.
    parked: bool,
}

/// What was done and what is held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Answers in the making.
    pub running: usize,
    /// Requests that wait for a place.
    pub waiting: usize,
    /// Pages of the cache in use, those kept for later included.
    pub pages: usize,
    /// Pages kept for later.
    pub kept_pages: usize,
    /// Most pages.
    pub pages_max: usize,
    /// Bytes of a page.
    pub page_bytes: u64,
    /// Passes through the model.
    pub passes: u64,
    /// Rows of all passes: tokens of prompts and answers.
    pub rows: u64,
    /// Tokens of prompts that were found in the cache.
    pub reused_tokens: u64,
    /// Tokens that were chosen.
    pub chosen_tokens: u64,
    /// Tokens that were guessed, so that one pass gives several.
    pub guessed_tokens: u64,
    /// Those of them that were chosen.
    pub guessed_right: u64,
}

impl Stats {
    /// The same, with what was counted before counted too.
    pub fn after(self, before: &Self) -> Self {
        Self {
            passes: self.passes + before.passes,
            rows: self.rows + before.rows,
            reused_tokens: self.reused_tokens + before.reused_tokens,
            chosen_tokens: self.chosen_tokens + before.chosen_tokens,
            guessed_tokens: self.guessed_tokens + before.guessed_tokens,
            guessed_right: self.guessed_right + before.guessed_right,
            ..self
        }
    }
}

/// Lists of a step, kept for the memory that they have.
#[derive(Default)]
struct Lists {
    /// Answers that have a row.
    answers: Vec<usize>,
    /// Prompts that are being read.
    prompts: Vec<usize>,
    /// Which of the running are in the pass, and with how many tokens.
    turns: Vec<(usize, usize)>,
    /// Empty between passes.
    entries: Vec<Entry<'static>>,
}

/// The memory of a list of entries, for others.
fn emptied<'a>(mut entries: Vec<Entry<'_>>) -> Vec<Entry<'a>> {
    entries.clear();
    // The library collects in place what it takes from a list of the same size of items.
    let none = entries.into_iter().map(|_| unreachable!("it is empty"));
    none.collect()
}

/// Sequences that share passes.
pub(super) struct Batch {
    runner: Runner,
    pages: Arc<Pages>,
    pages_max: usize,
    running_max: usize,
    guesses: bool,
    prefixes: PrefixCache,
    shares: Shares,
    /// In no order: their numbers say who came first.
    waiting: Vec<Waiting>,
    running: Vec<Running>,
    lists: Lists,
    next_number: u64,
    /// The answer that took a row last, so that all have their turn where a pass has too few.
    last_turn: u64,
    stats: Stats,
}

impl Batch {
    pub fn new(runner: Runner, pages_max: usize, running_max: usize, guesses: bool) -> Self {
        let shape = CacheShape::of(runner.model().config());
        Self {
            pages: Pages::new(shape, pages_max),
            pages_max,
            running_max,
            guesses,
            prefixes: PrefixCache::default(),
            shares: Shares::default(),
            waiting: Vec::new(),
            running: Vec::new(),
            lists: Lists::default(),
            next_number: 0,
            last_turn: 0,
            stats: Stats {
                pages_max,
                page_bytes: shape.page_bytes(),
                ..Stats::default()
            },
            runner,
        }
    }

    /// Whether there is anything to do or to wait for.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    pub fn stats(&self) -> Stats {
        Stats {
            running: self.running.len(),
            waiting: self.waiting.len(),
            pages: self.pages.live(),
            kept_pages: self.prefixes.len(),
            ..self.stats
        }
    }

    /// Takes a request in, or ends it at once when it can never run.
    pub fn add(&mut self, request: Request) {
        let generation = &request.generation;
        let empty = Sequence::with_pages(&self.pages);
        let takes = self.runner.check(&empty, &request.prompt);
        if let Err(error) = takes.and_then(|()| self.runner.check_answers()) {
            return request.sink.end(Ended::Failed(error));
        }
        // The last token needs no place.
        let positions = request.prompt.len() + generation.limit().saturating_sub(1);
        let pages = positions.div_ceil(PAGE);
        if pages > self.pages_max {
            return request.sink.end(Ended::Failed(EngineError::NoRoom {
                positions,
                room: self.pages_max * PAGE,
            }));
        }
        if let Some(finish) = generation.finish() {
            return request.sink.end(Ended::Finished(finish));
        }
        self.shares.join(request.tenant);
        self.next_number += 1;
        self.waiting.push(Waiting {
            number: self.next_number,
            request,
            pages,
            parked: false,
        });
    }

    /// Lets go of what nobody wants any more, takes in what there is room for and runs one pass. False when there was nothing to run.
    pub fn step(&mut self) -> Result<bool, EngineError> {
        self.drop_unwanted();
        for running in &mut self.running {
            let stands = running.answers() && !running.sink.has_room();
            running.stood = if stands { running.stood + 1 } else { 0 };
        }
        self.admit();
        let mut lists = std::mem::take(&mut self.lists);
        let moved = self.take_turns(&mut lists);
        self.lists = lists;
        moved
    }

    /// One pass; false when there was nothing to run.
    fn take_turns(&mut self, lists: &mut Lists) -> Result<bool, EngineError> {
        self.turns(lists);
        if lists.turns.is_empty() {
            return Ok(false);
        }
        self.pass(lists)?;
        self.choose(&lists.turns);
        self.count_constraints(&lists.turns);
        self.end_finished();
        Ok(true)
    }

    /// Ends everything, by a fault of this machine: whatever one of them did wrong, the others did not.
    pub fn fail_all(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        let waiting = waiting.into_iter().map(|w| w.request.sink);
        let running = std::mem::take(&mut self.running);
        let running = running.into_iter().map(|r| r.sink);
        // Whoever left no trace in the lists is not counted on either.
        self.shares = Shares::default();
        self.prefixes.clear();
        for sink in waiting.chain(running) {
            sink.end(Ended::Failed(EngineError::Panicked));
        }
    }

    fn drop_unwanted(&mut self) {
        let unwanted = |w: &mut Waiting| w.request.sink.is_cancelled();
        for waiting in self.waiting.extract_if(.., unwanted) {
            self.shares.leave(waiting.request.tenant);
            waiting.request.sink.end(Ended::Finished(Finish::Cancelled));
        }
        for running in &mut self.running {
            if running.sink.is_cancelled() {
                running.generation.cancel();
            }
        }
        self.end_finished();
    }

    /// Which of the waiting comes first: of the tenant that had least, and not one that made place and whose reader has no room yet.
    fn first_waiting(&self) -> Option<usize> {
        let waiting = self.waiting.iter().enumerate();
        let ready = waiting.filter(|(_, w)| !w.parked || w.request.sink.has_room());
        let first = ready.min_by_key(|(_, w)| (self.shares.had(w.request.tenant), w.number));
        first.map(|(index, _)| index)
    }

    /// Takes in requests. One that does not fit yet is waited for: a small one behind it would otherwise keep a large one out for ever.
    /// Whoever stands still for long makes place.
    fn admit(&mut self) {
        while let Some(index) = self.first_waiting() {
            let request = &self.waiting[index].request;
            let place = self.running.len() < self.running_max;
            let found = match place {
                true => self.prefixes.find(request.tenant, &request.prompt),
                false => Vec::new(),
            };
            let fits = place && self.make_room(self.waiting[index].pages - found.len());
            if !fits {
                drop(found);
                match self.park_one() {
                    true => continue,
                    false => return,
                }
            }
            let waiting = self.waiting.swap_remove(index);
            self.stats.reused_tokens += (found.len() * PAGE) as u64;
            self.running.push(Running {
                number: waiting.number,
                tenant: waiting.request.tenant,
                prompt: waiting.request.prompt.len(),
                tokens: waiting.request.prompt,
                generation: waiting.request.generation,
                sequence: Sequence::beginning_with(&self.pages, found),
                logits: Vec::new(),
                state: Vec::new(),
                turned: false,
                guesses: Guesses::default(),
                guessed: 0,
                chosen: Vec::new(),
                steps: 0,
                failed: None,
                stood: 0,
                owes: 0,
                pages: waiting.pages,
                sink: waiting.request.sink,
            });
        }
    }

    /// Lets the one that stood still longest, beyond what is borne, wait in line without memory. What it has so far is a prompt when it goes
    /// on, so that it gets the bits that it would have got. False where none stands so long.
    fn park_one(&mut self) -> bool {
        let standing = self.running.iter().enumerate();
        let standing = standing.filter(|(_, r)| r.stood >= STANDS_MAX);
        let Some((index, _)) = standing.max_by_key(|(_, r)| r.stood) else {
            return false;
        };
        let parked = self.running.remove(index);
        let held = &parked.tokens[..parked.sequence.len()];
        self.prefixes
            .keep(parked.tenant, held, parked.sequence.pages());
        self.waiting.push(Waiting {
            number: parked.number,
            pages: parked.pages,
            parked: true,
            request: Request {
                tenant: parked.tenant,
                prompt: parked.tokens,
                generation: parked.generation,
                sink: parked.sink,
            },
        });
        true
    }

    /// Room for so many more pages beside all that the running ones may come to need; pages kept for later are let go for it.
    fn make_room(&mut self, pages: usize) -> bool {
        let promised = self.running.iter().map(Running::to_come).sum::<usize>();
        // What would not be enough is left where it is.
        let kept = self.prefixes.idle();
        if self.pages.live() - kept.min(self.pages.live()) + promised + pages > self.pages_max {
            return false;
        }
        while self.pages.live() + promised + pages > self.pages_max {
            if !self.prefixes.let_go_one() {
                return false;
            }
        }
        true
    }

    /// Rows of the next pass: which of the running and how many tokens of it. Answers first, one row each, so that nobody's stream
    /// stands still while another's prompt is read; prompts share the rest, of the tenant that had least first.
    fn turns(&mut self, lists: &mut Lists) {
        let Lists {
            answers,
            prompts,
            turns,
            ..
        } = lists;
        let prompts_wait = self.running.iter().any(|r| !r.answers());
        self.ready_answers(prompts_wait, answers);
        let most = if prompts_wait {
            ROWS - PROMPT_ROWS
        } else {
            ROWS
        };
        if answers.len() > most {
            // Those after the one that had the last turn, then the others.
            answers.sort_unstable_by_key(|i| {
                (
                    self.running[*i].number <= self.last_turn,
                    self.running[*i].number,
                )
            });
            answers.truncate(most);
            self.last_turn = answers.last().map_or(0, |i| self.running[*i].number);
        }
        let (mut rows, reading) = (answers.len(), reading(self.runner.model().info().bytes));
        turns.clear();
        for i in answers.iter().copied() {
            if self.guesses && !prompts_wait {
                self.running[i].guess(rows, reading);
            }
            let guessed = self.running[i].guessed;
            turns.push((i, 1 + guessed));
            rows += guessed;
        }
        prompts.clear();
        prompts.extend((0..self.running.len()).filter(|i| !self.running[*i].answers()));
        prompts.sort_unstable_by_key(|i| {
            (
                self.shares.had(self.running[*i].tenant),
                self.running[*i].number,
            )
        });
        let mut left = ROWS - rows;
        for i in prompts.iter().copied() {
            let count = self.running[i].ahead().len().min(left);
            if count == 0 {
                break;
            }
            turns.push((i, count));
            left -= count;
        }
        turns.sort_unstable();
    }

    /// Answers that may have a row: those whose reader has room, and not those whose constraint took more time than their passes, as long
    /// as anybody else has something to do. Otherwise one tenant's grammar would make everybody's passes as slow as itself.
    fn ready_answers(&mut self, prompts_wait: bool, answers: &mut Vec<usize>) {
        let ready = |r: &Running| r.answers() && r.sink.has_room();
        let mut find = |running: &[Running], may: &dyn Fn(&Running) -> bool| {
            answers.clear();
            answers.extend((0..running.len()).filter(|i| may(&running[*i])));
            !answers.is_empty()
        };
        if find(&self.running, &|r| ready(r) && r.owes == 0) || prompts_wait {
            return;
        }
        // Nobody is held up.
        self.running.iter_mut().for_each(|r| r.owes = 0);
        find(&self.running, &ready);
    }

    /// Counts what constraints took as rows that their tenants had.
    fn count_constraints(&mut self, turns: &[(usize, usize)]) {
        let rows = turns.iter().map(|(_, count)| *count as u64).sum::<u64>();
        let weights = self.runner.model().info().parameters.max(1);
        let mut turns = turns.iter().peekable();
        for (i, running) in self.running.iter_mut().enumerate() {
            let had_turn = turns.next_if(|(index, _)| *index == i).is_some();
            if had_turn && running.answers() {
                let steps = std::mem::take(&mut running.steps);
                let took = steps.saturating_mul(STEP_WORK) / weights;
                running.owes = running.owes.saturating_add(took);
                let rows = usize::try_from(took).unwrap_or(usize::MAX);
                self.shares.add(running.tenant, rows);
            }
            running.owes = running.owes.saturating_sub(rows);
        }
    }

    fn pass(&mut self, lists: &mut Lists) -> Result<(), EngineError> {
        let turns = &lists.turns;
        let mut entries = emptied(std::mem::take(&mut lists.entries));
        let mut turn = turns.iter().peekable();
        for (i, running) in self.running.iter_mut().enumerate() {
            let Some((_, count)) = turn.next_if(|(index, _)| *index == i) else {
                continue;
            };
            let from = running.sequence.len();
            let tokens = &running.tokens[from..from + count];
            let last = from + count == running.tokens.len();
            entries.push(Entry {
                sequence: &mut running.sequence,
                tokens,
                wanted: match running.generation.makes_checkpoints() {
                    _ if !last => Wanted::Nothing,
                    false if running.guessed > 0 => Wanted::Each(&mut running.logits),
                    false => Wanted::Last(&mut running.logits),
                    true => Wanted::LastState {
                        residual: &mut running.state,
                        logits: &mut running.logits,
                    },
                },
            });
        }
        let ran = self.runner.run(&mut entries);
        lists.entries = emptied(entries);
        ran?;
        self.stats.passes += 1;
        for (i, count) in turns {
            self.shares.add(self.running[*i].tenant, *count);
            self.stats.rows += *count as u64;
        }
        Ok(())
    }

    /// The next token of every answer whose logits the pass gave.
    fn choose(&mut self, turns: &[(usize, usize)]) {
        for (i, _) in turns {
            let running = &mut self.running[*i];
            running.turned = running.ahead().is_empty();
        }
        let vocab = self.runner.model().config().vocab;
        let threads = self.runner.threads();
        threads.share(&mut self.running, 1, vocab * LOGIT, |_, running| {
            let turned = running.iter_mut().filter(|r| r.turned);
            turned.for_each(|running| running.choose(vocab));
        });
        for running in self.running.iter_mut().filter(|r| r.turned) {
            running.turned = false;
            self.stats.guessed_tokens += std::mem::take(&mut running.guessed) as u64;
            self.stats.guessed_right += running.chosen.len().saturating_sub(1) as u64;
            self.stats.chosen_tokens += running.chosen.len() as u64;
            let mut wanted = true;
            for event in running.chosen.drain(..) {
                running.tokens.push(event.id);
                wanted = wanted && running.sink.token(event);
            }
            if !wanted {
                running.generation.cancel();
            }
            if running.failed.is_some() {
                running.generation.cancel();
            }
        }
    }

    /// Ends answers that are over; their full pages are kept for what begins the same way.
    fn end_finished(&mut self) {
        let over = |r: &mut Running| r.generation.finish().is_some();
        for over in self.running.extract_if(.., over) {
            self.shares.leave(over.tenant);
            let held = &over.tokens[..over.sequence.len()];
            self.prefixes.keep(over.tenant, held, over.sequence.pages());
            let finish = over.generation.finish().unwrap_or(Finish::Cancelled);
            over.sink.end(match over.failed {
                Some(error) => Ended::Failed(error),
                None => Ended::Finished(finish),
            });
        }
    }
}
