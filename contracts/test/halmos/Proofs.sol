// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Test} from "../utils/Test.sol";

/// @notice The cheat codes of halmos that the proofs use.
interface Svm {
    function createCalldata(string calldata contractName) external pure returns (bytes memory data);
}

/// @notice The base of all proofs. A `check_` function is proved for all its arguments within the stated bounds; a path on which the
/// contract refuses the call ends the check, because a refused call changes nothing.
abstract contract Proofs is Test {
    Svm internal constant svm = Svm(address(uint160(uint256(keccak256("svm cheat code")))));
}
