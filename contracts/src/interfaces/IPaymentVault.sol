// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice What a vault is built with; fixed for its life. Later fee versions are added beside the first. The three times are at most
/// 30 days each.
/// @param window Seconds from the post of a payout root until it is claimable.
/// @param notice Seconds from a `revoke` until the allotment expires.
/// @param settleDelay Seconds from the expiry of an allotment until its rest may return to the developer.
/// @param claimMin Least claim in payment-token units; it stops fee evasion by tiny claims.
/// @param routerBps Fee version 1: the router's share of a charge, in 1/10,000.
/// @param treasuryBps Fee version 1: the treasury's share.
/// @param validatorsBps Fee version 1: the validator pool's share.
/// @param buybackBps Fee version 1: the buyback pot's share.
/// @param treasury Receives the treasury's shares.
/// @param validatorsPool Receives the validators' shares.
/// @param buyback Receives the buyback shares.
struct VaultParams {
    uint64 window;
    uint64 notice;
    uint64 settleDelay;
    uint128 claimMin;
    uint16 routerBps;
    uint16 treasuryBps;
    uint16 validatorsBps;
    uint16 buybackBps;
    address treasury;
    address validatorsPool;
    address buyback;
}

/// @notice The shares of a charge in 1/10,000; the provider keeps the rest and the rounding.
struct FeeSchedule {
    uint16 routerBps;
    uint16 treasuryBps;
    uint16 validatorsBps;
    uint16 buybackBps;
}

/// @notice One debit leaf with its proof: the sum that `developer` was charged over the life of allotment `generation`.
struct DebitEntry {
    address developer;
    uint32 generation;
    uint128 lifetimeDebit;
    bytes32[] proof;
}

/// @title Custody and settlement of the payment token
/// @notice Developers deposit and allot; routers post roots; anyone debits and claims against a root that stood unchallenged for its
/// window. Amounts are units of 10^-6 payment token. No call can move a developer's money except the developer's own and a debit
/// within the cap that the developer set. The admin may name the verdict contract, add fee versions and name its successor; it can
/// move nothing. No proxy, no pause.
/// @dev Assumes a payment token that transfers the exact amount; every deposit checks the balance difference.
interface IPaymentVault {
    /// @notice Anyone: adds `amount` to the caller's free balance; the caller must have approved the vault.
    function deposit(uint128 amount) external;

    /// @notice Anyone: adds `amount` of the caller's tokens to the free balance of `developer`.
    function depositFor(address developer, uint128 amount) external;

    /// @notice `deposit` with an EIP-2612 permit instead of an approval. A permit that someone else has already sent is no obstacle.
    function depositWithPermit(uint128 amount, uint256 deadline, uint8 v, bytes32 r, bytes32 s) external;

    /// @notice A developer takes `amount` of its free balance home, at once.
    function withdraw(uint128 amount) external;

    /// @notice A developer gives `router` the right to debit up to `cap` until `expiry`; the cap leaves the free balance and stays in the
    /// vault. One allotment per developer and router at a time; each new one is a new generation.
    /// @param expiry Unix seconds, after now and at most 30 days ahead.
    function allot(address router, uint128 cap, uint64 expiry) external;

    /// @notice A developer raises the cap of its allotment by `addCap` from its free balance, or its expiry, or both; before it expires.
    /// @param newExpiry Unix seconds, not before the present expiry; 0 leaves it.
    function topUp(address router, uint128 addCap, uint64 newExpiry) external;

    /// @notice A developer ends its allotment after the notice, without the router: `expiry = min(expiry, now + notice)`.
    function revoke(address router) external;

    /// @notice Anyone, from `expiry + settleDelay` on: returns what is not debited to the developer's free balance and closes the
    /// generation, so that no later debit can name it.
    function release(address developer, address router) external;

    /// @notice A router appends the root of a batch of receipts to its job chain and may publish a new payout root.
    /// A pending payout root whose window has passed is promoted first.
    /// @param jobRoot Root over the receipt leaves.
    /// @param jobCount Number of receipts, 1 to 10,000.
    /// @param payRoot `keccak256(abi.encode(providerRoot, debitRoot))` of lifetime totals, or zero to post jobs alone. Refused while
    /// another one is pending.
    /// @param gross Lifetime gross under `payRoot`: not below the claimable gross, at most what is allotted to the caller and not
    /// released. Not read, and 0 in the event, without a payout root.
    /// @param contentId Digest that names the leaf file, by which anyone fetches the leaves.
    function postBatch(bytes32 jobRoot, uint32 jobCount, bytes32 payRoot, uint128 gross, bytes32 contentId) external;

