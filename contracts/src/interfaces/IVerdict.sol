// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice One step from a verdict up to its ballot's root.
/// @param bit Which bit of the subject decides the side; 0 is the highest.
/// @param sibling Root of the other side.
struct Step {
    uint8 bit;
    bytes32 sibling;
}

/// @title The one contract that may void a pending payout root and slash
/// @notice Vault, stake registry and reputation know a verdict by its address alone; their admin can name another. Whatever comes after a
/// panel of validators must answer the same two questions and emit the same two events.
interface IVerdict {
    /// @notice `subject` of `round` was decided. `outcome` is a code of docs/audits.md; on a `plant` nobody but validators answers.
    event Ruled(uint64 indexed round, bytes32 indexed subject, uint8 outcome, bool plant);

    /// @notice `account` does not owe `charge` for `job` any more: `router` takes it out of its lifetime totals and posts a corrected root.
    event JobReversed(bytes32 indexed job, address indexed router, address indexed account, uint128 charge);

    /// @notice What was ruled on `subject` of `round`; `ruledAt` is 0 before a ruling.
    function rulingOf(uint64 round, bytes32 subject) external view returns (uint40 ruledAt, uint8 outcome, bool plant);

    /// @notice Whether the charge of the posted receipt `subject` was reversed.
    function isReversed(bytes32 subject) external view returns (bool);
}
