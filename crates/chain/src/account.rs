//! What one account does with the contracts, in Stoa's words.

use alloy_primitives::{Bytes, FixedBytes, U256};
use alloy_sol_types::SolCall;
use stoa_types::{Address, Digest, EndpointId, Region, StakeAmount, Timestamp, TokenAmount};

use crate::access::{ChainAccess, TransactionReceipt, view};
use crate::bindings::{PaymentVault, ProviderRegistry, StakeRegistry, StoaToken, TestDollar};
use crate::convert::{digest, evm_address, evm_digest, narrow, tokens};
use crate::deploy::Contracts;
use crate::event::{Offer, StakeRole};
use crate::sender::{SendError, Sender};
use crate::view::{AllotmentView, allotment_words};

/// Debits booked by one transaction: each costs some 40,000 gas of the 16.7 million that a transaction may use.
const DEBITS_PER_TRANSACTION: usize = 100;

/// One account with the contracts it uses. Clones take turns.
#[derive(Clone)]
pub struct Account<C> {
    sender: Sender<C>,
    contracts: Contracts,
}

/// A batch to post.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Post {
    /// Its number, from 1.
    pub index: u64,
    /// Root over the receipts.
    pub job_root: Digest,
    /// Number of receipts.
    pub job_count: u32,
    /// Payout root, or zero.
    pub pay_root: Digest,
    /// Lifetime gross under the payout root.
    pub gross: TokenAmount,
    /// Names the leaf file.
    pub content_id: Digest,
}

/// The pair of roots that stands under a payout root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayRoots {
    /// Root over what providers earned.
    pub provider_root: Digest,
    /// Root over what developers were charged.
    pub debit_root: Digest,
}

/// A debit to book.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Debit {
    /// Who was charged.
    pub developer: Address,
    /// Which of its allotments.
    pub generation: u32,
    /// Charged over the life of the allotment.
    pub lifetime_debit: TokenAmount,
    /// Way to the debit root.
    pub proof: Vec<Digest>,
}

/// A claim of a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Who owes.
    pub router: Address,
    /// Who earned.
    pub provider: Address,
    /// Fee version in the leaf.
    pub fee_version: u16,
    /// Earned over the router's life, before fees.
    pub lifetime_gross: TokenAmount,
    /// Roots under the claimable payout root.
    pub roots: PayRoots,
    /// Way to the provider root.
    pub proof: Vec<Digest>,
}

/// Whether something was sent or stood there already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    /// It was sent now.
    Now(TransactionReceipt),
    /// It had been done before; nothing was sent.
    Before,
}

/// Why a batch was not posted.
#[derive(Debug, thiserror::Error)]
pub enum PostError {
    /// The transaction failed.
    #[error(transparent)]
    Send(#[from] SendError),
    /// The vault holds fewer batches of this router than the ledger believes.
    #[error("batch {index} cannot be posted: the vault holds {posts} batches of this router; post batch {} first", .posts + 1)]
    OutOfOrder {
        /// Number of the batch.
        index: u64,
        /// Batches in the vault.
        posts: u64,
    },
}

/// Why a router could not cover what came too late. What it put into the vault already stays there for the next attempt.
#[derive(Debug, thiserror::Error)]
pub enum CoverError {
    /// A transaction failed.
    #[error(transparent)]
    Send(#[from] SendError),
    /// It has not the money.
    #[error(
        "the router needs {missing} payment tokens to cover debits that came too late and holds {held}; send {lacking} to {account}"
    )]
    Short {
        /// The router.
        account: Address,
        /// What it has to put in.
        missing: TokenAmount,
        /// What it holds.
        held: TokenAmount,
        /// The difference.
        lacking: TokenAmount,
    },
}

impl<C: ChainAccess> Account<C> {
    /// The account of `sender` with `contracts`.
    pub fn new(sender: Sender<C>, contracts: Contracts) -> Self {
        Self { sender, contracts }
    }

