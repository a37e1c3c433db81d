// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {Reputation} from "../src/Reputation.sol";
import {Member} from "../src/interfaces/IAuditRounds.sol";
import {Standing} from "../src/interfaces/IReputation.sol";
import {Step} from "../src/interfaces/IVerdict.sol";
import {AuditLib} from "../src/libraries/AuditLib.sol";
import {PanelLib} from "../src/libraries/AuditRoundsLib.sol";
import {Ballots, Said} from "./utils/Ballots.sol";
import {Test} from "./utils/Test.sol";

/// @notice Reads what the Rust side writes: both must hash and draw alike.
contract AuditVectorsTest is Test {
    string internal json;

    function setUp() public {
        json = vm.readFile("../vectors/audit.json");
    }

    function word(string memory key) internal view returns (bytes32) {
        return vm.parseJsonBytes32(json, key);
    }

    function number(string memory key) internal view returns (uint256) {
        return vm.parseJsonUint(json, key);
    }

    function item(string memory list, uint256 index) internal pure returns (string memory) {
        return string.concat(list, "[", vm.toString(index), "]");
    }

    function test_subjects_commitments_and_plants_are_those_of_the_vectors() public view {
        address router = vm.parseJsonAddress(json, ".subjects.router");
        vm.assertEq(AuditLib.jobSubject(router, word(".subjects.leaf")), word(".subjects.job"));
        vm.assertEq(AuditLib.batchSubject(router, uint64(number(".subjects.post"))), word(".subjects.batch"));
        address validator = vm.parseJsonAddress(json, ".commitment.validator");
        bytes32 root = word(".commitment.root");
        vm.assertEq(
            AuditLib.commitment(uint64(number(".commitment.round")), validator, root, word(".commitment.salt")),
            word(".commitment.commitment")
        );
        bytes32 job = word(".plant.job");
        address account = vm.parseJsonAddress(json, ".plant.account");
        vm.assertEq(AuditLib.plantCommitment(job, account, word(".plant.salt")), word(".plant.commitment"));
        bytes32 digest =
            AuditLib.plantDigest(number(".plant.chain_id"), vm.parseJsonAddress(json, ".plant.rounds"), job);
        vm.assertEq(digest, word(".plant.digest"));
        vm.assertEq(ECDSA.recover(digest, vm.parseJsonBytes(json, ".plant.signature")), account);
    }

    function test_the_beacon_is_that_of_the_vectors_in_any_order() public view {
        address[] memory who = vm.parseJsonAddressArray(json, ".beacon.validators");
        bytes32[] memory preimages = vm.parseJsonBytes32Array(json, ".beacon.preimages");
        bytes32[] memory tips = vm.parseJsonBytes32Array(json, ".beacon.tips");
        bytes32 mix;
        for (uint256 i = who.length; i > 0; --i) {
            mix ^= AuditLib.contribution(who[i - 1], preimages[i - 1]);
            vm.assertEq(keccak256(abi.encode(preimages[i - 1])), tips[i - 1]);
        }
        vm.assertEq(mix, word(".beacon.mix"));
        bytes32 beacon = AuditLib.beacon(uint64(number(".beacon.round")), word(".beacon.block_hash"), mix);
        vm.assertEq(beacon, word(".beacon.beacon"));
    }

    function test_panels_are_those_of_the_vectors() public view {
        uint256 count;
        for (; vm.keyExistsJson(json, item(".panels", count)); ++count) {
            string memory path = item(".panels", count);
            address[] memory who = vm.parseJsonAddressArray(json, string.concat(path, ".validators"));
            uint256[] memory weights = vm.parseJsonUintArray(json, string.concat(path, ".weights"));
            Member[] memory members = new Member[](who.length);
            for (uint256 i; i < who.length; ++i) {
                members[i] = Member(who[i], uint96(weights[i]));
            }
            uint256[] memory places =
                PanelLib.draw(members, word(string.concat(path, ".beacon")), word(string.concat(path, ".subject")));
            uint256[] memory expected = vm.parseJsonUintArray(json, string.concat(path, ".places"));
            vm.assertEq(keccak256(abi.encode(places)), keccak256(abi.encode(expected)), path);
        }
        vm.assertTrue(count >= 8, "the vectors hold eight panels");
    }

    function test_ballots_are_those_of_the_vectors() public view {
        uint256 count;
        for (; vm.keyExistsJson(json, item(".ballots", count)); ++count) {
            checkBallot(item(".ballots", count));
        }
        vm.assertTrue(count >= 4, "the vectors hold four ballots");
    }

    function checkBallot(string memory path) internal view {
        Said[] memory all = new Said[](32);
        uint256 count;
        for (; vm.keyExistsJson(json, item(string.concat(path, ".entries"), count)); ++count) {
            string memory at_ = item(string.concat(path, ".entries"), count);
            all[count].subject = word(string.concat(at_, ".subject"));
            all[count].outcome = uint8(number(string.concat(at_, ".outcome")));
            all[count].found = word(string.concat(at_, ".found"));
            vm.assertEq(Ballots.leaf(all[count]), word(string.concat(at_, ".leaf")));
            uint256[] memory bits = vm.parseJsonUintArray(json, string.concat(at_, ".bits"));
            bytes32[] memory siblings = vm.parseJsonBytes32Array(json, string.concat(at_, ".siblings"));
            Step[] memory proof = new Step[](bits.length);
            for (uint256 i; i < bits.length; ++i) {
                proof[i] = Step(uint8(bits[i]), siblings[i]);
            }
            vm.assertEq(this.rootFrom(all[count], proof), word(string.concat(path, ".root")));
        }
        Said[] memory ballot = new Said[](count);
        for (uint256 i; i < count; ++i) {
            ballot[i] = all[i];
        }
        vm.assertEq(Ballots.root(ballot), word(string.concat(path, ".root")));
    }

    function rootFrom(Said calldata said, Step[] calldata proof) external pure returns (bytes32) {
        return AuditLib.ballotRoot(said.subject, said.outcome, said.found, proof);
    }

    function test_standings_and_rates_are_those_of_the_vectors() public {
        Reputation reputation = new Reputation(1000, 50, 20, address(this));
        reputation.setWriter(address(this));
        uint256 marks;
        uint256 seen;
        for (; vm.keyExistsJson(json, item(".standings", seen)); ++seen) {
            string memory path = item(".standings", seen);
            for (uint256 to = number(string.concat(path, ".marks")); marks < to; ++marks) {
                if (marks % 97 == 96) reputation.bad(address(1), 1);
                else reputation.good(address(1), 1);
            }
            Standing memory standing = reputation.standingOf(address(1));
            vm.assertEq(standing.reputation, number(string.concat(path, ".reputation")));
            vm.assertEq(standing.verified, number(string.concat(path, ".verified")));
            vm.assertEq(reputation.rateOf(standing), number(string.concat(path, ".rate")));
        }
        vm.assertTrue(seen >= 12, "the vectors hold twelve standings");
    }
}
