use super::*;
use crate::launch::devnet::Devnet;
use crate::launch::models;
use crate::launch::service::local;
use crate::launch::validator;
use stoa_chain::Embedded;
use stoa_net::EndpointSecret;
use stoa_runtime::discover_hardware;
use stoa_types::Millis;

/// A network on an embedded chain with a registered router that is never there.
struct Field {
    ground: Ground<Embedded>,
    client: Arc<AuditClient>,
    _folder: tempfile::TempDir,
}

impl Field {
    async fn open() -> Self {
        let Devnet {
            joined,
            deployer,
            data,
            folder,
            ..
        } = Devnet::open().await;
        let router = register_router(&joined, &data).await;
        let audits = validator::watch(&joined).await.expect("read");
        let audits = audits.expect("they judge");
        let config = Config::load(None).expect("valid");
        let exact = models::exact(&data, &config, 1, &[]);
        let machine = Machine {
            hardware: discover_hardware(),
            upstream_places: None,
            backends: models::backends(None, exact.expect("a model")),
            providers: 1,
            silent: false,
        };
        let client = AuditClient::bind(local(0), Timeouts::default()).await;
        let ground = Ground {
            claims: Claims::start(&joined, audits.0, Millis(0)),
            joined,
            data,
            config,
            audits,
            router,
            api: "http://127.0.0.1:9/v1".to_owned(),
            bind: local(0),
            machine,
            set: 1,
            giver: Some(Arc::new(deployer)),
            last: None,
        };
        assert!(ground.claims.is_some(), "it can be claimed against");
        Self {
            ground,
            client: Arc::new(client.expect("bound")),
            _folder: folder,
        }
    }
}

async fn register_router(joined: &Joined<Embedded>, data: &DataDir) -> Address {
    let key = data.account_key("router").expect("a key");
    let router = joined.account(key).await.expect("an account");
    let secret = EndpointSecret::from_bytes([7; 32]);
    let registry = joined.contracts.provider_registry;
    let proof = secret.prove(joined.chain_id, registry, router.address());
    let registered = router.register_router(secret.endpoint_id(), proof, "127.0.0.1:9");
    registered.await.expect("registered");
    router.address()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_whose_loop_failed_begins_again_in_the_same_process() {
    let field = Field::open().await;
    let (ground, client) = (&field.ground, &field.client);
    let acting = ground.begin(0, client).await.expect("begins");
    assert!(
        acting.retire(false).await.is_none(),
        "nothing is left of it"
    );
    let again = ground.begin(0, client).await.expect("begins again");
    // One whose beginning was given up, whatever was there of it, stands in nobody's way either.
    drop(again);
    let end = tokio::time::Instant::now() + Duration::from_secs(30);
    let third = loop {
        match ground.begin(0, client).await {
            Ok(acting) => break acting,
            Err(error) => assert!(tokio::time::Instant::now() < end, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    // Whose identity is over is answered for, and by nobody else.
    let answering = third.retire(true).await.expect("answered for");
    assert!(ground.answer_for(0).await.is_err(), "twice");
    answering.end().await;
    let after_a_restart = ground.answer_for_those_before(2).await;
    assert_eq!(after_a_restart.len(), 1, "the second holds no stake");
    let claims = ground.claims.as_ref().expect("it can be claimed against");
    let (joined, data, machine) = (&ground.joined, &ground.data, &ground.machine);
    let idle = provider::answer_for(joined, data, machine, provider_of(1), claims).await;
    let ended = idle.expect("opened").ended();
    let ended = tokio::time::timeout(Duration::from_secs(60), ended).await;
    ended.expect("where nothing is at stake it ends by itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planter_that_begins_again_after_its_provider_announced_to_leave_is_back() {
    let field = Field::open().await;
    let (ground, client) = (&field.ground, &field.client);
    let acting = ground.begin(0, client).await.expect("begins");
    acting.retire(false).await;
    let key = provider::key(&ground.data, provider_of(0)).expect("a key");
    let account = ground.joined.account(key).await.expect("an account");
    account.announce_leave().await.expect("announced");
    let view = ground.joined.view();
    let is_leaving = async || view.is_leaving(account.address()).await.expect("read");
    assert!(is_leaving().await);
    let again = ground.begin(0, client).await.expect("begins again");
    assert!(!is_leaving().await);
    again.retire(false).await;
}