    /// Its address.
    pub fn address(&self) -> Address {
        self.sender.address()
    }

    /// How it sends.
    pub fn sender(&self) -> &Sender<C> {
        &self.sender
    }

    /// The contracts it uses.
    pub fn contracts(&self) -> &Contracts {
        &self.contracts
    }

    async fn vault(&self, call: &impl SolCall) -> Result<TransactionReceipt, SendError> {
        self.sender.send(self.contracts.vault, call).await
    }

    async fn registry(&self, call: &impl SolCall) -> Result<TransactionReceipt, SendError> {
        self.sender
            .send(self.contracts.provider_registry, call)
            .await
    }

    /// Devnets only: makes test dollars.
    pub async fn mint_test_dollars(
        &self,
        to: Address,
        amount: TokenAmount,
    ) -> Result<TransactionReceipt, SendError> {
        let call = TestDollar::mintCall {
            to: evm_address(to),
            amount: U256::from(amount.units()),
        };
        self.sender.send(self.contracts.payment_token, &call).await
    }

    /// Sends payment tokens.
    pub async fn send_payment_tokens(
        &self,
        to: Address,
        amount: TokenAmount,
    ) -> Result<TransactionReceipt, SendError> {
        let call = TestDollar::transferCall {
            to: evm_address(to),
            value: U256::from(amount.units()),
        };
        self.sender.send(self.contracts.payment_token, &call).await
    }

    /// Sends stake tokens.
    pub async fn send_stake_tokens(
        &self,
        to: Address,
        amount: StakeAmount,
    ) -> Result<TransactionReceipt, SendError> {
        let call = StoaToken::transferCall {
            to: evm_address(to),
            value: U256::from(amount.units()),
        };
        self.sender.send(self.contracts.stake_token, &call).await
    }

    /// Lets `spender` take `amount` of `token` unless it may already. Both tokens have the same `approve`.
    pub(crate) async fn approve(
        &self,
        token: Address,
        spender: Address,
        amount: u128,
    ) -> Result<(), SendError> {
        let turn = self.sender.turn().await?;
        let (owner, spender) = (evm_address(self.address()), evm_address(spender));
        let allowed = turn
            .view(token, &TestDollar::allowanceCall { owner, spender })
            .await?;
        if allowed < U256::from(amount) {
            let approve = TestDollar::approveCall {
                spender,
                value: U256::from(amount),
            };
            turn.send(Some(token), approve.abi_encode()).await?;
        }
        Ok(())
    }

    /// Puts money into the free balance.
    pub async fn deposit(&self, amount: TokenAmount) -> Result<TransactionReceipt, SendError> {
        self.approve(
            self.contracts.payment_token,
            self.contracts.vault,
            amount.units(),
        )
        .await?;
        self.vault(&PaymentVault::depositCall {
            amount: amount.units(),
        })
        .await
    }

    /// Takes free money home.
    pub async fn withdraw(&self, amount: TokenAmount) -> Result<TransactionReceipt, SendError> {
        self.vault(&PaymentVault::withdrawCall {
            amount: amount.units(),
        })
        .await
    }

    /// Lets `router` debit up to `cap` until `expiry`.
    pub async fn allot(
        &self,
        router: Address,
        cap: TokenAmount,
        expiry: Timestamp,
    ) -> Result<TransactionReceipt, SendError> {
        let call = PaymentVault::allotCall {
            router: evm_address(router),
            cap: cap.units(),
            expiry: expiry.0 / 1_000,
        };
        self.vault(&call).await
    }

    /// Raises cap, expiry or both.
    pub async fn top_up(
        &self,
        router: Address,
        add: TokenAmount,
        expiry: Option<Timestamp>,
    ) -> Result<TransactionReceipt, SendError> {
        let call = PaymentVault::topUpCall {
            router: evm_address(router),
            addCap: add.units(),
            newExpiry: expiry.map_or(0, |expiry| expiry.0 / 1_000),
        };
        self.vault(&call).await
    }

