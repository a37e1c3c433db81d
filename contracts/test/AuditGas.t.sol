// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {AuditLib} from "../src/libraries/AuditLib.sol";
import {Evidence, Vote} from "../src/libraries/PanelVerdictLib.sol";
import {Post} from "../src/libraries/PlaceLib.sol";
import {ReceiptLib} from "../src/libraries/ReceiptLib.sol";
import {AuditMarket} from "./utils/AuditMarket.sol";
import {Ballots, Said} from "./utils/Ballots.sol";
import {Tree} from "./utils/Tree.sol";

/// @notice Gas of whole transactions of audits, as in Gas.t.sol: isolated, kept in snapshots/gas.json.
/// forge-config: default.isolate = true
/// forge-config: ci.isolate = true
contract AuditGasTest is AuditMarket {
    uint256 internal constant JOBS_IN_BATCH = 1024;
    uint256 internal constant AUDITED = 100;

    /// @notice A batch of 1,024 receipts, of which each ballot holds a hundred.
    function batch(uint256 job, bytes32 payRoot) internal returns (Evidence memory e) {
        bytes32[] memory leaves = new bytes32[](JOBS_IN_BATCH);
        for (uint256 i; i < leaves.length; ++i) {
            leaves[i] = keccak256(abi.encode(job, i));
        }
        (e.receipt, e.providerSignature) = (abi.encode(receipt(job)), signed(receipt(job)));
        leaves[5] = ReceiptLib.leaf(receipt(job));
        posts.push(Post(Tree.root(leaves), uint32(leaves.length), CONTENT));
        vm.prank(router);
        vault.postBatch(posts[posts.length - 1].jobRoot, uint32(leaves.length), payRoot, 0, CONTENT);
        e.place = walk(covered(), posts.length, posts.length - 1 - covered());
        e.place.proof = Tree.proof(leaves, 5);
    }

    function full(bytes32 subject, uint8 says) internal pure returns (Said[] memory said) {
        said = new Said[](AUDITED);
        said[0] = Said(subject, says, keccak256("found"));
        for (uint256 i = 1; i < AUDITED; ++i) {
            said[i] = Said(keccak256(abi.encode("other", i)), GOOD, keccak256("found"));
        }
    }

    function ruled(Evidence memory e, uint8 says, string memory name) internal {
        bytes32 subject = subjectOf(e);
        Said[] memory said = full(subject, says);
        bytes32 root = Ballots.root(said);
        for (uint256 i; i < 3; ++i) {
            commit(e.round, seats[i], root);
            if (i == 1) vm.snapshotGasLastCall("gas", "commitBallot, 3 validators");
        }
        for (uint256 i; i < 3; ++i) {
            unseal(e.round, seats[i], root);
            if (i == 1) vm.snapshotGasLastCall("gas", "unseal, 3 validators");
        }
        Vote[] memory two = new Vote[](2);
        address[] memory order = seated(e.round, subject);
        for (uint256 i; i < 2; ++i) {
            two[i] = Vote(order[i], says, keccak256("found"), Ballots.proof(said, subject));
        }
        court.rule(e, two);
        vm.snapshotGasLastCall("gas", name);
    }

    function drawn() internal returns (uint64 round) {
        pass(1);
        round = rounds.open();
        vm.snapshotGasLastCall("gas", "open, 3 validators, 1 router");
        pass(1);
        reveal(seats[0]);
        reveal(seats[1]);
        vm.snapshotGasLastCall("gas", "reveal, neither first nor last");
        reveal(seats[2]);
        vm.snapshotGasLastCall("gas", "reveal, last, drawing the beacon");
    }

    function test_a_round_in_steady_state() public {
        Evidence memory e = batch(0, bytes32(0));
        e.round = draw();
        e = batch(2000, PAY);
        e.round = drawn();
        ruled(e, WRONG, "rule wrong output, 2 votes, 100 verdicts, 1024 jobs");
        e = batch(4000, bytes32(0));
        e.round = draw();
        ruled(e, GOOD, "rule good, 2 votes, 100 verdicts, 1024 jobs");
    }

    /// @notice Every seat is taken, every router has posted, all but one validator are away: the dearest calls that anybody has to make.
    function test_the_dearest_round() public {
        for (uint256 i = 3; i < 64; ++i) {
            seat(i);
        }
        for (uint256 i; i < 64; ++i) {
            address who = i == 0 ? router : named(string.concat("router ", vm.toString(i)));
            if (i != 0) {
                bond(who, 2, STAKE);
                rounds.enrol(who);
            }
            vm.prank(who);
            vault.postBatch(JOBS, 1, PAY, 0, CONTENT);
        }
        pass(1);
        rounds.open();
        uint256 used = vm.snapshotGasLastCall("gas", "open, 64 validators, 64 routers");
        vm.assertLe(used, 16_000_000, "no transaction can open this");
        pass(1);
        reveal(seats[63]);
        pass(10);
        rounds.draw();
        used = vm.snapshotGasLastCall("gas", "draw, 63 of 64 validators away");
        vm.assertLe(used, 16_000_000, "no transaction can draw this");
        vm.assertEq(rounds.validators().length, 1);
    }

    function test_a_committee_of_sixty_four() public {
        for (uint256 i = 3; i < 64; ++i) {
            seat(i);
        }
        batch(0, bytes32(0));
        draw();
        Evidence memory e = batch(2000, PAY);
        pass(1);
        e.round = rounds.open();
        uint256 used = vm.snapshotGasLastCall("gas", "open, 64 validators, 1 router");
        vm.assertLe(used, 1_000_000, "opening costs more than its goal");
        pass(1);
        for (uint256 i; i < 64; ++i) {
            reveal(seats[i]);
        }
        bytes32 subject = subjectOf(e);
        Said[] memory said = full(subject, WRONG);
        bytes32 root = Ballots.root(said);
        for (uint256 i; i < 64; ++i) {
            commit(e.round, seats[i], root);
        }
        for (uint256 i; i < 64; ++i) {
            unseal(e.round, seats[i], root);
        }
        address[] memory order = seated(e.round, subject);
        Vote[] memory three = new Vote[](3);
        for (uint256 i; i < 3; ++i) {
            three[i] = Vote(order[i], WRONG, keccak256("found"), Ballots.proof(said, subject));
        }
        court.rule(e, three);
        used = vm.snapshotGasLastCall("gas", "rule wrong output, 3 votes, 64 validators");
        vm.assertLe(used, 1_000_000, "a ruling costs more than its goal");
    }
}
