//! The rounding rules (DECISIONS 20). Nothing else in the project rounds money.
//!
//! | what | rule | who gets the rounding |
//! |---|---|---|
//! | [`charge`] | floor, at least 1 unit for a non-empty output, at most the reserve | the payer |
//! | [`reserve`] | ceil | nobody: a reserve is held, not paid |
//! | [`split`] | four floors | the provider |
//! | [`sigma`], [`slash`] | floor; two floors, floor pro rata among developers | the offender; burned |
//! | [`minimum_stake`] | ceil | nobody: a bound |

use serde::{Deserialize, Serialize};
use stoa_types::{Bps, FeeParameters, Price, StakeAmount, TokenAmount};

const TOKENS_PER_PRICE: u128 = 1_000_000;
const BPS_WHOLE: u16 = 10_000;

/// Why an amount could not be computed. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FeeError {
    /// A product or sum left 128 bits.
    #[error("an amount does not fit 128 bits; lower the price, the token limit or the share")]
    TooLarge,
    /// The shares are more than the whole.
    #[error("the fee shares sum to {0} basis points, more than the whole (10,000)")]
    SharesTooLarge(u32),
    /// A divisor is zero.
    #[error("the stake price and the lowest sampling rate must not be zero")]
    ZeroParameter,
}

/// Metered use of one job and its unit prices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Prompt tokens.
    pub input_units: u64,
    /// Output tokens.
    pub output_units: u64,
    /// Price of 10^6 prompt tokens.
    pub input_price: Price,
    /// Price of 10^6 output tokens.
    pub output_price: Price,
}

impl Usage {
    fn raw_cost(&self) -> Result<u128, FeeError> {
        let input = self.input_price.raw_cost(self.input_units);
        let output = self.output_price.raw_cost(self.output_units);
        input
            .zip(output)
            .and_then(|(input, output)| input.checked_add(output))
            .ok_or(FeeError::TooLarge)
    }
}

/// What the account pays: `min(reserve, max(1, floor(cost)))` when there is output, else nothing.
pub fn charge(usage: &Usage, reserve: TokenAmount) -> Result<TokenAmount, FeeError> {
    if usage.output_units == 0 {
        return Ok(TokenAmount::ZERO);
    }
    let floor = usage.raw_cost()? / TOKENS_PER_PRICE;
    Ok(TokenAmount::from_units(floor.max(1)).min(reserve))
}

/// What is held before dispatch: `ceil(cost)` of the most tokens the job may use, at least 1 unit when it may have output, so that
/// the least charge is always covered.
pub fn reserve(most: &Usage) -> Result<TokenAmount, FeeError> {
    let units = most.raw_cost()?.div_ceil(TOKENS_PER_PRICE);
    let least = u128::from(most.output_units > 0);
    Ok(TokenAmount::from_units(units.max(least)))
}

/// Shares of one fee version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeeSchedule {
    /// Router.
    pub router: Bps,
    /// Treasury.
    pub treasury: Bps,
    /// Validator pool.
    pub validators: Bps,
    /// Buyback pot.
    pub buyback: Bps,
}

impl FeeSchedule {
    /// The protocol's three shares together, in basis points.
    pub fn protocol_bps(&self) -> u32 {
        [self.treasury, self.validators, self.buyback]
            .iter()
            .map(|share| u32::from(share.get()))
            .sum()
    }
}

impl From<&FeeParameters> for FeeSchedule {
    fn from(fees: &FeeParameters) -> Self {
        Self {
            router: fees.router_bps,
            treasury: fees.treasury_bps,
            validators: fees.validators_bps,
            buyback: fees.buyback_bps,
        }
    }
}

/// A claimed amount in its five parts; they sum to it exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// Router.
    pub router: TokenAmount,
    /// Treasury.
    pub treasury: TokenAmount,
    /// Validator pool.
    pub validators: TokenAmount,
    /// Buyback pot.
    pub buyback: TokenAmount,
    /// Provider: the remainder, so also the rounding.
    pub provider: TokenAmount,
}

/// Splits what one claim pays. Lifetime totals must not be split and subtracted: four separate floors are not monotone.
pub fn split(delta: TokenAmount, fees: &FeeSchedule) -> Result<Split, FeeError> {
    let shares = u32::from(fees.router.get()) + fees.protocol_bps();
    if shares > u32::from(BPS_WHOLE) {
        return Err(FeeError::SharesTooLarge(shares));
    }
    let part = |bps| delta.share(bps).ok_or(FeeError::TooLarge);
    let (router, treasury) = (part(fees.router)?, part(fees.treasury)?);
    let (validators, buyback) = (part(fees.validators)?, part(fees.buyback)?);
    let provider = TokenAmount::checked_sum([router, treasury, validators, buyback])
        .and_then(|taken| delta.checked_sub(taken))
        .ok_or(FeeError::TooLarge)?;
    Ok(Split {
        router,
        treasury,
        validators,
        buyback,
        provider,
    })
}

/// How much of a stake a slash takes: `floor(slashable x severity / 10000)`.
pub fn sigma(slashable: StakeAmount, severity: Bps) -> Result<StakeAmount, FeeError> {
    slashable.share(severity).ok_or(FeeError::TooLarge)
}

