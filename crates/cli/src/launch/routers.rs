//! Routers as the registry tells them: where providers and validators reach them.

use super::Joined;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use stoa_chain::{AccessError, ChainAccess, ContractEvent, Cursor, Indexer, StakeRole, View};
use stoa_net::RouterAddress;
use stoa_types::{Address, Digest, EndpointId};

/// Addresses of one router that are taken: more would only make dialling slow.
const ADDRESSES_MAX: usize = 16;

/// Follows the registry for the addresses of routers.
pub struct Routers<C> {
    indexer: Indexer<C>,
    view: View<C>,
    chain_id: u64,
    registry: Address,
    known: BTreeMap<Address, Registration>,
}

/// The newest word of a router about itself. It registers at each start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Where it is reached.
    pub address: RouterAddress,
    /// Transaction that said so.
    pub transaction: Digest,
}

impl<C: ChainAccess + Clone> Routers<C> {
    /// Knows nothing yet: call [`Routers::read`].
    pub fn new(joined: &Joined<C>) -> Self {
        let (chain, contracts) = (joined.chain.clone(), joined.contracts);
        Self {
            // The vault's events say nothing about addresses.
            indexer: Indexer::new(chain, contracts, Cursor::starting_at(0), 0).vault_from(u64::MAX),
            view: joined.view(),
            chain_id: joined.chain_id,
            registry: contracts.provider_registry,
            known: BTreeMap::new(),
        }
    }

    /// Reads on to the newest block. An error leaves what was known.
    pub async fn read(&mut self) -> Result<(), AccessError> {
        loop {
            let progress = self.indexer.step().await?;
            for indexed in progress.events {
                self.told(indexed.event, indexed.transaction);
            }
            if progress.at_head {
                return Ok(());
            }
        }
    }

    fn told(&mut self, event: ContractEvent, transaction: Digest) {
        if event.check_endpoint(self.chain_id, self.registry).is_err() {
            return;
        }
        if let ContractEvent::RouterRegistered {
            router,
            endpoint,
            addresses,
            ..
        } = event
        {
            match address(endpoint, &addresses) {
                Some(address) => {
                    let registration = Registration {
                        address,
                        transaction,
                    };
                    self.known.insert(router, registration);
                }
                None => {
                    tracing::warn!(%router, addresses, "a router names no address that can be dialled");
                }
            }
        }
    }

    /// What a router said last.
    pub fn get(&self, router: Address) -> Option<&Registration> {
        self.known.get(&router)
    }

    /// Every router that said where it is reached.
    pub fn all(&self) -> Vec<(Address, RouterAddress)> {
        let known = self.known.iter();
        known
            .map(|(router, said)| (*router, said.address.clone()))
            .collect()
    }

    /// Reads on, and gives the routers with the stake that their role demands.
    pub async fn read_staked(&mut self) -> Result<Vec<Address>, AccessError> {
        self.read().await?;
        let mut staked = Vec::new();
        for router in self.known.keys() {
            if self.view.stake(StakeRole::Router, *router).await?.is_active {
                staked.push(*router);
            }
        }
        Ok(staked)
    }
}

/// `text` is what the registry holds: socket addresses, separated by commas.
pub fn address(endpoint: EndpointId, text: &str) -> Option<RouterAddress> {
    let addresses = text.split(',').map(str::trim);
    let addresses = addresses.filter_map(|one| one.parse::<SocketAddr>().ok());
    let addresses: Vec<_> = addresses.take(ADDRESSES_MAX).collect();
    (!addresses.is_empty()).then_some(RouterAddress {
        endpoint,
        addresses,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_far_as_they_can_be_dialled() {
        let endpoint = EndpointId([1; 32]);
        let found = address(endpoint, "10.0.0.1:9700, example.org:1,[::1]:9700,").expect("two");
        let expected: Vec<SocketAddr> = vec![
            "10.0.0.1:9700".parse().unwrap(),
            "[::1]:9700".parse().unwrap(),
        ];
        assert_eq!(found.addresses, expected);
        for nothing in ["", "example.org", ",,"] {
            assert_eq!(address(endpoint, nothing), None);
        }
        let many = vec!["10.0.0.1:1"; 1000].join(",");
        let taken = address(endpoint, &many).expect("some").addresses.len();
        assert_eq!(taken, ADDRESSES_MAX);
    }
}
