// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC20Burnable} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Burnable.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {IProviderRegistry} from "./interfaces/IProviderRegistry.sol";
import {IStakeRegistry, StakeParams} from "./interfaces/IStakeRegistry.sol";
import {
    Roles,
    SlashLib,
    SlashParts,
    StakeRegistryErrors as Errors,
    StakeRegistryEvents as Events
} from "./libraries/StakeRegistryLib.sol";

/// @title Stake of providers, routers and validators
/// @notice See IStakeRegistry. Custody is immutable: no proxy, no pause, and no call moves stake but the staker's and `slash`.
/// @dev Assumes the stake token to be StoaToken: exact transfers, no hooks, supply below 2^128. Sums of stake therefore fit uint128.
contract StakeRegistry is IStakeRegistry {
    using SafeERC20 for IERC20;

    /// @notice The most developers that one slash may compensate: it bounds the cost of the call.
    uint256 public constant MAX_DEVELOPERS = 64;

    /// @notice The stake token.
    IERC20 public immutable TOKEN;
    /// @notice Where the claimed throughput of providers stands.
    IProviderRegistry public immutable REGISTRY;

    struct Stake {
        uint128 active;
        uint128 unbonding;
        uint64 withdrawableAt;
    }

    /// @notice May name the slasher, the stake price and its own successor.
    address public admin;
    /// @notice The only caller of `slash`; zero until set.
    address public slasher;

    StakeParams private _params;
    mapping(uint8 role => mapping(address who => Stake)) private _stakes;

    /// @inheritdoc IStakeRegistry
    mapping(address who => uint128) public owed;
    /// @inheritdoc IStakeRegistry
    mapping(bytes32 faultId => bool) public isSlashed;

    /// @param token The stake token; not zero, and it must have `burn(uint256)`.
    /// @param registry The provider registry; not zero.
    /// @param initial Parameters; sampling floor and stake price must not be zero.
    /// @param firstAdmin The first admin.
    constructor(IERC20 token, IProviderRegistry registry, StakeParams memory initial, address firstAdmin) {
        if (initial.samplingFloorBps == 0 || initial.stakePrice == 0) revert Errors.ZeroParameter();
        if (address(token) == address(0) || address(registry) == address(0)) revert Errors.ZeroParameter();
        TOKEN = token;
        REGISTRY = registry;
        _params = initial;
        admin = firstAdmin;
        emit Events.AdminSet(firstAdmin);
    }

    modifier onlyAdmin() {
        if (msg.sender != admin) revert Errors.NotAllowed(msg.sender);
        _;
    }

    modifier knownRole(uint8 role) {
        if (role < Roles.PROVIDER || role > Roles.VALIDATOR) revert Errors.UnknownRole(role);
        _;
    }

    /// @inheritdoc IStakeRegistry
    function stake(uint8 role, uint128 amount) external {
        _stake(role, amount);
    }

    /// @inheritdoc IStakeRegistry
    function stakeWithPermit(uint8 role, uint128 amount, uint256 deadline, uint8 v, bytes32 r, bytes32 s) external {
        try IERC20Permit(address(TOKEN)).permit(msg.sender, address(this), amount, deadline, v, r, s) {} catch {}
        _stake(role, amount);
    }

    /// @inheritdoc IStakeRegistry
    function requestUnbond(uint8 role, uint128 amount) external knownRole(role) {
        if (amount == 0) revert Errors.ZeroAmount();
        Stake storage held = _stakes[role][msg.sender];
        if (amount > held.active) revert Errors.StakeTooSmall(amount, held.active);
        uint64 withdrawableAt = uint64(block.timestamp) + _params.unbonding;
        held.active -= amount;
        held.unbonding += amount;
        held.withdrawableAt = withdrawableAt;
        emit Events.UnbondRequested(role, msg.sender, amount, withdrawableAt);
    }

    /// @inheritdoc IStakeRegistry
    function withdraw(uint8 role) external knownRole(role) {
        Stake storage held = _stakes[role][msg.sender];
        uint128 amount = held.unbonding;
        if (amount == 0) revert Errors.NothingUnbonding();
        if (block.timestamp < held.withdrawableAt) revert Errors.StillUnbonding(held.withdrawableAt);
        held.unbonding = 0;
        held.withdrawableAt = 0;
        emit Events.StakeWithdrawn(role, msg.sender, amount);
        TOKEN.safeTransfer(msg.sender, amount);
    }

    /// @inheritdoc IStakeRegistry
    function slash(
        bytes32 faultId,
        address offender,
        uint8 role,
        uint16 severityBps,
        address[] calldata developers,
        uint128[] calldata charges,
        address challenger
    ) external knownRole(role) {
        if (msg.sender != slasher) revert Errors.NotAllowed(msg.sender);
        if (isSlashed[faultId]) revert Errors.AlreadySlashed(faultId);
        if (severityBps == 0 || severityBps > 10_000) revert Errors.BadSeverity(severityBps);
        if (developers.length != charges.length) revert Errors.LengthMismatch(developers.length, charges.length);
        if (developers.length > MAX_DEVELOPERS) revert Errors.TooManyDevelopers(developers.length, MAX_DEVELOPERS);
        isSlashed[faultId] = true;
        SlashParts memory parts = SlashLib.split(_take(role, offender, severityBps));
        parts.developer = _awardDevelopers(faultId, developers, charges, parts.developer);
        if (challenger == address(0)) parts.challenger = 0;
        else _award(faultId, challenger, parts.challenger);
        uint128 burned = parts.sigma - parts.developer - parts.challenger;
        _emitSlashed(faultId, offender, role, severityBps, parts);
        if (burned != 0) ERC20Burnable(address(TOKEN)).burn(burned);
    }

    /// @inheritdoc IStakeRegistry
    function collect(address who) external {
        uint128 amount = owed[who];
        if (amount == 0) revert Errors.NothingOwed(who);
        owed[who] = 0;
        emit Events.AwardsCollected(who, amount);
        TOKEN.safeTransfer(who, amount);
    }

    /// @inheritdoc IStakeRegistry
    function setSlasher(address newSlasher) external onlyAdmin {
        slasher = newSlasher;
        emit Events.SlasherSet(newSlasher);
    }

    /// @inheritdoc IStakeRegistry
    function setStakePrice(uint128 stakePrice) external onlyAdmin {
        if (stakePrice == 0) revert Errors.ZeroParameter();
        _params.stakePrice = stakePrice;
        emit Events.StakePriceSet(stakePrice);
    }

    /// @inheritdoc IStakeRegistry
    function setAdmin(address newAdmin) external onlyAdmin {
        admin = newAdmin;
        emit Events.AdminSet(newAdmin);
    }

    /// @inheritdoc IStakeRegistry
    function stakeOf(uint8 role, address who)
        external
        view
        returns (uint128 active, uint128 unbonding, uint64 withdrawableAt)
    {
        Stake storage held = _stakes[role][who];
        return (held.active, held.unbonding, held.withdrawableAt);
    }

    /// @inheritdoc IStakeRegistry
    function slashable(uint8 role, address who) external view returns (uint128) {
        Stake storage held = _stakes[role][who];
        return held.active + held.unbonding;
    }

    /// @inheritdoc IStakeRegistry
    function minimum(uint8 role, address who) public view knownRole(role) returns (uint256) {
        StakeParams storage p = _params;
        uint256 least = role == Roles.PROVIDER
            ? Math.max(p.providerFloor, Math.mulDiv(REGISTRY.throughputValue(who), p.exposure, 1e6, Math.Rounding.Ceil))
            : role == Roles.ROUTER ? p.routerFloor : p.validatorFloor;
        least = Math.max(least, Math.ceilDiv(uint256(p.jobMax) * 10_000, p.samplingFloorBps));
        return Math.mulDiv(2 * least, 1e18, p.stakePrice, Math.Rounding.Ceil);
    }

    /// @inheritdoc IStakeRegistry
    function isActive(uint8 role, address who) external view returns (bool) {
        return _stakes[role][who].active >= minimum(role, who);
    }

    /// @inheritdoc IStakeRegistry
    function params() external view returns (StakeParams memory) {
        return _params;
    }

    function _stake(uint8 role, uint128 amount) private knownRole(role) {
        if (amount == 0) revert Errors.ZeroAmount();
        Stake storage held = _stakes[role][msg.sender];
        held.active += amount;
        emit Events.Staked(role, msg.sender, amount, held.active);
        uint256 before = TOKEN.balanceOf(address(this));
        TOKEN.safeTransferFrom(msg.sender, address(this), amount);
        uint256 received = TOKEN.balanceOf(address(this)) - before;
        if (received != amount) revert Errors.InexactTransfer(amount, received);
    }

    /// @dev Active stake goes first, so that an offender loses the right to work at once; what unbonds stays within reach.
    function _take(uint8 role, address offender, uint16 severityBps) private returns (uint128 sigma) {
        Stake storage held = _stakes[role][offender];
        uint128 active = held.active;
        sigma = SlashLib.sigma(active + held.unbonding, severityBps);
        uint128 fromActive = sigma < active ? sigma : active;
        held.active = active - fromActive;
        held.unbonding -= sigma - fromActive;
    }

    function _awardDevelopers(
        bytes32 faultId,
        address[] calldata developers,
        uint128[] calldata charges,
        uint128 share
    ) private returns (uint128 awarded) {
        uint256 total;
        for (uint256 i; i < charges.length; ++i) {
            total += charges[i];
        }
        if (total == 0) return 0;
        for (uint256 i; i < developers.length; ++i) {
            if (developers[i] == address(0)) continue;
            uint128 part = uint128(uint256(share) * charges[i] / total);
            _award(faultId, developers[i], part);
            awarded += part;
        }
    }

    function _emitSlashed(bytes32 faultId, address offender, uint8 role, uint16 severityBps, SlashParts memory parts)
        private
    {
        emit Events.Slashed(
            faultId,
            offender,
            role,
            severityBps,
            parts.sigma,
            parts.developer,
            parts.challenger,
            parts.sigma - parts.developer - parts.challenger
        );
    }

    function _award(bytes32 faultId, address who, uint128 amount) private {
        if (amount == 0) return;
        owed[who] += amount;
        emit Events.Awarded(faultId, who, amount);
    }
}
