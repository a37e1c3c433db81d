// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {FeeSchedule, IPaymentVault, VaultParams} from "../interfaces/IPaymentVault.sol";
import {IProviderRegistry} from "../interfaces/IProviderRegistry.sol";
import {PostRecord} from "../libraries/PostRecordLib.sol";
import {ProtocolOwed} from "../libraries/ProtocolOwedLib.sol";
import {SettlementLib} from "../libraries/SettlementLib.sol";
import {VaultErrors as Errors} from "../libraries/VaultErrors.sol";
import {VaultEvents as Events} from "../libraries/VaultEvents.sol";

/// @title What the vault remembers, and how it is read
/// @dev The vault never holds more than MAX_HELD. Therefore every balance and every share fits uint64, and lifetime sums fit uint88
/// for 2^24 turnovers of a full vault; they are packed so that a claim and a post write few slots.
abstract contract VaultState is IPaymentVault {
    /// @notice The most that the vault accepts to hold: 18 million million of a token with six decimals.
    uint256 public constant MAX_HELD = type(uint64).max;
    /// @notice How far ahead an allotment may expire; also the longest window, notice and settle delay, so that no vault can be built
    /// from which nobody ever gets out.
    uint64 public constant MAX_ALLOTMENT = 30 days;
    /// @notice The most receipts in a batch.
    uint32 public constant MAX_JOBS = 10_000;
    /// @notice A chain head is stored after every so many posts: the proof of an old leaf walks at most that many roots.
    uint64 public constant CHECKPOINT_EVERY = 64;
    /// @notice Bound of the router's share and of the three protocol shares together, in 1/10,000.
    uint256 public constant MAX_FEE_BPS = 500;

    /// @notice The payment token.
    IERC20 public immutable TOKEN;
    /// @notice Where the payees of providers stand.
    IProviderRegistry public immutable REGISTRY;
    uint64 internal immutable WINDOW;
    uint64 internal immutable NOTICE;
    uint64 internal immutable SETTLE_DELAY;
    uint128 internal immutable CLAIM_MIN;
    address internal immutable TREASURY;
    address internal immutable VALIDATORS;
    address internal immutable BUYBACK;
    uint16 private immutable ROUTER_BPS;
    uint16 private immutable TREASURY_BPS;
    uint16 private immutable VALIDATORS_BPS;
    uint16 private immutable BUYBACK_BPS;

    struct Allotment {
        uint88 cap;
        uint88 debited;
        uint40 expiry;
        uint32 generation;
        bool live;
    }

    /// @dev One slot, written by every claim.
    struct ClaimRecord {
        uint96 debitedTotal;
        uint96 claimedGross;
        uint64 feeOwed;
    }

    /// @dev Six slots.
    struct RouterState {
        bytes32 chainHead;
        bytes32 claimableRoot;
        bytes32 pendingRoot;
        PostRecord posted;
        uint128 capTotal;
        uint128 releasedTotal;
        ClaimRecord claims;
    }

    /// @notice May name the verdict contract and its own successor, and add fee versions.
    address public admin;
    /// @notice May void the pending payout root of any router; zero until set.
    address public verdict;
    /// @inheritdoc IPaymentVault
    uint16 public latestFeeVersion;
    ProtocolOwed internal _protocol;

    /// @inheritdoc IPaymentVault
    mapping(address developer => uint128) public free;
    mapping(address developer => mapping(address router => Allotment)) internal _allotments;
    mapping(address router => RouterState) internal _routers;
    mapping(address router => mapping(uint64 index => bytes32)) internal _checkpoints;
    mapping(bytes32 leafKey => uint128) internal _claimed;
    mapping(address who => uint128) internal _owed;
    /// @dev From version 2 on; version 1 stands in the code, because every claim reads it.
    mapping(uint16 version => FeeSchedule) private _laterFees;

    /// @param token The payment token; not zero.
    /// @param registry The provider registry; not zero.
    /// @param p Parameters; the three receivers must not be zero, shares and times must be within their bounds.
    /// @param firstAdmin The first admin.
    constructor(IERC20 token, IProviderRegistry registry, VaultParams memory p, address firstAdmin) {
        if (p.treasury == address(0) || p.validatorsPool == address(0) || p.buyback == address(0)) {
            revert Errors.ZeroAddress();
        }
        if (address(token) == address(0) || address(registry) == address(0)) revert Errors.ZeroAddress();
        _checkDelay(p.window);
        _checkDelay(p.notice);
        _checkDelay(p.settleDelay);
        TOKEN = token;
        REGISTRY = registry;
        WINDOW = p.window;
        NOTICE = p.notice;
        SETTLE_DELAY = p.settleDelay;
        CLAIM_MIN = p.claimMin;
        TREASURY = p.treasury;
        VALIDATORS = p.validatorsPool;
        BUYBACK = p.buyback;
        ROUTER_BPS = p.routerBps;
        TREASURY_BPS = p.treasuryBps;
        VALIDATORS_BPS = p.validatorsBps;
        BUYBACK_BPS = p.buybackBps;
        admin = firstAdmin;
        emit Events.AdminSet(firstAdmin);
        _addFeeVersion(FeeSchedule(p.routerBps, p.treasuryBps, p.validatorsBps, p.buybackBps));
    }

    /// @inheritdoc IPaymentVault
    function allotment(address developer, address router)
        external
        view
        returns (uint32 generation, uint128 cap, uint128 debited, uint128 released, uint64 expiry, bool live)
    {
        Allotment memory a = _allotments[developer][router];
        return (a.generation, a.cap, a.debited, a.live ? 0 : a.cap - a.debited, a.expiry, a.live);
    }

    /// @inheritdoc IPaymentVault
    function claimable(address router) external view returns (bytes32 payRoot, uint128 gross) {
        RouterState storage r = _routers[router];
        return (r.claimableRoot, r.posted.claimableGross());
    }

    /// @inheritdoc IPaymentVault
    function pendingOf(address router) external view returns (bytes32 payRoot, uint128 gross, uint64 postedAt) {
        RouterState storage r = _routers[router];
        PostRecord posted = r.posted;
        if (posted.pendingAt() != 0) return (r.pendingRoot, posted.pendingGross(), posted.pendingAt());
    }

    /// @inheritdoc IPaymentVault
    function totals(address router)
        external
        view
        returns (uint128 capTotal, uint128 releasedTotal, uint128 debitedTotal, uint128 claimedGross)
    {
        RouterState storage r = _routers[router];
        return (r.capTotal, r.releasedTotal, r.claims.debitedTotal, r.claims.claimedGross);
    }

    /// @inheritdoc IPaymentVault
    function head(address router) external view returns (uint64 posts, bytes32 chainHead) {
        RouterState storage r = _routers[router];
        return (r.posted.posts(), r.chainHead);
    }

    /// @inheritdoc IPaymentVault
    function checkpoint(address router, uint64 index) external view returns (bytes32 chainHead) {
        return _checkpoints[router][index];
    }

    /// @inheritdoc IPaymentVault
    function claimed(address router, address provider, uint16 feeVersion) external view returns (uint128) {
        return _claimed[_leafKey(router, provider, feeVersion)];
    }

    /// @inheritdoc IPaymentVault
    function owed(address who) public view returns (uint128) {
        return _owed[who] + _routers[who].claims.feeOwed;
    }

    /// @inheritdoc IPaymentVault
    function owedProtocol() external view returns (uint128 treasury, uint128 validators, uint128 buyback) {
        return _protocol.parts();
    }

    /// @inheritdoc IPaymentVault
    function feeSchedule(uint16 version) public view returns (FeeSchedule memory) {
        if (version == 1) return FeeSchedule(ROUTER_BPS, TREASURY_BPS, VALIDATORS_BPS, BUYBACK_BPS);
        if (version == 0 || version > latestFeeVersion) revert Errors.UnknownFeeVersion(version);
        return _laterFees[version];
    }

    /// @inheritdoc IPaymentVault
    function params() external view returns (VaultParams memory p) {
        return VaultParams({
            window: WINDOW,
            notice: NOTICE,
            settleDelay: SETTLE_DELAY,
            claimMin: CLAIM_MIN,
            routerBps: ROUTER_BPS,
            treasuryBps: TREASURY_BPS,
            validatorsBps: VALIDATORS_BPS,
            buybackBps: BUYBACK_BPS,
            treasury: TREASURY,
            validatorsPool: VALIDATORS,
            buyback: BUYBACK
        });
    }

    function _checkDelay(uint64 delay) private pure {
        if (delay > MAX_ALLOTMENT) revert Errors.DelayTooLong(delay, MAX_ALLOTMENT);
    }

    function _leafKey(address router, address provider, uint16 feeVersion) internal pure returns (bytes32) {
        return keccak256(abi.encode(router, SettlementLib.CLASS, provider, feeVersion));
    }

    function _addFeeVersion(FeeSchedule memory schedule) internal returns (uint16 version) {
        uint256 protocol = uint256(schedule.treasuryBps) + schedule.validatorsBps + schedule.buybackBps;
        if (schedule.routerBps > MAX_FEE_BPS || protocol > MAX_FEE_BPS) {
            revert Errors.FeeTooHigh(schedule.routerBps, protocol);
        }
        version = ++latestFeeVersion;
        if (version != 1) _laterFees[version] = schedule;
        emit Events.FeeVersionAdded(version, schedule);
    }
}
