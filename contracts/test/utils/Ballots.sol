// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Step} from "../../src/interfaces/IVerdict.sol";

/// @notice One verdict of a ballot in these tests.
struct Said {
    bytes32 subject;
    uint8 outcome;
    bytes32 found;
}

/// @notice Ballots as validators build them: a trie over the bits of the subjects without nodes of one child.
library Ballots {
    function root(Said[] memory ballot) internal pure returns (bytes32) {
        if (ballot.length == 0) return bytes32(0);
        if (ballot.length == 1) return leaf(ballot[0]);
        (uint8 bit, Said[] memory low, Said[] memory high) = _part(ballot);
        return keccak256(abi.encode(bit, root(low), root(high)));
    }

    function proof(Said[] memory ballot, bytes32 subject) internal pure returns (Step[] memory steps) {
        Step[] memory found = new Step[](ballot.length);
        uint256 depth;
        while (ballot.length > 1) {
            (uint8 bit, Said[] memory low, Said[] memory high) = _part(ballot);
            bool right = uint256(subject) >> (255 - bit) & 1 == 1;
            found[depth++] = Step(bit, root(right ? low : high));
            ballot = right ? high : low;
        }
        steps = new Step[](depth);
        for (uint256 i; i < depth; ++i) {
            steps[i] = found[depth - 1 - i];
        }
    }

    function leaf(Said memory said) internal pure returns (bytes32) {
        return keccak256(bytes.concat(keccak256(abi.encode(said.subject, said.outcome, said.found))));
    }

    function _part(Said[] memory ballot) private pure returns (uint8 bit, Said[] memory low, Said[] memory high) {
        uint256 ones;
        while (true) {
            ones = _ones(ballot, bit);
            if (ones != 0 && ones != ballot.length) break;
            ++bit;
        }
        (low, high) = (new Said[](ballot.length - ones), new Said[](ones));
        (uint256 l, uint256 h) = (0, 0);
        for (uint256 i; i < ballot.length; ++i) {
            if (uint256(ballot[i].subject) >> (255 - bit) & 1 == 1) high[h++] = ballot[i];
            else low[l++] = ballot[i];
        }
    }

    function _ones(Said[] memory ballot, uint8 bit) private pure returns (uint256 count) {
        for (uint256 i; i < ballot.length; ++i) {
            count += uint256(ballot[i].subject) >> (255 - bit) & 1;
        }
    }
}
