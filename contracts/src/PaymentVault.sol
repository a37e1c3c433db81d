// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {VaultState} from "./base/VaultState.sol";
import {DebitEntry, FeeSchedule, IPaymentVault, VaultParams} from "./interfaces/IPaymentVault.sol";
import {IProviderRegistry} from "./interfaces/IProviderRegistry.sol";
import {PostRecord} from "./libraries/PostRecordLib.sol";
import {ProtocolOwed} from "./libraries/ProtocolOwedLib.sol";
import {SettlementLib, Split} from "./libraries/SettlementLib.sol";
import {VaultErrors as Errors} from "./libraries/VaultErrors.sol";
import {VaultEvents as Events} from "./libraries/VaultEvents.sol";

/// @title Custody and settlement of the payment token
/// @notice See IPaymentVault for who may call what, and VaultState for what is stored.
contract PaymentVault is VaultState, ReentrancyGuardTransient {
    using SafeCast for uint256;
    using SafeERC20 for IERC20;

    /// @param token The payment token; not zero.
    /// @param registry The provider registry; not zero.
    /// @param p Parameters; the three receivers must not be zero, shares and times must be within their bounds.
    /// @param firstAdmin The first admin.
    constructor(IERC20 token, IProviderRegistry registry, VaultParams memory p, address firstAdmin)
        VaultState(token, registry, p, firstAdmin)
    {}

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
        PostRecord posted = r.posted;
        if (posted.pendingAt() != 0 && block.timestamp >= posted.pendingAt() + WINDOW) {
            posted = _promote(r, posted, msg.sender);
        }
        if (payRoot == bytes32(0)) gross = 0;
        else posted = _setPending(r, posted, payRoot, gross);
        posted = posted.plusPost();
        r.posted = posted;
        uint64 index = posted.posts();
        bytes32 newHead = SettlementLib.chain(r.chainHead, jobRoot, jobCount, contentId);
        r.chainHead = newHead;
        if (index % CHECKPOINT_EVERY == 0) _checkpoints[msg.sender][index / CHECKPOINT_EVERY] = newHead;
        emit Events.BatchPosted(msg.sender, index, jobRoot, jobCount, payRoot, gross, contentId, newHead);
    }

    /// @inheritdoc IPaymentVault
    function promote(address router) external {
        RouterState storage r = _routers[router];
        PostRecord posted = _pending(r, router);
        uint64 promotableAt = posted.pendingAt() + WINDOW;
        if (block.timestamp < promotableAt) revert Errors.PayRootPending(router, promotableAt);
        r.posted = _promote(r, posted, router);
    }

    /// @inheritdoc IPaymentVault
    function voidPending(address router) external {
        if (msg.sender != verdict && msg.sender != router) revert Errors.NotAllowed(msg.sender);
        RouterState storage r = _routers[router];
        PostRecord posted = _pending(r, router);
        r.posted = posted.withoutPending();
        emit Events.PendingVoided(router, r.pendingRoot, posted.pendingGross());
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
        r.claims.debitedTotal += added.toUint96();
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
        ClaimRecord memory claims = r.claims;
        uint128 delta = _claimableNow(claims, provider, lifetimeGross, before);
        _claimed[key] = before + delta;
        Split memory parts = SettlementLib.split(delta, feeSchedule(feeVersion));
        claims.claimedGross += uint96(delta);
        claims.feeOwed += uint64(parts.router);
        r.claims = claims;
        _accrue(provider, parts);
        emit Events.Claimed(router, provider, feeVersion, before + delta, delta, parts.provider);
    }

    /// @inheritdoc IPaymentVault
    function collect(address who) external nonReentrant {
        uint128 amount = owed(who);
        if (amount == 0) revert Errors.NothingOwed(who);
        _owed[who] = 0;
        _routers[who].claims.feeOwed = 0;
        address payee = REGISTRY.payeeOf(who);
        address to = payee == address(0) ? who : payee;
        emit Events.Collected(who, to, amount);
        TOKEN.safeTransfer(to, amount);
    }

    /// @inheritdoc IPaymentVault
    function collectProtocol() external nonReentrant {
        (uint128 treasury, uint128 validators, uint128 buyback) = _protocol.parts();
        _protocol = ProtocolOwed.wrap(0);
        uint128 sentTreasury = _trySend(TREASURY, treasury);
        uint128 sentValidators = _trySend(VALIDATORS, validators);
        uint128 sentBuyback = _trySend(BUYBACK, buyback);
        _protocol = _protocol.plus(treasury - sentTreasury, validators - sentValidators, buyback - sentBuyback);
        emit Events.ProtocolCollected(sentTreasury, sentValidators, sentBuyback);
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

    function _pending(RouterState storage r, address router) private view returns (PostRecord posted) {
        posted = r.posted;
        if (posted.pendingAt() == 0) revert Errors.NothingPending(router);
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

    /// @dev Returns the changed record; the caller stores it.
    function _setPending(RouterState storage r, PostRecord posted, bytes32 payRoot, uint128 gross)
        private
        returns (PostRecord)
    {
        if (posted.pendingAt() != 0) revert Errors.PayRootPending(msg.sender, posted.pendingAt() + WINDOW);
        if (gross < posted.claimableGross()) revert Errors.GrossFell(gross, posted.claimableGross());
        uint128 covered = r.capTotal - r.releasedTotal;
        if (gross > covered) revert Errors.Insolvent(gross, covered);
        r.pendingRoot = payRoot;
        return posted.withPending(uint256(gross).toUint88(), uint40(block.timestamp));
    }

    /// @dev Returns the changed record; the caller stores it. The root stays in its old slot, where nobody reads it any more:
    /// overwriting it with the next root is cheaper than clearing it in between.
    function _promote(RouterState storage r, PostRecord posted, address router) private returns (PostRecord) {
        bytes32 payRoot = r.pendingRoot;
        r.claimableRoot = payRoot;
        emit Events.Promoted(router, payRoot, posted.pendingGross());
        return posted.promoted();
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

    /// @dev The registry is asked only where it matters: on the first claim of a leaf and on one below the minimum.
    function _claimableNow(ClaimRecord memory claims, address provider, uint128 lifetimeGross, uint128 before)
        private
        view
        returns (uint128 delta)
    {
        uint128 covered = claims.debitedTotal - claims.claimedGross;
        delta = lifetimeGross > before ? lifetimeGross - before : 0;
        if (delta > covered) delta = covered;
        if (before == 0 && REGISTRY.payeeOf(provider) == address(0)) revert Errors.UnknownProvider(provider);
        if (delta == 0 || (delta < CLAIM_MIN && !REGISTRY.isLeaving(provider))) {
            revert Errors.BelowMinimum(delta, CLAIM_MIN);
        }
    }

    /// @dev Gives what was sent: all or nothing. The receivers are fixed for the vault's life, so one that the token refuses keeps its
    /// share here and must not hold up the other two.
    function _trySend(address to, uint128 amount) private returns (uint128 sent) {
        if (amount != 0 && TOKEN.trySafeTransfer(to, amount)) sent = amount;
    }

    /// @dev No sum can leave its type: all shares together are part of what the vault holds, below 2^64.
    function _accrue(address provider, Split memory parts) private {
        _owed[provider] += parts.provider;
        _protocol = _protocol.plus(parts.treasury, parts.validators, parts.buyback);
    }
}