/// What a minimum stake must cover (SPEC C.6.4), in units of the payment token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StakeNeed {
    /// Floor of the role.
    pub floor: TokenAmount,
    /// Claimed throughput: sum of tokens per second times output price (per 10^6 tokens); zero for other roles than provider.
    pub throughput_value: u128,
    /// Seconds of throughput that can be delivered before a dispute lands.
    pub exposure: u64,
    /// Highest price of one job.
    pub job_max: TokenAmount,
    /// Lowest share of jobs that is sampled; above zero.
    pub sampling_floor: Bps,
    /// Payment token units per whole stake token; above zero.
    pub stake_price: TokenAmount,
}

/// `2 x max(floor, ceil(throughput x exposure / 10^6), ceil(job_max / sampling_floor))`, converted to stake and rounded up.
pub fn minimum_stake(need: &StakeNeed) -> Result<StakeAmount, FeeError> {
    let sampling = u128::from(need.sampling_floor.get());
    let price = need.stake_price.units();
    if sampling == 0 || price == 0 {
        return Err(FeeError::ZeroParameter);
    }
    let exposed = need
        .throughput_value
        .checked_mul(u128::from(need.exposure))
        .ok_or(FeeError::TooLarge)?
        .div_ceil(TOKENS_PER_PRICE);
    let one_job = need
        .job_max
        .units()
        .checked_mul(u128::from(BPS_WHOLE))
        .ok_or(FeeError::TooLarge)?
        .div_ceil(sampling);
    let whole_stake = 10u128.pow(StakeAmount::DECIMALS);
    need.floor
        .units()
        .max(exposed)
        .max(one_job)
        .checked_mul(2)
        .and_then(|value| value.checked_mul(whole_stake))
        .map(|scaled| StakeAmount::from_units(scaled.div_ceil(price)))
        .ok_or(FeeError::TooLarge)
}

/// A slashed stake in its parts; they sum to it exactly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlashSplit {
    /// Per harmed developer, in the order given.
    pub developers: Vec<StakeAmount>,
    /// Challenger.
    pub challenger: StakeAmount,
    /// The remainder: the burned share, shares of roles that nobody holds, and all rounding.
    pub burned: StakeAmount,
}

/// How a slash is shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlashShares {
    /// Harmed developers together.
    pub developer: Bps,
    /// Challenger.
    pub challenger: Bps,
}

/// Splits a slash of `sigma`. `charges` are what each harmed developer paid (empty: that share is burned); without a challenger its
/// share is burned too, so nobody gains by inventing the role.
pub fn slash(
    sigma: StakeAmount,
    shares: SlashShares,
    charges: &[TokenAmount],
    has_challenger: bool,
) -> Result<SlashSplit, FeeError> {
    let whole = u32::from(shares.developer.get()) + u32::from(shares.challenger.get());
    if whole > u32::from(BPS_WHOLE) {
        return Err(FeeError::SharesTooLarge(whole));
    }
    let part = |bps| sigma.share(bps).ok_or(FeeError::TooLarge);
    let developers = pro_rata(part(shares.developer)?, charges)?;
    let challenger = if has_challenger {
        part(shares.challenger)?
    } else {
        StakeAmount::ZERO
    };
    let burned = StakeAmount::checked_sum(developers.iter().copied())
        .and_then(|given| given.checked_add(challenger))
        .and_then(|given| sigma.checked_sub(given))
        .ok_or(FeeError::TooLarge)?;
    Ok(SlashSplit {
        developers,
        challenger,
        burned,
    })
}

/// `floor(share x charge / sum of charges)` each.
fn pro_rata(share: StakeAmount, charges: &[TokenAmount]) -> Result<Vec<StakeAmount>, FeeError> {
    let total = TokenAmount::checked_sum(charges.iter().copied()).ok_or(FeeError::TooLarge)?;
    let part = |charge: &TokenAmount| {
        if total.is_zero() {
            return Ok(StakeAmount::ZERO);
        }
        mul_div(share.units(), charge.units(), total.units())
            .map(StakeAmount::from_units)
            .ok_or(FeeError::TooLarge)
    };
    charges.iter().map(part).collect()
}

/// `floor(a x b / c)` with the full product, for `b <= c`; `None` when `c` is zero or `b` larger than `c`.
///
/// Schoolbook: the product as two 128-bit halves, then long division bit by bit. Rare (slashes only), so short beats fast.
fn mul_div(a: u128, b: u128, c: u128) -> Option<u128> {
    if c == 0 || b > c {
        return None;
    }
    if let Some(product) = a.checked_mul(b) {
        return Some(product / c);
    }
    // Walk the bits of `a` from the top, keeping quotient and remainder of the prefix times b; remainder < c always.
    let (mut quotient, mut remainder) = (0u128, 0u128);
    for bit in (0..128).rev() {
        let (doubled, carry) = add_mod(remainder, remainder, c);
        quotient = quotient.checked_mul(2)?.checked_add(carry)?;
        remainder = doubled;
        if a >> bit & 1 == 1 {
            let (sum, carry) = add_mod(remainder, b % c, c);
            quotient = quotient
                .checked_add(carry)?
                .checked_add(u128::from(b == c))?;
            remainder = sum;
        }
    }
    Some(quotient)
}

/// `x + y` modulo `c` and whether `c` was subtracted, for `x, y < c`, without leaving 128 bits.
fn add_mod(x: u128, y: u128, c: u128) -> (u128, u128) {
    let room = c - y;
    if x >= room { (x - room, 1) } else { (x + y, 0) }
}
