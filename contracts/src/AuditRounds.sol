// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {
    IAuditRounds,
    Member,
    Phase,
    Round,
    RoundsParams,
    Snapshot,
    ValidatorKey
} from "./interfaces/IAuditRounds.sol";
import {IPaymentVault} from "./interfaces/IPaymentVault.sol";
import {IStakeRegistry} from "./interfaces/IStakeRegistry.sol";
import {AuditLib} from "./libraries/AuditLib.sol";
import {
    AuditRoundsErrors as Errors,
    AuditRoundsEvents as Events,
    PanelLib
} from "./libraries/AuditRoundsLib.sol";
import {Roles} from "./libraries/StakeRegistryLib.sol";

/// @title Rounds of audits
/// @notice See IAuditRounds.
contract AuditRounds is IAuditRounds {
    /// @notice The most validators, and the most routers, with a seat.
    uint256 public constant MAX_SEATS = 64;
    /// @notice Rounds that wait for a plant after it was stored. One that is not named by then is forgotten: it can still be named, and no
    /// round waits for it.
    uint64 public constant PLANT_ROUNDS = 32;
    /// @notice A router without stake keeps its seat while its next payout root could move as much as this, in units of the payment token: what
    /// its allotments hold, and what was debited and nobody claimed. Less is not worth a seat that dust would hold for ever.
    uint128 public constant KEEPS_SEAT = 1e6;
    uint256 private constant VOTES = 2;

    /// @notice Where stake stands.
    IStakeRegistry public immutable STAKES;
    /// @notice Where routers post.
    IPaymentVault public immutable VAULT;
    uint64 private immutable INTERVAL;
    uint64 private immutable REVEAL;
    uint64 private immutable BALLOT;
    uint64 private immutable UNSEAL;
    uint64 private immutable PLANTS;
    uint64 private immutable RULINGS;
    bool private immutable DEVNET;

    /// @notice May name the verdict, planters and its own successor.
    address public admin;
    /// @notice The only caller of `suspend`; zero until set.
    address public verdict;
    /// @inheritdoc IAuditRounds
    uint64 public latest;
    /// @notice Plants stored and neither named nor forgotten.
    uint32 public outstanding;
    /// @notice The newest committee; a round whose validators and stakes are those of the round before shares its committee.
    uint32 public committees;
    bytes32 private _committeeHash;

    address[] private _validators;
    address[] private _routers;
    /// @inheritdoc IAuditRounds
    mapping(address validator => bytes32) public tipOf;
    /// @notice Who may store plants.
    mapping(address planter => bool) public isPlanter;
    /// @inheritdoc IAuditRounds
    mapping(address router => uint64) public lastRoundOf;
    mapping(uint64 round => Round) private _rounds;
    mapping(uint32 committee => Member[]) private _committees;
    mapping(uint64 round => mapping(address router => Snapshot)) private _snapshots;
    mapping(uint64 round => mapping(uint256 place => bytes32)) private _ballots;
    /// @dev The newest round when it was stored, plus one; the largest number once it was named.
    mapping(bytes32 commitment => uint64) private _plants;
    /// @dev The first round in which a name holds; zero where there is no name. By account as well: who posts or plants the same job for
    /// another account takes nothing from the one that named it.
    mapping(bytes32 job => mapping(address account => uint64)) private _plantFrom;
    /// @dev An address has one key, which stays known when its seat is gone.
    mapping(address validator => ValidatorKey) private _keys;
    /// @dev The newest round when a validator took its seat.
    mapping(address validator => uint64) private _joinedIn;
    /// @dev Of `outstanding`, those that may be of this round at the earliest.
    mapping(uint64 round => uint32) private _storedFor;

    /// @param stakes The stake registry; not zero.
    /// @param vault The vault; not zero.
    /// @param p Times; together with `answer` they must end before stake that leaves is out of reach.
    /// @param answer Seconds that the verdict waits for answers after a ruling.
    /// @param firstAdmin The first admin.
    constructor(IStakeRegistry stakes, IPaymentVault vault, RoundsParams memory p, uint64 answer, address firstAdmin) {
        if (address(stakes) == address(0) || address(vault) == address(0)) revert Errors.ZeroValue();
        if (p.reveal == 0 || p.ballot == 0 || p.unseal == 0 || p.rulings == 0) revert Errors.ZeroValue();
        uint256 total = uint256(p.reveal) + p.ballot + p.unseal + p.plants + p.rulings + answer;
        uint256 unbonding = stakes.params().unbonding;
        if (total > unbonding) revert Errors.TimesTooLong(total, unbonding);
        STAKES = stakes;
        VAULT = vault;
        INTERVAL = p.interval;
        REVEAL = p.reveal;
        BALLOT = p.ballot;
        UNSEAL = p.unseal;
        PLANTS = p.plants;
        RULINGS = p.rulings;
        DEVNET = p.devnet;
        admin = firstAdmin;
        emit Events.AdminSet(firstAdmin);
    }

    modifier onlyAdmin() {
        if (msg.sender != admin) revert Errors.NotAllowed(msg.sender);
        _;
    }

    modifier inPhase(uint64 round, Phase wanted) {
        Phase now_ = phase(round);
        if (now_ != wanted) revert Errors.WrongPhase(round, now_);
        _;
    }

    // --------------------------------------------------------------------------------------------------------------- seats

    /// @inheritdoc IAuditRounds
    function join(bytes32 tip, bytes32 x, bytes32 y) external {
        if (tip == bytes32(0)) revert Errors.ZeroValue();
        if (address(uint160(uint256(keccak256(abi.encode(x, y))))) != msg.sender) revert Errors.WrongKey(msg.sender);
        _notRevealing();
        _takeSeat(_validators, Roles.VALIDATOR, msg.sender);
        tipOf[msg.sender] = tip;
        _joinedIn[msg.sender] = latest;
        _keys[msg.sender] = ValidatorKey(msg.sender, x, y);
        emit Events.Joined(msg.sender, tip, x, y);
    }

    /// @inheritdoc IAuditRounds
    function quit() external {
        if (!_giveSeat(_validators, msg.sender)) revert Errors.NotSeated(msg.sender);
        emit Events.Left(msg.sender);
    }

    /// @inheritdoc IAuditRounds
    function renew(bytes32 tip) external {
        if (tip == bytes32(0)) revert Errors.ZeroValue();
        _notRevealing();
        if (_seat(_validators, msg.sender) == MAX_SEATS) revert Errors.NotSeated(msg.sender);
        tipOf[msg.sender] = tip;
        emit Events.Renewed(msg.sender, tip);
    }

    /// @inheritdoc IAuditRounds
    function unseat(address validator) external {
        if (STAKES.isActive(Roles.VALIDATOR, validator)) revert Errors.StillSeated(validator);
        if (!_giveSeat(_validators, validator)) revert Errors.NotSeated(validator);
        emit Events.Left(validator);
    }

    /// @inheritdoc IAuditRounds
    function suspend(address validator, uint64 round) external returns (bool had) {
        if (msg.sender != verdict) revert Errors.NotAllowed(msg.sender);
        if (_joinedIn[validator] >= round) return false;
        had = _giveSeat(_validators, validator);
        if (had) emit Events.Left(validator);
    }

    /// @inheritdoc IAuditRounds
    function enrol(address router) external {
        _takeSeat(_routers, Roles.ROUTER, router);
        emit Events.Enrolled(router);
    }

    /// @inheritdoc IAuditRounds
    function strike(address router) external {
        (uint64 posts,) = VAULT.head(router);
        (uint128 allotted, uint128 released,, uint128 claimed) = VAULT.totals(router);
        bool covered = posts <= _snapshots[lastRoundOf[router]][router].posts;
        // What it posts without a seat nobody judges.
        bool leaves = covered && allotted - released - claimed < KEEPS_SEAT;
        if (STAKES.isActive(Roles.ROUTER, router) || !leaves) revert Errors.StillSeated(router);
        if (!_giveSeat(_routers, router)) revert Errors.NotSeated(router);
        emit Events.Struck(router);
    }

    // --------------------------------------------------------------------------------------------------------------- rounds

    /// @inheritdoc IAuditRounds
    function open() external returns (uint64 round) {
        _notRevealing();
        uint64 last = latest;
        uint64 due = uint64(_rounds[last].openedAt) + INTERVAL;
        if (last != 0 && block.timestamp < due) revert Errors.TooSoon(due);
        round = last + 1;
        latest = round;
        uint32 members = _formCommittee();
        if (!_coverRouters(round)) revert Errors.NothingPosted();
        if (round > PLANT_ROUNDS) outstanding -= _storedFor[round - PLANT_ROUNDS];
        Round storage r = _rounds[round];
        r.openedAt = uint40(block.timestamp);
        r.committee = members;
        r.plantsDue = outstanding;
        r.openBlock = uint64(block.number);
        emit Events.Opened(round, members, outstanding);
    }

    /// @inheritdoc IAuditRounds
    function reveal(bytes32 preimage) external {
        (uint64 round, Round storage r) = _revealing();
        uint64 end = uint64(r.openedAt) + REVEAL;
        if (block.timestamp >= end) revert Errors.WrongTime(end);
        uint256 place = placeOf(round, msg.sender);
        uint64 revealed = _plus(round, r.revealed, place);
        bytes32 tip = tipOf[msg.sender];
        if (keccak256(abi.encode(preimage)) != tip) revert Errors.WrongPreimage(tip);
        tipOf[msg.sender] = preimage;
        r.revealed = revealed;
        _fixBlockHash(r);
        r.mix ^= AuditLib.contribution(msg.sender, preimage);
        emit Events.Revealed(round, msg.sender, preimage);
        if (_isFull(r, revealed)) _draw(round, r);
    }

    /// @inheritdoc IAuditRounds
    function draw() external {
        (uint64 round, Round storage r) = _revealing();
        uint64 due = uint64(r.openedAt) + REVEAL;
        if (block.timestamp < due) revert Errors.WrongTime(due);
        _fixBlockHash(r);
        _draw(round, r);
        _unseatWhoMissed(r);
    }

    /// @inheritdoc IAuditRounds
    function commitBallot(uint64 round, bytes32 commitment) external inPhase(round, Phase.Ballot) {
        if (commitment == bytes32(0)) revert Errors.ZeroValue();
        Round storage r = _rounds[round];
        uint256 place = placeOf(round, msg.sender);
        uint64 committed = _plus(round, r.committed, place);
        r.committed = committed;
        _ballots[round][place] = commitment;
        if (_isFull(r, committed)) r.ballotsAt = uint40(block.timestamp);
        emit Events.BallotCommitted(round, msg.sender, commitment);
    }

    /// @inheritdoc IAuditRounds
    function unseal(uint64 round, bytes32 root, bytes32 salt) external inPhase(round, Phase.Unseal) {
        Round storage r = _rounds[round];
        uint256 place = placeOf(round, msg.sender);
        uint64 unsealed = _plus(round, r.unsealed, place);
        if (_ballots[round][place] != AuditLib.commitment(round, msg.sender, root, salt)) {
            revert Errors.WrongOpening(msg.sender);
        }
        r.unsealed = unsealed;
        _ballots[round][place] = root;
        if (unsealed == r.committed) r.unsealedAt = uint40(block.timestamp);
        emit Events.BallotUnsealed(round, msg.sender, root);
    }

    // --------------------------------------------------------------------------------------------------------------- plants

    /// @inheritdoc IAuditRounds
    function plant(bytes32 commitment) external {
        if (!isPlanter[msg.sender]) revert Errors.NotAllowed(msg.sender);
        if (_plants[commitment] != 0) revert Errors.AlreadyPlanted(commitment);
        uint64 first = latest + 1;
        _plants[commitment] = first;
        ++_storedFor[first];
        ++outstanding;
        emit Events.Planted(msg.sender, commitment);
    }

    /// @inheritdoc IAuditRounds
    function namePlant(uint64 round, bytes32 job, address account, bytes32 salt, bytes calldata signature) external {
        Phase now_ = phase(round);
        if (now_ != Phase.Plants && now_ != Phase.Rulings) revert Errors.WrongPhase(round, now_);
        bytes32 commitment = AuditLib.plantCommitment(job, account, salt);
        uint64 first = _plants[commitment];
        if (first == type(uint64).max) revert Errors.AlreadyPlanted(commitment);
        if (first == 0 || first > round) revert Errors.NotPlanted(commitment, round);
        bytes32 signed = AuditLib.plantDigest(block.chainid, address(this), job);
        (address signer,,) = ECDSA.tryRecoverCalldata(signed, signature);
        if (signer != account || account == address(0)) revert Errors.WrongSigner(account);
        _plants[commitment] = type(uint64).max;
        if (latest < first + PLANT_ROUNDS) {
            --_storedFor[first];
            --outstanding;
        }
        // One that was forgotten when the round opened is none of those that the round waits for.
        bool waited = now_ == Phase.Plants && round < first + PLANT_ROUNDS;
        if (waited) ++_rounds[round].plantsNamed;
        uint64 known = _plantFrom[job][account];
        if (known == 0 || first < known) _plantFrom[job][account] = first;
        emit Events.PlantNamed(round, job, account, first, waited);
    }

    // ---------------------------------------------------------------------------------------------------------------- admin

    /// @inheritdoc IAuditRounds
    function setVerdict(address newVerdict) external onlyAdmin {
        verdict = newVerdict;
        emit Events.VerdictSet(newVerdict);
    }

    /// @inheritdoc IAuditRounds
    function setPlanter(address planter, bool allowed) external onlyAdmin {
        isPlanter[planter] = allowed;
        emit Events.PlanterSet(planter, allowed);
    }

    /// @inheritdoc IAuditRounds
    function setAdmin(address newAdmin) external onlyAdmin {
        admin = newAdmin;
        emit Events.AdminSet(newAdmin);
    }

    // ---------------------------------------------------------------------------------------------------------------- views

    /// @inheritdoc IAuditRounds
    function phase(uint64 round) public view returns (Phase) {
        Round storage r = _rounds[round];
        if (r.openedAt == 0) return Phase.None;
        if (r.drawnAt == 0) return Phase.Reveal;
        uint256 end = r.ballotsAt != 0 ? r.ballotsAt : uint256(r.drawnAt) + BALLOT;
        if (block.timestamp < end) return Phase.Ballot;
        end = r.unsealedAt != 0 ? r.unsealedAt : end + UNSEAL;
        if (block.timestamp < end) return Phase.Unseal;
        if (r.plantsNamed < r.plantsDue) end += PLANTS;
        if (block.timestamp < end) return Phase.Plants;
        return block.timestamp < end + RULINGS ? Phase.Rulings : Phase.Closed;
    }

    /// @inheritdoc IAuditRounds
    function roundOf(uint64 round) external view returns (Round memory) {
        return _rounds[round];
    }

    /// @inheritdoc IAuditRounds
    function committee(uint64 round) external view returns (Member[] memory) {
        return _committees[_rounds[round].committee];
    }

    /// @inheritdoc IAuditRounds
    function panel(uint64 round, bytes32 subject)
        external
        view
        returns (address[] memory seated, uint256[] memory places)
    {
        Round storage r = _rounds[round];
        if (r.drawnAt == 0) return (seated, places);
        Member[] memory members = _committees[r.committee];
        places = PanelLib.draw(members, r.beacon, subject);
        seated = new address[](places.length);
        for (uint256 seat; seat < places.length; ++seat) {
            seated[seat] = members[places[seat]].validator;
        }
    }

    /// @inheritdoc IAuditRounds
    function placeOf(uint64 round, address validator) public view returns (uint256 place) {
        Member[] storage members = _committees[_rounds[round].committee];
        uint256 length = members.length;
        while (place < length && members[place].validator != validator) ++place;
        if (place == length) revert Errors.NotOfCommittee(round, validator);
    }

    /// @inheritdoc IAuditRounds
    function ballotOf(uint64 round, uint256 place) external view returns (bool shown, bytes32 root) {
        shown = _rounds[round].unsealed >> place & 1 == 1;
        if (shown) root = _ballots[round][place];
    }

    /// @inheritdoc IAuditRounds
    function isPlant(uint64 round, bytes32 job, address account) external view returns (bool) {
        uint64 first = _plantFrom[job][account];
        return first != 0 && first <= round;
    }

    /// @inheritdoc IAuditRounds
    function votesNeeded(uint64 round) external view returns (uint256) {
        return DEVNET && _committees[_rounds[round].committee].length == 1 ? 1 : VOTES;
    }

    /// @inheritdoc IAuditRounds
    function snapshot(uint64 round, address router) external view returns (Snapshot memory) {
        return _snapshots[round][router];
    }

    /// @inheritdoc IAuditRounds
    function validators() external view returns (address[] memory) {
        return _validators;
    }

    /// @inheritdoc IAuditRounds
    function validatorKeys() external view returns (ValidatorKey[] memory keys) {
        keys = new ValidatorKey[](_validators.length);
        for (uint256 i; i < keys.length; ++i) {
            keys[i] = _keys[_validators[i]];
        }
    }

    /// @inheritdoc IAuditRounds
    function routers() external view returns (address[] memory) {
        return _routers;
    }

    /// @inheritdoc IAuditRounds
    function params() external view returns (RoundsParams memory) {
        return RoundsParams(INTERVAL, REVEAL, BALLOT, UNSEAL, PLANTS, RULINGS, DEVNET);
    }

    // -------------------------------------------------------------------------------------------------------------- private

    function _notRevealing() private view {
        uint64 round = latest;
        if (round != 0 && _rounds[round].drawnAt == 0) revert Errors.RevealRunning(round);
    }

    /// @dev The newest round, if it waits for its beacon and the hash of its block can be known.
    function _revealing() private view returns (uint64 round, Round storage r) {
        round = latest;
        r = _rounds[round];
        Phase now_ = phase(round);
        if (now_ != Phase.Reveal) revert Errors.WrongPhase(round, now_);
        if (block.number <= r.openBlock) revert Errors.SameBlock(r.openBlock);
    }

    /// @dev Fixed by the first reveal, when nobody knows the preimages of others. A block older than 256 has no hash any more; the hash
    /// of the block before this one then serves as well, for the same reason.
    function _fixBlockHash(Round storage r) private {
        if (r.blockHash != bytes32(0)) return;
        bytes32 found = blockhash(r.openBlock);
        r.blockHash = found == bytes32(0) ? blockhash(block.number - 1) : found;
    }

    function _draw(uint64 round, Round storage r) private {
        bytes32 drawn = AuditLib.beacon(round, r.blockHash, r.mix);
        r.beacon = drawn;
        r.drawnAt = uint40(block.timestamp);
        emit Events.Drawn(round, drawn);
    }

    /// @dev An outage costs one reveal, also where nobody brings it to the verdict. What nobody did was nobody's fault.
    function _unseatWhoMissed(Round storage r) private {
        uint64 revealed = r.revealed;
        if (revealed == 0) return;
        Member[] storage members = _committees[r.committee];
        uint256 length = members.length;
        for (uint256 place; place < length; ++place) {
            if (revealed >> place & 1 == 1) continue;
            address validator = members[place].validator;
            if (_giveSeat(_validators, validator)) emit Events.Left(validator);
        }
    }

    /// @dev Shares the committee of the round before when nothing changed: most rounds store nothing here.
    function _formCommittee() private returns (uint32 id) {
        Member[] memory members = new Member[](_validators.length);
        uint256 count;
        for (uint256 i; i < members.length; ++i) {
            address validator = _validators[i];
            if (!STAKES.isActive(Roles.VALIDATOR, validator)) continue;
            (uint128 active,,) = STAKES.stakeOf(Roles.VALIDATOR, validator);
            members[count++] = Member(validator, active > type(uint96).max ? type(uint96).max : uint96(active));
        }
        if (count == 0) revert Errors.NoValidators();
        assembly ("memory-safe") {
            mstore(members, count)
        }
        bytes32 hash = keccak256(abi.encode(members));
        id = committees;
        if (hash == _committeeHash) return id;
        _committeeHash = hash;
        committees = ++id;
        for (uint256 i; i < count; ++i) {
            _committees[id].push(members[i]);
        }
    }

    function _coverRouters(uint64 round) private returns (bool any) {
        uint256 count = _routers.length;
        for (uint256 i; i < count; ++i) {
            address router = _routers[i];
            (uint64 posts, bytes32 head) = VAULT.head(router);
            uint64 previous = lastRoundOf[router];
            if (posts <= _snapshots[previous][router].posts) continue;
            (bytes32 claimable,) = VAULT.claimable(router);
            (bytes32 pending,,) = VAULT.pendingOf(router);
            _snapshots[round][router] = Snapshot(posts, previous, head, claimable, pending);
            lastRoundOf[router] = round;
            any = true;
            emit Events.Covered(round, router, posts, head, previous);
        }
    }

    function _plus(uint64 round, uint64 set, uint256 place) private view returns (uint64) {
        uint64 bit = uint64(1) << uint64(place);
        if (set & bit != 0) revert Errors.AlreadyDone(round, msg.sender);
        return set | bit;
    }

    function _isFull(Round storage r, uint64 set) private view returns (bool) {
        return set == type(uint64).max >> (MAX_SEATS - _committees[r.committee].length);
    }

    function _takeSeat(address[] storage seats, uint8 role, address who) private {
        uint256 count = seats.length;
        if (_seat(seats, who) != MAX_SEATS) revert Errors.AlreadySeated(who);
        if (count >= MAX_SEATS) revert Errors.SeatsTaken(MAX_SEATS);
        if (!STAKES.isActive(role, who)) revert Errors.NotStaked(who);
        seats.push(who);
    }

    function _giveSeat(address[] storage seats, address who) private returns (bool had) {
        uint256 seat = _seat(seats, who);
        if (seat == MAX_SEATS) return false;
        seats[seat] = seats[seats.length - 1];
        seats.pop();
        return true;
    }

    /// @dev MAX_SEATS when there is none.
    function _seat(address[] storage seats, address who) private view returns (uint256 seat) {
        uint256 count = seats.length;
        while (seat < count && seats[seat] != who) ++seat;
        if (seat == count) seat = MAX_SEATS;
    }
}