    /// Ends an allotment after the notice.
    pub async fn revoke(&self, router: Address) -> Result<TransactionReceipt, SendError> {
        self.vault(&PaymentVault::revokeCall {
            router: evm_address(router),
        })
        .await
    }

    /// Returns the rest of an expired allotment to its developer.
    pub async fn release(
        &self,
        developer: Address,
        router: Address,
    ) -> Result<TransactionReceipt, SendError> {
        let call = PaymentVault::releaseCall {
            developer: evm_address(developer),
            router: evm_address(router),
        };
        self.vault(&call).await
    }

    /// Posts a batch of this router, once: what the vault holds already is not sent again, whatever was interrupted.
    pub async fn post(&self, post: &Post) -> Result<Done, PostError> {
        // Nothing of this account is pending while the turn is held: the number of posts cannot change below us.
        let turn = self.sender.turn().await?;
        let ask = PaymentVault::headCall {
            router: evm_address(self.address()),
        };
        let posts = turn.view(self.contracts.vault, &ask).await?.posts;
        if posts >= post.index {
            return Ok(Done::Before);
        }
        if posts + 1 != post.index {
            return Err(PostError::OutOfOrder {
                index: post.index,
                posts,
            });
        }
        let call = PaymentVault::postBatchCall {
            jobRoot: evm_digest(post.job_root),
            jobCount: post.job_count,
            payRoot: evm_digest(post.pay_root),
            gross: post.gross.units(),
            contentId: evm_digest(post.content_id),
        };
        Ok(Done::Now(
            turn.send(Some(self.contracts.vault), call.abi_encode())
                .await?,
        ))
    }

    /// Makes the pending payout root of `router` claimable, unless none is pending.
    pub async fn promote(&self, router: Address) -> Result<Done, SendError> {
        let turn = self.sender.turn().await?;
        let router = evm_address(router);
        let pending = turn
            .view(
                self.contracts.vault,
                &PaymentVault::pendingOfCall { router },
            )
            .await?;
        if pending.postedAt == 0 {
            return Ok(Done::Before);
        }
        let call = PaymentVault::promoteCall { router };
        Ok(Done::Now(
            turn.send(Some(self.contracts.vault), call.abi_encode())
                .await?,
        ))
    }

    /// Cancels this router's own pending payout root, unless another one is pending, or none.
    pub async fn void_own(&self, pay_root: Digest) -> Result<Done, SendError> {
        let turn = self.sender.turn().await?;
        let router = evm_address(self.address());
        let ask = PaymentVault::pendingOfCall { router };
        let pending = turn.view(self.contracts.vault, &ask).await?;
        if pending.postedAt == 0 || digest(pending.payRoot) != pay_root {
            return Ok(Done::Before);
        }
        let call = PaymentVault::voidPendingCall { router };
        Ok(Done::Now(
            turn.send(Some(self.contracts.vault), call.abi_encode())
                .await?,
        ))
    }

    /// Books debits of the claimable root. Those that are booked, or whose allotment is closed, are left out.
    pub async fn sync_debits(
        &self,
        router: Address,
        roots: &PayRoots,
        debits: &[Debit],
    ) -> Result<Vec<TransactionReceipt>, SendError> {
        let turn = self.sender.turn().await?;
        let mut due = Vec::with_capacity(debits.len());
        for debit in debits {
            let call = PaymentVault::allotmentCall {
                developer: evm_address(debit.developer),
                router: evm_address(router),
            };
            let allotment: AllotmentView =
                allotment_words(turn.view(self.contracts.vault, &call).await?);
            let open = allotment.live && allotment.generation == debit.generation;
            if open && allotment.debited < debit.lifetime_debit {
                due.push(PaymentVault::DebitEntry {
                    developer: evm_address(debit.developer),
                    generation: debit.generation,
                    lifetimeDebit: debit.lifetime_debit.units(),
                    proof: debit.proof.iter().map(|node| evm_digest(*node)).collect(),
                });
            }
        }
        let mut receipts = Vec::new();
        for entries in due.chunks(DEBITS_PER_TRANSACTION) {
            let call = PaymentVault::syncDebitsCall {
                router: evm_address(router),
                providerRoot: evm_digest(roots.provider_root),
                debitRoot: evm_digest(roots.debit_root),
                entries: entries.to_vec(),
            };
            receipts.push(
                turn.send(Some(self.contracts.vault), call.abi_encode())
                    .await?,
            );
        }
        Ok(receipts)
    }

