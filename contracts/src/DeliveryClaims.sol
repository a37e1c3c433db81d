// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {IClaimVerdict} from "./interfaces/IClaimVerdict.sol";
import {Claim, ClaimState, IDeliveryClaims} from "./interfaces/IDeliveryClaims.sol";
import {IStakeRegistry} from "./interfaces/IStakeRegistry.sol";
import {DeliveryClaimsErrors as Errors, DeliveryClaimsEvents as Events} from "./libraries/DeliveryClaimsLib.sol";
import {Receipt, ReceiptLib} from "./libraries/ReceiptLib.sol";
import {Ticket, TicketLib} from "./libraries/TicketLib.sol";

/// @title Claims of non-delivery
/// @notice See IDeliveryClaims and docs/decisions/0030-non-delivery.md.
/// @dev Assumes the stake token to be StoaToken: exact transfers, no hooks.
contract DeliveryClaims is IDeliveryClaims {
    using SafeERC20 for IERC20;

    /// @notice Deadlines closer than this are one fault.
    uint64 public constant FAULT = 1 days;
    /// @notice Seconds after the time to answer in which anybody may punish before the claimant may take its claim back.
    uint64 public constant TAKE_BACK = 7 days;
    uint256 private constant RECEIPT_BYTES = 29 * 32;

    /// @notice The stake token.
    IERC20 public immutable TOKEN;
    /// @notice Who slashes.
    IClaimVerdict public immutable VERDICT;
    /// @notice The vault of this network: what is signed for another one is worth nothing here.
    address public immutable VAULT;
    /// @notice Seconds after a deadline in which it may be claimed.
    uint64 public immutable CLAIM;
    /// @notice Seconds that a provider has to answer.
    uint64 public immutable ANSWER;
    /// @notice What a claim costs its claimant until it is decided.
    uint128 public immutable DEPOSIT;

    mapping(bytes32 ticket => Claim) private _claims;
    /// @dev By the day of the deadline: the deadline for which the provider was slashed. Two of them are a day apart at least, so that a day
    /// holds one.
    mapping(address provider => mapping(uint64 day => uint64 deadline)) private _faults;

    /// @param token The stake token; not zero.
    /// @param stakes The stake registry, whose stake must stay longer than claim and answer take.
    /// @param verdict The verdict, built with the address of this contract.
    /// @param vault The vault; not zero.
    /// @param claimSeconds Seconds after a deadline in which it may be claimed; not zero.
    /// @param answerSeconds Seconds to answer; not zero.
    /// @param deposit What a claim costs until it is decided; not zero.
    constructor(
        IERC20 token,
        IStakeRegistry stakes,
        IClaimVerdict verdict,
        address vault,
        uint64 claimSeconds,
        uint64 answerSeconds,
        uint128 deposit
    ) {
        if (address(token) == address(0) || vault == address(0)) revert Errors.ZeroParameter();
        if (claimSeconds == 0 || answerSeconds == 0 || deposit == 0) revert Errors.ZeroParameter();
        address appointed = verdict.CLAIMS();
        if (appointed != address(this)) revert Errors.NotAppointed(address(verdict), appointed);
        uint64 unbonding = stakes.params().unbonding;
        if (claimSeconds + answerSeconds >= unbonding) {
            revert Errors.UnbondingTooShort(claimSeconds + answerSeconds, unbonding);
        }
        TOKEN = token;
        VERDICT = verdict;
        VAULT = vault;
        CLAIM = claimSeconds;
        ANSWER = answerSeconds;
        DEPOSIT = deposit;
    }

    /// @inheritdoc IDeliveryClaims
    function claim(
        bytes calldata ticket,
        bytes calldata routerSignature,
        uint64 acceptedAt,
        bytes calldata providerSignature
    ) external returns (bytes32 id) {
        if (ticket.length != TicketLib.BYTES) revert Errors.BadTicket(ticket.length);
        Ticket memory t = abi.decode(ticket, (Ticket));
        bytes32 domain = TicketLib.domain(block.chainid, VAULT);
        id = TicketLib.digest(domain, ticket);
        if (_claims[id].state != ClaimState.None) revert Errors.AlreadyClaimed(id);
        if (acceptedAt > t.deadline) revert Errors.AcceptedLate(acceptedAt, t.deadline);
        uint256 nowMs = block.timestamp * 1000;
        if (nowMs <= t.deadline) revert Errors.TooEarly(t.deadline / 1000);
        if (nowMs > uint256(t.deadline) + uint256(CLAIM) * 1000) revert Errors.TooLate(t.deadline);
        _signedBy(t.router, id, routerSignature);
        _signedBy(t.provider, TicketLib.acceptance(domain, id, acceptedAt), providerSignature);
        uint64 claimedAt = uint64(block.timestamp);
        _claims[id] = Claim(
            msg.sender,
            claimedAt,
            ClaimState.Open,
            t.provider,
            t.deadline,
            t.router,
            t.account,
            t.jobId
        );
        emit Events.Claimed(id, t.provider, t.router, msg.sender, t.jobId, claimedAt + ANSWER);
        TOKEN.safeTransferFrom(msg.sender, address(this), DEPOSIT);
    }

    /// @inheritdoc IDeliveryClaims
    function answer(
        bytes32 ticket,
        bytes calldata receipt,
        bytes calldata providerSignature,
        bytes calldata routerSignature
    ) external {
        Claim storage c = _claims[ticket];
        ClaimState before = c.state;
        bool alone = routerSignature.length == 0;
        bool late = before == ClaimState.Answered || before == ClaimState.Punished;
        if (before != ClaimState.Open && (alone || !late)) revert Errors.WrongState(ticket, before);
        bytes32 digest = _receiptOf(c, ticket, receipt);
        _signedBy(c.provider, digest, providerSignature);
        if (!alone) _signedBy(c.router, digest, routerSignature);
        c.state = alone ? ClaimState.Answered : ClaimState.Refuted;
        bool accused = !alone && c.claimant == c.router;
        if (alone) emit Events.Answered(ticket, c.provider);
        else emit Events.Refuted(ticket, c.provider, c.router, accused);
        if (accused) VERDICT.convictFalseClaim(c.router, ticket, c.claimedAt, c.provider);
        if (before == ClaimState.Open) TOKEN.safeTransfer(c.provider, DEPOSIT);
    }

    /// @inheritdoc IDeliveryClaims
    function punish(bytes32 ticket) external {
        Claim storage c = _openSince(ticket, ANSWER);
        c.state = ClaimState.Punished;
        bool slashed = _isNewFault(c.provider, c.deadline);
        if (slashed) _faults[c.provider][_day(c.deadline)] = c.deadline;
        emit Events.Punished(ticket, c.provider, slashed);
        if (slashed) VERDICT.convictNonDelivery(c.provider, ticket, c.deadline / 1000, c.account);
        TOKEN.safeTransfer(c.claimant, DEPOSIT);
    }

    /// @inheritdoc IDeliveryClaims
    function takeBack(bytes32 ticket) external {
        Claim storage c = _openSince(ticket, ANSWER + TAKE_BACK);
        if (msg.sender != c.claimant) revert Errors.NotAllowed(msg.sender);
        c.state = ClaimState.TakenBack;
        emit Events.TakenBack(ticket, msg.sender);
        TOKEN.safeTransfer(msg.sender, DEPOSIT);
    }

    /// @inheritdoc IDeliveryClaims
    function claimOf(bytes32 ticket) external view returns (Claim memory) {
        return _claims[ticket];
    }

    /// @dev The open claim on `ticket`, which is at least `age` seconds old.
    function _openSince(bytes32 ticket, uint64 age) private view returns (Claim storage c) {
        c = _claims[ticket];
        if (c.state != ClaimState.Open) revert Errors.WrongState(ticket, c.state);
        uint256 due = uint256(c.claimedAt) + age;
        if (block.timestamp < due) revert Errors.TooEarly(due);
    }

    /// @dev The digest of a receipt for this claim's ticket.
    function _receiptOf(Claim storage c, bytes32 ticket, bytes calldata receipt) private view returns (bytes32) {
        if (receipt.length != RECEIPT_BYTES) revert Errors.BadReceipt(receipt.length);
        Receipt memory r = abi.decode(receipt, (Receipt));
        bool here = r.chainId == block.chainid && r.vault == VAULT;
        bool ours = r.ticketHash == ticket && r.jobId == c.job && r.account == c.account;
        if (!here || !ours || r.provider != c.provider || r.router != c.router) revert Errors.ForeignReceipt();
        return ReceiptLib.digest(r);
    }

    /// @dev Whether no fault of the provider lies less than a day from this deadline.
    function _isNewFault(address provider, uint64 deadline) private view returns (bool) {
        mapping(uint64 day => uint64) storage faults = _faults[provider];
        uint64 day = _day(deadline);
        if (faults[day] != 0) return false;
        uint64 before = day == 0 ? 0 : faults[day - 1];
        if (before != 0 && deadline - before < FAULT * 1000) return false;
        uint64 next = faults[day + 1];
        return next == 0 || next - deadline >= FAULT * 1000;
    }

    function _day(uint64 deadline) private pure returns (uint64) {
        return deadline / (FAULT * 1000);
    }

    function _signedBy(address signer, bytes32 digest, bytes calldata signature) private pure {
        (address found,,) = ECDSA.tryRecoverCalldata(digest, signature);
        if (found != signer || found == address(0)) revert Errors.WrongSigner(signer);
    }
}
