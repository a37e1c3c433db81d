// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Step} from "../interfaces/IVerdict.sol";

/// @title Hashes of audits
/// @notice The Solidity half of `vectors/audit.json`.
library AuditLib {
    uint256 private constant SUBJECT_JOB = 1;
    uint256 private constant SUBJECT_BATCH = 2;

    /// @notice What a verdict about a posted receipt names: the leaf, and the router that posted it.
    function jobSubject(address router, bytes32 leaf) internal pure returns (bytes32) {
        return keccak256(abi.encode(SUBJECT_JOB, router, leaf));
    }

    /// @notice What a verdict about a whole batch names: post `post` of a router, counted from one.
    function batchSubject(address router, uint64 post) internal pure returns (bytes32) {
        return keccak256(abi.encode(SUBJECT_BATCH, router, post));
    }

    /// @notice What a revealed preimage adds to the round's mix by exclusive or, so that the order of reveals does not matter.
    function contribution(address validator, bytes32 preimage) internal pure returns (bytes32) {
        return keccak256(abi.encode(validator, preimage));
    }

    /// @notice The beacon of a round.
    function beacon(uint64 round, bytes32 blockHash, bytes32 mix) internal pure returns (bytes32) {
        return keccak256(abi.encode(round, blockHash, mix));
    }

    /// @notice What a validator commits: its ballot's root, hidden by a salt.
    function commitment(uint64 round, address validator, bytes32 root, bytes32 salt) internal pure returns (bytes32) {
        return keccak256(abi.encode(round, validator, root, salt));
    }

    /// @notice What a planter stores before the round opens.
    function plantCommitment(bytes32 job, address account, bytes32 salt) internal pure returns (bytes32) {
        return keccak256(abi.encode(job, account, salt));
    }

    /// @notice What the paying account of a plant signs.
    function plantDigest(uint256 chainId, address rounds, bytes32 job) internal pure returns (bytes32) {
        return keccak256(abi.encode(chainId, rounds, job));
    }

    /// @notice The root of a ballot that a verdict on `subject` leads to. At each step the subject's own bit decides the side: under one
    /// root a subject leads to one leaf, so that no ballot holds two verdicts on it.
    function ballotRoot(bytes32 subject, uint8 outcome, bytes32 found, Step[] calldata proof)
        internal
        pure
        returns (bytes32 node)
    {
        node = keccak256(bytes.concat(keccak256(abi.encode(subject, outcome, found))));
        for (uint256 i; i < proof.length; ++i) {
            Step calldata step = proof[i];
            bool right = uint256(subject) >> (255 - step.bit) & 1 == 1;
            (bytes32 a, bytes32 b) = right ? (step.sibling, node) : (node, step.sibling);
            node = keccak256(abi.encode(step.bit, a, b));
        }
    }
}
