// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ReceiptLib} from "./ReceiptLib.sol";

/// @notice A router's order to one provider for one attempt of one job. Times are Unix milliseconds.
struct Ticket {
    bytes32 jobId;
    address account;
    address router;
    address provider;
    bytes32 modelRoot;
    bytes32 parametersDigest;
    bytes32 requestDigest;
    bytes32 workDigest;
    uint128 inputPrice;
    uint128 outputPrice;
    uint64 inputUnitsMax;
    uint64 outputUnitsMax;
    uint128 reserve;
    uint16 feeVersion;
    uint8 tier;
    uint32 attempt;
    uint64 issuedAt;
    uint64 deadline;
}

/// @title Hashes of a ticket and of its acceptance
/// @notice The Solidity half of `ticket` and `acceptance` in `vectors/receipt.json`.
library TicketLib {
    /// @notice Length of an encoded ticket.
    uint256 internal constant BYTES = 18 * 32;
    bytes32 internal constant TYPE_HASH = keccak256(
        "Ticket(bytes32 jobId,address account,address router,address provider,bytes32 modelRoot,bytes32 parametersDigest,bytes32 requestDigest,bytes32 workDigest,uint128 inputPrice,uint128 outputPrice,uint64 inputUnitsMax,uint64 outputUnitsMax,uint128 reserve,uint16 feeVersion,uint8 tier,uint32 attempt,uint64 issuedAt,uint64 deadline)"
    );
    bytes32 internal constant ACCEPTANCE_TYPE_HASH = keccak256("Acceptance(bytes32 ticketHash,uint64 acceptedAt)");

    /// @notice The domain of tickets and acceptances: that of receipts.
    function domain(uint256 chainId, address vault) internal pure returns (bytes32) {
        return keccak256(
            abi.encode(ReceiptLib.DOMAIN_TYPE_HASH, keccak256("Stoa"), keccak256("1"), chainId, vault)
        );
    }

    /// @notice What the router signs, from the ABI encoding of the ticket: all members are static.
    function digest(bytes32 domain_, bytes memory ticket) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(hex"1901", domain_, keccak256(bytes.concat(TYPE_HASH, ticket))));
    }

    /// @notice What the provider signs when it takes the ticket whose digest is `ticket`.
    function acceptance(bytes32 domain_, bytes32 ticket, uint64 acceptedAt) internal pure returns (bytes32) {
        bytes32 struct_ = keccak256(abi.encode(ACCEPTANCE_TYPE_HASH, ticket, acceptedAt));
        return keccak256(abi.encodePacked(hex"1901", domain_, struct_));
    }
}
