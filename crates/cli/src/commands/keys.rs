//! `stoa keys`: makes, lists, replaces and revokes the developer's API keys.

use super::Outcome;
use super::show::print_json;
use crate::http::Api;
use crate::network::Network;
use crate::process::say;
use comfy_table::Table;
use serde_json::{Value, json};
use std::path::Path;

/// Arguments of `stoa keys`.
#[derive(Debug, clap::Args)]
pub struct KeysArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Makes a key and prints its secret, which is shown this once.
    Create(CreateArgs),
    /// Lists the keys with their limits and what they spent.
    List(ListArgs),
    /// Gives a key another secret and prints it.
    Rotate(RotateArgs),
    /// Refuses a key from now on.
    Revoke(RevokeArgs),
}

#[derive(Debug, clap::Args)]
struct CreateArgs {
    /// A name for people.
    #[arg(default_value = "")]
    name: String,
    /// Confines the key to groups of routes: inference, models, jobs, account. Repeat or separate with commas.
    #[arg(long, value_delimiter = ',', value_name = "GROUP")]
    routes: Vec<String>,
    /// Confines the key to models. Repeat or separate with commas.
    #[arg(long, value_delimiter = ',', value_name = "MODEL")]
    models: Vec<String>,
    /// Most that its calls may cost, in payment tokens.
    #[arg(long, value_name = "AMOUNT")]
    spend: Option<String>,
    /// How often that begins anew: day, month or total.
    #[arg(long, default_value = "month", requires = "spend")]
    per: String,
    /// Calls in a minute; needs --tokens-per-minute too.
    #[arg(long, value_name = "N", requires = "tokens_per_minute")]
    requests_per_minute: Option<u32>,
    /// Tokens in a minute; needs --requests-per-minute too.
    #[arg(long, value_name = "N", requires = "requests_per_minute")]
    tokens_per_minute: Option<u32>,
    /// How long the key is accepted.
    #[arg(long, value_name = "SECONDS")]
    expires_in: Option<u64>,
    /// Prints JSON instead of the secret alone.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    /// Prints JSON instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct RotateArgs {
    /// The key's id, from `stoa keys list`.
    key: String,
    /// How long the secret before is still accepted.
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    keep_old: u64,
    /// Prints JSON instead of the secret alone.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct RevokeArgs {
    /// The key's id, from `stoa keys list`.
    key: String,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// `stoa keys`.
pub async fn keys(data: &Path, args: &KeysArgs) -> Outcome {
    let api = Api::new(&Network::load(data)?);
    match &args.action {
        Action::Create(create) => {
            let made: Value = api.post("/stoa/keys", body(create).to_string()).await?;
            tell_secret(&made, create.json)
        }
        Action::List(list) => {
            let listed: Value = api.get("/stoa/keys").await?;
            if list.json {
                return print_json(&listed["data"]);
            }
            Ok(say(table(&listed["data"]))?)
        }
        Action::Rotate(rotate) => {
            let path = format!("/stoa/keys/{}/rotate", segment(&rotate.key)?);
            let body = json!({"old_valid_seconds": rotate.keep_old}).to_string();
            let made: Value = api.post(&path, body).await?;
            tell_secret(&made, rotate.json)
        }
        Action::Revoke(revoke) => {
            let path = format!("/stoa/keys/{}", segment(&revoke.key)?);
            let row: Value = api.delete(&path).await?;
            if revoke.json {
                return print_json(&row);
            }
            Ok(say(format_args!("{} is revoked", text(&row["id"])))?)
        }
    }
}

fn tell_secret(made: &Value, whole: bool) -> Outcome {
    if whole {
        return print_json(made);
    }
    Ok(say(text(&made["secret"]))?)
}

/// One part of a path: nothing else may be asked for by a strange id.
fn segment(key: &str) -> Result<&str, String> {
    let plain = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    plain
        .then_some(key)
        .ok_or_else(|| format!("`{key}` is no key's id; see `stoa keys list`"))
}

fn body(args: &CreateArgs) -> Value {
    let list = |words: &[String]| (!words.is_empty()).then(|| words.to_vec());
    let rate = args.requests_per_minute.zip(args.tokens_per_minute);
    json!({
        "name": args.name,
        "routes": list(&args.routes),
        "models": list(&args.models),
        "spend_limit": args.spend.as_ref().map(|amount| json!({"amount": amount, "period": args.per})),
        "rate_limit": rate.map(|(requests, tokens)| {
            json!({"requests_per_minute": requests, "tokens_per_minute": tokens})
        }),
        "expires_in_seconds": args.expires_in,
    })
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// A list's entries, or that there is no limit.
fn words(value: &Value) -> String {
    let Some(items) = value.as_array() else {
        return "all".to_owned();
    };
    items.iter().map(text).collect::<Vec<_>>().join(", ")
}

fn state(row: &Value) -> &'static str {
    if !row["revoked_at"].is_null() {
        return "revoked";
    }
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = since.map_or(0, |since| since.as_secs());
    match row["expires_at"].as_u64() {
        Some(end) if end <= now => "expired",
        _ if row["configured"] == true => "configured",
        _ => "live",
    }
}

fn table(rows: &Value) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header([
        "id", "name", "state", "routes", "models", "spent", "reserved", "limit",
    ]);
    for row in rows.as_array().into_iter().flatten() {
        let limit = &row["spend_limit"];
        let limit = if limit.is_null() {
            "-".to_owned()
        } else {
            format!("{} per {}", text(&limit["amount"]), text(&limit["period"]))
        };
        table.add_row([
            text(&row["id"]),
            text(&row["name"]),
            state(row).to_owned(),
            words(&row["routes"]),
            words(&row["models"]),
            text(&row["spent"]),
            text(&row["reserved"]),
            limit,
        ]);
    }
    table
}
