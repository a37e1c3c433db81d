// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice What every post of a router reads and writes, in one word: number of posts in bits 0 to 39, time of the pending payout
/// root (0 when none is pending) in 40 to 79, its gross in 80 to 167, gross of the claimable payout root in 168 to 255.
type PostRecord is uint256;

using PostRecordLib for PostRecord global;

/// @title The packed record of a router's posts
/// @dev A struct would be unpacked into memory and packed again at about 500 gas a post, more than the posting goal leaves.
library PostRecordLib {
    uint256 private constant MASK40 = type(uint40).max;
    uint256 private constant MASK88 = type(uint88).max;

    /// @notice The number of posts.
    function posts(PostRecord self) internal pure returns (uint64) {
        return uint64(PostRecord.unwrap(self) & MASK40);
    }

    /// @notice When the pending payout root was posted; 0 when none is pending.
    function pendingAt(PostRecord self) internal pure returns (uint64) {
        return uint64(PostRecord.unwrap(self) >> 40 & MASK40);
    }

    /// @notice The gross of the pending payout root; 0 when none is pending.
    function pendingGross(PostRecord self) internal pure returns (uint128) {
        return uint128(PostRecord.unwrap(self) >> 80 & MASK88);
    }

    /// @notice The gross of the claimable payout root.
    function claimableGross(PostRecord self) internal pure returns (uint128) {
        return uint128(PostRecord.unwrap(self) >> 168);
    }

    /// @notice With one more post. The counter lasts for 2^40 posts, a million years of one a minute.
    function plusPost(PostRecord self) internal pure returns (PostRecord) {
        unchecked {
            return PostRecord.wrap(PostRecord.unwrap(self) + 1);
        }
    }

    /// @notice With a pending payout root, where there was none.
    function withPending(PostRecord self, uint88 gross, uint40 time) internal pure returns (PostRecord) {
        return PostRecord.wrap(PostRecord.unwrap(self) | uint256(gross) << 80 | uint256(time) << 40);
    }

    /// @notice Without a pending payout root.
    function withoutPending(PostRecord self) internal pure returns (PostRecord) {
        return PostRecord.wrap(PostRecord.unwrap(self) & ~(MASK88 << 80 | MASK40 << 40));
    }

    /// @notice With the pending gross as the claimable one, and nothing pending.
    function promoted(PostRecord self) internal pure returns (PostRecord) {
        return PostRecord.wrap(uint256(self.pendingGross()) << 168 | PostRecord.unwrap(self) & MASK40);
    }
}