    /// Brings this router's allotment to itself to `cap`, from its own money, so that it can take over debits that came too late: a new
    /// generation where none is live. Nothing is done when the vault knows a newer generation than `known`, or this one with that cap.
    /// Where `mint` says that payment tokens are made at will, it makes those that it lacks.
    pub async fn cover_late(
        &self,
        known: u32,
        cap: TokenAmount,
        expiry: Timestamp,
        now: Timestamp,
        mint: bool,
    ) -> Result<Done, CoverError> {
        let me = self.address();
        let own = self
            .ask(&PaymentVault::allotmentCall {
                developer: evm_address(me),
                router: evm_address(me),
            })
            .await
            .map(allotment_words)?;
        if own.generation > known || (own.live && own.cap >= cap) {
            return Ok(Done::Before);
        }
        if own.live && now >= own.expiry {
            // The rest of the old one comes back first; the vault says when.
            return Ok(Done::Now(self.release(me, me).await?));
        }
        let held = if own.live { own.cap } else { TokenAmount::ZERO };
        self.provide(cap.checked_sub(held).unwrap_or_default(), mint)
            .await?;
        let receipt = if own.live {
            let add = cap.checked_sub(own.cap).unwrap_or_default();
            let later = Some(expiry).filter(|end| *end > own.expiry);
            self.top_up(me, add, later).await?
        } else {
            self.allot(me, cap, expiry).await?
        };
        Ok(Done::Now(receipt))
    }

    /// Sees to it that this account's free balance in the vault is at least `wanted`.
    async fn provide(&self, wanted: TokenAmount, mint: bool) -> Result<(), CoverError> {
        let account = self.address();
        let me = evm_address(account);
        let free = self.ask(&PaymentVault::freeCall { developer: me }).await?;
        let Some(missing) = wanted
            .checked_sub(tokens(free))
            .filter(|units| !units.is_zero())
        else {
            return Ok(());
        };
        if self.ask(&PaymentVault::owedCall { who: me }).await? != 0 {
            self.collect(account).await?;
        }
        let ask = TestDollar::balanceOfCall { account: me };
        let held = view(self.sender.chain(), self.contracts.payment_token, &ask)
            .await
            .map_err(SendError::NotSent)?;
        // A balance beyond 128 bits is enough for any amount.
        let held = tokens(narrow(held).unwrap_or(u128::MAX));
        match missing.checked_sub(held).filter(|units| !units.is_zero()) {
            Some(lacking) if mint => drop(self.mint_test_dollars(account, lacking).await?),
            Some(lacking) => {
                return Err(CoverError::Short {
                    account,
                    missing,
                    held,
                    lacking,
                });
            }
            None => {}
        }
        self.deposit(missing).await?;
        Ok(())
    }

    async fn ask<S: SolCall>(&self, call: &S) -> Result<S::Return, SendError> {
        view(self.sender.chain(), self.contracts.vault, call)
            .await
            .map_err(SendError::NotSent)
    }

    /// Credits a provider with what the claimable root gives and the booked debits cover.
    pub async fn claim(&self, claim: &Claim) -> Result<TransactionReceipt, SendError> {
        let call = PaymentVault::claimCall {
            router: evm_address(claim.router),
            provider: evm_address(claim.provider),
            feeVersion: claim.fee_version,
            lifetimeGross: claim.lifetime_gross.units(),
            providerRoot: evm_digest(claim.roots.provider_root),
            debitRoot: evm_digest(claim.roots.debit_root),
            proof: claim.proof.iter().map(|node| evm_digest(*node)).collect(),
        };
        self.vault(&call).await
    }

