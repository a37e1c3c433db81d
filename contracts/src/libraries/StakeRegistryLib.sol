// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Roles that hold stake
library Roles {
    uint8 internal constant PROVIDER = 1;
    uint8 internal constant ROUTER = 2;
    uint8 internal constant VALIDATOR = 3;
}

/// @title Errors of the stake registry
library StakeRegistryErrors {
    /// @notice `role` is not 1 (provider), 2 (router) or 3 (validator).
    error UnknownRole(uint8 role);
    /// @notice The amount is zero.
    error ZeroAmount();
    /// @notice A parameter that must not be zero is zero.
    error ZeroParameter();
    /// @notice `caller` does not hold the role that this call needs.
    error NotAllowed(address caller);
    /// @notice Asked for `wanted` of an active stake of `active`.
    error StakeTooSmall(uint128 wanted, uint128 active);
    /// @notice Nothing unbonds.
    error NothingUnbonding();
    /// @notice The stake may leave at `withdrawableAt`.
    error StillUnbonding(uint64 withdrawableAt);
    /// @notice The fault has been punished before.
    error AlreadySlashed(bytes32 faultId);
    /// @notice The severity is not within 1 to 10,000.
    error BadSeverity(uint16 severityBps);
    /// @notice `developers` developers but `charges` charges.
    error LengthMismatch(uint256 developers, uint256 charges);
    /// @notice `count` developers, more than `max`.
    error TooManyDevelopers(uint256 count, uint256 max);
    /// @notice Nothing is owed to `who`.
    error NothingOwed(address who);
    /// @notice The token took a fee or gave another amount than asked.
    error InexactTransfer(uint256 expected, uint256 received);
}

/// @title Events of the stake registry
library StakeRegistryEvents {
    /// @notice `who` added `amount`; its active stake is `active` now.
    event Staked(uint8 indexed role, address indexed who, uint128 amount, uint128 active);
    /// @notice `who` moved `amount` out of its active stake; all that unbonds may leave at `withdrawableAt`.
    event UnbondRequested(uint8 indexed role, address indexed who, uint128 amount, uint64 withdrawableAt);
    /// @notice `amount` went home to `who`.
    event StakeWithdrawn(uint8 indexed role, address indexed who, uint128 amount);
    /// @notice A slash: `sigma = developer + challenger + burned`.
    event Slashed(
        bytes32 indexed faultId,
        address indexed offender,
        uint8 indexed role,
        uint16 severityBps,
        uint128 sigma,
        uint128 developer,
        uint128 challenger,
        uint128 burned
    );
    /// @notice `amount` of a slash is owed to `who`.
    event Awarded(bytes32 indexed faultId, address indexed who, uint128 amount);
    /// @notice `amount` of awards went to `who`.
    event AwardsCollected(address indexed who, uint128 amount);
    /// @notice Only `slasher` may slash from now on.
    event SlasherSet(address slasher);
    /// @notice Minimum stakes are converted by `stakePrice` from now on.
    event StakePriceSet(uint128 stakePrice);
    /// @notice `admin` holds the admin role from now on.
    event AdminSet(address admin);
}

/// @notice A slash and its two awarded shares; the rest of `sigma` is burned.
struct SlashParts {
    uint128 sigma;
    uint128 developer;
    uint128 challenger;
}

/// @title The split of a slash
library SlashLib {
    uint256 internal constant DEVELOPER_BPS = 4000;
    uint256 internal constant CHALLENGER_BPS = 4000;

    /// @notice `floor(slashable x severityBps / 10000)`.
    function sigma(uint128 slashable, uint16 severityBps) internal pure returns (uint128) {
        return uint128(uint256(slashable) * severityBps / 10_000);
    }

    /// @notice The two shares of a slash, each `floor(sigma x 4000 / 10000)`; what is left is burned.
    function split(uint128 amount) internal pure returns (SlashParts memory parts) {
        parts.sigma = amount;
        parts.developer = uint128(uint256(amount) * DEVELOPER_BPS / 10_000);
        parts.challenger = uint128(uint256(amount) * CHALLENGER_BPS / 10_000);
    }
}
