"""The map of the shards: who is away, what one failure takes, and who is seen in one network without saying so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from keeper_network import AWAY_BLOCKS, SHARDS, Keepers, running
from trio.testing import MockClock

from deepshard.ledger.transactions import OfferStorage
from deepshard.node.presenting import shard_map_json
from deepshard.primitives import UNITS_PER_TOKEN, format_address
from deepshard.services.placing import Placements
from deepshard.services.shard_map import ShardMap, ShardMapper
from deepshard.services.shards_disk import DiskThreads

STAKE = 1000 * UNITS_PER_TOKEN


async def draw(keepers: Keepers, number: int = 0) -> ShardMap:
    node = keepers.nodes[number]
    mapper = ShardMapper(
        view=node.view,
        registry=node.registry,
        placements=Placements(DiskThreads(0)),
        attendance=node.attendance,
        network=node.port,
        address=node.address,
    )
    return await mapper.draw()


async def test_the_map_shows_what_placement_gives(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running(tmp_path) as keepers:
        await keepers.blocks(1)
        drawn = await draw(keepers)
        assert [shard.holders for shard in drawn.shards] == keepers.placed()
        assert {(each.copies, each.domains, each.failures_to_lose, each.safety) for each in drawn.shards} == {
            (3, 3, 3, "safe")
        }
        assert drawn.shards[5].name == "w[5:6]"
        assert sum(each.shards for each in drawn.holders) == 3 * SHARDS
        assert all(each.present and each.chunk_bytes == 4096 * each.shards for each in drawn.holders)
        shown = shard_map_json(drawn)
        assert shown["shards"][0]["holders"] == [format_address(each) for each in keepers.placed()[0]]
        assert shown["holders"][0]["address"] == format_address(drawn.holders[0].address)
        assert shown["unsaid"] == []


async def test_one_operators_copies_fail_together(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running(tmp_path, 4) as keepers:
        offers = [keepers.sign(node, OfferStorage(STAKE, "x", ""))[0] for node in keepers.nodes[:3]]
        await keepers.blocks(1, *offers)
        drawn = await draw(keepers)
        assert {(each.copies, each.failures_to_lose, each.safety) for each in drawn.shards} == {(3, 2, "safe")}
        silent = keepers.nodes[3]
        keepers.silent.add(silent.address)
        keepers.network.vanish(silent.port.name)
        await keepers.blocks(AWAY_BLOCKS + 1)
        drawn = await draw(keepers)
        assert {(each.copies, each.domains, each.failures_to_lose) for each in drawn.shards} == {(2, 2, 1)}
        assert {each.safety for each in drawn.shards} == {"endangered"}
        assert [each.address for each in drawn.holders if not each.present] == [silent.address]
        holder = next(each for each in drawn.holders if each.address == keepers.nodes[0].address)
        assert (holder.operator, holder.capacity, holder.weight) == ("x", STAKE, STAKE)


async def test_copies_that_are_away_make_a_shard_thin_or_lost(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running(tmp_path, 4) as keepers:
        await keepers.blocks(1)
        for node in keepers.nodes[1:]:
            keepers.network.vanish(node.port.name)
        keepers.silent.add(keepers.nodes[3].address)
        await keepers.blocks(AWAY_BLOCKS + 2)
        drawn = await draw(keepers)
        gone = keepers.nodes[3].address
        assert [each.safety for each in drawn.shards] == [
            "thin" if gone in held_by else "safe" for held_by in keepers.placed()
        ]
        keepers.silent.update(node.address for node in keepers.nodes[1:])
        keepers.silent.discard(keepers.nodes[0].address)
        await keepers.blocks(AWAY_BLOCKS + 2)
        drawn = await draw(keepers)
        me = keepers.nodes[0].address
        assert [each.safety for each in drawn.shards] == [
            "endangered" if me in held_by else "lost" for held_by in keepers.placed()
        ]


async def test_holders_seen_in_one_network_are_named_unless_they_say_so(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as keepers:
        hosts = ["10.0.0.1", "8.8.8.1", "8.8.8.2", "8.8.9.1", "[2a01:4f8::1]", "[2a01:4f8::2]", "8.8.9.7"]
        for node, host in zip(keepers.nodes, hosts, strict=True):
            node.port.info = replace(node.port.info, remote=f"{host}:9000")
        offers = [
            keepers.sign(keepers.nodes[number], OfferStorage(STAKE, operator, network))[0]
            for number, operator, network in ((1, "a", ""), (2, "b", ""), (3, "c", "n"), (6, "d", "n"))
        ]
        await keepers.blocks(1, *offers)
        drawn = await draw(keepers)
        by_address = {node.address: number for number, node in enumerate(keepers.nodes)}
        unsaid = {network: {by_address[each] for each in members} for network, members in drawn.unsaid}
        assert unsaid == {"8.8.8.0/24": {1, 2}, "2a01:4f8::/64": {4, 5}}
        seen = {by_address[each.address]: each.seen_network for each in drawn.holders}
        assert seen[0] is None
        assert seen[6] == "8.8.9.0/24"
