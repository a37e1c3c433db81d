use super::*;
use crate::launch::devnet::{self, Devnet};
use crate::launch::killed::cut;
use std::sync::Arc;
use stoa_chain::Embedded;
use stoa_evm::{Clock, ManualClock};
use stoa_net::EndpointSecret;
use stoa_types::Region;

const ROUTER: Address = Address([9; 20]);

/// A network whose time is moved.
struct Field {
    joined: Joined<Embedded>,
    deployer: Account<Embedded>,
    clock: Arc<ManualClock>,
    _folder: tempfile::TempDir,
}

fn dollars(text: &str) -> TokenAmount {
    TokenAmount::parse(text).expect("an amount")
}

fn stake() -> StakeAmount {
    StakeAmount::parse("50000").expect("an amount")
}

impl Field {
    async fn open() -> Self {
        let Devnet {
            joined,
            deployer,
            clock,
            folder,
            ..
        } = Devnet::with_moved_time().await;
        Self {
            joined,
            deployer,
            clock,
            _folder: folder,
        }
    }

    /// Time passes, and a block says so.
    async fn pass(&self, seconds: u64) {
        devnet::pass(&self.deployer, &self.clock, seconds).await;
    }

    /// An identity with 100 in the vault, 60 of them allotted, and a staked provider.
    async fn identity(&self, number: u32) -> IdentityKeys {
        let key = |role: u8| {
            let mut bytes = [role; 32];
            bytes[..4].copy_from_slice(&number.to_be_bytes());
            SecretKey::from_bytes(bytes).expect("a key")
        };
        let keys = IdentityKeys {
            number,
            customer: key(1),
            provider: key(2),
        };
        let customer = self.account(&keys.customer).await;
        let minted = self
            .deployer
            .mint_test_dollars(customer.address(), dollars("100"));
        minted.await.expect("minted");
        customer.deposit(dollars("100")).await.expect("deposited");
        let end = chain_time(&self.joined.chain).await.expect("read");
        let end = end.plus(Millis::from_secs(86_400));
        let allotted = customer.allot(ROUTER, dollars("60"), end).await;
        allotted.expect("allotted");
        let provider = self.account(&keys.provider).await;
        let (me, registry) = (provider.address(), self.joined.contracts.provider_registry);
        let secret = EndpointSecret::from_bytes([2; 32]);
        let proof = secret.prove(self.joined.chain_id, registry, me);
        let registered =
            provider.register_provider(secret.endpoint_id(), proof, Region(*b"XA"), me);
        registered.await.expect("registered");
        let sent = self.deployer.send_stake_tokens(me, stake()).await;
        sent.expect("sent");
        let staked = provider.stake(StakeRole::Provider, stake()).await;
        staked.expect("staked");
        keys
    }

    async fn account(&self, key: &SecretKey) -> Account<Embedded> {
        self.joined.account(key.clone()).await.expect("an account")
    }

    async fn take(&self, keys: &IdentityKeys, to: Option<Address>) -> TakenBack {
        let keys = std::slice::from_ref(keys);
        let told = take_back(&self.joined, keys, to).await.expect("read");
        let [one] = <[_; 1]>::try_from(told).expect("one identity");
        assert_eq!(one.errors, [""; 0]);
        one
    }

    /// Cuts one at its `polls`-th wait, and runs another to its end: the same as one that nobody cut, and after it there is nothing to do.
    async fn cut_and_again(&self, keys: &IdentityKeys, polls: usize, to: Option<Address>) -> bool {
        let first = take_back(&self.joined, std::slice::from_ref(keys), to);
        let ended = cut(first, polls).await;
        self.take(keys, to).await;
        let third = self.take(keys, to).await;
        assert_eq!(third.moved, [], "cut at wait {polls}");
        ended
    }
}

#[tokio::test]
async fn what_is_taken_back_and_what_waits_is_said_with_its_time() {
    let field = Field::open().await;
    let keys = field.identity(0).await;
    let rules = field.joined.profile.rules.settlement.clone();
    let told = field.take(&keys, None).await;
    let (free, left) = (dollars("40"), dollars("60"));
    assert_eq!(
        told.moved,
        [
            Moved::Revoked { router: ROUTER },
            Moved::Withdrawn { amount: free },
            Moved::Leaving,
            Moved::Unbonding { amount: stake() }
        ]
    );
    let at = field.clock.unix_seconds();
    let released = Timestamp::from_secs(at + rules.notice_seconds + rules.settle_delay_seconds);
    let unbonding = field.joined.profile.rules.stake.unbonding_seconds;
    let waits = [
        Waits::Allotment {
            router: ROUTER,
            amount: left,
            until: released,
        },
        Waits::Stake {
            amount: stake(),
            until: Timestamp::from_secs(at + unbonding),
        },
    ];
    assert_eq!(told.waits, waits);
    // One second too early nothing is sent; then the vault gives the rest, and a week later the registry the stake.
    field
        .pass(rules.notice_seconds + rules.settle_delay_seconds - 1)
        .await;
    let early = field.take(&keys, None).await;
    assert_eq!((early.moved, early.waits), (vec![], waits.to_vec()));
    field.pass(1).await;
    let told = field.take(&keys, None).await;
    let (router, amount) = (ROUTER, left);
    let moved = [
        Moved::Released { router, amount },
        Moved::Withdrawn { amount },
    ];
    assert_eq!(
        (&told.moved[..], &told.waits[..]),
        (&moved[..], &waits[1..])
    );
    field.pass(unbonding).await;
    let told = field.take(&keys, None).await;
    let amount = stake();
    assert_eq!(
        (told.moved, told.waits),
        (vec![Moved::Unbonded { amount }], vec![])
    );
}

#[tokio::test]
async fn wherever_it_is_cut_the_next_one_takes_back_all_of_it_and_nothing_twice() {
    let field = Field::open().await;
    let settlement = field.joined.profile.rules.settlement.clone();
    let until_released = settlement.notice_seconds + settlement.settle_delay_seconds;
    let unbonding = field.joined.profile.rules.stake.unbonding_seconds;
    let view = field.joined.view();
    let mut ended = 0_u8;
    // Between any two transactions there is more than one wait.
    for polls in (1..=200_u32).step_by(2) {
        let (keys, wait) = (field.identity(polls).await, polls as usize);
        let home = keys.customer.public_key().address();
        let home = Address(std::array::from_fn(|n| !home.0[n]));
        let (customer, provider) = (keys.customer.address(), keys.provider.address());
        let first = field.cut_and_again(&keys, wait, None).await;
        let wallet = view.token_balance(customer).await.expect("read");
        assert_eq!(wallet, dollars("40"), "cut at wait {polls}");
        field.pass(until_released).await;
        let second = field.cut_and_again(&keys, wait, Some(home)).await;
        let sent = view.token_balance(home).await.expect("read");
        assert_eq!(sent, dollars("100"), "cut at wait {polls}");
        field.pass(unbonding).await;
        let third = field.cut_and_again(&keys, wait, Some(home)).await;
        let sent = view.stake_token_balance(home).await.expect("read");
        assert_eq!(sent, stake(), "cut at wait {polls}");
        let left = view
            .stake(StakeRole::Provider, provider)
            .await
            .expect("read");
        assert!(left.active.is_zero() && left.unbonding.is_zero());
        ended += u8::from(first && second && third);
        if ended == 2 {
            return;
        }
    }
    panic!("no one came to its end: the cuts do not reach far enough");
}
