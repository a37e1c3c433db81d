// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {FeeSchedule} from "../interfaces/IPaymentVault.sol";

/// @title Events of the vault: an indexer needs nothing else
library VaultEvents {
    /// @notice `payer` added `amount` to the free balance of `developer`.
    event Deposited(address indexed developer, address indexed payer, uint128 amount);
    /// @notice `developer` took `amount` home.
    event Withdrawn(address indexed developer, uint128 amount);
    /// @notice A new allotment.
    event Allotted(
        address indexed developer, address indexed router, uint32 indexed generation, uint128 cap, uint64 expiry
    );
    /// @notice An allotment has this cap and expiry from now on.
    event ToppedUp(
        address indexed developer, address indexed router, uint32 indexed generation, uint128 cap, uint64 expiry
    );
    /// @notice An allotment ends at `expiry`.
    event Revoked(address indexed developer, address indexed router, uint32 indexed generation, uint64 expiry);
    /// @notice `released` returned to the developer and the generation is closed.
    event Released(address indexed developer, address indexed router, uint32 indexed generation, uint128 released);
    /// @notice Post number `index` (from 1) of `router`.
    event BatchPosted(
        address indexed router,
        uint64 index,
        bytes32 jobRoot,
        uint32 jobCount,
        bytes32 payRoot,
        uint128 gross,
        bytes32 contentId,
        bytes32 chainHead
    );
    /// @notice A payout root became claimable.
    event Promoted(address indexed router, bytes32 payRoot, uint128 gross);
    /// @notice A pending payout root was cancelled, by verdict or by its router.
    event PendingVoided(address indexed router, bytes32 payRoot, uint128 gross);
    /// @notice The booked debit of an allotment is `lifetimeDebit` from now on.
    event DebitSynced(
        address indexed router, address indexed developer, uint32 indexed generation, uint128 lifetimeDebit
    );
    /// @notice A claim of `gross`, of which `net` is owed to the provider and the rest to the fee receivers.
    event Claimed(
        address indexed router, address indexed provider, uint16 feeVersion, uint128 lifetimeClaimed, uint128 gross, uint128 net
    );
    /// @notice What `who` was owed went to `to`.
    event Collected(address indexed who, address indexed to, uint128 amount);
    /// @notice What the pools got: each all that it was owed, or 0 when the token refused it.
    event ProtocolCollected(uint128 treasury, uint128 validators, uint128 buyback);
    /// @notice Leaves may name fee version `version` from now on.
    event FeeVersionAdded(uint16 indexed version, FeeSchedule schedule);
    /// @notice Only `verdict` may void the pending payout roots of others from now on.
    event VerdictSet(address verdict);
    /// @notice `admin` holds the admin role from now on.
    event AdminSet(address admin);
}