    /// @notice Anyone, once the window has passed: makes the router's pending payout root claimable.
    function promote(address router) external;

    /// @notice Only the verdict contract or the router itself: cancels the router's pending payout root. The claimable one stays. A router
    /// does so when a post that was under way brought a charge back that a ruling had reversed.
    function voidPending(address router) external;

    /// @notice Anyone: books the debits of a claimable payout root. All entries are booked or none.
    /// @dev `providerRoot` and `debitRoot` must hash to the claimable payout root. Each entry must name the live generation, must not
    /// fall below what is booked, and must not exceed the cap: the cap is hard whatever the router posts.
    function syncDebits(address router, bytes32 providerRoot, bytes32 debitRoot, DebitEntry[] calldata entries) external;

    /// @notice Anyone: credits to `provider` and to the fee receivers what the claimable root of `router` gives and what the synced
    /// debits cover. What they do not cover yet stays claimable. The router keeps nothing but its fee share.
    /// @dev The provider must have registered before its first claim. A claim below the minimum is refused unless the provider is leaving.
    /// @param feeVersion The fee version in the leaf: each version of a provider's earnings is a leaf of its own.
    /// @param lifetimeGross The leaf's sum of charges over the router's life.
    function claim(
        address router,
        address provider,
        uint16 feeVersion,
        uint128 lifetimeGross,
        bytes32 providerRoot,
        bytes32 debitRoot,
        bytes32[] calldata proof
    ) external;

    /// @notice Anyone: sends all that `who` is owed as provider or router; to its payee when it is registered as a provider, else to itself.
    function collect(address who) external;

    /// @notice Anyone: sends the three pools what they are owed. A pool that the token refuses keeps its share here; the others are paid.
    function collectProtocol() external;

    /// @notice Only the admin: adds the next fee version. Router share at most 500, the other three together at most 500.
    /// @dev It binds only charges whose leaves name it; issued tickets name theirs.
    function addFeeVersion(FeeSchedule calldata schedule) external returns (uint16 version);

    /// @notice Only the admin: names the contract that may call `voidPending` for any router.
    function setVerdict(address verdict) external;

    /// @notice Only the admin: hands its role to `admin`, later the time-lock.
    function setAdmin(address admin) external;

    /// @notice Deposited by `developer` and bound to nothing.
    function free(address developer) external view returns (uint128);

    /// @notice The latest allotment of `developer` to `router`; `cap - debited - released` still belongs to the developer.
    function allotment(address developer, address router)
        external
        view
        returns (uint32 generation, uint128 cap, uint128 debited, uint128 released, uint64 expiry, bool live);

    /// @notice The payout root that can be claimed against, with its gross; zero before the first promotion.
    function claimable(address router) external view returns (bytes32 payRoot, uint128 gross);

    /// @notice The payout root that waits for its window, its gross and when it was posted; zero when none waits.
    function pendingOf(address router) external view returns (bytes32 payRoot, uint128 gross, uint64 postedAt);

    /// @notice Lifetime sums of a router: allotted, released, debited, claimed.
    function totals(address router)
        external
        view
        returns (uint128 capTotal, uint128 releasedTotal, uint128 debitedTotal, uint128 claimedGross);

    /// @notice The number of posts of a router and the head of its job chain.
    function head(address router) external view returns (uint64 posts, bytes32 chainHead);

    /// @notice The head of the job chain after post number `64 x index`; zero before it.
    function checkpoint(address router, uint64 index) external view returns (bytes32 chainHead);

    /// @notice Lifetime gross already claimed under the leaf of (router, provider, fee version).
    function claimed(address router, address provider, uint16 feeVersion) external view returns (uint128);

    /// @notice What `who` is owed as provider and as router.
    function owed(address who) external view returns (uint128);

    /// @notice What the three pools are owed.
    function owedProtocol() external view returns (uint128 treasury, uint128 validators, uint128 buyback);

    /// @notice The shares of a fee version; reverts for a version that does not exist.
    function feeSchedule(uint16 version) external view returns (FeeSchedule memory);

    /// @notice The newest fee version; the first is 1.
    function latestFeeVersion() external view returns (uint16);

    /// @notice What this vault was built with.
    function params() external view returns (VaultParams memory);
}
