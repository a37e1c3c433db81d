//! The same over HTTP.

mod common;

use common::*;
use stoa_chain::*;
use stoa_types::{Digest, Timestamp};

#[tokio::test]
async fn everything_reads_the_same_embedded_and_over_rpc() {
    let network = network().await;
    let developer = network.developer("developer", 10_000_000).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(stoa_evm::rpc::serve(
        listener,
        network.chain.clone(),
        stoa_evm::rpc::RpcConfig::default(),
        std::future::pending(),
    ));
    let (rpc, embedded) = (Rpc::new(&url).expect("a client"), network.access());
    assert_eq!(
        rpc.chain_id().await.expect("answers"),
        network.chain.chain_id()
    );

    // Written over RPC, read both ways.
    let remote = Account::new(sender(rpc.clone(), "developer").await, network.contracts);
    let receipt = remote
        .allot(
            who("router"),
            units(4_000_000),
            Timestamp::from_secs(START + 1_000),
        )
        .await
        .expect("allots");
    assert!(receipt.success);
    let (far, near) = (
        rpc.balance(who("developer")).await.expect("answers"),
        embedded.balance(who("developer")).await.expect("answers"),
    );
    assert_eq!(far, near);
    for (far, near) in [
        (
            rpc.receipt(receipt.hash).await,
            embedded.receipt(receipt.hash).await,
        ),
        (
            rpc.receipt(Digest::ZERO).await,
            embedded.receipt(Digest::ZERO).await,
        ),
    ] {
        assert_eq!(far.expect("answers"), near.expect("answers"));
    }
    for number in [None, Some(0), Some(3), Some(999)] {
        assert_eq!(
            rpc.block(number).await.expect("answers"),
            embedded.block(number).await.expect("answers")
        );
    }
    let contracts = vec![network.contracts.vault, network.contracts.stake_registry];
    let far = rpc.logs(contracts.clone(), 0, 100).await.expect("answers");
    assert_eq!(
        far,
        embedded.logs(contracts, 0, 100).await.expect("answers")
    );
    assert!(far.len() >= 4);
    let vault = network.contracts.vault;
    assert_eq!(
        rpc.code(vault).await.expect("answers"),
        embedded.code(vault).await.expect("answers")
    );
    assert_eq!(
        rpc.nonce(developer.address(), true).await.expect("answers"),
        4
    );
    let view = View::new(rpc.clone(), network.contracts);
    assert_eq!(
        view.free(developer.address()).await.expect("answers"),
        units(6_000_000)
    );

    // Refusals carry the contract's own error on both ways.
    let again = Timestamp::from_secs(START + 2_000);
    let far = remote
        .allot(who("router"), units(1), again)
        .await
        .expect_err("one is live")
        .to_string();
    let near = developer
        .allot(who("router"), units(1), again)
        .await
        .expect_err("one is live")
        .to_string();
    assert!(far.contains("AllotmentLive"), "{far}");
    assert_eq!(far, near);
}

#[tokio::test]
async fn an_absent_server_and_a_wrong_url_are_told_apart() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    drop(listener);
    let error = Rpc::new(&url)
        .expect("a client")
        .chain_id()
        .await
        .expect_err("nobody listens");
    assert!(matches!(error, AccessError::Unreachable(_)), "{error}");
    for wrong in ["", "localhost:8545", "ftp://host", "file:///etc/passwd"] {
        assert!(Rpc::new(wrong).is_err(), "{wrong}");
    }
}
