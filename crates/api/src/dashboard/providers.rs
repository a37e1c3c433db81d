//! Providers: the list, and one provider with its score, stake, slashes, earnings and lost jobs.

use super::audits::{ruling_table, slash_table};
use super::calls::{loss_table, rule_words};
use super::money::payout_table;
use super::pages::{Section, section};
use super::parts::{
    Column, Row, dash, ms, percent, provider_link, share, state, table, terms, text, time,
};
use crate::board::{
    LostChoice, MarketRecord, OfferRow, ProviderLine, ProviderOwn, ProviderView, Scored, StakeRow,
};
use maud::{Markup, html};
use stoa_market::PPM;

pub(super) fn list(lines: &[ProviderLine]) -> Vec<Section> {
    let columns: [Column; 10] = [
        ("Provider", false),
        ("State", false),
        ("Region", false),
        ("Models", false),
        ("In / out per 10⁶", true),
        ("Free slots", true),
        ("Last score", true),
        ("Reputation", true),
        ("Stake", true),
        ("Slashed", true),
    ];
    let row = |line: &ProviderLine| -> Row {
        let row = &line.row;
        let cells = vec![
            provider_link(row.id),
            state(if row.online { "online" } else { "offline" }),
            text(row.region),
            text(row.models.join(", ")),
            html! { (row.input_price) " / " (row.output_price) },
            html! { (row.free_slots) "/" (row.slots) },
            line.scored
                .as_ref()
                .map_or_else(dash, |s| percent(s.score.total)),
            percent(row.reputation_ppm),
            line.stake.map_or_else(dash, |stake| text(stake.active)),
            times(line.slashes),
        ];
        (row.id.to_string(), cells)
    };
    let rows: Vec<Row> = lines.iter().map(row).collect();
    let nothing = "No provider has connected yet.";
    vec![section(
        "providers",
        "Known to this router",
        table("Providers", &columns, &rows, nothing),
    )]
}

fn times(count: u64) -> Markup {
    match count {
        0 => text("never"),
        1 => text("once"),
        n => html! { (n) " times" },
    }
}

pub(super) fn one(view: &ProviderView) -> Vec<Section> {
    let nothing = "Nothing was ever taken from its stake.";
    let mut sections = vec![
        section("provider", "The provider", facts(&view.line)),
        section("score", "Score", score(&view.line)),
        section("stake", "Stake", stake(view.line.stake.as_ref())),
        section("slashes", "Slashes", slash_table(&view.slashes, nothing)),
        section(
            "rulings",
            "Audits",
            ruling_table(&view.rulings, "No audit of its work was ruled on yet."),
        ),
        section("offers", "Offers", offers(&view.offers)),
    ];
    if let Some(own) = &view.own {
        sections.extend(own_sections(own));
    }
    sections
}

fn facts(line: &ProviderLine) -> Markup {
    let row = &line.row;
    terms(&[
        ("Account", html! { code { (row.id) } }),
        (
            "State",
            state(if row.online { "online" } else { "offline" }),
        ),
        ("Region", text(row.region)),
        ("Free slots", html! { (row.free_slots) " of " (row.slots) }),
        (
            "Jobs delivered",
            html! { (row.jobs) " since the router started" },
        ),
        ("First token", ms(row.ttft_ms)),
    ])
}

fn score(line: &ProviderLine) -> Markup {
    let (good, all) = line.reliability;
    let mut pairs = vec![
        ("Reputation", percent(line.row.reputation_ppm)),
        (
            "Delivered of its latest jobs",
            html! { (good) " of " (all) },
        ),
    ];
    if let Some(scored) = &line.scored {
        pairs.extend(parts(scored));
    }
    html! {
        (terms(&pairs))
        @if line.scored.is_none() { p.none { "It was not scored yet: no call for its models came since the router started." } }
    }
}

/// The parts of a score.
fn parts(scored: &Scored) -> Vec<(&'static str, Markup)> {
    let score = &scored.score;
    vec![
        ("Last score", percent(score.total)),
        ("of it price", percent(score.price)),
        ("of it latency", percent(score.latency)),
        ("of it reliability", percent(score.reliability)),
        ("of it reputation", percent(score.reputation)),
        ("Place", html! { (scored.place) " of " (scored.of) }),
        ("Scored", time(scored.at)),
    ]
}

fn stake(stake: Option<&StakeRow>) -> Markup {
    match stake {
        None => html! { p.none { "Its stake was not read yet." } },
        Some(stake) => terms(&[
            ("Active", text(stake.active)),
            ("Least for its offers", text(stake.minimum)),
            ("On its way out", text(stake.unbonding)),
        ]),
    }
}

fn offers(offers: &[OfferRow]) -> Markup {
    let columns: [Column; 5] = [
        ("Model", false),
        ("Tier", false),
        ("Context", true),
        ("In per 10⁶", true),
        ("Out per 10⁶", true),
    ];
    let row = |offer: &OfferRow| -> Row {
        let cells = vec![
            text(&offer.model),
            text(offer.tier),
            text(offer.context),
            text(offer.input_price),
            text(offer.output_price),
        ];
        (offer.model.clone(), cells)
    };
    let rows: Vec<Row> = offers.iter().map(row).collect();
    table("Offers", &columns, &rows, "It offers nothing.")
}

