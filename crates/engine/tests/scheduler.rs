//! Many requests at once: each gets what it would get alone, and nobody waits for ever.

mod support;

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use stoa_engine::{
    Constraint, ConstraintError, Ended, Finish, Generation, Model, PAGE, Request, Scheduler,
    SchedulerOptions, Sink, Tenant, TextOptions, TokenEvent, TokenSet, generate,
};
use stoa_types::{Q16, SamplingParameters};
use support::{GgufWriter, Random, Shape, Storage, Toy};

/// Longer than any answer takes; only a fault waits for it.
const PATIENCE: Duration = Duration::from_secs(60);

fn model() -> Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    let open = || {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let toy = Toy::new(Shape::small(), 8);
        let path = GgufWriter::new(&toy, Storage::Q8_0).write(folder.path(), "toy.gguf");
        Arc::new(Model::open(path).expect("a toy model is valid"))
    };
    Arc::clone(MODEL.get_or_init(open))
}

/// What a reader sees and does.
#[derive(Clone)]
struct Reader {
    name: usize,
    told: Sender<(usize, Told)>,
    room: Arc<AtomicBool>,
    cancelled: Arc<AtomicBool>,
}

enum Told {
    Token(TokenEvent),
    End(Ended),
}

impl Sink for Reader {
    fn token(&mut self, event: TokenEvent) -> bool {
        self.told.send((self.name, Told::Token(event))).is_ok()
    }

    fn end(self: Box<Self>, ended: Ended) {
        let _ = self.told.send((self.name, Told::End(ended)));
    }

