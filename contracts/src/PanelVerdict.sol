// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {IAuditRounds, Phase, Snapshot} from "./interfaces/IAuditRounds.sol";
import {IClaimVerdict} from "./interfaces/IClaimVerdict.sol";
import {IPaymentVault} from "./interfaces/IPaymentVault.sol";
import {IReputation} from "./interfaces/IReputation.sol";
import {IStakeRegistry} from "./interfaces/IStakeRegistry.sol";
import {IVerdict} from "./interfaces/IVerdict.sol";
import {AuditLib} from "./libraries/AuditLib.sol";
import {
    Evidence,
    Faults,
    Outcomes,
    PanelVerdictErrors as Errors,
    PanelVerdictEvents as Events,
    Vote
} from "./libraries/PanelVerdictLib.sol";
import {Place, PlaceLib} from "./libraries/PlaceLib.sol";
import {Receipt, ReceiptLib} from "./libraries/ReceiptLib.sol";
import {Roles} from "./libraries/StakeRegistryLib.sol";

/// @title The verdict of a panel of validators
/// @notice Two equal verdicts of the three validators that the beacon drew decide; what anybody can recompute from a posted receipt needs
/// no panel. Anyone may call everything here but what claims of non-delivery come to: each call carries its own evidence. No admin, and
/// nothing held.
/// @dev Is the slasher of the stake registry, the verdict of the vault and of the rounds, and the writer of the reputation.
contract PanelVerdict is IVerdict, IClaimVerdict {
    using PlaceLib for Place;

    /// @notice A conviction within this time of the last one of its class is a repeat.
    uint64 public constant REPEAT = 30 days;
    uint256 private constant PANEL = 3;
    uint8 private constant TIER_EXACT = 2;
    uint256 private constant RECEIPT_BYTES = 29 * 32;

    /// @notice Phases, panels, ballots.
    IAuditRounds public immutable ROUNDS;
    /// @notice What is slashed.
    IStakeRegistry public immutable STAKES;
    /// @notice What is voided.
    IPaymentVault public immutable VAULT;
    /// @notice Where verified outcomes are written.
    IReputation public immutable REPUTATION;
    /// @notice Seconds that a panel member has to show its verdict after a ruling without it.
    uint64 public immutable ANSWER;
    /// @inheritdoc IClaimVerdict
    address public immutable CLAIMS;

    /// @dev Two slots. `duty`: every member of the panel had to have a verdict. `seen` holds one bit for each seat whose verdict was shown,
    /// or that showed none in time. `combined`: no two votes were alike.
    struct Ruling {
        uint40 ruledAt;
        uint8 outcome;
        bool duty;
        bool plant;
        uint8 seen;
        bool combined;
        bytes32 batch;
    }

    /// @dev `rose`: when a conviction last raised `count`.
    struct Repeat {
        uint32 count;
        uint64 last;
        uint64 rose;
    }

    /// @dev Whom a subject concerns.
    struct Case {
        uint64 round;
        bytes32 subject;
        bytes32 leaf;
        address router;
        address provider;
        bytes32 job;
        address account;
        uint128 charge;
        bool isJob;
        bool covered;
        bool voids;
    }

    /// @dev `since`: when what was not done began, which an outage may have caused; 0 for what was done. Of a false claim: when it was made.
    struct Fault {
        uint8 kind;
        address offender;
        uint8 role;
        bytes32 about;
        uint64 since;
        address harmed;
        uint128 charge;
        address challenger;
    }

    struct Panel {
        address[] seated;
        uint256[] places;
    }

    mapping(bytes32 key => Ruling) private _rulings;
    mapping(address offender => mapping(uint8 class => Repeat)) private _repeats;
    /// @inheritdoc IVerdict
    mapping(bytes32 subject => bool) public isReversed;

    /// @param rounds The rounds; not zero.
    /// @param stakes The stake registry; not zero.
    /// @param vault The vault; not zero.
    /// @param reputation The reputation; not zero.
    /// @param answer Seconds to answer a ruling; not zero.
    /// @param claims The contract of claims of non-delivery; zero for none.
    constructor(
        IAuditRounds rounds,
        IStakeRegistry stakes,
        IPaymentVault vault,
        IReputation reputation,
        uint64 answer,
        address claims
    ) {
        if (address(rounds) == address(0) || address(stakes) == address(0)) revert Errors.ZeroParameter();
        if (address(vault) == address(0) || address(reputation) == address(0)) revert Errors.ZeroParameter();
        if (answer == 0) revert Errors.ZeroParameter();
        ROUNDS = rounds;
        STAKES = stakes;
        VAULT = vault;
        REPUTATION = reputation;
        ANSWER = answer;
        CLAIMS = claims;
    }

    // ------------------------------------------------------------------------------------------------------------- rulings

    /// @notice Rules on a posted receipt by the verdicts of at least two members of its panel.
    function rule(Evidence calldata evidence, Vote[] calldata votes) external {
        _inRulings(evidence.round);
        (Case memory c, Receipt memory receipt) = _openCase(evidence);
        _unruled(c);
        bool duty = _audited(c);
        Panel memory panel = _panel(c.round, c.subject);
        (uint8 outcome, uint8 seen,) = _count(c, panel, votes);
        _checkJob(outcome, receipt, c.router, evidence.providerSignature);
        bool plant = ROUNDS.isPlant(c.round, c.job, c.account);
        bytes32 batch = AuditLib.batchSubject(c.router, evidence.place.post());
        _settle(c, panel, Ruling(uint40(block.timestamp), outcome, duty, plant, seen, false, batch), votes);
    }

    /// @notice Rules on a whole batch, post `post` of `router`: data withheld, or a payout root that must not become claimable. A ruling that
    /// was reached only by adding up different votes gives way to a heavier one, so that whoever brings it gains nothing by leaving votes out.
    function ruleBatch(uint64 round, address router, uint64 post, Vote[] calldata votes) external {
        _inRulings(round);
        Case memory c;
        (c.round, c.router, c.subject) = (round, router, AuditLib.batchSubject(router, post));
        Snapshot memory here = ROUNDS.snapshot(round, router);
        Snapshot memory before = ROUNDS.snapshot(here.previous, router);
        if (post <= before.posts || post > here.posts) revert PlaceLib.NotCovered(round, router);
        Ruling storage old = _rulings[_key(round, c.subject)];
        if (!old.combined) _unruled(c);
        Panel memory panel = _panel(round, c.subject);
        (uint8 outcome, uint8 seen, bool combined) = _count(c, panel, votes);
        if (outcome != Outcomes.WITHHELD && !Outcomes.isOfSums(outcome)) revert Errors.WrongSubject(outcome);
        bool heavier = outcome == Outcomes.BAD_SUMS || (outcome == Outcomes.WITHHELD && old.outcome == Outcomes.VOID);
        if (!heavier) _unruled(c);
        c.voids = _voids(c, before);
        _settle(c, panel, Ruling(uint40(block.timestamp), outcome, false, false, seen, combined, c.subject), votes);
    }

    /// @notice Shows the verdict of a panel member that a ruling did not count.
    /// @param excuse The verdict is `Withheld` on the batch that holds the job: who got no leaf file cannot judge its leaves.
    function show(uint64 round, bytes32 subject, Vote calldata vote, bool excuse) external {
        Ruling storage ruling = _ruled(round, subject);
        Panel memory panel = _panel(round, subject);
        uint256 seat = _seat(panel, vote.validator, ruling.seen);
        _inBallot(round, excuse ? ruling.batch : subject, panel.places[seat], vote);
        if (excuse && vote.outcome != Outcomes.WITHHELD) revert Errors.WrongSubject(vote.outcome);
        ruling.seen |= uint8(1 << seat);
        if (!excuse && vote.outcome != ruling.outcome) {
            _dissent(subject, ruling, vote, address(0));
        }
    }

    /// @notice Punishes a panel member that let the time to show its verdict pass, once in a round. On a batch, and on a job that the beacon
    /// did not draw, nobody has to say anything: its seat is marked and it pays nothing.
    function punishSilence(uint64 round, bytes32 subject, address validator) external {
        Ruling storage ruling = _ruled(round, subject);
        uint256 due = uint256(ruling.ruledAt) + ANSWER;
        if (block.timestamp < due) revert Errors.TooEarly(due);
        Panel memory panel = _panel(round, subject);
        uint256 seat = _seat(panel, validator, ruling.seen);
        (bool shown,) = ROUNDS.ballotOf(round, panel.places[seat]);
        if (!shown) revert Errors.NotSilent(validator);
        ruling.seen |= uint8(1 << seat);
        bool excused = ruling.plant && ruling.outcome == Outcomes.GOOD;
        if (ruling.duty && !excused) _punishOnce(_omission(Faults.DISSENT, round, validator, Roles.VALIDATOR));
    }

    /// @notice Punishes a validator that did not reveal its preimage, and takes its seat.
    function punishReveal(uint64 round, address validator) external {
        Phase phase = ROUNDS.phase(round);
        if (phase <= Phase.Reveal || phase == Phase.Closed) revert Errors.WrongPhase(round, phase);
        _punishDuty(Faults.MISSED_REVEAL, round, validator, ROUNDS.roundOf(round).revealed);
    }

    /// @notice Punishes a validator that committed no ballot or did not show it, and takes its seat.
    function punishBallot(uint64 round, address validator) external {
        Phase phase = ROUNDS.phase(round);
        if (phase <= Phase.Unseal || phase == Phase.Closed) revert Errors.WrongPhase(round, phase);
        _punishDuty(Faults.MISSED_BALLOT, round, validator, ROUNDS.roundOf(round).unsealed);
    }

    // --------------------------------------------------------------------------------------------- faults without a panel

    /// @notice Proves a posted charge above what counts and prices give.
    function proveOvercharge(Evidence calldata evidence) external {
        _notClosed(evidence.round);
        (Case memory c, Receipt memory receipt) = _openCase(evidence);
        uint256 most = Faults.mostCharge(receipt);
        if (c.charge <= most) revert Errors.NotOvercharged(c.charge, most);
        _convict(c, _fault(Faults.OVERCHARGE, c.router, Roles.ROUTER, c.subject));
    }

    /// @notice Proves two leaves of one router for one job, also the same leaf at two positions of one post.
    function proveDoublePost(Evidence calldata first, Evidence calldata second) external {
        _notClosed(first.round);
        _notClosed(second.round);
        (Case memory a,) = _openCase(first);
        (Case memory b,) = _openCase(second);
        bool same = a.subject == b.subject && first.place.post() == second.place.post()
            && !PlaceLib.areTwo(a.leaf, first.place.proof, second.place.proof);
        if (a.job != b.job || a.router != b.router || same) revert Errors.NotDouble();
        _convict(b, _fault(Faults.DOUBLE_POST, b.router, Roles.ROUTER, b.job));
    }

    // ----------------------------------------------------------------------------------------------- claims of non-delivery

    /// @inheritdoc IClaimVerdict
    function convictNonDelivery(address provider, bytes32 ticket, uint64 since, address account) external {
        _convictClaim(Faults.NON_DELIVERY, provider, Roles.PROVIDER, ticket, since, account);
        REPUTATION.bad(provider, ROUNDS.latest());
    }

    /// @inheritdoc IClaimVerdict
    function convictFalseClaim(address router, bytes32 ticket, uint64 since, address provider) external {
        _convictClaim(Faults.FALSE_CLAIM, router, Roles.ROUTER, ticket, since, provider);
    }

    // --------------------------------------------------------------------------------------------------------------- views

    /// @inheritdoc IVerdict
    function rulingOf(uint64 round, bytes32 subject) external view returns (uint40 ruledAt, uint8 outcome, bool plant) {
        Ruling storage ruling = _rulings[_key(round, subject)];
        return (ruling.ruledAt, ruling.outcome, ruling.plant);
    }

    /// @notice What of a ruling may still change.
    /// @return seen Seats of the panel whose verdict on `subject` was shown, or that were punished for showing none; one bit each.
    /// @return combined Whether different votes on a batch were added up to reach it: then alone a heavier ruling may take its place.
    function seenOf(uint64 round, bytes32 subject) external view returns (uint8 seen, bool combined) {
        Ruling storage ruling = _rulings[_key(round, subject)];
        return (ruling.seen, ruling.combined);
    }

    /// @notice Convictions of `offender` for faults of the class of `kind`, and when the last one was.
    function repeatsOf(address offender, uint8 kind) external view returns (uint32 count, uint64 last) {
        Repeat storage repeat = _repeats[offender][Faults.class(kind)];
        return (repeat.count, repeat.last);
    }

    // ------------------------------------------------------------------------------------------------------------- private

    function _inRulings(uint64 round) private view {
        Phase phase = ROUNDS.phase(round);
        if (phase != Phase.Rulings) revert Errors.WrongPhase(round, phase);
    }

    function _notClosed(uint64 round) private view {
        Phase phase = ROUNDS.phase(round);
        if (phase == Phase.None || phase == Phase.Closed) revert Errors.WrongPhase(round, phase);
    }

    function _key(uint64 round, bytes32 subject) private pure returns (bytes32) {
        return keccak256(abi.encode(round, subject));
    }

    function _unruled(Case memory c) private view {
        if (_rulings[_key(c.round, c.subject)].ruledAt != 0) revert Errors.AlreadyRuled(c.subject);
    }

    /// @dev Whether the beacon drew the job. A provider's first jobs are audited as well where there is no standing yet, but which they are is
    /// not known here: those who looked may rule, and nobody has to.
    function _audited(Case memory c) private view returns (bool drawn) {
        bool first;
        (drawn, first) = REPUTATION.audits(c.provider, c.round, ROUNDS.roundOf(c.round).beacon, c.subject);
        if (!drawn && !first) revert Errors.NotAudited(c.subject);
    }

    function _ruled(uint64 round, bytes32 subject) private view returns (Ruling storage ruling) {
        ruling = _rulings[_key(round, subject)];
        if (ruling.ruledAt == 0) revert Errors.NotRuled(subject);
    }

    /// @dev Checks the place and says what is at stake.
    function _openCase(Evidence calldata evidence) private view returns (Case memory c, Receipt memory receipt) {
        if (evidence.receipt.length != RECEIPT_BYTES) revert Errors.BadReceipt(evidence.receipt.length);
        receipt = abi.decode(evidence.receipt, (Receipt));
        bytes32 leaf = keccak256(bytes.concat(keccak256(evidence.receipt)));
        Snapshot memory before = evidence.place.check(ROUNDS, VAULT, evidence.round, leaf);
        c.round = evidence.round;
        c.router = evidence.place.router;
        (c.subject, c.leaf) = (AuditLib.jobSubject(c.router, leaf), leaf);
        c.provider = receipt.provider;
        c.job = receipt.jobId;
        c.account = receipt.account;
        c.charge = receipt.charge;
        c.isJob = true;
        (bytes32 claimable,) = VAULT.claimable(c.router);
        // A root that stood when the round before opened is older than everything that this round covers.
        c.covered = claimable != before.claimable && claimable != before.pending;
        c.voids = _voids(c, before);
    }

    /// @dev Whether a payout root is pending that may contain what the round covers: not the one that was pending when the round before opened.
    /// Where a router posts that one again after it was cancelled, its time tells them apart.
    function _voids(Case memory c, Snapshot memory before) private view returns (bool) {
        (bytes32 pending,, uint64 postedAt) = VAULT.pendingOf(c.router);
        if (pending == bytes32(0)) return false;
        if (pending != before.pending) return true;
        return postedAt >= ROUNDS.roundOf(ROUNDS.snapshot(c.round, c.router).previous).openedAt;
    }

    function _panel(uint64 round, bytes32 subject) private view returns (Panel memory panel) {
        (panel.seated, panel.places) = ROUNDS.panel(round, subject);
    }

    /// @dev The seat of `who`, which must not have been seen.
    function _seat(Panel memory panel, address who, uint8 seen) private pure returns (uint256 seat) {
        while (seat < panel.seated.length && panel.seated[seat] != who) ++seat;
        if (seat == panel.seated.length) revert Errors.NotOnPanel(who);
        if (seen >> seat & 1 == 1) revert Errors.AlreadySeen(who);
    }

    function _inBallot(uint64 round, bytes32 subject, uint256 place, Vote calldata vote) private view {
        (bool shown, bytes32 root) = ROUNDS.ballotOf(round, place);
        if (!shown) revert Errors.NoBallot(vote.validator);
        if (AuditLib.ballotRoot(subject, vote.outcome, vote.found, vote.proof) != root) {
            revert Errors.NotInBallot(vote.validator);
        }
        if (vote.outcome >= Outcomes.COUNT) revert Errors.UnknownOutcome(vote.outcome);
    }

    /// @dev The outcome that enough votes share, the seats that voted, and whether it took different votes on a batch to reach it.
    function _count(Case memory c, Panel memory panel, Vote[] calldata votes)
        private
        view
        returns (uint8 outcome, uint8 seen, bool combined)
    {
        if (votes.length > PANEL) revert Errors.TooManyVotes(votes.length);
        uint256[8] memory tally;
        for (uint256 i; i < votes.length; ++i) {
            uint256 seat = _seat(panel, votes[i].validator, seen);
            _inBallot(c.round, c.subject, panel.places[seat], votes[i]);
            seen |= uint8(1 << seat);
            ++tally[votes[i].outcome];
        }
        uint256 needed = ROUNDS.votesNeeded(c.round);
        // A router that gives the files of a wrong root to one and not to another must not make them disagree.
        uint256 bad = tally[Outcomes.BAD_SUMS];
        (uint256 withheld, uint256 void_) = (tally[Outcomes.WITHHELD], tally[Outcomes.VOID]);
        if (!c.isJob && bad == 0) tally[Outcomes.VOID] += withheld;
        else if (!c.isJob && bad < needed) tally[Outcomes.WITHHELD] += bad;
        while (outcome < Outcomes.COUNT && (outcome == Outcomes.UNABLE || tally[outcome] < needed)) ++outcome;
        if (outcome == Outcomes.COUNT) revert Errors.NoMajority(needed);
        if (outcome == Outcomes.WITHHELD) combined = withheld < needed;
        if (outcome == Outcomes.VOID) combined = void_ < needed;
    }

    /// @dev What an outcome about a job demands of the receipt.
    function _checkJob(uint8 outcome, Receipt memory r, address router, bytes calldata signature) private view {
        if (Outcomes.isOfSums(outcome)) revert Errors.WrongSubject(outcome);
        if (!Outcomes.isContent(outcome)) return;
        if (r.tier != TIER_EXACT) revert Errors.WrongTier(r.tier);
        if (r.chainId != block.chainid || r.vault != address(VAULT) || r.router != router) {
            revert Errors.ForeignReceipt();
        }
        (address signer,,) = ECDSA.tryRecoverCalldata(ReceiptLib.digest(r), signature);
        if (signer != r.provider || signer == address(0)) revert Errors.WrongSigner(r.provider);
    }

    function _settle(Case memory c, Panel memory panel, Ruling memory ruling, Vote[] calldata votes) private {
        uint8 outcome = ruling.outcome;
        Ruling storage stored = _rulings[_key(c.round, c.subject)];
        _rulings[_key(c.round, c.subject)] = ruling;
        emit Ruled(c.round, c.subject, outcome, ruling.plant);
        if (!ruling.plant) _carryOut(c, panel, outcome, votes);
        address accused = outcome == Outcomes.GOOD ? c.provider : address(0);
        for (uint256 i; i < votes.length; ++i) {
            if (votes[i].outcome != outcome) _dissent(c.subject, stored, votes[i], accused);
        }
    }

    /// @dev What a ruling means for provider and router. Only who finds by computing is rewarded: to find that something was not given costs
    /// nothing, and nobody can check it.
    function _carryOut(Case memory c, Panel memory panel, uint8 outcome, Vote[] calldata votes) private {
        if (outcome == Outcomes.GOOD) {
            REPUTATION.good(c.provider, ROUNDS.latest());
        } else if (outcome == Outcomes.WITHHELD) {
            _convict(c, _omission(outcome, c.round, c.router, Roles.ROUTER));
        } else if (outcome == Outcomes.VOID) {
            if (c.voids) VAULT.voidPending(c.router);
        } else {
            bool byProvider = outcome == Outcomes.WRONG_OUTPUT || outcome == Outcomes.WRONG_COUNT;
            if (byProvider) REPUTATION.fraud(c.provider, ROUNDS.latest());
            Fault memory fault = byProvider
                ? _fault(outcome, c.provider, Roles.PROVIDER, c.subject)
                : _fault(outcome, c.router, Roles.ROUTER, c.subject);
            if (outcome != Outcomes.FORGED) fault.challenger = _rewarded(c.round, panel, outcome, votes);
            _convict(c, fault);
        }
    }

    /// @dev The first seat that voted for the ruling. A seat before it that has a ballot and whose vote was left out makes the share burn,
    /// so that nobody gains by leaving votes out.
    function _rewarded(uint64 round, Panel memory panel, uint8 outcome, Vote[] calldata votes)
        private
        view
        returns (address)
    {
        for (uint256 seat; seat < panel.seated.length; ++seat) {
            uint256 i;
            while (i < votes.length && votes[i].validator != panel.seated[seat]) ++i;
            if (i < votes.length) {
                if (votes[i].outcome == outcome) return panel.seated[seat];
                continue;
            }
            (bool shown,) = ROUNDS.ballotOf(round, panel.places[seat]);
            if (shown) return address(0);
        }
        return address(0);
    }

    /// @dev Slashes, and takes back or compensates what the harmed account was charged.
    function _convict(Case memory c, Fault memory fault) private {
        if (c.covered) (fault.harmed, fault.charge) = (c.account, c.charge);
        _punishOnce(fault);
        if (c.covered) return;
        if (c.voids) VAULT.voidPending(c.router);
        if (!c.isJob || isReversed[c.subject]) return;
        isReversed[c.subject] = true;
        emit JobReversed(c.job, c.router, c.account, c.charge);
    }

    /// @dev A plant that was called good is known to be false: who said so is not to pay for it. And no two agreed on what is combined.
    function _dissent(bytes32 subject, Ruling storage ruling, Vote calldata vote, address accused) private {
        uint8 ruled = ruling.outcome;
        bool wrongly = ruling.plant && ruled == Outcomes.GOOD;
        if (wrongly || ruling.combined || !Outcomes.isContent(vote.outcome) || !Outcomes.isContent(ruled)) {
            emit Events.Differed(subject, vote.validator, vote.outcome);
            return;
        }
        Fault memory fault = _fault(Faults.DISSENT, vote.validator, Roles.VALIDATOR, subject);
        (fault.harmed, fault.charge) = (accused, 1);
        _punish(fault);
    }

    function _punishDuty(uint8 kind, uint64 round, address who, uint64 done) private {
        if (done >> ROUNDS.placeOf(round, who) & 1 == 1) revert Errors.DutyDone(round, who);
        if (done == 0) revert Errors.NobodyDid(round);
        _punish(_omission(kind, round, who, Roles.VALIDATOR));
        ROUNDS.suspend(who, round);
    }

    function _fault(uint8 kind, address offender, uint8 role, bytes32 about) private pure returns (Fault memory f) {
        (f.kind, f.offender, f.role, f.about) = (kind, offender, role, about);
    }

    function _omission(uint8 kind, uint64 round, address offender, uint8 role) private view returns (Fault memory f) {
        f = _fault(kind, offender, role, keccak256(abi.encode(round)));
        f.since = ROUNDS.roundOf(round).openedAt;
    }

    function _convictClaim(uint8 kind, address offender, uint8 role, bytes32 ticket, uint64 since, address harmed)
        private
    {
        if (msg.sender != CLAIMS) revert Errors.NotAllowed(msg.sender);
        Fault memory f = _fault(kind, offender, role, ticket);
        (f.since, f.harmed, f.charge) = (since, harmed, 1);
        _punish(f);
    }

    function _faultId(Fault memory f) private pure returns (bytes32) {
        return keccak256(abi.encode(f.kind, f.offender, f.about));
    }

    /// @dev How many convictions of the class came before. What was not done since before the last of them is no repeat of it: an outage
    /// covers many jobs and some rounds.
    function _earlier(Fault memory f) private returns (uint32 earlier) {
        Repeat storage repeat = _repeats[f.offender][Faults.class(f.kind)];
        earlier = block.timestamp > uint256(repeat.last) + REPEAT ? 0 : repeat.count;
        bool same = f.since != 0 && earlier != 0 && f.since <= repeat.rose;
        uint64 now_ = uint64(block.timestamp);
        (repeat.last, repeat.rose) = (now_, same ? repeat.rose : now_);
        if (same) --earlier;
        repeat.count = earlier + 1;
    }

    /// @dev What was not done costs once in a round, however many subjects it concerns.
    function _punishOnce(Fault memory f) private {
        if (f.since == 0 || !STAKES.isSlashed(_faultId(f))) _punish(f);
    }

    /// @dev One slash, with the severity of its class and of its repeats. Of a job that was not delivered half of the developers' share burns:
    /// there must be nothing to earn from collecting acceptances.
    function _punish(Fault memory f) private {
        bytes32 faultId = _faultId(f);
        uint16 severity = Faults.severity(f.kind, _earlier(f));
        emit Events.Convicted(faultId, f.offender, f.kind, severity);
        uint256 parts = f.harmed == address(0) ? 0 : f.kind == Faults.NON_DELIVERY ? 2 : 1;
        address[] memory developers = new address[](parts);
        uint128[] memory charges = new uint128[](parts);
        if (parts != 0) (developers[0], charges[0]) = (f.harmed, f.charge);
        if (parts == 2) charges[1] = f.charge;
        STAKES.slash(faultId, f.offender, f.role, severity, developers, charges, f.challenger);
    }
}
