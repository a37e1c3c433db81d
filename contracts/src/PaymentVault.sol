// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {DebitEntry, FeeSchedule, IPaymentVault, VaultParams} from "./interfaces/IPaymentVault.sol";
import {IProviderRegistry} from "./interfaces/IProviderRegistry.sol";
import {SettlementLib, Split} from "./libraries/SettlementLib.sol";
import {VaultErrors as Errors} from "./libraries/VaultErrors.sol";
import {VaultEvents as Events} from "./libraries/VaultEvents.sol";

/// @title Custody and settlement of the payment token
/// @notice See IPaymentVault for who may call what.
/// @dev The vault never holds more than MAX_HELD. Therefore every balance and every share fits uint64, and lifetime sums fit uint88
/// for 2^24 turnovers of a full vault; they are packed so that a claim and a post write few slots.
contract PaymentVault is IPaymentVault, ReentrancyGuardTransient {
    using SafeCast for uint256;
    using SafeERC20 for IERC20;

    /// @notice The most that the vault accepts to hold: 18 million million of a token with six decimals.
    uint256 public constant MAX_HELD = type(uint64).max;
    /// @notice How far ahead an allotment may expire.
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
    uint64 private immutable WINDOW;
    uint64 private immutable NOTICE;
    uint64 private immutable SETTLE_DELAY;
    uint128 private immutable CLAIM_MIN;
    address private immutable TREASURY;
    address private immutable VALIDATORS;
    address private immutable BUYBACK;

    struct Allotment {
        uint88 cap;
        uint88 debited;
        uint40 expiry;
        uint32 generation;
        bool live;
    }

    /// @dev Slots: chain head; claimable root; pending root; post record; allotted and released; debited, claimed and fee share.
    struct RouterState {
        bytes32 chainHead;
        bytes32 claimableRoot;
        bytes32 pendingRoot;
        uint88 claimableGross;
        uint88 pendingGross;
        uint40 pendingAt;
        uint40 posts;
        uint128 capTotal;
        uint128 releasedTotal;
        uint96 debitedTotal;
        uint96 claimedGross;
        uint64 feeOwed;
    }

    /// @dev One slot.
    struct ProtocolOwed {
        uint80 treasury;
        uint80 validators;
        uint80 buyback;
    }

    /// @notice May name the verdict contract and its own successor, and add fee versions.
    address public admin;
    /// @notice The only caller of `voidPending`; zero until set.
    address public verdict;
    /// @inheritdoc IPaymentVault
    uint16 public latestFeeVersion;
    ProtocolOwed private _protocol;

    /// @inheritdoc IPaymentVault
    mapping(address developer => uint128) public free;
    mapping(address developer => mapping(address router => Allotment)) private _allotments;
    mapping(address router => RouterState) private _routers;
    mapping(address router => mapping(uint64 index => bytes32)) private _checkpoints;
    mapping(bytes32 leafKey => uint128) private _claimed;
    mapping(address who => uint128) private _owed;
    mapping(uint16 version => FeeSchedule) private _fees;

    /// @param token The payment token.
    /// @param registry The provider registry.
    /// @param p Parameters; the three receivers must not be zero, the shares must be within their bounds.
    /// @param firstAdmin The first admin.
    constructor(IERC20 token, IProviderRegistry registry, VaultParams memory p, address firstAdmin) {
        if (p.treasury == address(0) || p.validatorsPool == address(0) || p.buyback == address(0)) {
            revert Errors.ZeroAddress();
        }
        TOKEN = token;
        REGISTRY = registry;
        WINDOW = p.window;
        NOTICE = p.notice;
        SETTLE_DELAY = p.settleDelay;
        CLAIM_MIN = p.claimMin;
        TREASURY = p.treasury;
        VALIDATORS = p.validatorsPool;
        BUYBACK = p.buyback;
        admin = firstAdmin;
        emit Events.AdminSet(firstAdmin);
        _addFeeVersion(FeeSchedule(p.routerBps, p.treasuryBps, p.validatorsBps, p.buybackBps));
    }

    modifier onlyAdmin() {
        if (msg.sender != admin) revert Errors.NotAllowed(msg.sender);
        _;
    }

    // ---------------------------------------------------------------------------------------------------------- developers

    /// @inheritdoc IPaymentVault
    function deposit(uint128 amount) external nonReentrant {
        _deposit(msg.sender, amount);
    }

    /// @inheritdoc IPaymentVault
    function depositFor(address developer, uint128 amount) external nonReentrant {
        _deposit(developer, amount);
    }

    /// @inheritdoc IPaymentVault
    function depositWithPermit(uint128 amount, uint256 deadline, uint8 v, bytes32 r, bytes32 s) external nonReentrant {
        try IERC20Permit(address(TOKEN)).permit(msg.sender, address(this), amount, deadline, v, r, s) {} catch {}
        _deposit(msg.sender, amount);
    }

    /// @inheritdoc IPaymentVault
    function withdraw(uint128 amount) external nonReentrant {
        _takeFree(msg.sender, amount);
        emit Events.Withdrawn(msg.sender, amount);
        TOKEN.safeTransfer(msg.sender, amount);
    }

    /// @inheritdoc IPaymentVault
    function allot(address router, uint128 cap, uint64 expiry) external {
        if (router == address(0)) revert Errors.ZeroAddress();
        Allotment storage a = _allotments[msg.sender][router];
        if (a.live) revert Errors.AllotmentLive(msg.sender, router, a.generation);
        _checkExpiry(expiry, uint64(block.timestamp) + 1);
        _takeFree(msg.sender, cap);
        uint32 generation = a.generation + 1;
        _allotments[msg.sender][router] = Allotment(uint256(cap).toUint88(), 0, uint40(expiry), generation, true);
        _routers[router].capTotal += cap;
        emit Events.Allotted(msg.sender, router, generation, cap, expiry);
    }

    /// @inheritdoc IPaymentVault
    function topUp(address router, uint128 addCap, uint64 newExpiry) external {
        Allotment storage a = _live(msg.sender, router);
        if (block.timestamp >= a.expiry) revert Errors.AllotmentExpired(a.expiry);
        if (newExpiry != 0) {
            _checkExpiry(newExpiry, a.expiry);
            a.expiry = uint40(newExpiry);
        }
        if (addCap != 0) {
            _takeFree(msg.sender, addCap);
            a.cap += uint256(addCap).toUint88();
            _routers[router].capTotal += addCap;
        }
        emit Events.ToppedUp(msg.sender, router, a.generation, a.cap, a.expiry);
    }

    /// @inheritdoc IPaymentVault
    function revoke(address router) external {
        Allotment storage a = _live(msg.sender, router);
        uint64 end = uint64(block.timestamp) + NOTICE;
        if (end < a.expiry) a.expiry = uint40(end);
        emit Events.Revoked(msg.sender, router, a.generation, a.expiry);
    }

    /// @inheritdoc IPaymentVault
    function release(address developer, address router) external {
        Allotment storage a = _live(developer, router);
        uint64 releasableAt = a.expiry + SETTLE_DELAY;
        if (block.timestamp < releasableAt) revert Errors.NotReleasable(releasableAt);
        uint128 released = a.cap - a.debited;
        a.live = false;
        _routers[router].releasedTotal += released;
        free[developer] += released;
        emit Events.Released(developer, router, a.generation, released);
    }

    // ------------------------------------------------------------------------------------------------------------- routers

    /// @inheritdoc IPaymentVault
    function postBatch(bytes32 jobRoot, uint32 jobCount, bytes32 payRoot, uint128 gross, bytes32 contentId) external {
        if (jobCount == 0 || jobCount > MAX_JOBS) revert Errors.BadJobCount(jobCount, MAX_JOBS);
        RouterState storage r = _routers[msg.sender];
        if (r.pendingAt != 0 && block.timestamp >= r.pendingAt + WINDOW) _promote(r, msg.sender);
        if (payRoot == bytes32(0)) gross = 0;
        else _setPending(r, payRoot, gross);
        uint64 index = ++r.posts;
        bytes32 newHead = SettlementLib.chain(r.chainHead, jobRoot, jobCount, contentId);
        r.chainHead = newHead;
        if (index % CHECKPOINT_EVERY == 0) _checkpoints[msg.sender][index / CHECKPOINT_EVERY] = newHead;
        emit Events.BatchPosted(msg.sender, index, jobRoot, jobCount, payRoot, gross, contentId, newHead);
    }

    /// @inheritdoc IPaymentVault
    function promote(address router) external {
        RouterState storage r = _pending(router);
        uint64 promotableAt = r.pendingAt + WINDOW;
        if (block.timestamp < promotableAt) revert Errors.PayRootPending(router, promotableAt);
        _promote(r, router);
    }

    /// @inheritdoc IPaymentVault
    function voidPending(address router) external {
        if (msg.sender != verdict) revert Errors.NotAllowed(msg.sender);
        RouterState storage r = _pending(router);
        emit Events.PendingVoided(router, r.pendingRoot, r.pendingGross);
        _clearPending(r);
    }

    // ---------------------------------------------------------------------------------------------------------- settlement

    /// @inheritdoc IPaymentVault
    function syncDebits(address router, bytes32 providerRoot, bytes32 debitRoot, DebitEntry[] calldata entries)
        external
    {
        RouterState storage r = _claimable(router, providerRoot, debitRoot);
        uint256 added;
        for (uint256 i; i < entries.length; ++i) {
            added += _syncDebit(router, debitRoot, entries[i]);
        }
        r.debitedTotal += added.toUint96();
    }

    /// @inheritdoc IPaymentVault
    function claim(
        address router,
        address provider,
        uint16 feeVersion,
        uint128 lifetimeGross,
        bytes32 providerRoot,
        bytes32 debitRoot,
        bytes32[] calldata proof
    ) external {
        RouterState storage r = _claimable(router, providerRoot, debitRoot);
        _verify(proof, providerRoot, SettlementLib.providerLeaf(router, provider, feeVersion, lifetimeGross));
        bytes32 key = _leafKey(router, provider, feeVersion);
        uint128 before = _claimed[key];
        uint128 delta = _claimableNow(r, provider, lifetimeGross, before);
        _claimed[key] = before + delta;
        r.claimedGross += uint96(delta);
        Split memory parts = SettlementLib.split(delta, _fee(feeVersion));
        _accrue(r, provider, parts);
        emit Events.Claimed(router, provider, feeVersion, before + delta, delta, parts.provider);
    }

    /// @inheritdoc IPaymentVault
    function collect(address who) external nonReentrant {
        uint128 amount = owed(who);
        if (amount == 0) revert Errors.NothingOwed(who);
        _owed[who] = 0;
        _routers[who].feeOwed = 0;
        address payee = REGISTRY.payeeOf(who);
        address to = payee == address(0) ? who : payee;
        emit Events.Collected(who, to, amount);
        TOKEN.safeTransfer(to, amount);
    }

    /// @inheritdoc IPaymentVault
    function collectProtocol() external nonReentrant {
        ProtocolOwed memory due = _protocol;
        delete _protocol;
        emit Events.ProtocolCollected(due.treasury, due.validators, due.buyback);
        TOKEN.safeTransfer(TREASURY, due.treasury);
        TOKEN.safeTransfer(VALIDATORS, due.validators);
        TOKEN.safeTransfer(BUYBACK, due.buyback);
    }

    // --------------------------------------------------------------------------------------------------------------- admin

    /// @inheritdoc IPaymentVault
    function addFeeVersion(FeeSchedule calldata schedule) external onlyAdmin returns (uint16 version) {
        return _addFeeVersion(schedule);
    }

    /// @inheritdoc IPaymentVault
    function setVerdict(address newVerdict) external onlyAdmin {
        verdict = newVerdict;
        emit Events.VerdictSet(newVerdict);
    }

    /// @inheritdoc IPaymentVault
    function setAdmin(address newAdmin) external onlyAdmin {
        admin = newAdmin;
        emit Events.AdminSet(newAdmin);
    }

    // --------------------------------------------------------------------------------------------------------------- views

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
        return (r.claimableRoot, r.claimableGross);
    }

    /// @inheritdoc IPaymentVault
    function pendingOf(address router) external view returns (bytes32 payRoot, uint128 gross, uint64 postedAt) {
        RouterState storage r = _routers[router];
        if (r.pendingAt != 0) return (r.pendingRoot, r.pendingGross, r.pendingAt);
    }

    /// @inheritdoc IPaymentVault
    function totals(address router)
        external
        view
        returns (uint128 capTotal, uint128 releasedTotal, uint128 debitedTotal, uint128 claimedGross)
    {
        RouterState storage r = _routers[router];
        return (r.capTotal, r.releasedTotal, r.debitedTotal, r.claimedGross);
    }

    /// @inheritdoc IPaymentVault
    function head(address router) external view returns (uint64 posts, bytes32 chainHead) {
        RouterState storage r = _routers[router];
        return (r.posts, r.chainHead);
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
        return _owed[who] + _routers[who].feeOwed;
    }

    /// @inheritdoc IPaymentVault
    function owedProtocol() external view returns (uint128 treasury, uint128 validators, uint128 buyback) {
        return (_protocol.treasury, _protocol.validators, _protocol.buyback);
    }

    /// @inheritdoc IPaymentVault
    function feeSchedule(uint16 version) external view returns (FeeSchedule memory) {
        return _fees[version];
    }

    /// @inheritdoc IPaymentVault
    function params() external view returns (VaultParams memory p) {
        FeeSchedule memory fee = _fees[1];
        return VaultParams({
            window: WINDOW,
            notice: NOTICE,
            settleDelay: SETTLE_DELAY,
            claimMin: CLAIM_MIN,
            routerBps: fee.routerBps,
            treasuryBps: fee.treasuryBps,
            validatorsBps: fee.validatorsBps,
            buybackBps: fee.buybackBps,
            treasury: TREASURY,
            validatorsPool: VALIDATORS,
            buyback: BUYBACK
        });
    }

    // ------------------------------------------------------------------------------------------------------------- private

    /// @dev The balances before and after make a token that takes a fee fail here and not later, when somebody cannot withdraw.
    function _deposit(address developer, uint128 amount) private {
        if (amount == 0) revert Errors.ZeroAmount();
        if (developer == address(0)) revert Errors.ZeroAddress();
        uint256 before = TOKEN.balanceOf(address(this));
        if (before + amount > MAX_HELD) revert Errors.VaultFull(before + amount, MAX_HELD);
        free[developer] += amount;
        emit Events.Deposited(developer, msg.sender, amount);
        TOKEN.safeTransferFrom(msg.sender, address(this), amount);
        uint256 received = TOKEN.balanceOf(address(this)) - before;
        if (received != amount) revert Errors.InexactTransfer(amount, received);
    }

    function _takeFree(address developer, uint128 amount) private {
        if (amount == 0) revert Errors.ZeroAmount();
        uint128 available = free[developer];
        if (amount > available) revert Errors.InsufficientFree(developer, available, amount);
        free[developer] = available - amount;
    }

    function _checkExpiry(uint64 expiry, uint64 earliest) private view {
        uint64 latest = uint64(block.timestamp) + MAX_ALLOTMENT;
        if (expiry < earliest || expiry > latest) revert Errors.BadExpiry(expiry, earliest, latest);
    }

    function _live(address developer, address router) private view returns (Allotment storage a) {
        a = _allotments[developer][router];
        if (!a.live) revert Errors.NoAllotment(developer, router);
    }

    function _pending(address router) private view returns (RouterState storage r) {
        r = _routers[router];
        if (r.pendingAt == 0) revert Errors.NothingPending(router);
    }

    function _claimable(address router, bytes32 providerRoot, bytes32 debitRoot)
        private
        view
        returns (RouterState storage r)
    {
        r = _routers[router];
        bytes32 payRoot = SettlementLib.payRoot(providerRoot, debitRoot);
        if (r.claimableRoot != payRoot) revert Errors.NotClaimable(router, payRoot);
    }

    function _setPending(RouterState storage r, bytes32 payRoot, uint128 gross) private {
        if (r.pendingAt != 0) revert Errors.PayRootPending(msg.sender, r.pendingAt + WINDOW);
        if (gross < r.claimableGross) revert Errors.GrossFell(gross, r.claimableGross);
        uint128 covered = r.capTotal - r.releasedTotal;
        if (gross > covered) revert Errors.Insolvent(gross, covered);
        r.pendingRoot = payRoot;
        r.pendingGross = uint256(gross).toUint88();
        r.pendingAt = uint40(block.timestamp);
    }

    function _promote(RouterState storage r, address router) private {
        bytes32 payRoot = r.pendingRoot;
        uint88 gross = r.pendingGross;
        r.claimableRoot = payRoot;
        r.claimableGross = gross;
        _clearPending(r);
        emit Events.Promoted(router, payRoot, gross);
    }

    /// @dev The old root stays in its slot, unreadable: overwriting it with the next root is cheaper than clearing it in between.
    function _clearPending(RouterState storage r) private {
        r.pendingAt = 0;
        r.pendingGross = 0;
    }

    function _syncDebit(address router, bytes32 debitRoot, DebitEntry calldata entry) private returns (uint256 added) {
        Allotment memory a = _allotments[entry.developer][router];
        if (!a.live || entry.generation != a.generation) {
            revert Errors.WrongGeneration(entry.developer, entry.generation, a.live ? a.generation : 0);
        }
        uint128 debit = entry.lifetimeDebit;
        if (debit < a.debited) revert Errors.DebitFell(entry.developer, debit, a.debited);
        if (debit > a.cap) revert Errors.CapExceeded(entry.developer, debit, a.cap);
        _verify(entry.proof, debitRoot, SettlementLib.debitLeaf(router, entry.developer, entry.generation, debit));
        added = debit - a.debited;
        _allotments[entry.developer][router].debited = uint88(debit);
        emit Events.DebitSynced(router, entry.developer, entry.generation, debit);
    }

    function _verify(bytes32[] calldata proof, bytes32 root, bytes32 leaf) private pure {
        if (!MerkleProof.verifyCalldata(proof, root, leaf)) revert Errors.BadProof(leaf);
    }

    function _leafKey(address router, address provider, uint16 feeVersion) private pure returns (bytes32) {
        return keccak256(abi.encode(router, SettlementLib.CLASS, provider, feeVersion));
    }

    /// @dev The registry is asked only where it matters: on the first claim of a leaf and on one below the minimum.
    function _claimableNow(RouterState storage r, address provider, uint128 lifetimeGross, uint128 before)
        private
        view
        returns (uint128 delta)
    {
        uint128 covered = r.debitedTotal - r.claimedGross;
        delta = lifetimeGross > before ? lifetimeGross - before : 0;
        if (delta > covered) delta = covered;
        if (before == 0 && REGISTRY.payeeOf(provider) == address(0)) revert Errors.UnknownProvider(provider);
        if (delta == 0 || (delta < CLAIM_MIN && !REGISTRY.isLeaving(provider))) {
            revert Errors.BelowMinimum(delta, CLAIM_MIN);
        }
    }

    /// @dev A version that exists has a share above zero or is version 1; the newest number tells.
    function _fee(uint16 version) private view returns (FeeSchedule memory) {
        if (version == 0 || version > latestFeeVersion) revert Errors.UnknownFeeVersion(version);
        return _fees[version];
    }

    /// @dev No sum can leave its type: all shares together are part of what the vault holds, below 2^64.
    function _accrue(RouterState storage r, address provider, Split memory parts) private {
        _owed[provider] += parts.provider;
        r.feeOwed += uint64(parts.router);
        ProtocolOwed storage due = _protocol;
        due.treasury += uint80(parts.treasury);
        due.validators += uint80(parts.validators);
        due.buyback += uint80(parts.buyback);
    }

    function _addFeeVersion(FeeSchedule memory schedule) private returns (uint16 version) {
        uint256 protocol = uint256(schedule.treasuryBps) + schedule.validatorsBps + schedule.buybackBps;
        if (schedule.routerBps > MAX_FEE_BPS || protocol > MAX_FEE_BPS) {
            revert Errors.FeeTooHigh(schedule.routerBps, protocol);
        }
        version = ++latestFeeVersion;
        _fees[version] = schedule;
        emit Events.FeeVersionAdded(version, schedule);
    }
}
