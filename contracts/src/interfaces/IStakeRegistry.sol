// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice What a stake registry is built with; fixed for its life, except the stake price.
/// @param unbonding Seconds from a request to unbond until the stake may leave. Must exceed every challenge window plus the dispute bound.
/// @param exposure Seconds of claimed throughput that the stake must cover: longest challenge window plus batch interval.
/// @param providerFloor Least stake of a provider, in payment-token units.
/// @param routerFloor Least stake of a router, in payment-token units.
/// @param validatorFloor Least stake of a validator, in payment-token units.
/// @param jobMax Highest price of one job, in payment-token units.
/// @param samplingFloorBps Lowest share of jobs that are re-executed, in 1/10,000.
/// @param stakePrice Payment-token units per whole stake token.
struct StakeParams {
    uint64 unbonding;
    uint64 exposure;
    uint128 providerFloor;
    uint128 routerFloor;
    uint128 validatorFloor;
    uint128 jobMax;
    uint16 samplingFloorBps;
    uint128 stakePrice;
}

/// @title Stake of providers, routers and validators
/// @notice Stake amounts are units of 10^-18 stake token. Roles: 1 provider, 2 router, 3 validator; each role of an account is its own stake.
/// The admin may name the slasher and the stake price. It can move no stake; the slasher can only apply the split of `slash`.
interface IStakeRegistry {
    /// @notice The caller adds `amount` to its stake in `role`; it must have approved this contract.
    function stake(uint8 role, uint128 amount) external;

    /// @notice The same with an EIP-2612 permit instead of an approval. A permit that someone else has already sent is no obstacle.
    function stakeWithPermit(uint8 role, uint128 amount, uint256 deadline, uint8 v, bytes32 r, bytes32 s) external;

    /// @notice The caller takes `amount` out of its active stake. It may leave after the unbonding time and can be slashed until it leaves.
    /// @dev A second request joins the first and starts the time of both again: stake never leaves sooner than its last request allows.
    function requestUnbond(uint8 role, uint128 amount) external;

    /// @notice The caller takes all unbonded stake of `role` home, once the unbonding time has passed. Not pausable.
    function withdraw(uint8 role) external;

    /// @notice Only the slasher. Takes `floor(slashable x severityBps / 10000)` of the offender's stake in `role`, active stake first:
    /// 40 % to the harmed developers, 40 % to the challenger, the rest burned with all rounding.
    /// @dev Several developers share by `floor(share x charge / sum of charges)`. The share of a missing developer (none named, zero
    /// address, or no charges) or of a missing challenger (zero address) is burned, so that nobody gains by inventing the role.
    /// @param faultId Hash of (kind, offender, job, batch or epoch): a fault is punished once.
    function slash(
        bytes32 faultId,
        address offender,
        uint8 role,
        uint16 severityBps,
        address[] calldata developers,
        uint128[] calldata charges,
        address challenger
    ) external;

    /// @notice Anyone may call: sends to `who` the awards that it is owed. Not pausable.
    function collect(address who) external;

    /// @notice Only the admin: names the one contract or account that may slash.
    function setSlasher(address slasher) external;

    /// @notice Only the admin: sets the payment-token units per whole stake token by which minimum stakes are converted.
    function setStakePrice(uint128 stakePrice) external;

    /// @notice Only the admin: hands its role to `admin`, later the time-lock.
    function setAdmin(address admin) external;

    /// @notice Active stake, unbonding stake, and when the latter may leave (Unix seconds; 0 before a request and after a withdrawal).
    function stakeOf(uint8 role, address who)
        external
        view
        returns (uint128 active, uint128 unbonding, uint64 withdrawableAt);

    /// @notice What a slash can reach: active plus unbonding stake.
    function slashable(uint8 role, address who) external view returns (uint128);

    /// @notice The least active stake of `who` in `role`, rounded up:
    /// `2 x max(floor of the role, ceil(sum of tps x output price x exposure / 10^6), ceil(jobMax / sampling floor))`, converted by the
    /// stake price. The second term counts for providers.
    function minimum(uint8 role, address who) external view returns (uint256);

    /// @notice Whether the active stake of `who` in `role` reaches the minimum.
    function isActive(uint8 role, address who) external view returns (bool);

    /// @notice Awards of `who` that are not collected yet.
    function owed(address who) external view returns (uint128);

    /// @notice Whether this fault has been punished.
    function isSlashed(bytes32 faultId) external view returns (bool);

    /// @notice What this registry was built with, with the stake price of today.
    function params() external view returns (StakeParams memory);
}
