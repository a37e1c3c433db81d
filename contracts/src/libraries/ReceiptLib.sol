// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice Receipt version 1: what one job was, what it cost and who answers for it. Signed by provider and router.
struct Receipt {
    uint16 version;
    uint256 chainId;
    address vault;
    bytes32 profileHash;
    bytes32 jobId;
    address account;
    address router;
    address provider;
    bytes32 modelRoot;
    bytes32 runtimeDigest;
    bytes32 parametersDigest;
    bytes32 promptRoot;
    bytes32 requestDigest;
    bytes32 outputRoot;
    bytes32 responseDigest;
    uint64 inputUnits;
    uint64 outputUnits;
    uint128 inputPrice;
    uint128 outputPrice;
    uint128 charge;
    uint16 feeVersion;
    uint8 paidBy;
    uint8 tier;
    bytes32 evidenceDigest;
    bytes32 ticketHash;
    uint32 attempt;
    bytes32 segmentsRoot;
    uint64 acceptedAt;
    uint64 deliveredAt;
}

/// @title Hashes of a receipt
/// @notice The Solidity half of the vectors that the Rust side is tested with; the verdict contract will open receipts with it.
library ReceiptLib {
    bytes32 internal constant TYPE_HASH = keccak256(
        "Receipt(uint16 version,uint256 chainId,address vault,bytes32 profileHash,bytes32 jobId,address account,address router,address provider,bytes32 modelRoot,bytes32 runtimeDigest,bytes32 parametersDigest,bytes32 promptRoot,bytes32 requestDigest,bytes32 outputRoot,bytes32 responseDigest,uint64 inputUnits,uint64 outputUnits,uint128 inputPrice,uint128 outputPrice,uint128 charge,uint16 feeVersion,uint8 paidBy,uint8 tier,bytes32 evidenceDigest,bytes32 ticketHash,uint32 attempt,bytes32 segmentsRoot,uint64 acceptedAt,uint64 deliveredAt)"
    );
    bytes32 internal constant DOMAIN_TYPE_HASH =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");

    /// @notice EIP-712 struct hash. All members are static, so the encoding is the type hash before the encoded struct.
    function structHash(Receipt memory receipt) internal pure returns (bytes32) {
        return keccak256(bytes.concat(TYPE_HASH, abi.encode(receipt)));
    }

    /// @notice The digest that provider and router sign: domain "Stoa", version "1", the receipt's chain and vault.
    function digest(Receipt memory receipt) internal pure returns (bytes32) {
        bytes32 domain = keccak256(
            abi.encode(DOMAIN_TYPE_HASH, keccak256("Stoa"), keccak256("1"), receipt.chainId, receipt.vault)
        );
        return keccak256(abi.encodePacked(hex"1901", domain, structHash(receipt)));
    }

    /// @notice The leaf of the receipt in a job root: hashed twice, as in OpenZeppelin's trees.
    function leaf(Receipt memory receipt) internal pure returns (bytes32) {
        return keccak256(bytes.concat(keccak256(abi.encode(receipt))));
    }
}