    fn has_room(&self) -> bool {
        self.room.load(Ordering::Relaxed)
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// Tokens and how they ended.
type Heard = (Vec<u32>, Option<Ended>);

struct Readers {
    told: Sender<(usize, Told)>,
    heard: Receiver<(usize, Told)>,
}

impl Readers {
    fn new() -> Self {
        let (told, heard) = channel();
        Self { told, heard }
    }

    fn reader(&self, name: usize) -> Reader {
        Reader {
            name,
            told: self.told.clone(),
            room: Arc::new(AtomicBool::new(true)),
            cancelled: Arc::default(),
        }
    }

    fn next(&self) -> (usize, Told) {
        self.heard.recv_timeout(PATIENCE).expect("nobody starves")
    }

    /// Tokens and end of each of `count` readers, and the order in which they ended.
    fn all(&self, count: usize) -> (Vec<Heard>, Vec<usize>) {
        let (mut found, mut order) = (vec![(Vec::new(), None); count], Vec::new());
        while order.len() < count {
            match self.next() {
                (name, Told::Token(event)) => found[name].0.push(event.id),
                (name, Told::End(ended)) => {
                    found[name].1 = Some(ended);
                    order.push(name);
                }
            }
        }
        (found, order)
    }
}

fn tokens(count: usize, seed: u64) -> Vec<u32> {
    let mut random = Random(seed);
    (0..count).map(|_| random.below(259)).collect()
}

fn parameters(temperature: f64, seed: u64, max: u32) -> SamplingParameters {
    SamplingParameters {
        temperature: Q16::from_f64(temperature).expect("in range"),
        seed,
        max_output_tokens: max,
        ..SamplingParameters::default()
    }
}

fn alone(prompt: &[u32], parameters: &SamplingParameters) -> (Vec<u32>, Finish) {
    let down = AtomicBool::new(false);
    let options = TextOptions::default();
    let answer = generate(&model(), prompt, parameters, options, &down, |_| {
        ControlFlow::Continue(())
    });
    let answer = answer.expect("a valid prompt");
    (answer.tokens, answer.finish)
}

fn request(tenant: u8, prompt: &[u32], parameters: SamplingParameters, reader: Reader) -> Request {
    Request {
        tenant: Tenant([tenant; 32]),
        prompt: prompt.to_vec(),
        generation: Generation::new(&model(), prompt.len(), &parameters, TextOptions::default()),
        sink: Box::new(reader),
    }
}

/// A scheduler with memory for so many pages, which guesses.
fn scheduler(threads: usize, pages: u64, answers: usize) -> Scheduler {
    scheduler_that(true, threads, pages, answers)
}

fn scheduler_that(guesses: bool, threads: usize, pages: u64, answers: usize) -> Scheduler {
    let probe = SchedulerOptions {
        threads: 1,
        cache_bytes: 0,
        answers: 1,
        guesses: false,
    };
    let page = Scheduler::start(&model(), probe).expect("threads");
    // Stats are told with the first look at the inbox.
    let mut bytes = page.stats().page_bytes;
    while bytes == 0 {
        std::thread::yield_now();
        bytes = page.stats().page_bytes;
    }
    let options = SchedulerOptions {
        threads,
        cache_bytes: pages * bytes,
        answers,
        guesses,
    };
    Scheduler::start(&model(), options).expect("threads")
}

#[test]
fn many_at_once_in_little_memory_each_get_what_they_get_alone() {
    for threads in [1, 2] {
        let (scheduler, readers) = (scheduler(threads, 14, 6), Readers::new());
        let mut random = Random(threads as u64);
        let count = 40;
        let mut asked = Vec::new();
        for name in 0..count {
            // Some begin alike, so that beginnings are found again and let go.
            let mut prompt = tokens(random.below(150) as usize, u64::from(random.below(3)));
            prompt.extend(tokens(1 + random.below(20) as usize, name as u64));
            let temperature = f64::from(random.below(3)) * 0.6;
            let parameters = parameters(temperature, name as u64, random.below(80));
            let tenant = random.below(3) as u8;
            let reader = readers.reader(name);
            scheduler.submit(request(tenant, &prompt, parameters.clone(), reader));
            asked.push((prompt, parameters));
        }
        let (found, _) = readers.all(count);
        for ((prompt, parameters), (tokens, ended)) in asked.iter().zip(found) {
            let (expected, finish) = alone(prompt, parameters);
            assert_eq!(tokens, expected);
            assert!(matches!(ended, Some(Ended::Finished(f)) if f == finish));
        }
        let stats = scheduler.stats();
        assert!(stats.pages <= 14 && stats.reused_tokens > 0, "{stats:?}");
    }
}

#[test]
fn what_repeats_is_guessed_and_no_token_is_another_for_it() {
    // One at a time: the weights of so small a model are read too fast for guesses in larger passes.
    let (scheduler, readers) = (scheduler(2, 64, 1), Readers::new());
    let asked: Vec<_> = (0..9)
        .map(|name| {
            // Greedy answers of a small model go in circles; sampled ones seldom do what was guessed.
            let prompt = tokens(7, name as u64).repeat(4);
            let temperature = f64::from(name as u32 % 3) * 0.4;
            (prompt, parameters(temperature, name as u64, 90))
        })
        .collect();
    for (name, (prompt, parameters)) in asked.iter().enumerate() {
        let reader = readers.reader(name);
        scheduler.submit(request(0, prompt, parameters.clone(), reader));
    }
    let (found, _) = readers.all(asked.len());
    let mut chosen = 0;
    for ((prompt, parameters), (tokens, ended)) in asked.iter().zip(found) {
        let (expected, finish) = alone(prompt, parameters);
        assert_eq!(tokens, expected);
        assert!(matches!(ended, Some(Ended::Finished(f)) if f == finish));
        chosen += tokens.len() as u64;
    }
    let stats = scheduler.stats();
    assert_eq!(stats.chosen_tokens, chosen);
    let (guessed, right) = (stats.guessed_tokens, stats.guessed_right);
    assert!(0 < right && right < guessed, "{stats:?}");
}

#[test]
fn a_beginning_is_computed_once_for_a_tenant_and_again_for_another() {
    let (scheduler, readers) = (scheduler(1, 40, 4), Readers::new());
    let prompt = tokens(3 * PAGE + 9, 5);
    let rows = |scheduler: &Scheduler| (scheduler.stats().rows, scheduler.stats().reused_tokens);
    let ask = |name, tenant, prompt: &[u32]| {
        scheduler.submit(request(
            tenant,
            prompt,
            parameters(0.7, 9, 1),
            readers.reader(name),
        ));
        let mut chosen = None;
        loop {
            match readers.next().1 {
                Told::Token(event) => chosen = Some(event.id),
                Told::End(_) => return chosen,
            }
        }
    };
    let expected = alone(&prompt, &parameters(0.7, 9, 1)).0.first().copied();
    assert_eq!(ask(0, 1, &prompt), expected);
    assert_eq!(ask(1, 1, &prompt), expected);
    assert_eq!(ask(2, 2, &prompt), expected);
    // Exactly full pages: the last one is computed again, since the logits after it are not kept.
    let full = &prompt[..3 * PAGE];
    let expected = alone(full, &parameters(0.7, 9, 1)).0.first().copied();
    assert_eq!(ask(3, 1, full), expected);
    // A first look at the inbox after the last end tells the last figures.
    ask(4, 3, &prompt[..1]);
    let whole = prompt.len() as u64;
    let kept = 3 * PAGE as u64;
    let (rows, reused) = rows(&scheduler);
    assert_eq!(reused, kept + kept - PAGE as u64);
    assert!((2 * whole + 9 + PAGE as u64..=2 * whole + 10 + PAGE as u64).contains(&rows));
}

#[test]
fn who_does_not_read_stands_still_alone_and_goes_on_later() {
    let (scheduler, readers) = (scheduler(1, 40, 4), Readers::new());
    let slow = readers.reader(0);
    slow.room.store(false, Ordering::Relaxed);
    let asked = |seed| (tokens(30, seed), parameters(0.5, seed, 40));
    for name in 0..3 {
        let (prompt, parameters) = asked(name as u64);
        let reader = if name == 0 {
            slow.clone()
        } else {
            readers.reader(name)
        };
        scheduler.submit(request(name as u8, &prompt, parameters, reader));
    }
    let mut found = vec![Vec::new(); 3];
    let mut ended = 0;
    while ended < 3 {
        match readers.next() {
            (name, Told::Token(event)) => found[name].push(event.id),
            (name, Told::End(_)) => {
                ended += 1;
                assert!(found[0].len() <= 1 || slow.room.load(Ordering::Relaxed));
                assert!(name != 0 || ended == 3, "the one that stood still is last");
                if ended == 2 {
                    slow.room.store(true, Ordering::Relaxed);
                }
            }
        }
    }
    for (name, found) in found.into_iter().enumerate() {
        let (prompt, parameters) = asked(name as u64);
        assert_eq!(found, alone(&prompt, &parameters).0);
    }
}

#[test]
fn who_does_not_read_for_long_makes_place_and_gets_the_same_answer_later() {
    // Memory for one of them at a time; then places for one.
    for (pages, places) in [(4, 4), (40, 1)] {
        let (scheduler, readers) = (scheduler(1, pages, places), Readers::new());
        let (long, short) = (tokens(PAGE + 5, 3), tokens(PAGE + 30, 4));
        let p = parameters(0.8, 1, 2 * PAGE as u32);
        let slow = readers.reader(0);
        let (room, cancelled) = (Arc::clone(&slow.room), Arc::clone(&slow.cancelled));
        scheduler.submit(request(1, &long, p.clone(), slow));
        let mut had = Vec::new();
        while had.len() < 7 {
            match readers.next() {
                (0, Told::Token(event)) => had.push(event.id),
                _ => panic!("it goes on"),
            }
        }
        room.store(false, Ordering::Relaxed);
        for name in [1, 2] {
            scheduler.submit(request(2, &short, p.clone(), readers.reader(name)));
            let mut other = Vec::new();
            loop {
                match readers.next() {
                    // Some were on their way.
                    (0, Told::Token(event)) => had.push(event.id),
                    (0, Told::End(ended)) => panic!("{ended:?}"),
                    (_, Told::Token(event)) => other.push(event.id),
                    (_, Told::End(_)) => break,
                }
            }
            assert_eq!(other, alone(&short, &p).0);
        }
        let (expected, _) = alone(&long, &p);
        assert!(had.len() < expected.len());
        room.store(true, Ordering::Relaxed);
        while let Told::Token(event) = readers.next().1 {
            had.push(event.id);
        }
        assert_eq!(had, expected);
        assert!(!cancelled.load(Ordering::Relaxed));
    }
}

/// Everything may come, at a price.
#[derive(Debug)]
struct Costly(u64);

impl Constraint for Costly {
    fn allowed(&mut self) -> Result<Option<&TokenSet>, ConstraintError> {
        Ok(None)
    }

    fn accept(&mut self, _: u32) -> Result<(), ConstraintError> {
        Ok(())
    }

    fn take_steps(&mut self) -> u64 {
        self.0
    }
}

#[test]
fn an_answer_whose_grammar_is_costly_sits_passes_out_for_it_and_hurries_when_nobody_waits() {
    // What is guessed right needs fewer passes.
    let (scheduler, readers) = (scheduler_that(false, 1, 40, 4), Readers::new());
    let asked = |name: usize, max| (tokens(20, name as u64), parameters(0.9, name as u64, max));
    let (costly, free) = (readers.reader(0), readers.reader(1));
    let rooms = [Arc::clone(&costly.room), Arc::clone(&free.room)];
    rooms
        .iter()
        .for_each(|room| room.store(false, Ordering::Relaxed));
    // As long as ten rows of a pass, by the count of the model's weights.
    let steps = model().info().parameters / 100;
    for (reader, max) in [(costly, 40), (free, 150)] {
        let name = reader.name;
        let (prompt, p) = asked(name, max);
        let mut request = request(name as u8, &prompt, p, reader);
        if name == 0 {
            request.generation = request.generation.held_to(Some(Box::new(Costly(steps))));
        }
        scheduler.submit(request);
    }
    let mut found = vec![Vec::new(); 2];
    // The first token comes with the prompt; the reader's room counts from then on.
    while found.iter().any(Vec::is_empty) {
        if let (name, Told::Token(event)) = readers.next() {
            found[name].push(event.id);
        }
    }
    rooms
        .iter()
        .rev()
        .for_each(|room| room.store(true, Ordering::Relaxed));
    let (mut ended, mut costly_had) = (0, 0);
    while ended < 2 {
        match readers.next() {
            (name, Told::Token(event)) => found[name].push(event.id),
            (name, Told::End(_)) => {
                ended += 1;
                assert_eq!(name, 2 - ended, "the costly one is the last");
                if name == 1 {
                    costly_had = found[0].len();
                }
            }
        }
    }
    assert!((10..=24).contains(&costly_had), "{costly_had}");
    for (name, max) in [(0, 40), (1, 150)] {
        let (prompt, p) = asked(name, max);
        assert_eq!(found[name], alone(&prompt, &p).0, "not a bit changes");
    }
}

#[test]
fn a_cancelled_answer_ends_whether_it_runs_waits_or_stands_still() {
    let (scheduler, readers) = (scheduler(1, 8, 1), Readers::new());
    let made: Vec<Reader> = (0..3).map(|name| readers.reader(name)).collect();
    made[0].room.store(false, Ordering::Relaxed);
    for (name, reader) in made.iter().enumerate() {
        let parameters = parameters(0.5, 1, 300);
        scheduler.submit(request(
            name as u8,
            &tokens(30, 1),
            parameters,
            reader.clone(),
        ));
    }
    for name in [2, 0] {
        made[name].cancelled.store(true, Ordering::Relaxed);
    }
    let mut ended = Vec::new();
    while ended.len() < 3 {
        match readers.next() {
            (1, Told::Token(_)) => made[1].cancelled.store(true, Ordering::Relaxed),
            (_, Told::Token(_)) => {}
            (name, Told::End(end)) => {
                assert!(matches!(end, Ended::Finished(Finish::Cancelled)));
                ended.push(name);
            }
        }
    }
    assert_eq!(ended.pop(), Some(1), "it ran after the first was given up");
}

#[test]
fn what_can_never_run_is_refused_at_once_and_the_rest_goes_on() {
    let (scheduler, readers) = (scheduler(1, 3, 4), Readers::new());
    let long = tokens(150, 1);
    let cases = [
        (long.clone(), 200, "tokens"),
        (vec![], 5, "empty"),
        (vec![99_999], 5, "vocabulary"),
        (tokens(600, 1), 5, "context"),
        (long.clone(), 30, ""),
        (tokens(5, 1), 0, ""),
    ];
    for (name, (prompt, max, _)) in cases.iter().enumerate() {
        let parameters = parameters(0.0, 1, *max);
        scheduler.submit(request(0, prompt, parameters, readers.reader(name)));
    }
    let (found, _) = readers.all(cases.len());
    for ((_, max, reason), (tokens, ended)) in cases.iter().zip(found) {
        match ended {
            Some(Ended::Failed(error)) => {
                assert!(
                    !reason.is_empty() && error.to_string().contains(reason),
                    "{error}"
                );
            }
            ended => assert!(reason.is_empty(), "{reason}: {ended:?}"),
        }
        assert_eq!(tokens.is_empty(), !reason.is_empty() || *max == 0);
    }
}

#[test]
fn a_tenant_that_asks_once_does_not_wait_for_all_of_one_that_asks_often() {
    let (scheduler, readers) = (scheduler(1, 40, 1), Readers::new());
    let many = 12;
    for name in 0..=many {
        let tenant = u8::from(name == many);
        let parameters = parameters(0.9, name as u64, 30);
        let prompt = tokens(40, name as u64);
        scheduler.submit(request(tenant, &prompt, parameters, readers.reader(name)));
    }
    let (_, order) = readers.all(many + 1);
    let place = order.iter().position(|name| *name == many).expect("ended");
    assert!(place <= 3, "{order:?}");
}

#[test]
fn a_large_request_is_not_kept_out_by_small_ones_that_come_later() {
    // Room for eight pages: two small ones at once, or the large one alone.
    let (scheduler, readers) = (scheduler(1, 8, 8), Readers::new());
    let small = |name: usize| {
        let parameters = parameters(0.9, name as u64, 140);
        request(
            name as u8,
            &tokens(100, name as u64),
            parameters,
            readers.reader(name),
        )
    };
    scheduler.submit(small(0));
    scheduler.submit(small(1));
    scheduler.submit(request(
        2,
        &tokens(300, 2),
        parameters(0.9, 2, 200),
        readers.reader(2),
    ));
    (3..12).for_each(|name| scheduler.submit(small(name)));
    let (_, order) = readers.all(12);
    let place = order.iter().position(|name| *name == 2).expect("ended");
    assert!(place <= 4, "{order:?}");
}
