// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {DeliveryClaims} from "../src/DeliveryClaims.sol";
import {PanelVerdict} from "../src/PanelVerdict.sol";
import {IClaimVerdict} from "../src/interfaces/IClaimVerdict.sol";
import {Claim, ClaimState} from "../src/interfaces/IDeliveryClaims.sol";
import {DeliveryClaimsErrors as Errors, DeliveryClaimsEvents as Events} from "../src/libraries/DeliveryClaimsLib.sol";
import {PanelVerdictErrors, PanelVerdictEvents} from "../src/libraries/PanelVerdictLib.sol";
import {Receipt, ReceiptLib} from "../src/libraries/ReceiptLib.sol";
import {Ticket, TicketLib} from "../src/libraries/TicketLib.sol";
import {DeliveryMarket} from "./utils/DeliveryMarket.sol";

contract DeliveryClaimsTest is DeliveryMarket {
    function state(bytes32 id) internal view returns (ClaimState) {
        return claims.claimOf(id).state;
    }

    function assertState(bytes32 id, ClaimState expected) internal view {
        vm.assertEq(uint256(state(id)), uint256(expected), "state");
    }

    function test_tickets_and_acceptances_hash_as_in_the_vectors() public view {
        string memory json = vm.readFile("../vectors/receipt.json");
        Ticket memory t;
        t.jobId = vm.parseJsonBytes32(json, ".ticket.ticket.job_id");
        t.account = vm.parseJsonAddress(json, ".ticket.ticket.account");
        t.router = vm.parseJsonAddress(json, ".ticket.ticket.router");
        t.provider = vm.parseJsonAddress(json, ".ticket.ticket.provider");
        t.modelRoot = vm.parseJsonBytes32(json, ".ticket.ticket.model_root");
        t.parametersDigest = vm.parseJsonBytes32(json, ".ticket.ticket.parameters_digest");
        t.requestDigest = vm.parseJsonBytes32(json, ".ticket.ticket.request_digest");
        t.workDigest = vm.parseJsonBytes32(json, ".ticket.ticket.work_digest");
        t.inputPrice = uint128(vm.parseJsonUint(json, ".ticket.ticket.input_price"));
        t.outputPrice = uint128(vm.parseJsonUint(json, ".ticket.ticket.output_price"));
        t.inputUnitsMax = uint64(vm.parseJsonUint(json, ".ticket.ticket.input_units_max"));
        t.outputUnitsMax = uint64(vm.parseJsonUint(json, ".ticket.ticket.output_units_max"));
        t.reserve = uint128(vm.parseJsonUint(json, ".ticket.ticket.reserve"));
        t.feeVersion = uint16(vm.parseJsonUint(json, ".ticket.ticket.fee_version"));
        t.tier = uint8(vm.parseJsonUint(json, ".ticket.tier_code"));
        t.attempt = uint32(vm.parseJsonUint(json, ".ticket.ticket.attempt"));
        t.issuedAt = uint64(vm.parseJsonUint(json, ".ticket.ticket.issued_at"));
        t.deadline = uint64(vm.parseJsonUint(json, ".ticket.ticket.deadline"));
        bytes32 there = TicketLib.domain(
            vm.parseJsonUint(json, ".domain.chain_id"), vm.parseJsonAddress(json, ".domain.vault")
        );
        vm.assertEq(there, vm.parseJsonBytes32(json, ".domain.separator"), "domain");
        bytes32 id = TicketLib.digest(there, abi.encode(t));
        vm.assertEq(id, vm.parseJsonBytes32(json, ".ticket.digest"), "ticket");
        uint64 when = uint64(vm.parseJsonUint(json, ".acceptance.acceptance.accepted_at"));
        vm.assertEq(
            TicketLib.acceptance(there, id, when), vm.parseJsonBytes32(json, ".acceptance.digest"), "acceptance"
        );
    }

    // --------------------------------------------------------------------------------------------------------------- claims

    function test_a_claim_takes_the_deposit_and_says_until_when_to_answer() public {
        Ticket memory t = ticket(1);
        pass(121);
        uint256 before = stoa.balanceOf(account);
        vm.expectEmit();
        emit Events.Claimed(idOf(t), provider, seller, account, t.jobId, uint64(block.timestamp) + DAY);
        bytes32 id = claim(account, t);
        Claim memory c = claims.claimOf(id);
        vm.assertEq(c.claimant, account);
        vm.assertEq(c.claimedAt, block.timestamp, "claimed at");
        vm.assertEq(c.provider, provider);
        vm.assertEq(c.router, seller);
        vm.assertEq(c.account, account);
        vm.assertEq(c.job, t.jobId);
        vm.assertEq(c.deadline, t.deadline, "deadline");
        vm.assertEq(before - stoa.balanceOf(account), DEPOSIT, "deposit");
    }

    function test_a_ticket_is_claimed_from_its_deadline_on_for_a_day() public {
        Ticket memory t = ticket(1);
        (bytes memory byRouter, bytes memory byProvider) = (sign(ROUTER_KEY, idOf(t)), accepted(t));
        pass(120);
        vm.startPrank(account);
        vm.expectRevert(abi.encodeWithSelector(Errors.TooEarly.selector, t.deadline / 1000));
        claims.claim(abi.encode(t), byRouter, t.issuedAt, byProvider);
        pass(DAY + 1);
        vm.expectRevert(abi.encodeWithSelector(Errors.TooLate.selector, t.deadline));
        claims.claim(abi.encode(t), byRouter, t.issuedAt, byProvider);
        vm.warp(t.deadline / 1000 + DAY);
        claims.claim(abi.encode(t), byRouter, t.issuedAt, byProvider);
    }

    function test_a_ticket_is_claimed_once_whatever_became_of_it() public {
        (Ticket memory t, bytes32 id) = claimed(account, 1);
        (bytes memory byRouter, bytes memory byProvider) = (sign(ROUTER_KEY, id), accepted(t));
        vm.startPrank(seller);
        vm.expectRevert(abi.encodeWithSelector(Errors.AlreadyClaimed.selector, id));
        claims.claim(abi.encode(t), byRouter, t.issuedAt, byProvider);
        vm.stopPrank();
        answer(t, false);
        vm.startPrank(seller);
        vm.expectRevert(abi.encodeWithSelector(Errors.AlreadyClaimed.selector, id));
        claims.claim(abi.encode(t), byRouter, t.issuedAt, byProvider);
    }

    function test_a_claim_needs_the_routers_word_and_the_providers() public {
        Ticket memory t = ticket(1);
        bytes memory data = abi.encode(t);
        (bytes memory byRouter, bytes memory byProvider) = (sign(ROUTER_KEY, idOf(t)), accepted(t));
        bytes memory otherTime = sign(PROVIDER_KEY, TicketLib.acceptance(domain(), idOf(t), t.issuedAt + 1));
        bytes memory stranger = sign(ACCOUNT_KEY, TicketLib.acceptance(domain(), idOf(t), t.issuedAt));
        pass(121);
        vm.startPrank(account);
        vm.expectRevert(abi.encodeWithSelector(Errors.WrongSigner.selector, seller));
        claims.claim(data, byProvider, t.issuedAt, byProvider);
        vm.expectRevert(abi.encodeWithSelector(Errors.WrongSigner.selector, provider));
        claims.claim(data, byRouter, t.issuedAt, otherTime);
        vm.expectRevert(abi.encodeWithSelector(Errors.WrongSigner.selector, provider));
        claims.claim(data, byRouter, t.issuedAt, stranger);
        vm.expectRevert(abi.encodeWithSelector(Errors.WrongSigner.selector, provider));
        claims.claim(data, byRouter, t.issuedAt, "");
        vm.expectRevert(abi.encodeWithSelector(Errors.BadTicket.selector, data.length + 32));
        claims.claim(bytes.concat(data, bytes32(0)), byRouter, t.issuedAt, byProvider);
        vm.expectRevert(abi.encodeWithSelector(Errors.AcceptedLate.selector, t.deadline + 1, t.deadline));
        claims.claim(data, byRouter, t.deadline + 1, byProvider);
    }

    function test_nobody_is_claimed_in_the_name_of_the_zero_address() public {
        Ticket memory t = ticket(1);
        t.provider = address(0);
        bytes memory byRouter = sign(ROUTER_KEY, idOf(t));
        pass(121);
        vm.prank(account);
        vm.expectRevert(abi.encodeWithSelector(Errors.WrongSigner.selector, address(0)));
        claims.claim(abi.encode(t), byRouter, t.issuedAt, new bytes(65));
    }

    function test_signatures_of_another_chain_or_vault_are_worth_nothing() public {
        Ticket memory t = ticket(1);
        pass(121);
        bytes32[2] memory domains =
            [TicketLib.domain(block.chainid + 1, address(vault)), TicketLib.domain(block.chainid, address(1))];
        for (uint256 i; i < 2; ++i) {
            bytes32 id = TicketLib.digest(domains[i], abi.encode(t));
            bytes memory byProvider = sign(PROVIDER_KEY, TicketLib.acceptance(domains[i], id, t.issuedAt));
            vm.expectRevert(abi.encodeWithSelector(Errors.WrongSigner.selector, seller));
            claims.claim(abi.encode(t), sign(ROUTER_KEY, id), t.issuedAt, byProvider);
        }
    }

    function test_no_claim_without_its_deposit() public {
        Ticket memory t = ticket(1);
        (bytes memory byRouter, bytes memory byProvider) = (sign(ROUTER_KEY, idOf(t)), accepted(t));
        pass(121);
        vm.prank(named("penniless"));
        vm.expectRevert();
        claims.claim(abi.encode(t), byRouter, t.issuedAt, byProvider);
        assertState(idOf(t), ClaimState.None);
    }

    // -------------------------------------------------------------------------------------------------------------- answers

    function test_the_providers_receipt_alone_ends_the_claim_and_nobody_is_slashed() public {
        (Ticket memory t, bytes32 id) = claimed(seller, 1);
        vm.expectEmit();
        emit Events.Answered(id, provider);
        answer(t, false);
        vm.assertEq(stoa.balanceOf(provider), DEPOSIT, "the deposit");
        vm.assertEq(stakeOf(PROVIDER, provider), STAKE, "the provider's stake");
        vm.assertEq(stakeOf(ROUTER, seller), STAKE, "the router's stake");
        vm.assertEq(reputation.standingOf(provider).verified, 0, "no outcome");
        pass(2 * DAY);
        vm.expectRevert(abi.encodeWithSelector(Errors.WrongState.selector, id, ClaimState.Answered));
        claims.punish(id);
        Receipt memory r = receiptFor(t);
        bytes memory own = signed(r);
        vm.expectRevert(abi.encodeWithSelector(Errors.WrongState.selector, id, ClaimState.Answered));
        claims.answer(id, abi.encode(r), own, "");
    }

    function test_a_router_that_claims_what_it_countersigned_pays_the_provider() public {
        (Ticket memory t, bytes32 id) = claimed(seller, 1);
        vm.expectEmit();
        emit Events.Refuted(id, provider, seller, true);
        answer(t, true);
        vm.assertEq(stakeOf(ROUTER, seller), STAKE - STAKE / 20, "500 of 10,000");
        vm.assertEq(stakes.owed(provider), STAKE / 20 * 4 / 10, "the accused is paid");
        vm.assertEq(stoa.balanceOf(provider), DEPOSIT, "and has the deposit");
        vm.expectRevert(abi.encodeWithSelector(Errors.WrongState.selector, id, ClaimState.Refuted));
        this.answerAgain(t);
    }

    function answerAgain(Ticket memory t) external {
        answer(t, true);
    }

    function test_claims_that_a_router_made_before_it_was_convicted_are_no_repeats() public {
        (Ticket memory a,) = claimed(seller, 1);
        (Ticket memory b,) = claimed(seller, 2);
        answer(a, true);
        answer(b, true);
        uint128 left = STAKE - STAKE / 20;
        vm.assertEq(stakeOf(ROUTER, seller), left - left / 20, "500 twice");
        (Ticket memory c,) = claimed(seller, 3);
        answer(c, true);
        left -= left / 20;
        vm.assertEq(stakeOf(ROUTER, seller), left - left * 15 / 100, "then 1,500");
    }

    function test_a_developer_that_claims_loses_its_deposit_and_the_router_nothing() public {
        (Ticket memory t,) = claimed(account, 1);
        answer(t, true);
        vm.assertEq(stakeOf(ROUTER, seller), STAKE, "the router's stake");
        vm.assertEq(stoa.balanceOf(provider), DEPOSIT, "the deposit");
    }

    function test_who_answers_with_less_saves_no_router_that_lied() public {
        (Ticket memory t, bytes32 id) = claimed(seller, 1);
        answer(t, false);
        answer(t, true);
        assertState(id, ClaimState.Refuted);
        vm.assertEq(stakeOf(ROUTER, seller), STAKE - STAKE / 20, "500 of 10,000");
        vm.assertEq(stoa.balanceOf(provider), DEPOSIT, "one deposit");
        vm.assertEq(stoa.balanceOf(address(claims)), 0, "none left");
    }

    function test_a_router_that_lied_pays_also_after_the_provider_was_away_too_long() public {
        (Ticket memory t, bytes32 id) = claimed(seller, 1);
        pass(DAY);
        claims.punish(id);
        answer(t, true);
        vm.assertEq(stakeOf(ROUTER, seller), STAKE - STAKE / 20, "500 of 10,000");
        vm.assertEq(stakes.owed(provider), STAKE / 20 * 4 / 10, "the accused is paid");
        vm.assertEq(stoa.balanceOf(provider), 0, "the deposit had gone back");
    }

    function test_only_a_receipt_of_this_ticket_answers() public {
        (Ticket memory t, bytes32 id) = claimed(account, 1);
        Receipt memory r = receiptFor(t);
        r.ticketHash = idOf(ticket(2));
        refuse(id, r, PROVIDER_KEY, abi.encodeWithSelector(Errors.ForeignReceipt.selector));
        r = receiptFor(t);
        r.chainId += 1;
        refuse(id, r, PROVIDER_KEY, abi.encodeWithSelector(Errors.ForeignReceipt.selector));
        r = receiptFor(t);
        r.vault = address(1);
        refuse(id, r, PROVIDER_KEY, abi.encodeWithSelector(Errors.ForeignReceipt.selector));
        r = receiptFor(t);
        r.jobId = 0;
        refuse(id, r, PROVIDER_KEY, abi.encodeWithSelector(Errors.ForeignReceipt.selector));
        r = receiptFor(t);
        r.account = seller;
        refuse(id, r, PROVIDER_KEY, abi.encodeWithSelector(Errors.ForeignReceipt.selector));
        r = receiptFor(t);
        r.router = account;
        refuse(id, r, PROVIDER_KEY, abi.encodeWithSelector(Errors.ForeignReceipt.selector));
        r = receiptFor(t);
        r.provider = account;
        refuse(id, r, ACCOUNT_KEY, abi.encodeWithSelector(Errors.ForeignReceipt.selector));
        r = receiptFor(t);
        refuse(id, r, ACCOUNT_KEY, abi.encodeWithSelector(Errors.WrongSigner.selector, provider));
        assertState(id, ClaimState.Open);
    }

    function refuse(bytes32 id, Receipt memory r, uint256 key, bytes memory why) internal {
        bytes memory by = signedBy(key, r);
        vm.expectRevert(why);
        claims.answer(id, abi.encode(r), by, "");
    }

    function test_a_routers_signature_that_is_not_its_own_is_no_answer() public {
        (Ticket memory t, bytes32 id) = claimed(seller, 1);
        Receipt memory r = receiptFor(t);
        (bytes memory own, bytes memory other) = (signed(r), signedBy(ACCOUNT_KEY, r));
        vm.expectRevert(abi.encodeWithSelector(Errors.WrongSigner.selector, seller));
        claims.answer(id, abi.encode(r), own, other);
        vm.expectRevert(abi.encodeWithSelector(Errors.BadReceipt.selector, 0));
        claims.answer(id, "", own, "");
    }

    function test_nothing_is_answered_that_nobody_claimed() public {
        bytes32 id = idOf(ticket(1));
        vm.expectRevert(abi.encodeWithSelector(Errors.WrongState.selector, id, ClaimState.None));
        claims.answer(id, "", "", "");
        vm.expectRevert(abi.encodeWithSelector(Errors.WrongState.selector, id, ClaimState.None));
        claims.punish(id);
    }

    // -------------------------------------------------------------------------------------------------------------- silence

    function test_a_day_of_silence_costs_a_hundredth_and_the_deposit_goes_back() public {
        (Ticket memory t, bytes32 id) = claimed(account, 1);
        uint256 before = stoa.balanceOf(account);
        pass(DAY - 1);
        vm.expectRevert(abi.encodeWithSelector(Errors.TooEarly.selector, block.timestamp + 1));
        claims.punish(id);
        pass(1);
        vm.expectEmit();
        emit Events.Punished(id, provider, true);
        claims.punish(id);
        uint128 sigma = STAKE / 100;
        vm.assertEq(stakeOf(PROVIDER, provider), STAKE - sigma, "100 of 10,000");
        vm.assertEq(stakes.owed(account), sigma * 4 / 10 / 2, "half of the developers' share");
        vm.assertEq(stoa.balanceOf(account), before + DEPOSIT, "the deposit is back");
        vm.assertEq(stoa.totalSupply(), stoa.SUPPLY() - (sigma - sigma * 2 / 10), "the rest burned");
        vm.assertEq(reputation.standingOf(provider).reputation, 500_000 - 500_000 / 8, "reputation");
        vm.expectRevert(abi.encodeWithSelector(Errors.WrongState.selector, id, ClaimState.Punished));
        claims.punish(id);
        Receipt memory r = receiptFor(t);
        bytes memory own = signed(r);
        vm.expectRevert(abi.encodeWithSelector(Errors.WrongState.selector, id, ClaimState.Punished));
        claims.answer(id, abi.encode(r), own, "");
    }

    function test_an_answer_counts_as_long_as_nobody_punished() public {
        (Ticket memory t, bytes32 id) = claimed(account, 1);
        pass(3 * DAY);
        answer(t, false);
        assertState(id, ClaimState.Answered);
    }

    function test_deadlines_less_than_a_day_apart_are_one_fault_also_over_midnight() public {
        vm.warp(block.timestamp / DAY * DAY + DAY - 200);
        (, bytes32 a) = claimed(account, 1);
        pass(100);
        (, bytes32 b) = claimed(account, 2);
        vm.assertTrue(claims.claimOf(a).deadline / 86_400_000 != claims.claimOf(b).deadline / 86_400_000, "midnight");
        pass(DAY);
        claims.punish(b);
        uint256 before = stoa.balanceOf(account);
        vm.expectEmit();
        emit Events.Punished(a, provider, false);
        claims.punish(a);
        vm.assertEq(stoa.balanceOf(account), before + DEPOSIT, "the deposit is back");
        vm.assertEq(stakeOf(PROVIDER, provider), STAKE - STAKE / 100, "once");
        vm.assertEq(reputation.standingOf(provider).verified, 1, "one outcome");
    }

    function test_a_later_fault_is_a_repeat_and_one_from_before_the_conviction_is_not() public {
        (, bytes32 a) = claimed(account, 1);
        pass(DAY - 200);
        (, bytes32 b) = claimed(account, 2);
        pass(200);
        claims.punish(a);
        (, bytes32 c) = claimed(account, 3);
        pass(DAY);
        (, bytes32 d) = claimed(account, 4);
        pass(DAY);
        claims.punish(b);
        vm.assertEq(stakeOf(PROVIDER, provider), STAKE - STAKE / 100, "b is less than a day from a");
        claims.punish(c);
        uint128 left = STAKE - STAKE / 100;
        vm.assertEq(stakeOf(PROVIDER, provider), left - left / 20, "c: 500");
        claims.punish(d);
        left -= left / 20;
        // d fell due before c was punished: the same stretch of silence, no third step.
        vm.assertEq(stakeOf(PROVIDER, provider), left - left / 20, "d: 500 again");
    }

    function test_stake_that_leaves_is_within_reach() public {
        (, bytes32 id) = claimed(account, 1);
        vm.prank(provider);
        stakes.requestUnbond(PROVIDER, STAKE);
        pass(DAY);
        claims.punish(id);
        vm.assertEq(stakeOf(PROVIDER, provider), STAKE - STAKE / 100, "100 of 10,000");
    }

    function test_a_provider_without_stake_can_be_punished_and_the_deposit_is_free() public {
        vm.prank(provider);
        stakes.requestUnbond(PROVIDER, STAKE);
        pass(UNBONDING);
        vm.prank(provider);
        stakes.withdraw(PROVIDER);
        (, bytes32 id) = claimed(account, 1);
        pass(DAY);
        claims.punish(id);
        vm.assertEq(stoa.balanceOf(address(claims)), 0, "no deposit left");
    }

    function test_a_deposit_comes_back_where_the_verdict_may_not_slash_any_more() public {
        (, bytes32 id) = claimed(account, 1);
        vm.prank(admin);
        stakes.setSlasher(named("another verdict"));
        pass(DAY);
        vm.expectRevert();
        claims.punish(id);
        vm.prank(account);
        vm.expectRevert(abi.encodeWithSelector(Errors.TooEarly.selector, block.timestamp + 7 days));
        claims.takeBack(id);
        pass(7 days);
        vm.prank(seller);
        vm.expectRevert(abi.encodeWithSelector(Errors.NotAllowed.selector, seller));
        claims.takeBack(id);
        uint256 before = stoa.balanceOf(account);
        vm.expectEmit();
        emit Events.TakenBack(id, account);
        vm.prank(account);
        claims.takeBack(id);
        vm.assertEq(stoa.balanceOf(account), before + DEPOSIT, "the deposit is back");
        vm.prank(account);
        vm.expectRevert(abi.encodeWithSelector(Errors.WrongState.selector, id, ClaimState.TakenBack));
        claims.takeBack(id);
    }

    // ---------------------------------------------------------------------------------------------------------- appointment

    function test_the_verdict_believes_the_contract_of_claims_alone() public {
        vm.expectRevert(abi.encodeWithSelector(PanelVerdictErrors.NotAllowed.selector, address(this)));
        court.convictNonDelivery(provider, bytes32(0), 1, account);
        vm.expectRevert(abi.encodeWithSelector(PanelVerdictErrors.NotAllowed.selector, address(this)));
        court.convictFalseClaim(seller, bytes32(0), 1, provider);
        PanelVerdict none = new PanelVerdict(rounds, stakes, vault, reputation, ANSWER, address(0));
        vm.expectRevert(abi.encodeWithSelector(PanelVerdictErrors.NotAllowed.selector, address(this)));
        none.convictNonDelivery(provider, bytes32(0), 1, account);
    }

    function test_a_conviction_is_told_with_its_kind() public {
        (, bytes32 id) = claimed(account, 1);
        pass(DAY);
        vm.expectEmit();
        emit PanelVerdictEvents.Convicted(keccak256(abi.encode(uint8(21), provider, id)), provider, 21, 100);
        claims.punish(id);
        (uint32 count, uint64 last) = court.repeatsOf(provider, 21);
        vm.assertEq(count, 1, "count");
        vm.assertEq(last, block.timestamp, "last");
    }

    function test_a_contract_of_claims_is_built_with_a_verdict_that_names_it() public {
        vm.expectRevert(abi.encodeWithSelector(Errors.NotAppointed.selector, address(court), address(claims)));
        new DeliveryClaims(stoa, stakes, court, address(vault), DAY, DAY, DEPOSIT);
        vm.expectRevert(abi.encodeWithSelector(Errors.ZeroParameter.selector));
        new DeliveryClaims(stoa, stakes, court, address(0), DAY, DAY, DEPOSIT);
        vm.expectRevert(abi.encodeWithSelector(Errors.ZeroParameter.selector));
        new DeliveryClaims(stoa, stakes, court, address(vault), DAY, DAY, 0);
        IClaimVerdict anyone = new Believer();
        vm.expectRevert(abi.encodeWithSelector(Errors.UnbondingTooShort.selector, 7 days, 7 days));
        new DeliveryClaims(stoa, stakes, anyone, address(vault), 6 days, 1 days, DEPOSIT);
    }
}

/// @notice Names whoever asks.
contract Believer is IClaimVerdict {
    function convictNonDelivery(address, bytes32, uint64, address) external {}
    function convictFalseClaim(address, bytes32, uint64, address) external {}

    function CLAIMS() external view returns (address) {
        return msg.sender;
    }
}
