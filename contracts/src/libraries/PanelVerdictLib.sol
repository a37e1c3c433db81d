// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Phase} from "../interfaces/IAuditRounds.sol";
import {Step} from "../interfaces/IVerdict.sol";
import {Place} from "./PlaceLib.sol";
import {Receipt} from "./ReceiptLib.sol";

/// @notice A posted receipt with its place.
/// @param round The round that covers it.
/// @param receipt What was posted: the ABI encoding of the receipt, whose double hash is the leaf. As bytes, because the struct has more
/// members than the tuples of some clients.
/// @param providerSignature The provider's, over the receipt; only read where the content is judged.
/// @param place Where it stands.
struct Evidence {
    uint64 round;
    bytes receipt;
    bytes providerSignature;
    Place place;
}

/// @notice One verdict with its way to the validator's ballot.
/// @param found Digest of what the validator recomputed.
struct Vote {
    address validator;
    uint8 outcome;
    bytes32 found;
    Step[] proof;
}

/// @title Errors of the panel's verdict
library PanelVerdictErrors {
    /// @notice A parameter that must not be zero is zero.
    error ZeroParameter();
    /// @notice `round` is in phase `phase`.
    error WrongPhase(uint64 round, Phase phase);
    /// @notice There is a ruling on `subject`.
    error AlreadyRuled(bytes32 subject);
    /// @notice The beacon did not draw `subject`: nobody is asked about it.
    error NotAudited(bytes32 subject);
    /// @notice There is no ruling on `subject`.
    error NotRuled(bytes32 subject);
    /// @notice `votes` votes for a panel of three.
    error TooManyVotes(uint256 votes);
    /// @notice `who` does not sit on this panel.
    error NotOnPanel(address who);
    /// @notice The verdict of `who` has been counted or punished before.
    error AlreadySeen(address who);
    /// @notice `who` has shown no ballot.
    error NoBallot(address who);
    /// @notice This verdict is not in the ballot of `who`.
    error NotInBallot(address who);
    /// @notice No outcome has `needed` votes.
    error NoMajority(uint256 needed);
    /// @notice There is no such outcome.
    error UnknownOutcome(uint8 outcome);
    /// @notice `outcome` does not fit this subject.
    error WrongSubject(uint8 outcome);
    /// @notice A job of `tier` is not judged by its content.
    error WrongTier(uint8 tier);
    /// @notice A receipt has 928 bytes, not `length`.
    error BadReceipt(uint256 length);
    /// @notice The receipt is of another network or router.
    error ForeignReceipt();
    /// @notice The signature over the receipt is not `provider`'s.
    error WrongSigner(address provider);
    /// @notice The panel may answer until `due`.
    error TooEarly(uint256 due);
    /// @notice Silence of `who` is not punished here: it missed its whole ballot.
    error NotSilent(address who);
    /// @notice `who` did its duty in `round`.
    error DutyDone(uint64 round, address who);
    /// @notice No validator did its duty in `round`: then chain or network were away, and nobody is punished.
    error NobodyDid(uint64 round);
    /// @notice A charge of `charge` is not above `most`.
    error NotOvercharged(uint128 charge, uint256 most);
    /// @notice `caller` is not the contract of claims.
    error NotAllowed(address caller);
    /// @notice These are not two leaves for one job of one router.
    error NotDouble();
}

/// @title Events of the panel's verdict, beside those of IVerdict
library PanelVerdictEvents {
    /// @notice A fault was punished.
    event Convicted(bytes32 indexed faultId, address indexed offender, uint8 kind, uint16 severityBps);
    /// @notice A verdict other than the ruling that is not punished: a router can make honest validators differ.
    event Differed(bytes32 indexed subject, address indexed validator, uint8 outcome);
}

/// @title Outcomes of verdicts
library Outcomes {
    uint8 internal constant GOOD = 0;
    uint8 internal constant WRONG_OUTPUT = 1;
    uint8 internal constant WRONG_COUNT = 2;
    uint8 internal constant WITHHELD = 3;
    uint8 internal constant FORGED = 4;
    uint8 internal constant BAD_SUMS = 5;
    /// @notice The validator cannot judge: it has not got the model, or no key to the work. It never rules.
    uint8 internal constant UNABLE = 6;
    /// @notice The payout root is not right and its router is not to blame: it pays a charge that was reversed while its post was under way,
    /// or too many posts lie between it and the claimable one. It is cancelled, and costs nobody anything.
    uint8 internal constant VOID = 7;
    uint8 internal constant COUNT = 8;

    /// @notice Whether it says something about the payout root of a batch.
    function isOfSums(uint8 outcome) internal pure returns (bool) {
        return outcome == BAD_SUMS || outcome == VOID;
    }

    /// @notice Whether every validator that recomputes must find the same.
    function isContent(uint8 outcome) internal pure returns (bool) {
        return outcome != WITHHELD && outcome != FORGED && outcome != UNABLE;
    }
}

/// @title Faults and what they cost
library Faults {
    uint8 internal constant MISSED_REVEAL = 16;
    uint8 internal constant MISSED_BALLOT = 17;
    uint8 internal constant DISSENT = 18;
    uint8 internal constant OVERCHARGE = 19;
    uint8 internal constant DOUBLE_POST = 20;
    uint8 internal constant NON_DELIVERY = 21;
    uint8 internal constant FALSE_CLAIM = 22;

    /// @notice Repeats are counted together for faults of one class.
    function class(uint8 kind) internal pure returns (uint8) {
        if (kind == Outcomes.WRONG_COUNT) return Outcomes.WRONG_OUTPUT;
        return kind == MISSED_BALLOT ? MISSED_REVEAL : kind;
    }

    /// @notice Share of the offender's stake in 1/10,000, by earlier convictions of the class.
    function severity(uint8 kind, uint32 earlier) internal pure returns (uint16) {
        uint8 group = class(kind);
        if (group == Outcomes.WRONG_OUTPUT) return earlier == 0 ? 2500 : 10_000;
        if (group == Outcomes.WITHHELD || group == DISSENT || group == FALSE_CLAIM) {
            return earlier == 0 ? 500 : earlier == 1 ? 1500 : 5000;
        }
        if (group == NON_DELIVERY) return earlier == 0 ? 100 : earlier == 1 ? 500 : 1000;
        if (group == MISSED_REVEAL) return earlier == 0 ? 100 : earlier == 1 ? 300 : 1000;
        return 10_000;
    }

    /// @notice The most that counts and prices give: nothing without output, else the floor of the cost, at least one unit.
    function mostCharge(Receipt memory r) internal pure returns (uint256) {
        if (r.outputUnits == 0) return 0;
        uint256 cost = (uint256(r.inputPrice) * r.inputUnits + uint256(r.outputPrice) * r.outputUnits) / 1e6;
        return cost == 0 ? 1 : cost;
    }
}
