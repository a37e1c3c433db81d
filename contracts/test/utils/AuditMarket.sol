// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {AuditRounds} from "../../src/AuditRounds.sol";
import {DeliveryClaims} from "../../src/DeliveryClaims.sol";
import {PanelVerdict} from "../../src/PanelVerdict.sol";
import {Reputation} from "../../src/Reputation.sol";
import {Phase, RoundsParams, Snapshot} from "../../src/interfaces/IAuditRounds.sol";
import {AuditLib} from "../../src/libraries/AuditLib.sol";
import {Evidence, Vote} from "../../src/libraries/PanelVerdictLib.sol";
import {Place, Post} from "../../src/libraries/PlaceLib.sol";
import {Receipt, ReceiptLib} from "../../src/libraries/ReceiptLib.sol";
import {Ballots, Said} from "./Ballots.sol";
import {Market} from "./Market.sol";
import {Wallet} from "./Test.sol";
import {Tree} from "./Tree.sol";

/// @notice A market with audits: three validators, a staked router, a staked provider, and the steps that many tests share.
abstract contract AuditMarket is Market {
    uint8 internal constant GOOD = 0;
    uint8 internal constant WRONG = 1;
    uint8 internal constant COUNT = 2;
    uint8 internal constant WITHHELD = 3;
    uint8 internal constant FORGED = 4;
    uint8 internal constant BAD_SUMS = 5;
    uint8 internal constant UNABLE = 6;
    uint8 internal constant VOID = 7;
    uint8 internal constant SILENT = 255;
    uint64 internal constant ANSWER = 600;
    uint256 internal constant PROVIDER_KEY = 0xa11ce;
    uint256 internal constant ACCOUNT_KEY = 0xacc;
    bytes32 internal constant SALT = keccak256("salt");
    bytes32 internal constant PAY = keccak256("pay root");
    uint128 internal constant STAKE = 20_000e18;
    uint64 internal constant DAY = 1 days;
    uint128 internal constant DEPOSIT = 10e18;

    AuditRounds internal rounds;
    PanelVerdict internal court;
    Reputation internal reputation;
    DeliveryClaims internal claims;
    address internal router = named("router");
    address internal provider;
    address internal account;
    address[] internal seats;
    mapping(address => Wallet) internal wallets;
    mapping(address => uint256) internal revealed;
    Post[] internal posts;

    function setUp() public virtual override {
        super.setUp();
        provider = vm.addr(PROVIDER_KEY);
        account = vm.addr(ACCOUNT_KEY);
        rounds = new AuditRounds(stakes, vault, times(), ANSWER, admin);
        reputation = rates();
        address next = vm.computeCreateAddress(address(this), vm.getNonce(address(this)) + 1);
        court = new PanelVerdict(rounds, stakes, vault, reputation, ANSWER, next);
        claims = new DeliveryClaims(stoa, stakes, court, address(vault), DAY, DAY, DEPOSIT);
        vm.startPrank(admin);
        stakes.setSlasher(address(court));
        vault.setVerdict(address(court));
        rounds.setVerdict(address(court));
        rounds.setPlanter(named("planter"), true);
        reputation.setWriter(address(court));
        vm.stopPrank();
        bond(router, 2, STAKE);
        bond(provider, 1, STAKE);
        rounds.enrol(router);
        for (uint256 i; i < 3; ++i) {
            seat(i);
        }
        vm.roll(100);
    }

    /// @notice Every job is drawn.
    function rates() internal virtual returns (Reputation) {
        return new Reputation(10_000, 50, 20, admin);
    }

    function times() internal view virtual returns (RoundsParams memory) {
        return RoundsParams(1, 10, 40, 10, 10, 500_000, false);
    }

    function bond(address who, uint8 role, uint128 amount) internal {
        vm.prank(holder);
        stoa.transfer(who, amount);
        vm.startPrank(who);
        stoa.approve(address(stakes), amount);
        stakes.stake(role, amount);
        vm.stopPrank();
    }

    /// @notice Link `index` of the chain of `who`; higher links are revealed later.
    function link(address who, uint256 index) internal pure returns (bytes32 value) {
        value = keccak256(abi.encode("secret", who));
        for (uint256 i = index; i < 64; ++i) {
            value = keccak256(abi.encode(value));
        }
    }

    /// @notice An account whose public key is known.
    function keyed(string memory name) internal returns (address who) {
        Wallet memory made = vm.createWallet(uint256(keccak256(bytes(name))));
        who = made.addr;
        wallets[who] = made;
    }

    function join(address who, bytes32 tip) internal {
        Wallet memory own = wallets[who];
        vm.prank(who);
        rounds.join(tip, bytes32(own.publicKeyX), bytes32(own.publicKeyY));
    }

    function seat(uint256 number) internal {
        address who = keyed(string.concat("validator ", vm.toString(number)));
        bond(who, 3, STAKE);
        join(who, link(who, 0));
        seats.push(who);
    }

    function receipt(uint256 job) internal view returns (Receipt memory r) {
        r.version = 1;
        r.chainId = block.chainid;
        r.vault = address(vault);
        r.jobId = keccak256(abi.encode("job", job));
        r.account = account;
        r.router = router;
        r.provider = provider;
        (r.inputUnits, r.outputUnits) = (3, 2);
        (r.inputPrice, r.outputPrice) = (1e6, 2e6);
        r.charge = 7;
        r.tier = 2;
    }

    function signed(Receipt memory r) internal pure returns (bytes memory) {
        return signedBy(PROVIDER_KEY, r);
    }

    function signedBy(uint256 key, Receipt memory r) internal pure returns (bytes memory) {
        (uint8 v, bytes32 a, bytes32 b) = vm.sign(key, ReceiptLib.digest(r));
        return abi.encodePacked(a, b, v);
    }

    /// @notice Posts a batch; gives the place of each receipt for the round that covers it.
    function postJobs(Receipt[] memory jobs, bytes32 payRoot) internal returns (Place[] memory places) {
        bytes32[] memory leaves = new bytes32[](jobs.length);
        for (uint256 i; i < jobs.length; ++i) {
            leaves[i] = ReceiptLib.leaf(jobs[i]);
        }
        Post memory made = Post(Tree.root(leaves), uint32(jobs.length), CONTENT);
        vm.prank(router);
        vault.postBatch(made.jobRoot, made.jobCount, payRoot, 0, made.contentId);
        posts.push(made);
        places = new Place[](jobs.length);
        for (uint256 i; i < jobs.length; ++i) {
            places[i] = walk(covered(), posts.length, posts.length - 1 - covered());
            places[i].proof = Tree.proof(leaves, i);
        }
    }

    function covered() internal view returns (uint64) {
        return rounds.snapshot(rounds.lastRoundOf(router), router).posts;
    }

    function walk(uint256 from, uint256 to, uint256 index) internal view returns (Place memory place) {
        (place.router, place.from, place.index) = (router, uint64(from), index);
        place.posts = new Post[](to - from);
        for (uint256 i = from; i < to; ++i) {
            place.posts[i - from] = posts[i];
        }
    }

    function pass(uint256 seconds_) internal {
        vm.warp(block.timestamp + seconds_);
        vm.roll(block.number + 1);
    }

    function reveal(address who) internal {
        bytes32 preimage = link(who, ++revealed[who]);
        vm.prank(who);
        rounds.reveal(preimage);
    }

    function draw() internal returns (uint64 round) {
        pass(1);
        round = rounds.open();
        pass(1);
        for (uint256 i; i < seats.length; ++i) {
            reveal(seats[i]);
        }
    }

    function commit(uint64 round, address who, bytes32 root) internal {
        vm.prank(who);
        rounds.commitBallot(round, AuditLib.commitment(round, who, root, SALT));
    }

    function unseal(uint64 round, address who, bytes32 root) internal {
        vm.prank(who);
        rounds.unseal(round, root, SALT);
    }

    /// @notice Everyone commits and shows one ballot of one verdict: `says[i]` of seat `i`, SILENT for an empty ballot.
    function cast(uint64 round, bytes32 subject, uint8[3] memory says) internal {
        for (uint256 i; i < 3; ++i) {
            commit(round, seats[i], Ballots.root(ballot(subject, says[i])));
        }
        for (uint256 i; i < 3; ++i) {
            unseal(round, seats[i], Ballots.root(ballot(subject, says[i])));
        }
    }

    function ballot(bytes32 subject, uint8 says) internal pure returns (Said[] memory said) {
        said = new Said[](says == SILENT ? 0 : 1);
        if (says != SILENT) said[0] = Said(subject, says, 0);
    }

    function vote(address who, bytes32 subject, uint8 says) internal pure returns (Vote memory) {
        return Vote(who, says, 0, Ballots.proof(ballot(subject, says), subject));
    }

    /// @notice The votes of all seats that say something, in the order of the seats.
    function votes(bytes32 subject, uint8[3] memory says) internal view returns (Vote[] memory all) {
        uint256 count;
        for (uint256 i; i < 3; ++i) {
            if (says[i] != SILENT) ++count;
        }
        all = new Vote[](count);
        count = 0;
        for (uint256 i; i < 3; ++i) {
            if (says[i] != SILENT) all[count++] = vote(seats[i], subject, says[i]);
        }
    }

    /// @notice One job, posted with a payout root, drawn, and judged by the three.
    function judged(uint256 job, uint8[3] memory says) internal returns (Evidence memory e, bytes32 subject) {
        Receipt[] memory jobs = new Receipt[](1);
        jobs[0] = receipt(job);
        e.receipt = abi.encode(jobs[0]);
        e.providerSignature = signed(jobs[0]);
        (bytes32 pending,,) = vault.pendingOf(router);
        e.place = postJobs(jobs, pending == 0 ? keccak256(abi.encode(PAY, job)) : bytes32(0))[0];
        e.round = draw();
        subject = subjectOf(e);
        cast(e.round, subject, says);
    }

    function subjectOf(Evidence memory e) internal pure returns (bytes32) {
        return AuditLib.jobSubject(e.place.router, keccak256(bytes.concat(keccak256(e.receipt))));
    }

    function stakeOf(uint8 role, address who) internal view returns (uint128) {
        return stakes.slashable(role, who);
    }

    /// @notice The seats of a panel, in the order drawn.
    function seated(uint64 round, bytes32 subject) internal view returns (address[] memory who) {
        (who,) = rounds.panel(round, subject);
    }
}
