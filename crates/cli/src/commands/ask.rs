//! `stoa ask`: one paid call, saved with its receipt as the file that `stoa verify` takes; a file for each choice where several are asked for.

use super::Outcome;
use super::answer::{Answer, Said};
use super::show::word;
use crate::data::write_private;
use crate::http::{Api, HttpError};
use crate::network::Network;
use crate::process::{complain, say};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use stoa_nodes::client::CHOICES_MAX;
use stoa_types::{Address, JobId, SignedReceipt};
use stoa_verify::{Bundle, SettlementProof};

/// Arguments of `stoa ask`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to ask.
    text: String,
    /// Model; the first one offered when absent.
    #[arg(long)]
    model: Option<String>,
    /// Most output tokens.
    #[arg(long)]
    max_tokens: Option<u32>,
    /// Temperature; 0 always takes the likeliest token.
    #[arg(long, default_value_t = 0.0, value_parser = finite)]
    temperature: f64,
    /// How many answers, each with a receipt and a charge of its own.
    #[arg(long, value_name = "CHOICES", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(CHOICES_MAX)))]
    n: u32,
    /// Where to save receipt, request and answer; of several choices the index of each stands before the name's ending.
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Prints the whole answer as JSON.
    #[arg(long)]
    json: bool,
}

/// Arguments of `stoa receipt`.
#[derive(Debug, clap::Args)]
pub struct ReceiptArgs {
    /// A file saved by `stoa ask`; the settlement proof is put into it.
    file: PathBuf,
    /// Waits until the job's batch is posted.
    #[arg(long)]
    wait: bool,
}

#[derive(Deserialize)]
struct Models {
    data: Vec<ModelId>,
}

#[derive(Deserialize)]
struct ModelId {
    id: String,
}

#[derive(Deserialize)]
struct Settled {
    receipt: SignedReceipt,
    state: stoa_types::JobState,
    proof: Option<SettlementProof>,
}

fn finite(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().map_err(|error| error.to_string())?;
    // JSON has no word for others: the router would take its default.
    if number.is_finite() {
        Ok(number)
    } else {
        Err("it must be a finite number".to_owned())
    }
}

/// Whether a file can be written at `path`: found out before anything is paid.
fn check_writable(path: &Path) -> Outcome {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    if path.is_dir() || !folder.is_dir() {
        return Err(format!(
            "nothing can be saved at {}: {}; nothing was asked",
            path.display(),
            if path.is_dir() {
                "that is a folder".to_owned()
            } else {
                format!("there is no folder {}", folder.display())
            }
        )
        .into());
    }
    Ok(())
}

