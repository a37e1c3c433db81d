// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {Receipt, ReceiptLib} from "../src/libraries/ReceiptLib.sol";
import {SettlementLib} from "../src/libraries/SettlementLib.sol";
import {Test} from "./utils/Test.sol";
import {Tree} from "./utils/Tree.sol";

/// @notice Reads the vectors that the Rust side writes and reads: both must hash alike.
contract ReceiptTest is Test {
    string internal json;

    function setUp() public {
        json = vm.readFile("../vectors/receipt.json");
    }

    function number(string memory key) internal view returns (uint256) {
        return vm.parseJsonUint(json, key);
    }

    function word(string memory key) internal view returns (bytes32) {
        return vm.parseJsonBytes32(json, key);
    }

    function account(string memory key) internal view returns (address) {
        return vm.parseJsonAddress(json, key);
    }

    function item(uint256 index) internal pure returns (string memory) {
        return string.concat(".receipts[", vm.toString(index), "]");
    }

    function receipt(uint256 index) internal view returns (Receipt memory r) {
        string memory path = string.concat(item(index), ".receipt.");
        r.version = uint16(number(string.concat(path, "version")));
        r.chainId = number(string.concat(path, "chain_id"));
        r.vault = account(string.concat(path, "vault"));
        r.profileHash = word(string.concat(path, "profile_hash"));
        r.jobId = word(string.concat(path, "job_id"));
        r.account = account(string.concat(path, "account"));
        r.router = account(string.concat(path, "router"));
        r.provider = account(string.concat(path, "provider"));
        r.modelRoot = word(string.concat(path, "model_root"));
        r.runtimeDigest = word(string.concat(path, "runtime_digest"));
        r.parametersDigest = word(string.concat(path, "parameters_digest"));
        r.promptRoot = word(string.concat(path, "prompt_root"));
        r.requestDigest = word(string.concat(path, "request_digest"));
        r.outputRoot = word(string.concat(path, "output_root"));
        r.responseDigest = word(string.concat(path, "response_digest"));
        r.inputUnits = uint64(number(string.concat(path, "input_units")));
        r.outputUnits = uint64(number(string.concat(path, "output_units")));
        r.inputPrice = uint128(number(string.concat(path, "input_price")));
        r.outputPrice = uint128(number(string.concat(path, "output_price")));
        r.charge = uint128(number(string.concat(path, "charge")));
        r.feeVersion = uint16(number(string.concat(path, "fee_version")));
        r.paidBy = uint8(number(string.concat(item(index), ".paid_by_code")));
        r.tier = uint8(number(string.concat(item(index), ".tier_code")));
        r.evidenceDigest = word(string.concat(path, "evidence_digest"));
        r.ticketHash = word(string.concat(path, "ticket_hash"));
        r.attempt = uint32(number(string.concat(path, "attempt")));
        r.segmentsRoot = word(string.concat(path, "segments_root"));
        r.acceptedAt = uint64(number(string.concat(path, "accepted_at")));
        r.deliveredAt = uint64(number(string.concat(path, "delivered_at")));
    }

    function count() internal view returns (uint256 found) {
        while (vm.keyExistsJson(json, item(found))) ++found;
    }

    function test_receipts_hash_as_in_the_vectors_and_both_signatures_recover() public view {
        vm.assertTrue(count() >= 3, "the vectors hold at least three receipts");
        for (uint256 i; i < count(); ++i) {
            Receipt memory r = receipt(i);
            bytes32 digest = ReceiptLib.digest(r);
            vm.assertEq(digest, word(string.concat(item(i), ".digest")), "digest");
            vm.assertEq(ReceiptLib.leaf(r), word(string.concat(item(i), ".leaf")), "leaf");
            bytes memory byProvider = vm.parseJsonBytes(json, string.concat(item(i), ".provider_signature"));
            bytes memory byRouter = vm.parseJsonBytes(json, string.concat(item(i), ".router_signature"));
            vm.assertEq(ECDSA.recover(digest, byProvider), r.provider);
            vm.assertEq(ECDSA.recover(digest, byRouter), r.router);
        }
    }

    function test_proofs_of_the_vectors_lead_to_their_root() public view {
        bytes32[] memory leaves = new bytes32[](count());
        for (uint256 i; i < leaves.length; ++i) {
            leaves[i] = ReceiptLib.leaf(receipt(i));
            bytes32[] memory proof =
                vm.parseJsonBytes32Array(json, string.concat(".tree.proofs[", vm.toString(i), "]"));
            vm.assertTrue(MerkleProof.verify(proof, word(".tree.root"), leaves[i]), "proof");
            vm.assertTrue(!MerkleProof.verify(proof, word(".tree.root"), keccak256("another leaf")), "false leaf");
        }
        vm.assertEq(Tree.root(leaves), word(".tree.root"));
    }

    function test_payout_and_debit_leaves_are_those_of_the_vectors() public view {
        vm.assertEq(number(".payout.class"), SettlementLib.CLASS);
        bytes32 payout = SettlementLib.providerLeaf(
            account(".payout.router"),
            account(".payout.provider"),
            uint16(number(".payout.fee_version")),
            uint128(number(".payout.lifetime_gross"))
        );
        vm.assertEq(payout, word(".payout.leaf"));
        bytes32 debit = SettlementLib.debitLeaf(
            account(".debit.router"),
            account(".debit.developer"),
            uint32(number(".debit.generation")),
            uint128(number(".debit.lifetime_debit"))
        );
        vm.assertEq(debit, word(".debit.leaf"));
    }

    function test_one_changed_field_changes_the_digest_and_the_leaf() public view {
        Receipt memory r = receipt(0);
        bytes32 digest = ReceiptLib.digest(r);
        bytes32 leaf = ReceiptLib.leaf(r);
        r.charge += 1;
        vm.assertTrue(ReceiptLib.digest(r) != digest && ReceiptLib.leaf(r) != leaf, "charge");
        r.charge -= 1;
        r.deliveredAt += 1;
        vm.assertTrue(ReceiptLib.digest(r) != digest && ReceiptLib.leaf(r) != leaf, "last field");
    }
}
