//! Generated from the committed artefacts: calls, events, errors and bytecode of the contracts.
#![allow(missing_docs, clippy::too_many_arguments)]

use alloy_sol_types::sol;

sol!(
    #[sol(all_derives = true)]
    AuditRounds,
    "../../contracts/artifacts/AuditRounds.json"
);
sol!(
    #[sol(all_derives = true)]
    DeliveryClaims,
    "../../contracts/artifacts/DeliveryClaims.json"
);
sol!(
    #[sol(all_derives = true)]
    PanelVerdict,
    "../../contracts/artifacts/PanelVerdict.json"
);
sol!(
    #[sol(all_derives = true)]
    PaymentVault,
    "../../contracts/artifacts/PaymentVault.json"
);
sol!(
    #[sol(all_derives = true)]
    ProviderRegistry,
    "../../contracts/artifacts/ProviderRegistry.json"
);
sol!(
    #[sol(all_derives = true)]
    Reputation,
    "../../contracts/artifacts/Reputation.json"
);
sol!(
    #[sol(all_derives = true)]
    StakeRegistry,
    "../../contracts/artifacts/StakeRegistry.json"
);
sol!(
    #[sol(all_derives = true)]
    StoaToken,
    "../../contracts/artifacts/StoaToken.json"
);
sol!(
    #[sol(all_derives = true)]
    TestDollar,
    "../../contracts/artifacts/TestDollar.json"
);
