// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Hashes} from "@openzeppelin/contracts/utils/cryptography/Hashes.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {IAuditRounds, Snapshot} from "../interfaces/IAuditRounds.sol";
import {IPaymentVault} from "../interfaces/IPaymentVault.sol";
import {SettlementLib} from "./SettlementLib.sol";

/// @notice One post, as its `BatchPosted` event says.
struct Post {
    bytes32 jobRoot;
    uint32 jobCount;
    bytes32 contentId;
}

/// @notice A way from a leaf to a head that the chain stores.
/// @param router Who posted.
/// @param from The stored head where the walk starts, by its number of posts: that of the router's snapshot before the round, or a
/// checkpoint above it.
/// @param posts The posts after it, up to the next stored head: a checkpoint, or the round's own; at most 64.
/// @param index Which of them holds the leaf.
/// @param proof Siblings of the leaf.
struct Place {
    address router;
    uint64 from;
    Post[] posts;
    uint256 index;
    bytes32[] proof;
}

/// @title Where a posted receipt stands
library PlaceLib {
    uint256 private constant CHECKPOINT_EVERY = 64;

    /// @notice `round` covers no post of `router`, or not this one.
    error NotCovered(uint64 round, address router);
    /// @notice A walk has 1 to 64 posts, and the leaf is in one of them; `posts` were given.
    error BadWalk(uint256 posts);
    /// @notice No head is stored at `posts` posts within the round.
    error NoHead(uint256 posts);
    /// @notice These posts lead to `found`, not to the stored head.
    error WrongHead(bytes32 found);
    /// @notice `leaf` is not under the job root.
    error NotInRoot(bytes32 leaf);

    /// @notice The post that holds the leaf, counted from one.
    function post(Place calldata place) internal pure returns (uint64) {
        return uint64(place.from + place.index + 1);
    }

    /// @notice Checks the way from `leaf` to the heads that `round` covers; gives the router's snapshot of the round before.
    function check(Place calldata place, IAuditRounds rounds, IPaymentVault vault, uint64 round, bytes32 leaf)
        internal
        view
        returns (Snapshot memory before)
    {
        Snapshot memory here = rounds.snapshot(round, place.router);
        if (here.posts == 0) revert NotCovered(round, place.router);
        before = rounds.snapshot(here.previous, place.router);
        uint256 count = place.posts.length;
        if (count > CHECKPOINT_EVERY || place.index >= count) revert BadWalk(count);
        bytes32 head = _stored(vault, place.router, before, here, place.from);
        bytes32 end = _stored(vault, place.router, before, here, uint256(place.from) + count);
        for (uint256 i; i < count; ++i) {
            Post calldata step = place.posts[i];
            head = SettlementLib.chain(head, step.jobRoot, step.jobCount, step.contentId);
        }
        if (head != end) revert WrongHead(head);
        if (!MerkleProof.verifyCalldata(place.proof, place.posts[place.index].jobRoot, leaf)) revert NotInRoot(leaf);
    }

    /// @notice Whether two proofs of one leaf under one root are of two positions. They differ, or the tree has twin branches on the way,
    /// in which each position has the other's proof.
    function areTwo(bytes32 leaf, bytes32[] calldata one, bytes32[] calldata other) internal pure returns (bool) {
        if (keccak256(abi.encode(one)) != keccak256(abi.encode(other))) return true;
        bytes32 node = leaf;
        for (uint256 i; i < one.length; ++i) {
            if (one[i] == node) return true;
            node = Hashes.commutativeKeccak256(node, one[i]);
        }
        return false;
    }

    function _stored(
        IPaymentVault vault,
        address router,
        Snapshot memory before,
        Snapshot memory here,
        uint256 posts
    ) private view returns (bytes32) {
        if (posts == before.posts) return before.head;
        if (posts == here.posts) return here.head;
        bool inside = posts > before.posts && posts < here.posts;
        if (!inside || posts % CHECKPOINT_EVERY != 0) revert NoHead(posts);
        return vault.checkpoint(router, uint64(posts / CHECKPOINT_EVERY));
    }
}