/// Asks the routers in turn until one answers, or one may have got the call.
async fn ask_any(network: &Network, args: &Args) -> Outcome<Asked> {
    let routers = network.routers();
    let mut left = routers.iter().peekable();
    while let Some(router) = left.next() {
        match ask_one(&Api::at(&router.api, &router.key), args).await {
            Err(error) if error.may_go_elsewhere() && left.peek().is_some() => {
                complain(format_args!("{error}; the next router is asked"))?;
            }
            Ok(asked) => {
                let other = |signer: &Address| *signer != router.router;
                let signer = asked.answer.routers().find(other);
                if let Some(signer) = signer {
                    complain(format_args!(
                        "the receipt is of router {signer}, but {} was to be asked: {} is not its API",
                        router.router, router.api
                    ))?;
                }
                return Ok(asked);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err("network.json names no router".into())
}

/// A call that was answered.
struct Asked {
    /// Exact bytes of the body.
    request: String,
    /// The answer as it came.
    raw: serde_json::Value,
    answer: Answer,
}

/// Why a router did not answer.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error(transparent)]
    Http(#[from] HttpError),
    /// Nothing was ordered yet.
    #[error("{0}")]
    Models(HttpError),
    #[error("no model is offered now")]
    NoModel,
    #[error("the router's answer cannot be read: {0}")]
    Answer(#[from] serde_json::Error),
}

impl AskError {
    fn may_go_elsewhere(&self) -> bool {
        match self {
            Self::Http(error) => error.may_go_elsewhere(),
            Self::Models(_) | Self::NoModel => true,
            Self::Answer(_) => false,
        }
    }
}

async fn ask_one(api: &Api, args: &Args) -> Result<Asked, AskError> {
    let model = match &args.model {
        Some(model) => model.clone(),
        None => {
            let models: Models = api.get("/models").await.map_err(AskError::Models)?;
            let first = models.data.into_iter().next();
            first.ok_or(AskError::NoModel)?.id
        }
    };
    let mut body = serde_json::json!({"model": model, "temperature": args.temperature, "messages": [{"role": "user", "content": args.text}]});
    if let Some(most) = args.max_tokens {
        body["max_completion_tokens"] = most.into();
    }
    if args.n > 1 {
        body["n"] = args.n.into();
    }
    let request = body.to_string();
    let raw: serde_json::Value = api.post("/chat/completions", request.clone()).await?;
    let answer = serde_json::from_value(raw.clone())?;
    Ok(Asked {
        request,
        raw,
        answer,
    })
}

/// Asks and prints the answer.
pub async fn ask(data: &Path, args: &Args) -> Outcome {
    for path in saved(args, args.n as usize) {
        check_writable(&path)?;
    }
    let network = Network::load(data)?;
    let Asked {
        request,
        raw,
        answer,
    } = ask_any(&network, args).await?;
    let choices = answer.choices(&request)?;
    let saved = saved(args, choices.len());
    // It is paid for: it is saved whoever reads the output.
    for (path, said) in saved.iter().zip(&choices) {
        write_private(path, &said.bundle.to_bytes())?;
    }
    if args.json {
        say(raw)?;
    } else {
        for said in &choices {
            print_answer(said)?;
        }
    }
    for path in &saved {
        complain(format_args!(
            "saved to {}; check it with: stoa verify {}",
            path.display(),
            path.display()
        ))?;
    }
    Ok(())
}

/// A file for each of so many choices; none where nothing is to be saved.
fn saved(args: &Args, choices: usize) -> Vec<PathBuf> {
    let Some(path) = &args.save else {
        return Vec::new();
    };
    if choices == 1 {
        return vec![path.clone()];
    }
    let of_choice = |choice: usize| match path.extension() {
        Some(ending) => path.with_extension(format!("{choice}.{}", ending.to_string_lossy())),
        None => path.with_extension(choice.to_string()),
    };
    (0..choices).map(of_choice).collect()
}

fn print_answer(said: &Said) -> std::io::Result<()> {
    let Said { parts, bundle } = said;
    // Beside the answer: what reads the output wants that and no more.
    if !parts.reasoning.is_empty() {
        complain(format_args!("reasoning: {}", parts.reasoning))?;
    }
    say(&parts.content)?;
    for call in &bundle.response.tool_calls {
        say(format_args!("call {} {}", call.name, call.arguments))?;
    }
    let receipt = &bundle.receipt.receipt;
    complain(format_args!(
        "job {}, {} for {} + {} tokens",
        receipt.job_id, receipt.charge, receipt.input_units, receipt.output_units
    ))
}

/// Reads a file saved by `stoa ask`.
pub fn read_bundle(path: &Path) -> Outcome<Bundle> {
    let bytes =
        std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    Ok(Bundle::parse(&bytes).map_err(|error| format!("{}: {error}", path.display()))?)
}

/// Puts the settlement proof into a saved file.
pub async fn receipt(data: &Path, args: &ReceiptArgs) -> Outcome {
    let mut bundle = read_bundle(&args.file)?;
    let network = Network::load(data)?;
    let routers = network.routers();
    let router = bundle.receipt.receipt.router;
    // The router that served it has the proof; the first one can at least say that it knows nothing of it.
    let at = routers.iter().find(|known| known.router == router);
    let at = at.unwrap_or(&routers[0]);
    let api = Api::at(&at.api, &at.key);
    let job: JobId = bundle.receipt.receipt.job_id;
    loop {
        let settled: Settled = api.get(&format!("/receipts/{job}")).await?;
        if settled.receipt != bundle.receipt {
            return Err(format!("the router holds another receipt of {job} than the file: keep both, they prove its fault").into());
        }
        match settled.proof {
            Some(proof) => {
                bundle.proof = Some(proof);
                write_private(&args.file, &bundle.to_bytes())?;
                let (state, file) = (word(settled.state)?, args.file.display());
                return Ok(say(format_args!(
                    "{job} is {state}; the proof is in {file}"
                ))?);
            }
            None if args.wait => tokio::time::sleep(std::time::Duration::from_millis(500)).await,
            None => {
                return Err(format!(
                    "{job} is {}: its batch is not posted yet; try again later or use --wait",
                    word(settled.state)?
                )
                .into());
            }
        }
    }
}
