// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Offer} from "../src/interfaces/IProviderRegistry.sol";
import {ProviderRegistryErrors as Errors, ProviderRegistryEvents as Events} from "../src/libraries/ProviderRegistryLib.sol";
import {Market} from "./utils/Market.sol";

contract ProviderRegistryTest is Market {
    address internal provider = named("provider");
    bytes32 internal endpoint = keccak256("endpoint");
    bytes internal proof = new bytes(64);

    function offers(uint256 count) internal pure returns (Offer[] memory list) {
        list = new Offer[](count);
        for (uint256 i; i < count; ++i) {
            list[i] = Offer(keccak256("model"), 100_000, 400_000, 50, 2, "model");
        }
    }

    function test_registration_keeps_endpoint_region_and_payee() public {
        vm.expectEmit();
        emit Events.ProviderRegistered(provider, endpoint, proof, "XB", named("payee"));
        vm.prank(provider);
        registry.register(endpoint, proof, "XB", named("payee"));
        (address payee, bytes2 region, bool leaving, bytes32 id) = registry.provider(provider);
        vm.assertEq(payee, named("payee"));
        vm.assertEq(bytes32(region), bytes32(bytes2("XB")));
        vm.assertEq(leaving, false);
        vm.assertEq(id, endpoint);
        vm.assertEq(registry.payeeOf(provider), named("payee"));
    }

    function test_registration_with_a_false_field_is_refused() public {
        vm.startPrank(provider);
        vm.expectRevert(abi.encodeWithSelector(Errors.ZeroEndpoint.selector));
        registry.register(bytes32(0), proof, "XB", provider);
        vm.expectRevert(abi.encodeWithSelector(Errors.BadProofLength.selector, 63));
        registry.register(endpoint, new bytes(63), "XB", provider);
        vm.expectRevert(abi.encodeWithSelector(Errors.ZeroPayee.selector));
        registry.register(endpoint, proof, "XB", address(0));
        vm.expectRevert(abi.encodeWithSelector(Errors.BadRegion.selector, bytes2("X1")));
        registry.register(endpoint, proof, "X1", provider);
        vm.expectRevert(abi.encodeWithSelector(Errors.BadRegion.selector, bytes2("xB")));
        registry.register(endpoint, proof, "xB", provider);
        vm.assertEq(registry.payeeOf(provider), address(0));
    }

    function test_loadout_sets_the_claimed_throughput_and_replaces_the_one_before() public {
        register(provider, provider);
        vm.startPrank(provider);
        Offer[] memory list = offers(2);
        list[1].tps = 10;
        vm.expectEmit();
        emit Events.LoadoutSet(provider, list);
        registry.setLoadout(list);
        vm.assertEq(registry.throughputValue(provider), 60 * 400_000);
        registry.setLoadout(offers(1));
        vm.assertEq(registry.throughputValue(provider), 50 * 400_000);
        registry.setLoadout(offers(0));
        vm.assertEq(registry.throughputValue(provider), 0);
    }

    function test_loadout_out_of_bounds_is_refused() public {
        vm.startPrank(provider);
        vm.expectRevert(abi.encodeWithSelector(Errors.NotRegistered.selector, provider));
        registry.setLoadout(offers(1));
        registry.register(endpoint, proof, "XA", provider);
        vm.expectRevert(abi.encodeWithSelector(Errors.TooManyOffers.selector, 65, 64));
        registry.setLoadout(offers(65));
        Offer[] memory list = offers(2);
        list[1].tier = 5;
        vm.expectRevert(abi.encodeWithSelector(Errors.UnknownTier.selector, 1, 5));
        registry.setLoadout(list);
        list = offers(1);
        list[0].name = string(new bytes(129));
        vm.expectRevert(abi.encodeWithSelector(Errors.TextTooLong.selector, 129, 128));
        registry.setLoadout(list);
    }

    function test_leaving_provider_offers_nothing_new_until_it_registers_again() public {
        vm.startPrank(provider);
        vm.expectRevert(abi.encodeWithSelector(Errors.NotRegistered.selector, provider));
        registry.announceLeave();
        registry.register(endpoint, proof, "XA", provider);
        vm.expectEmit();
        emit Events.ProviderLeaving(provider);
        registry.announceLeave();
        vm.assertEq(registry.isLeaving(provider), true);
        vm.expectRevert(abi.encodeWithSelector(Errors.Leaving.selector, provider));
        registry.setLoadout(offers(1));
        registry.register(endpoint, proof, "XA", provider);
        vm.assertEq(registry.isLeaving(provider), false);
        registry.setLoadout(offers(1));
    }

    function test_router_publishes_where_it_is_reached() public {
        vm.startPrank(provider);
        vm.expectEmit();
        emit Events.RouterRegistered(provider, endpoint, proof, "10.0.0.1:9000");
        registry.registerRouter(endpoint, proof, "10.0.0.1:9000");
        (bytes32 id, string memory addresses) = registry.router(provider);
        vm.assertEq(id, endpoint);
        vm.assertEq(addresses, "10.0.0.1:9000");
        vm.expectRevert(abi.encodeWithSelector(Errors.BadProofLength.selector, 65));
        registry.registerRouter(endpoint, new bytes(65), "");
        vm.expectRevert(abi.encodeWithSelector(Errors.TextTooLong.selector, 1025, 1024));
        registry.registerRouter(endpoint, proof, string(new bytes(1025)));
    }

    function test_endpoint_message_binds_chain_registry_and_account() public {
        bytes32 message = registry.endpointMessage(provider);
        vm.assertEq(
            message,
            keccak256(abi.encode(keccak256("stoa.endpoint.v1"), block.chainid, address(registry), provider))
        );
        vm.assertTrue(message != registry.endpointMessage(named("other")), "another account, another message");
        vm.chainId(5);
        vm.assertTrue(message != registry.endpointMessage(provider), "another chain, another message");
    }
}
