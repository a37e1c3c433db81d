// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Phase, RoundsParams} from "../../src/interfaces/IAuditRounds.sol";
import {AuditLib} from "../../src/libraries/AuditLib.sol";
import {Evidence, Vote} from "../../src/libraries/PanelVerdictLib.sol";
import {Place} from "../../src/libraries/PlaceLib.sol";
import {Receipt} from "../../src/libraries/ReceiptLib.sol";
import {AuditMarket} from "../utils/AuditMarket.sol";
import {Ballots, Said} from "../utils/Ballots.sol";
import {Wallet} from "../utils/Test.sol";

/// @notice Jobs, rounds, ballots and rulings at random, with one liar among three validators and two providers, one of which cheats
/// when it likes. Nothing it does may revert; what must be refused it tries, and fails when it is accepted.
contract AuditHandler is AuditMarket {
    uint256 internal constant CHEAT_KEY = 0xbad;
    uint64 internal constant NONE = type(uint64).max;

    struct Job {
        Evidence evidence;
        bytes32 subject;
        bool wrong;
        bool planted;
        uint8 lie;
        bool ruled;
        uint64 post;
    }

    address public cheat;
    uint256 public liar;
    Job[] internal jobs;
    mapping(uint64 round => uint256[]) internal jobsOf;
    mapping(uint64 round => Phase) internal reached;
    uint64 internal from;
    uint256 public rulings;
    uint256 public reversals;
    /// @notice Rounds in which the liar was asked for its preimage and kept it.
    mapping(uint64 round => bool) internal withheld;

    function setUp() public override {
        super.setUp();
        cheat = vm.addr(CHEAT_KEY);
        bond(cheat, 1, STAKE);
        liar = 1;
    }

    function times() internal pure override returns (RoundsParams memory) {
        return RoundsParams(1, 10, 40, 10, 10, 100_000, false);
    }

    // ----------------------------------------------------------------------------------------------------------------- steps

    function post(uint256 seed, bool byCheat, bool wrong, uint8 lie, bool planted) external {
        if (jobsOf[NONE].length >= 4) return;
        Receipt[] memory one = new Receipt[](1);
        one[0] = receipt(seed);
        one[0].jobId = keccak256(abi.encode(seed, jobs.length));
        if (byCheat) one[0].provider = cheat;
        (bytes32 pending,,) = vault.pendingOf(router);
        Place memory place = postJobs(one, pending == 0 ? keccak256(abi.encode(jobs.length)) : bytes32(0))[0];
        Evidence memory e;
        (e.receipt, e.place) = (abi.encode(one[0]), place);
        e.providerSignature = byCheat ? signedBy(CHEAT_KEY, one[0]) : signed(one[0]);
        jobsOf[NONE].push(jobs.length);
        jobs.push();
        Job storage job = jobs[jobs.length - 1];
        job.evidence.receipt = e.receipt;
        job.evidence.providerSignature = e.providerSignature;
        (job.subject, job.wrong, job.lie, job.post) = (subjectOf(e), byCheat && wrong, lie % 8, uint64(posts.length));
        if (!planted) return;
        job.planted = true;
        vm.prank(named("planter"));
        rounds.plant(AuditLib.plantCommitment(one[0].jobId, account, SALT));
    }

    /// @notice All plants of a round are named at once.
    function _name(uint64 number) private {
        for (uint256 i; i < jobsOf[number].length; ++i) {
            Job storage job = jobs[jobsOf[number][i]];
            if (!job.planted) continue;
            bytes32 id = abi.decode(job.evidence.receipt, (Receipt)).jobId;
            bytes32 digest = AuditLib.plantDigest(block.chainid, address(rounds), id);
            (uint8 v, bytes32 r, bytes32 s) = vm.sign(ACCOUNT_KEY, digest);
            rounds.namePlant(number, id, account, SALT, abi.encodePacked(r, s, v));
        }
    }

    /// @notice The router cancels its own pending root; a stranger must not.
    function voidOwn(uint256 luck) external {
        (bytes32 pending,,) = vault.pendingOf(router);
        if (pending == 0 || luck % 4 != 0) return;
        try vault.voidPending(router) {
            vm.assertTrue(false, "a stranger voided");
        } catch {}
        vm.prank(router);
        vault.voidPending(router);
    }

    /// @notice Whatever is brought against the honest router without a panel is refused, and so is a ruling by one vote.
    function accuse(uint256 seed, uint256 other) external {
        if (jobs.length == 0) return;
        Job storage job = jobs[seed % jobs.length];
        Evidence memory e = job.evidence;
        Evidence memory second = jobs[other % jobs.length].evidence;
        if (e.round == 0 || second.round == 0) return;
        uint256 before = rulings;
        try court.proveOvercharge(e) {
            vm.assertTrue(false, "no charge is too high");
        } catch {}
        try court.proveDoublePost(e, second) {
            vm.assertTrue(false, "nothing was posted twice");
        } catch {}
        Vote[] memory one = new Vote[](1);
        one[0] = Vote(seats[liar], job.lie, 0, Ballots.proof(said(e.round, liar), job.subject));
        try court.rule(e, one) {
            vm.assertTrue(false, "one vote decided");
        } catch {}
        vm.assertEq(rulings, before);
    }

    /// @notice Opens a round over all that was posted, and lets all reveal, or all but the liar.
    function round(bool withhold) external {
        uint64 last = rounds.latest();
        if (jobsOf[NONE].length == 0 || rounds.phase(last) == Phase.Reveal) return;
        pass(1);
        from = covered();
        uint64 number = rounds.open();
        jobsOf[number] = jobsOf[NONE];
        delete jobsOf[NONE];
        pass(1);
        for (uint256 i; i < 3; ++i) {
            bool member = _isMember(number, seats[i]);
            if (member && !(withhold && i == liar)) reveal(seats[i]);
        }
        if (rounds.phase(number) == Phase.Reveal) {
            pass(10);
            rounds.draw();
        }
        for (uint256 i; i < jobsOf[number].length; ++i) {
            Job storage job = jobs[jobsOf[number][i]];
            job.evidence.round = number;
            Place memory place = walk(from, posts.length, job.post - 1 - from);
            job.evidence.place.router = place.router;
            job.evidence.place.from = place.from;
            job.evidence.place.index = place.index;
            for (uint256 j; j < place.posts.length; ++j) {
                job.evidence.place.posts.push(place.posts[j]);
            }
        }
        if (withhold) withheld[number] = _isMember(number, seats[liar]);
        _cast(number);
        _name(number);
        vm.assertEq(rounds.outstanding(), 0, "all plants are named");
    }

    function said(uint64 number, uint256 who) internal view returns (Said[] memory all) {
        uint256[] storage list = jobsOf[number];
        all = new Said[](list.length);
        for (uint256 i; i < list.length; ++i) {
            all[i] = Said(jobs[list[i]].subject, says(list[i], who), 0);
        }
    }

    function says(uint256 job, uint256 who) public view returns (uint8) {
        return who == liar ? jobs[job].lie : jobs[job].wrong ? WRONG : GOOD;
    }

    function _cast(uint64 number) private {
        for (uint256 i; i < 3; ++i) {
            if (_isMember(number, seats[i])) commit(number, seats[i], Ballots.root(said(number, i)));
        }
        for (uint256 i; i < 3; ++i) {
            if (_isMember(number, seats[i])) unseal(number, seats[i], Ballots.root(said(number, i)));
        }
    }

    function _isMember(uint64 number, address who) private view returns (bool) {
        try rounds.placeOf(number, who) {
            return true;
        } catch {
            return false;
        }
    }

    /// @notice Rules on one job, with or without the liar's vote; a second ruling must be refused.
    function rule(uint256 seed, bool withLiar) external {
        if (jobs.length == 0) return;
        uint256 which = seed % jobs.length;
        Job storage job = jobs[which];
        Evidence memory e = job.evidence;
        if (e.round == 0 || rounds.phase(e.round) != Phase.Rulings) return;
        Vote[] memory all = _votes(which, withLiar);
        bool before = court.isReversed(job.subject);
        try court.rule(e, all) {
            vm.assertTrue(!job.ruled, "ruled twice");
            (, uint8 outcome, bool plant) = court.rulingOf(e.round, job.subject);
            vm.assertEq(plant, job.planted);
            vm.assertEq(outcome, job.wrong ? WRONG : GOOD, "the truth of two honest validators");
            job.ruled = true;
            ++rulings;
            if (court.isReversed(job.subject) && !before) ++reversals;
        } catch {
            vm.assertTrue(job.ruled, "two honest votes decide");
        }
    }

    function _votes(uint256 which, bool withLiar) private view returns (Vote[] memory all) {
        Job storage job = jobs[which];
        bool liarIn = withLiar && _isMember(job.evidence.round, seats[liar]);
        all = new Vote[](liarIn ? 3 : 2);
        uint256 count;
        for (uint256 i; i < 3; ++i) {
            if (i == liar && !liarIn) continue;
            Said[] memory ballot_ = said(job.evidence.round, i);
            all[count++] = Vote(seats[i], says(which, i), 0, Ballots.proof(ballot_, job.subject));
        }
    }

    /// @notice Shows a verdict late, or has somebody punished; both may be refused, neither may hurt the honest.
    function late(uint256 seed, uint256 who, bool punish) external {
        if (jobs.length == 0) return;
        Job storage job = jobs[seed % jobs.length];
        who %= 3;
        uint64 number = job.evidence.round;
        if (number == 0 || !_isMember(number, seats[who])) return;
        Vote memory v = Vote(
            seats[who], says(seed % jobs.length, who), 0, Ballots.proof(said(number, who), job.subject)
        );
        if (!punish || who != liar) {
            try court.show(number, job.subject, v, false) {} catch {}
        } else {
            try court.punishSilence(number, job.subject, seats[who]) {} catch {}
        }
    }

    function duty(uint256 seed, uint256 who, bool ballot_) external {
        uint64 last = rounds.latest();
        if (last == 0) return;
        uint64 number = uint64(seed % last) + 1;
        if (ballot_) {
            try court.punishBallot(number, seats[who % 3]) {
                vm.assertTrue(false, "everyone of the committee shows its ballot");
            } catch {}
        } else {
            try court.punishReveal(number, seats[who % 3]) {
                vm.assertTrue(withheld[number] && who % 3 == liar, "punished for what it did");
            } catch {}
        }
    }

    /// @notice The liar takes its seat again when it lost it.
    function rejoin(uint128 amount) external {
        address who = seats[liar];
        if (rounds.phase(rounds.latest()) == Phase.Reveal) return;
        bond(who, 3, uint128(bound(amount, 1, STAKE)));
        Wallet memory own = wallets[who];
        bytes32 tip = link(who, revealed[who]);
        vm.prank(who);
        try rounds.join(tip, bytes32(own.publicKeyX), bytes32(own.publicKeyY)) {} catch {}
    }

    function promote() external {
        (,, uint64 postedAt) = vault.pendingOf(router);
        if (postedAt == 0) return;
        if (block.timestamp < postedAt + WINDOW) pass(postedAt + WINDOW - block.timestamp);
        vault.promote(router);
    }

    function wait_(uint16 seconds_) external {
        pass(bound(seconds_, 1, 2000));
    }

    // ----------------------------------------------------------------------------------------------------------------- checks

    function check_no_honest_party_was_slashed() external view {
        vm.assertEq(stakeOf(1, provider), STAKE, "honest provider");
        vm.assertEq(stakeOf(2, router), STAKE, "honest router");
        for (uint256 i; i < 3; ++i) {
            if (i != liar) vm.assertEq(stakeOf(3, seats[i]), STAKE, "honest validator");
        }
    }

    function check_phases_only_go_forward() external {
        for (uint64 i = 1; i <= rounds.latest(); ++i) {
            Phase now_ = rounds.phase(i);
            vm.assertTrue(now_ >= reached[i], "a round went back");
            reached[i] = now_;
        }
    }

    function check_stake_is_conserved() external view {
        uint256 held = uint256(stakeOf(1, provider)) + stakeOf(1, cheat) + stakeOf(2, router);
        for (uint256 i; i < 3; ++i) {
            held += uint256(stakeOf(3, seats[i])) + stakes.owed(seats[i]);
        }
        held += uint256(stakes.owed(provider)) + stakes.owed(cheat) + stakes.owed(account);
        vm.assertEq(stoa.balanceOf(address(stakes)), held, "stake appeared or vanished");
        vm.assertEq(stoa.balanceOf(address(court)), 0, "the verdict holds nothing");
    }

    /// @notice Outcomes that were ruled without a plant are the verified ones, each once.
    function check_each_ruling_counts_once() external view {
        uint256[2] memory counted;
        for (uint256 i; i < jobs.length; ++i) {
            bool byCheat = abi.decode(jobs[i].evidence.receipt, (Receipt)).provider == cheat;
            if (jobs[i].ruled && !jobs[i].planted) ++counted[byCheat ? 1 : 0];
        }
        vm.assertEq(reputation.standingOf(provider).verified, counted[0]);
        vm.assertEq(reputation.standingOf(cheat).verified, counted[1]);
    }

    function check_a_fault_is_slashed_once() external view {
        uint256 wrong;
        for (uint256 i; i < jobs.length; ++i) {
            Job storage job = jobs[i];
            bytes32 id = keccak256(abi.encode(WRONG, cheat, job.subject));
            vm.assertEq(stakes.isSlashed(id), job.ruled && job.wrong && !job.planted);
            vm.assertTrue(!job.planted || !court.isReversed(job.subject), "the planter pays for its plant");
            if (job.ruled && job.wrong && !job.planted) ++wrong;
        }
        if (wrong == 0) vm.assertEq(stakeOf(1, cheat), STAKE);
        if (wrong == 1) vm.assertEq(stakeOf(1, cheat), STAKE * 3 / 4);
        if (wrong >= 2) vm.assertEq(stakeOf(1, cheat), 0);
    }
}

