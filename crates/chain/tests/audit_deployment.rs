//! The contracts that judge, as a deployment leaves them.
#![allow(missing_docs)]

mod common;

use common::*;
use stoa_chain::bindings::{AuditRounds, PanelVerdict, PaymentVault, Reputation, StakeRegistry};
use stoa_chain::*;

#[tokio::test]
async fn a_deployment_appoints_the_verdict_and_the_chain_says_where_it_is() {
    let network = network().await;
    let access = network.access();
    let judges = AuditContracts::of_deployer(who("deployer"));
    let found = AuditContracts::find(&access, &network.contracts).await;
    assert_eq!(found.expect("readable"), Some(judges));
    let verdict = evm_address(judges.verdict);
    let (stakes, vault) = (network.contracts.stake_registry, network.contracts.vault);
    let slasher = view(&access, stakes, &StakeRegistry::slasherCall {}).await;
    assert_eq!(slasher.expect("readable"), verdict);
    let voider = view(&access, vault, &PaymentVault::verdictCall {}).await;
    assert_eq!(voider.expect("readable"), verdict);
    let suspender = view(&access, judges.rounds, &AuditRounds::verdictCall {}).await;
    assert_eq!(suspender.expect("readable"), verdict);
    let writer = view(&access, judges.reputation, &Reputation::writerCall {}).await;
    assert_eq!(writer.expect("readable"), verdict);

    let claims = judges.claims.expect("deployed");
    let believed = view(&access, judges.verdict, &PanelVerdict::CLAIMSCall {}).await;
    assert_eq!(believed.expect("readable"), evm_address(claims));
    let rules = judges.claim_rules(&access).await.expect("readable");
    let rules = rules.expect("deployed");
    let delivery = &network.profile.delivery;
    assert_eq!(rules.claim_seconds, delivery.claim_seconds);
    assert_eq!(rules.answer_seconds, delivery.answer_seconds);
    assert_eq!(rules.deposit, delivery.deposit);

    let audit = &network.profile.audit;
    let times = view(&access, judges.rounds, &AuditRounds::paramsCall {})
        .await
        .expect("readable");
    assert_eq!(times.ballot, audit.ballot_seconds);
    assert_eq!(times.rulings, audit.rulings_seconds);
    assert_eq!(times.devnet, network.profile.devnet);
    let answer = view(&access, judges.verdict, &PanelVerdict::ANSWERCall {}).await;
    assert_eq!(answer.expect("readable"), audit.answer_seconds);
    let sampling = view(&access, judges.reputation, &Reputation::samplingCall {})
        .await
        .expect("readable");
    assert_eq!(
        (sampling.mostBps, sampling.leastBps, sampling.firstJobs),
        (
            audit.most_bps.get(),
            audit.least_bps.get(),
            audit.first_jobs
        )
    );
}

#[tokio::test]
async fn the_profile_names_planters_and_another_admin_appoints_for_itself() {
    let (chain, _clock, _folder) = empty_chain();
    let access = Embedded(chain);
    let mut profile = profile();
    profile.audit.planters = vec![who("planter")];
    let deployer = sender(access.clone(), "deployer").await;
    let contracts = deploy(&deployer, &profile, &beneficiaries())
        .await
        .expect("deploys");
    let judges = AuditContracts::of_deployer(who("deployer"));
    let planter = evm_address(who("planter"));
    let call = AuditRounds::isPlanterCall { planter };
    let allowed = view(&access, judges.rounds, &call).await;
    assert!(allowed.expect("readable"));
    assert!(
        AuditContracts::find(&access, &contracts)
            .await
            .expect("readable")
            .is_some()
    );

    let second = sender(access.clone(), "second deployer").await;
    let contracts = deploy(&second, &profile, &beneficiaries())
        .await
        .expect("deploys");
    let found = AuditContracts::find(&access, &contracts).await;
    assert_eq!(found.expect("readable"), None);
}
