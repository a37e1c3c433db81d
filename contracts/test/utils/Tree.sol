// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice Sorted-pair trees as OpenZeppelin's MerkleProof checks them; an odd node moves up unchanged.
library Tree {
    /// @notice The root over `leaves`; the leaf itself when there is one.
    function root(bytes32[] memory leaves) internal pure returns (bytes32) {
        bytes32[] memory row = leaves;
        while (row.length > 1) row = _above(row);
        return row[0];
    }

    /// @notice The siblings of leaf `index` from the bottom up.
    function proof(bytes32[] memory leaves, uint256 index) internal pure returns (bytes32[] memory siblings) {
        bytes32[] memory found = new bytes32[](32);
        uint256 depth;
        bytes32[] memory row = leaves;
        while (row.length > 1) {
            if (index ^ 1 < row.length) found[depth++] = row[index ^ 1];
            row = _above(row);
            index /= 2;
        }
        siblings = new bytes32[](depth);
        for (uint256 i; i < depth; ++i) {
            siblings[i] = found[i];
        }
    }

    function _above(bytes32[] memory row) private pure returns (bytes32[] memory up) {
        up = new bytes32[]((row.length + 1) / 2);
        for (uint256 i; i < up.length; ++i) {
            up[i] = 2 * i + 1 < row.length ? _pair(row[2 * i], row[2 * i + 1]) : row[2 * i];
        }
    }

    function _pair(bytes32 a, bytes32 b) private pure returns (bytes32) {
        return a < b ? keccak256(abi.encodePacked(a, b)) : keccak256(abi.encodePacked(b, a));
    }
}
