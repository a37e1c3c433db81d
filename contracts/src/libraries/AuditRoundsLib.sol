// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Member, Phase} from "../interfaces/IAuditRounds.sol";

/// @title Errors of the rounds
library AuditRoundsErrors {
    /// @notice `caller` does not hold the role that this call needs.
    error NotAllowed(address caller);
    /// @notice A value that must not be zero is zero.
    error ZeroValue();
    /// @notice The times of a round end after `unbonding` seconds, when stake is out of reach.
    error TimesTooLong(uint256 total, uint256 unbonding);
    /// @notice The public key is not `who`'s: its hash gives another address.
    error WrongKey(address who);
    /// @notice `who` does not hold the minimum stake.
    error NotStaked(address who);
    /// @notice `who` may keep its seat.
    error StillSeated(address who);
    /// @notice `who` has a seat.
    error AlreadySeated(address who);
    /// @notice `who` has no seat.
    error NotSeated(address who);
    /// @notice All `max` seats are taken.
    error SeatsTaken(uint256 max);
    /// @notice `round` reveals its preimages; chains must not change until it is drawn.
    error RevealRunning(uint64 round);
    /// @notice The next round may open at `due`.
    error TooSoon(uint64 due);
    /// @notice No validator holds its stake.
    error NoValidators();
    /// @notice No router with a seat has posted since the round before.
    error NothingPosted();
    /// @notice `round` is in phase `phase`.
    error WrongPhase(uint64 round, Phase phase);
    /// @notice The hash of block `number` is not known yet.
    error SameBlock(uint64 number);
    /// @notice The time for this ends or begins at `due`.
    error WrongTime(uint64 due);
    /// @notice `who` is not of the committee of `round`.
    error NotOfCommittee(uint64 round, address who);
    /// @notice `who` has done this in `round`.
    error AlreadyDone(uint64 round, address who);
    /// @notice This is not the preimage of `tip`.
    error WrongPreimage(bytes32 tip);
    /// @notice Root and salt do not give what `who` committed.
    error WrongOpening(address who);
    /// @notice `commitment` has been stored or named before.
    error AlreadyPlanted(bytes32 commitment);
    /// @notice `commitment` was not stored before `round`.
    error NotPlanted(bytes32 commitment, uint64 round);
    /// @notice The signature is not `account`'s.
    error WrongSigner(address account);
}

/// @title Events of the rounds
library AuditRoundsEvents {
    /// @notice `validator` has a seat; the top of its chain is `tip`, its public key the point (`x`, `y`).
    event Joined(address indexed validator, bytes32 tip, bytes32 x, bytes32 y);
    /// @notice `validator` has a new chain with the top `tip`.
    event Renewed(address indexed validator, bytes32 tip);
    /// @notice `validator` has no seat any more.
    event Left(address indexed validator);
    /// @notice Posts of `router` are audited from now on.
    event Enrolled(address indexed router);
    /// @notice Posts of `router` are not audited any more.
    event Struck(address indexed router);
    /// @notice `round` opened.
    event Opened(uint64 indexed round, uint32 committee, uint32 plantsDue);
    /// @notice `round` covers the posts of `router` up to `posts`.
    event Covered(uint64 indexed round, address indexed router, uint64 posts, bytes32 head, uint64 previous);
    /// @notice `validator` revealed.
    event Revealed(uint64 indexed round, address indexed validator, bytes32 preimage);
    /// @notice The beacon of `round` is drawn.
    event Drawn(uint64 indexed round, bytes32 beacon);
    /// @notice `validator` committed its ballot.
    event BallotCommitted(uint64 indexed round, address indexed validator, bytes32 commitment);
    /// @notice `validator` showed its ballot.
    event BallotUnsealed(uint64 indexed round, address indexed validator, bytes32 root);
    /// @notice `planter` stored a plant.
    event Planted(address indexed planter, bytes32 commitment);
    /// @notice `job` was planted, and `account` paid it: this holds in each round from `first` on. It was named in `round`, which
    /// `waited` for it or not.
    event PlantNamed(uint64 indexed round, bytes32 indexed job, address account, uint64 first, bool waited);
    /// @notice Only `verdict` may suspend from now on.
    event VerdictSet(address verdict);
    /// @notice `planter` may store plants, or not any more.
    event PlanterSet(address indexed planter, bool allowed);
    /// @notice `admin` holds the admin role from now on.
    event AdminSet(address admin);
}

/// @title The draw of a panel
library PanelLib {
    /// @notice Validators of a panel.
    uint256 internal constant SIZE = 3;

    /// @notice Seats for `subject`, as places in `members`, in the order drawn: each seat with chances in proportion to stake among those
    /// that sit not yet.
    function draw(Member[] memory members, bytes32 beacon, bytes32 subject)
        internal
        pure
        returns (uint256[] memory seats)
    {
        uint256 left;
        for (uint256 i; i < members.length; ++i) {
            left += members[i].weight;
        }
        uint256 size = members.length < SIZE ? members.length : SIZE;
        seats = new uint256[](size);
        for (uint256 seat; seat < size; ++seat) {
            if (left == 0) return _first(seats, seat);
            uint256 place = _at(members, uint256(keccak256(abi.encode(beacon, subject, seat))) % left);
            left -= members[place].weight;
            // The seated weigh nothing in the next draw; `members` is this call's own copy.
            members[place].weight = 0;
            seats[seat] = place;
        }
    }

    function _at(Member[] memory members, uint256 weight) private pure returns (uint256 place) {
        while (weight >= members[place].weight) {
            weight -= members[place].weight;
            ++place;
        }
    }

    function _first(uint256[] memory seats, uint256 count) private pure returns (uint256[] memory some) {
        some = new uint256[](count);
        for (uint256 i; i < count; ++i) {
            some[i] = seats[i];
        }
    }
}
