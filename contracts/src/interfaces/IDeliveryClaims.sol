// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice Where a claim stands. `Open` goes to one of the others; `Answered` and `Punished` may still become `Refuted`.
enum ClaimState {
    None,
    Open,
    Answered,
    Refuted,
    Punished,
    TakenBack
}

/// @notice A claim. `claimedAt` in Unix seconds; `deadline` is the ticket's, in milliseconds.
struct Claim {
    address claimant;
    uint64 claimedAt;
    ClaimState state;
    address provider;
    uint64 deadline;
    address router;
    address account;
    bytes32 job;
}

/// @title Claims of non-delivery
/// @notice Who says that a provider took a job and delivered nothing pays a deposit; the provider answers with its receipt, or is slashed for
/// its silence. All evidence comes with the calls. Holds the deposits of open claims and nothing else; no admin.
interface IDeliveryClaims {
    /// @notice Anyone, from the ticket's deadline on and for `CLAIM` seconds: claims that nothing was delivered. The caller must have approved
    /// the deposit. One claim for each ticket.
    /// @param ticket The ABI encoding of the ticket, as bytes: some clients have no tuples of so many members.
    /// @param routerSignature The router's, over the ticket.
    /// @param acceptedAt When the provider took it; not after the deadline.
    /// @param providerSignature The provider's, over the acceptance.
    function claim(
        bytes calldata ticket,
        bytes calldata routerSignature,
        uint64 acceptedAt,
        bytes calldata providerSignature
    ) external returns (bytes32 id);

    /// @notice Anyone: shows the provider's receipt for a ticket that was claimed. Without a router's signature, while the claim is open, the
    /// deposit goes to the provider and nobody pays. With it the router had the delivery: where it made the claim, it is slashed, also when
    /// the claim was answered or punished before.
    /// @param routerSignature The router's over the receipt; empty where there is none.
    function answer(
        bytes32 ticket,
        bytes calldata receipt,
        bytes calldata providerSignature,
        bytes calldata routerSignature
    ) external;

    /// @notice Anyone, `ANSWER` seconds after an open claim: slashes the provider and gives the deposit back. Claims whose deadlines lie less
    /// than a day from one that it was slashed for are the same fault.
    function punish(bytes32 ticket) external;

    /// @notice The claimant, `TAKE_BACK` seconds after the time to answer: closes a claim that nobody decided, and takes its deposit. So that no
    /// deposit is held for ever when the verdict may not slash any more.
    function takeBack(bytes32 ticket) external;

    /// @notice The claim on a ticket.
    function claimOf(bytes32 ticket) external view returns (Claim memory);
}