/// @notice The sentences about audits that hold after every call.
contract AuditInvariantTest is AuditMarket {
    AuditHandler internal market;

    function setUp() public override {
        market = new AuditHandler();
        market.setUp();
    }

    function targetContracts() public view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(market);
    }

    struct FuzzSelector {
        address addr;
        bytes4[] selectors;
    }

    function targetSelectors() public view returns (FuzzSelector[] memory targets) {
        bytes4[] memory steps = new bytes4[](10);
        steps[0] = AuditHandler.post.selector;
        steps[1] = AuditHandler.round.selector;
        steps[2] = AuditHandler.rule.selector;
        steps[3] = AuditHandler.late.selector;
        steps[4] = AuditHandler.duty.selector;
        steps[5] = AuditHandler.rejoin.selector;
        steps[6] = AuditHandler.promote.selector;
        steps[7] = AuditHandler.wait_.selector;
        steps[8] = AuditHandler.voidOwn.selector;
        steps[9] = AuditHandler.accuse.selector;
        targets = new FuzzSelector[](1);
        targets[0] = FuzzSelector(address(market), steps);
    }

    function invariant_of_audits() public {
        market.check_no_honest_party_was_slashed();
        market.check_phases_only_go_forward();
        market.check_stake_is_conserved();
        market.check_a_fault_is_slashed_once();
        market.check_each_ruling_counts_once();
    }
}
