// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ClaimState} from "../interfaces/IDeliveryClaims.sol";

/// @title Errors of claims of non-delivery
library DeliveryClaimsErrors {
    /// @notice A parameter that must not be zero is zero.
    error ZeroParameter();
    /// @notice `verdict` takes claims of `claims`, not of this contract.
    error NotAppointed(address verdict, address claims);
    /// @notice Claim and answer take `needed` seconds, and stake may be gone after `unbonding`.
    error UnbondingTooShort(uint64 needed, uint64 unbonding);
    /// @notice A ticket has 576 bytes, not `length`.
    error BadTicket(uint256 length);
    /// @notice A receipt has 928 bytes, not `length`.
    error BadReceipt(uint256 length);
    /// @notice The signature is not that of `signer`.
    error WrongSigner(address signer);
    /// @notice The provider took the ticket after its deadline: it owes nothing.
    error AcceptedLate(uint64 acceptedAt, uint64 deadline);
    /// @notice This is possible from `due` on; Unix seconds, rounded down for a deadline.
    error TooEarly(uint256 due);
    /// @notice The deadline was at `deadline` (Unix milliseconds): nothing is claimed a day later.
    error TooLate(uint64 deadline);
    /// @notice There was a claim on `ticket`.
    error AlreadyClaimed(bytes32 ticket);
    /// @notice The claim on `ticket` stands at `state`, which allows no such call.
    error WrongState(bytes32 ticket, ClaimState state);
    /// @notice The receipt is of another network, ticket or job.
    error ForeignReceipt();
    /// @notice `caller` did not make this claim.
    error NotAllowed(address caller);
}

/// @title Events of claims of non-delivery
library DeliveryClaimsEvents {
    /// @notice `claimant` says that `provider` took `ticket` and delivered nothing; the provider has until `answerBy` (Unix seconds).
    event Claimed(
        bytes32 indexed ticket,
        address indexed provider,
        address indexed router,
        address claimant,
        bytes32 job,
        uint64 answerBy
    );
    /// @notice The provider's receipt was shown; the deposit went to it.
    event Answered(bytes32 indexed ticket, address indexed provider);
    /// @notice A receipt that the router had countersigned was shown; `accused` where the router had made the claim and pays for it.
    event Refuted(bytes32 indexed ticket, address indexed provider, address indexed router, bool accused);
    /// @notice Nobody answered; the deposit went back. Not `slashed` where the provider was slashed for a deadline less than a day away.
    event Punished(bytes32 indexed ticket, address indexed provider, bool slashed);
    /// @notice A claim that nobody decided was taken back with its deposit.
    event TakenBack(bytes32 indexed ticket, address indexed claimant);
}
