//! No memory is asked for while tokens are decoded, once what passes work in has the size of the first of them.

mod support;

#[path = "../../../fuzz/src/gauge.rs"]
#[allow(dead_code, reason = "nothing is bounded here")]
mod gauge;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Sender, channel};
use stoa_engine::import::Checkpoint;
use stoa_engine::{
    Ended, Entry, Finish, Generation, Model, PAGE, ROWS, Request, Runner, Scheduler,
    SchedulerOptions, Sequence, Sink, Tenant, TextOptions, Threads, TokenEvent, Wanted,
};
use stoa_types::{Q16, SamplingParameters, SignedQ16};
use support::{END, Family, GgufWriter, Shape, Storage, Toy};

#[global_allocator]
static GAUGE: gauge::Gauge = gauge::Gauge;

/// A model, and the bytes of a page of its sequences.
fn model(family: Family) -> (Arc<Model>, u64) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let toy = Toy::new(Shape::of(family), 5);
    let file = GgufWriter::new(&toy, Storage::Q8_0).write(folder.path(), "toy.gguf");
    let whole = Checkpoint::open(&file).expect("valid").memory_estimate();
    let pages = toy.shape.context.div_ceil(PAGE) as u64;
    (
        Arc::new(Model::open(file).expect("valid")),
        whole.cache / pages,
    )
}

/// Sequences that are decoded together, and where what is made of their tokens goes.
struct Streams {
    sequences: [Sequence; 4],
    logits: [Vec<i32>; 4],
    states: [Vec<i32>; 2],
}

impl Streams {
    fn new(model: &Model) -> Self {
        Self {
            sequences: [(); 4].map(|()| Sequence::new(model.config())),
            logits: Default::default(),
            states: Default::default(),
        }
    }

    /// Gives every sequence a token, and the second one three; all kinds of results are wanted.
    fn step(&mut self, runner: &mut Runner, token: u32) {
        let [a, b, c, d] = &mut self.sequences;
        let [last, each, of_last, of_all] = &mut self.logits;
        let [residual, residuals] = &mut self.states;
        let tokens = [token, token + 1, token + 2];
        let wanted = [
            Wanted::Last(last),
            Wanted::Each(each),
            Wanted::LastState {
                residual,
                logits: of_last,
            },
            Wanted::Residuals {
                residuals,
                logits: of_all,
            },
        ];
        let mut given = [a, b, c, d].into_iter().zip(wanted).zip([1, 3, 1, 1]);
        let mut entries = [(); 4].map(|()| {
            let ((sequence, wanted), count) = given.next().expect("four");
            Entry {
                sequence,
                tokens: &tokens[..count],
                wanted,
            }
        });
        runner.run(&mut entries).expect("fits");
    }

    fn pages(&self) -> [usize; 4] {
        let of = |sequence: &Sequence| sequence.len().div_ceil(PAGE);
        self.sequences.each_ref().map(of)
    }
}

/// Decodes three pages of tokens: steps that began no page, and how often memory was asked for in them.
fn decode(runner: &mut Runner) -> (usize, usize) {
    let model = Arc::clone(runner.model());
    let (mut streams, mut steps, mut asked) = (Streams::new(&model), 0, 0);
    while streams.sequences[1].len() < 3 * PAGE {
        let (before, pages) = (gauge::asked(), streams.pages());
        streams.step(runner, streams.sequences[0].len() as u32);
        let more = gauge::asked() - before;
        if streams.pages() == pages {
            (steps, asked) = (steps + 1, asked + more);
        }
    }
    (steps, asked)
}

/// As many sequences as share a pass well, up to a page of tokens each: how often memory was asked for in passes after the first.
fn decode_many(runner: &mut Runner) -> usize {
    let model = Arc::clone(runner.model());
    let mut sequences = [(); ROWS].map(|()| Sequence::new(model.config()));
    let mut logits = [(); ROWS].map(|()| Vec::new());
    let mut asked = 0;
    for token in (0..PAGE as u32).map(|token| [token]) {
        let before = gauge::asked();
        let mut given = sequences.iter_mut().zip(&mut logits);
        let mut entries = [(); ROWS].map(|()| {
            let (sequence, logits) = given.next().expect("as many");
            Entry {
                sequence,
                tokens: &token,
                wanted: Wanted::Last(logits),
            }
        });
        runner.run(&mut entries).expect("fits");
        if token != [0] {
            asked += gauge::asked() - before;
        }
    }
    asked
}

/// Tokens of an answer: more than two pages of them.
const ANSWER: usize = 150;
/// Tokens of a prompt.
const PROMPT: usize = 10;
/// Answers side by side.
const ANSWERS: usize = 4;

