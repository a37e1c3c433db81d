// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice Times of a round in seconds; fixed for the life of the contract.
/// @param interval Least time between two openings.
/// @param reveal Longest reveal.
/// @param ballot Longest work on ballots.
/// @param unseal Longest unsealing.
/// @param plants Longest naming of plants.
/// @param rulings How long rulings are taken; with all the others it must end before stake that leaves is out of reach.
/// @param devnet Whether a committee of one may decide alone.
struct RoundsParams {
    uint64 interval;
    uint64 reveal;
    uint64 ballot;
    uint64 unseal;
    uint64 plants;
    uint64 rulings;
    bool devnet;
}

/// @notice Where a round stands. It only moves down this list.
enum Phase {
    None,
    Reveal,
    Ballot,
    Unseal,
    Plants,
    Rulings,
    Closed
}

/// @notice A router when a round opened; `previous` is the round of its snapshot before, 0 for none.
struct Snapshot {
    uint64 posts;
    uint64 previous;
    bytes32 head;
    bytes32 claimable;
    bytes32 pending;
}

/// @notice A validator of a round with its active stake when the round opened.
struct Member {
    address validator;
    uint96 weight;
}

/// @notice A validator and the point of its public key on secp256k1.
struct ValidatorKey {
    address validator;
    bytes32 x;
    bytes32 y;
}

/// @notice What is stored of a round. The three sets hold one bit for each place in the committee.
struct Round {
    uint40 openedAt;
    uint40 drawnAt;
    uint40 ballotsAt;
    uint40 unsealedAt;
    uint32 committee;
    uint32 plantsDue;
    uint32 plantsNamed;
    uint64 openBlock;
    uint64 revealed;
    uint64 committed;
    uint64 unsealed;
    bytes32 blockHash;
    bytes32 mix;
    bytes32 beacon;
}

/// @title Rounds of audits: validators, beacon, ballots and plants
/// @notice No call moves money. Who judges what follows from the beacon; what is judged and what it costs is the verdict's. At most 64
/// validators and 64 routers have seats, which bounds every loop. The admin names the verdict, the planters and its own successor.
interface IAuditRounds {
    /// @notice A staked validator takes a seat, publishes the top of its hash chain and the public key of its account, to which routers seal
    /// what an audit needs. Not while preimages are revealed. Only an account with a key can join: no contract.
    function join(bytes32 tip, bytes32 x, bytes32 y) external;

    /// @notice A validator gives its seat up. What it owes to rounds that are open stays.
    function quit() external;

    /// @notice A validator publishes the top of a new chain. Not while preimages are revealed.
    function renew(bytes32 tip) external;

    /// @notice Anyone takes the seat of a validator that does not hold its stake.
    function unseat(address validator) external;

    /// @notice Only the verdict: takes the seat of a validator that missed a duty in `round`. False when it has none, or one that it took after
    /// the round opened: a punishment that comes late takes no other seat.
    function suspend(address validator, uint64 round) external returns (bool);

    /// @notice Anyone gives a staked router its seat: from then on its posts are audited.
    function enrol(address router) external;

    /// @notice Anyone takes the seat of a router that does not hold its stake, has no posts that no round covers, and next to nothing left that
    /// a payout root could move: without a seat nobody judges what it posts.
    function strike(address router) external;

    /// @notice Anyone opens the next round, once the one before is drawn and a router with a seat has posted since.
    function open() external returns (uint64 round);

    /// @notice A validator of the newest round reveals the next preimage of its chain. The last reveal draws the beacon.
    function reveal(bytes32 preimage) external;

    /// @notice Anyone draws the beacon when the time to reveal is over. Who did not reveal, where others did, loses its seat: it joins again
    /// when it is back, so that an outage does not go on costing.
    function draw() external;

    /// @notice A validator commits its ballot: `keccak256(abi.encode(round, validator, root, salt))`. A root of zero says nothing.
    function commitBallot(uint64 round, bytes32 commitment) external;

    /// @notice A validator shows its ballot.
    function unseal(uint64 round, bytes32 root, bytes32 salt) external;

    /// @notice A planter stores `keccak256(abi.encode(job, account, salt))` before the round opens that will cover the job.
    function plant(bytes32 commitment) external;

    /// @notice Anyone who knows it names a plant, when the ballots of `round` are shown. `signature` is the account's over
    /// `keccak256(abi.encode(chainid, this, job))`: nobody can shield a job that somebody else paid. A name holds for the job in all rounds
    /// that opened after the plant was stored, whichever it was named in, and changes no ruling that has come.
    function namePlant(uint64 round, bytes32 job, address account, bytes32 salt, bytes calldata signature) external;

    /// @notice Only the admin.
    function setVerdict(address verdict) external;

    /// @notice Only the admin.
    function setPlanter(address planter, bool allowed) external;

    /// @notice Only the admin.
    function setAdmin(address admin) external;

    /// @notice The newest round; 0 before the first.
    function latest() external view returns (uint64);

    /// @notice What is stored of a round.
    function roundOf(uint64 round) external view returns (Round memory);

    /// @notice Where a round stands now.
    function phase(uint64 round) external view returns (Phase);

    /// @notice The validators of a round and their weights.
    function committee(uint64 round) external view returns (Member[] memory);

    /// @notice Who judges `subject`, in the order drawn, with the places in the committee; nobody before the draw.
    function panel(uint64 round, bytes32 subject)
        external
        view
        returns (address[] memory seated, uint256[] memory places);

    /// @notice The place of a validator in the committee of a round.
    function placeOf(uint64 round, address validator) external view returns (uint256 place);

    /// @notice The root that a place showed.
    function ballotOf(uint64 round, uint256 place) external view returns (bool shown, bytes32 root);

    /// @notice How many equal verdicts decide.
    function votesNeeded(uint64 round) external view returns (uint256);

    /// @notice A router when a round opened; `posts` is 0 when the round covers nothing of it.
    function snapshot(uint64 round, address router) external view returns (Snapshot memory);

    /// @notice The newest round that covers posts of a router; 0 for none.
    function lastRoundOf(address router) external view returns (uint64);

    /// @notice Whether `account` planted `job`, and stored that before the round opened.
    function isPlant(uint64 round, bytes32 job, address account) external view returns (bool);

    /// @notice All validators with a seat.
    function validators() external view returns (address[] memory);

    /// @notice All validators with a seat, with their public keys.
    function validatorKeys() external view returns (ValidatorKey[] memory);

    /// @notice All routers with a seat.
    function routers() external view returns (address[] memory);

    /// @notice Top of a validator's chain.
    function tipOf(address validator) external view returns (bytes32);

    /// @notice Times of a round.
    function params() external view returns (RoundsParams memory);
}