fn own_sections(own: &ProviderOwn) -> Vec<Section> {
    vec![
        section("earnings", "Earnings", payout_table(&own.payouts)),
        section(
            "market",
            "How it fares in the choice of providers",
            market(&own.market),
        ),
        section(
            "lost",
            "Calls that went to others",
            lost_table(&own.market.lost),
        ),
        section("losses", "Attempts it lost", loss_table(&own.losses, true)),
    ]
}

fn market(record: &MarketRecord) -> Markup {
    html! {
        p.note { "Counted since the router started." }
        (terms(&[
            ("Calls in whose choice it stood", text(record.considered)),
            ("First choice", html! { (record.first) ", " (share(record.first, record.considered)) }),
            ("Scored, another was first", text(record.behind)),
            ("Left out", html! {
                @if record.excluded.is_empty() { "never" }
                ul { @for (rule, count) in &record.excluded { li { (count) " × " (rule_words(rule)) } } }
            }),
        ]))
    }
}

fn lost_table(lost: &[LostChoice]) -> Markup {
    let columns: [Column; 5] = [
        ("When", false),
        ("First was", false),
        ("Its score", true),
        ("Theirs", true),
        ("What made the difference", false),
    ];
    let row = |(n, choice): (usize, &LostChoice)| -> Row {
        let cells = vec![
            time(choice.at),
            provider_link(choice.winner),
            percent(choice.ours.total),
            percent(choice.theirs.total),
            html! { span.prose { (difference(choice)) } },
        ];
        (format!("{}-{n}", choice.at.0), cells)
    };
    let rows: Vec<Row> = lost.iter().enumerate().map(row).collect();
    let nothing = "No call for its models went to another provider first since the router started.";
    table("Calls that went to others", &columns, &rows, nothing)
}

/// Why another was first: the lots, or the parts in which it was better.
fn difference(choice: &LostChoice) -> String {
    let (ours, theirs) = (&choice.ours, &choice.theirs);
    if ours.behind && !theirs.behind {
        return match ours.reliability < PPM / 2 {
            true => "its context was too short, or another's was and it failed more than it delivered",
            false => "its context was too short for the request, or another's was and it cost much more than the median",
        }
        .to_owned();
    }
    if theirs.warm && !ours.warm {
        return "its model had to be loaded first".to_owned();
    }
    let bound = u64::from(10_000 - choice.tie_bps.get().min(10_000));
    let best = u64::from(ours.total.max(theirs.total));
    let near = |total: u32| u64::from(total) * 10_000 >= best * bound;
    if near(ours.total) && near(theirs.total) {
        return "the lots: scores this close draw them".to_owned();
    }
    let parts = [
        ("price", ours.price, theirs.price),
        ("latency", ours.latency, theirs.latency),
        ("reliability", ours.reliability, theirs.reliability),
        ("reputation", ours.reputation, theirs.reputation),
    ];
    let mut worse: Vec<_> = parts.into_iter().filter(|(_, o, t)| t > o).collect();
    worse.sort_by_key(|(_, ours, theirs)| std::cmp::Reverse(theirs - ours));
    let words = worse.iter().map(|(name, ours, theirs)| {
        let points = |ppm: u32| format!("{}.{}", ppm / 10_000, ppm / 1_000 % 10);
        format!("{name} {} against {}", points(*ours), points(*theirs))
    });
    words.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use stoa_market::Score;
    use stoa_types::{Address, Bps, Digest, Timestamp};

    fn scored(price: u32, latency: u32, total: u32) -> Score {
        Score {
            provider: Address([1; 20]),
            warm: true,
            price,
            latency,
            reliability: 500_000,
            reputation: 500_000,
            total,
            lot: Digest::ZERO,
            behind: false,
        }
    }

    #[test]
    fn a_lost_call_is_explained_by_the_lots_or_by_the_worst_part_first() {
        let choice = |ours, theirs| LostChoice {
            at: Timestamp(0),
            winner: Address([2; 20]),
            theirs,
            ours,
            tie_bps: Bps::new(500).expect("a share"),
        };
        let close = choice(scored(500_000, 1, 600_000), scored(500_000, 1, 610_000));
        assert!(difference(&close).contains("lots"));
        let ours = scored(400_000, 900_000, 500_000);
        let worse = choice(ours.clone(), scored(900_000, 950_000, 700_000));
        assert_eq!(
            difference(&worse),
            "price 40.0 against 90.0, latency 90.0 against 95.0"
        );
        let cold = choice(
            Score {
                warm: false,
                ..ours.clone()
            },
            ours,
        );
        assert!(difference(&cold).contains("loaded"));
        let mut short = cold;
        short.ours.behind = true;
        assert!(difference(&short).contains("too short"));
    }
}