    /// Pays out what `who` is owed.
    pub async fn collect(&self, who: Address) -> Result<TransactionReceipt, SendError> {
        self.vault(&PaymentVault::collectCall {
            who: evm_address(who),
        })
        .await
    }

    /// Pays out what the three pools are owed.
    pub async fn collect_protocol(&self) -> Result<TransactionReceipt, SendError> {
        self.vault(&PaymentVault::collectProtocolCall {}).await
    }

    /// Registers as a provider. `proof` is the endpoint's signature over [`stoa_crypto::endpoint_message`].
    pub async fn register_provider(
        &self,
        endpoint: EndpointId,
        proof: [u8; 64],
        region: Region,
        payee: Address,
    ) -> Result<TransactionReceipt, SendError> {
        let call = ProviderRegistry::registerCall {
            endpointId: FixedBytes(endpoint.0),
            endpointProof: Bytes::copy_from_slice(&proof),
            region: FixedBytes(region.0),
            payee: evm_address(payee),
        };
        self.registry(&call).await
    }

    /// States all models that this provider offers.
    pub async fn set_loadout(&self, offers: &[Offer]) -> Result<TransactionReceipt, SendError> {
        let offers = offers.iter().map(|offer| ProviderRegistry::Offer {
            modelRoot: evm_digest(offer.model_root),
            inputPrice: offer.input_price.amount_per_million().units(),
            outputPrice: offer.output_price.amount_per_million().units(),
            tps: offer.tokens_per_second,
            tier: offer.tier.code(),
            name: offer.name.clone(),
        });
        self.registry(&ProviderRegistry::setLoadoutCall {
            offers: offers.collect(),
        })
        .await
    }

    /// Says that this provider takes no new jobs.
    pub async fn announce_leave(&self) -> Result<TransactionReceipt, SendError> {
        self.registry(&ProviderRegistry::announceLeaveCall {}).await
    }

    /// Publishes where this router is reached.
    pub async fn register_router(
        &self,
        endpoint: EndpointId,
        proof: [u8; 64],
        addresses: &str,
    ) -> Result<TransactionReceipt, SendError> {
        let call = ProviderRegistry::registerRouterCall {
            endpointId: FixedBytes(endpoint.0),
            endpointProof: Bytes::copy_from_slice(&proof),
            addresses: addresses.to_owned(),
        };
        self.registry(&call).await
    }

    /// Adds stake in a role.
    pub async fn stake(
        &self,
        role: StakeRole,
        amount: StakeAmount,
    ) -> Result<TransactionReceipt, SendError> {
        self.approve(
            self.contracts.stake_token,
            self.contracts.stake_registry,
            amount.units(),
        )
        .await?;
        let call = StakeRegistry::stakeCall {
            role: role as u8,
            amount: amount.units(),
        };
        self.sender.send(self.contracts.stake_registry, &call).await
    }

    /// Begins to take stake out.
    pub async fn request_unbond(
        &self,
        role: StakeRole,
        amount: StakeAmount,
    ) -> Result<TransactionReceipt, SendError> {
        let call = StakeRegistry::requestUnbondCall {
            role: role as u8,
            amount: amount.units(),
        };
        self.sender.send(self.contracts.stake_registry, &call).await
    }

    /// Pays out what slashes awarded to an account.
    pub async fn collect_awards(&self, who: Address) -> Result<TransactionReceipt, SendError> {
        let call = StakeRegistry::collectCall {
            who: evm_address(who),
        };
        self.sender.send(self.contracts.stake_registry, &call).await
    }

    /// Takes unbonded stake home.
    pub async fn withdraw_stake(&self, role: StakeRole) -> Result<TransactionReceipt, SendError> {
        self.sender
            .send(
                self.contracts.stake_registry,
                &StakeRegistry::withdrawCall { role: role as u8 },
            )
            .await
    }
}