/// What is noted at each token of one answer.
type Notes = [AtomicUsize; ANSWER];

/// Notes how often memory was asked for so far, but for texts that came to anybody.
struct Reader {
    beyond: Arc<Notes>,
    texts: Arc<AtomicUsize>,
    ended: Sender<bool>,
}

impl Sink for Reader {
    fn token(&mut self, event: TokenEvent) -> bool {
        self.texts
            .fetch_add(usize::from(!event.text.is_empty()), Relaxed);
        let beyond = gauge::asked() - self.texts.load(Relaxed);
        self.beyond[event.index as usize].store(beyond, Relaxed);
        true
    }

    fn end(self: Box<Self>, ended: Ended) {
        let whole = matches!(ended, Ended::Finished(Finish::Length));
        self.ended.send(whole).expect("waited for");
    }

    fn has_room(&self) -> bool {
        true
    }

    fn is_cancelled(&self) -> bool {
        false
    }
}

/// Some answers side by side: how often memory was asked for beyond the texts, from each token of the last one to its next, when the others
/// have had theirs.
fn serve(scheduler: &Scheduler, model: &Arc<Model>) -> Vec<usize> {
    let (ended, ends) = channel();
    let (texts, mut last) = (Arc::default(), None);
    for number in 0..ANSWERS as u8 {
        let parameters = SamplingParameters {
            max_output_tokens: ANSWER as u32,
            seed: u64::from(number),
            temperature: Q16::from_f64(1.0).expect("in range"),
            logit_bias: [(END, SignedQ16(i32::MIN))].into(),
            ..SamplingParameters::default()
        };
        let (prompt, beyond) = (vec![u32::from(number); PROMPT], Arc::new(zeros()));
        last = Some(Arc::clone(&beyond));
        scheduler.submit(Request {
            tenant: Tenant([number; 32]),
            generation: Generation::new(model, prompt.len(), &parameters, TextOptions::default()),
            prompt,
            sink: Box::new(Reader {
                beyond,
                texts: Arc::clone(&texts),
                ended: ended.clone(),
            }),
        });
    }
    assert!((0..ANSWERS).all(|_| ends.recv().expect("ends")));
    let last = last
        .expect("some answers")
        .each_ref()
        .map(|n| n.load(Relaxed));
    last.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

fn zeros() -> Notes {
    [const { AtomicUsize::new(0) }; ANSWER]
}

fn one_thread(model: &Arc<Model>, family: Family) {
    let mut runner = Runner::new(model, Threads::one());
    for _ in 0..2 {
        let (steps, asked) = decode(&mut runner);
        assert!(steps > 50);
        assert_eq!(asked, 0, "{family:?}: {steps} steps");
    }
}

fn more_threads(model: &Arc<Model>, family: Family) {
    let mut runner = Runner::new(model, Threads::new(3).expect("a few"));
    decode_many(&mut runner);
    // Work from outside a pool comes to it through a queue, which grows by one piece for some sixty passes.
    let asked = decode_many(&mut runner);
    assert!(asked <= 2, "{family:?}: {asked}");
}

fn scheduled(model: &Arc<Model>, page_bytes: u64, family: Family) {
    for (threads, guesses) in [(1, false), (1, true), (2, false)] {
        // Memory for these answers and no more, so that pages are used again.
        let pages = ANSWERS * (PROMPT + ANSWER).div_ceil(PAGE);
        let options = SchedulerOptions {
            threads,
            cache_bytes: page_bytes * pages as u64,
            answers: ANSWERS,
            guesses,
        };
        let scheduler = Scheduler::start(model, options).expect("threads");
        serve(&scheduler, model);
        let beyond = serve(&scheduler, model);
        let (all, none) = (
            beyond.iter().sum::<usize>(),
            beyond.iter().filter(|n| **n == 0),
        );
        // An answer's lists of tokens, its text and what is held of it double now and then; each of its pages is counted by a list.
        let (none, doubled) = (none.count(), ANSWERS * 4 * (ANSWER.ilog2() as usize + 1));
        assert!(all <= doubled, "{family:?}, {threads} threads: {beyond:?}");
        assert!(none > 90, "{family:?}, {threads} threads: {beyond:?}");
    }
}

// One test: the gauge counts what all threads ask for.
#[test]
fn no_memory_is_asked_for_by_a_pass_after_the_first_and_for_a_token_but_for_its_text() {
    for family in Family::DECODERS {
        let (model, page_bytes) = model(family);
        one_thread(&model, family);
        if matches!(family, Family::Llama | Family::Qwen2Moe) {
            more_threads(&model, family);
            scheduled(&model, page_bytes, family);
        }
    }
}
