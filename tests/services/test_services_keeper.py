"""Keepers: what falls to them, what they do when others leave or stay away, and what they let go of, and when."""

from __future__ import annotations

from pathlib import Path

import pytest
from keeper_network import AWAY_BLOCKS, GRACE_BLOCKS, SHARD_BYTES, SHARDS, Keepers, Node, model, running
from trio.testing import MockClock

from deepshard.ledger.transactions import OfferStorage, Unbond
from deepshard.limits import VERSIONS_KEPT
from deepshard.primitives import UNITS_PER_TOKEN
from deepshard.services.attendance import Attendance
from deepshard.testing.memory_network import MemoryNetwork

ALL = set(range(SHARDS))
STAKE = 1000 * UNITS_PER_TOKEN


def copies(nodes: list[Node], shard: int, version: int = 0) -> int:
    return sum(shard in node.held(version) for node in nodes)


@pytest.mark.clause("8.10/5")
async def test_a_validator_that_unbonds_is_replaced_and_serves_meanwhile(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as keepers:
        leaver, *others = keepers.nodes
        await keepers.blocks(1)
        lost = leaver.held()
        assert lost == keepers.assigned(leaver)
        await keepers.blocks(1, *keepers.sign(leaver, Unbond(STAKE)))
        assert all(node.held() == keepers.assigned(node) for node in keepers.nodes)  # the epoch isn't over
        await keepers.until(lambda: len(keepers.state.active().validators) == len(others))
        await keepers.until(lambda: all(node.held() >= keepers.assigned(node) for node in others), blocks=2)
        moved = sum(node.fetched_bytes for node in others)
        assert moved == len(lost) * SHARD_BYTES
        assert leaver.held() == lost
        asker = others[0]
        chunk = model(0)[0].shards[min(lost - asker.held())].chunk
        await asker.exchange.fetch({chunk: None}, from_peers=lambda peer: peer.address == leaver.address)
        assert asker.store.has(chunk)
        asker.store.delete(chunk)
        await keepers.until(lambda: not leaver.held(), blocks=GRACE_BLOCKS + 2)
        assert all(node.held() == keepers.assigned(node) for node in others)
        assert all(copies(others, shard) == 3 for shard in ALL)


@pytest.mark.clause("8.10/6", "8.10/5")
async def test_a_validator_that_stays_away_is_covered_for_until_it_is_back(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as keepers:
        absent, *others = keepers.nodes
        await keepers.blocks(2)
        lost = absent.held()
        keepers.silent.add(absent.address)
        keepers.network.vanish(absent.port.name)
        await keepers.blocks(AWAY_BLOCKS - 1)
        assert all(node.held() == keepers.assigned(node) for node in others)
        assert min(copies(others, shard) for shard in ALL) == 2
        await keepers.blocks(3)
        assert all(copies(others, shard) == 3 for shard in ALL)
        assert sum(node.fetched_bytes for node in others) == len(lost) * SHARD_BYTES
        assert sum(node.keeper.holding.covering for node in others) == len(lost)
        assert [node.keeper.holding.assigned for node in others] == [len(keepers.assigned(node)) for node in others]
        assert all(node.held() == keepers.assigned(node, without=[absent]) for node in others)
        keepers.silent.clear()
        keepers.network.connect(*(node.port.name for node in keepers.nodes))
        await keepers.blocks(1)
        assert all(copies(others, shard) == 3 for shard in ALL)  # kept for a while
        await keepers.blocks(GRACE_BLOCKS + 1)
        assert all(node.held() == keepers.assigned(node) for node in keepers.nodes)
        assert sum(node.keeper.holding.covering for node in others) == 0


async def test_who_is_silent_but_connected_is_not_away(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running(tmp_path) as keepers:
        await keepers.blocks(2)
        keepers.silent.add(keepers.nodes[0].address)
        await keepers.blocks(AWAY_BLOCKS + 3)
        assert sum(node.fetched_bytes for node in keepers.nodes) == 0


@pytest.mark.clause("8.10/4", "8.10/3")
async def test_holders_move_apart_when_operators_say_that_they_share(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running(tmp_path) as keepers:
        together = keepers.nodes[:3]
        before = keepers.placed()
        crowded = {n for n, held in enumerate(before) if sum(node.address in held for node in together) > 1}
        assert crowded
        offers = [keepers.sign(node, OfferStorage(STAKE, "one operator", ""))[0] for node in together]
        await keepers.blocks(1, *offers)
        await keepers.blocks(GRACE_BLOCKS + 2)
        for number in ALL:
            assert sum(number in node.held() for node in together) <= 1
            assert copies(keepers.nodes, number) == 3
        moved = sum(node.fetched_bytes for node in keepers.nodes)
        assert moved == SHARD_BYTES * sum(
            len(set(now) - set(old)) for old, now in zip(before, keepers.placed(), strict=True)
        )


@pytest.mark.clause("8.10/5")
async def test_versions_are_kept_for_a_while_and_then_collected(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running(tmp_path, 4) as keepers:
        *scorers, late = keepers.nodes
        for version in range(1, VERSIONS_KEPT + 3):
            keepers.accept(version, scorers)
            await keepers.until(lambda: late.keeper.holding.version == keepers.state.chain().version)
            await keepers.until(lambda: late.held(late.keeper.holding.version) == keepers.assigned(late))
            # What falls to others goes at once, and what was kept before stays.
            assert all(node.held(version) == keepers.assigned(node) for node in keepers.nodes)
        newest = VERSIONS_KEPT + 2
        assert late.fetched_bytes >= newest * len(keepers.assigned(late)) * SHARD_BYTES
        await keepers.blocks(GRACE_BLOCKS + 1)
        for node in keepers.nodes:
            for version in range(newest + 1):
                kept = keepers.assigned(node) if version >= newest - VERSIONS_KEPT else set()
                assert node.held(version) == kept


async def test_a_validator_that_lost_its_disk_gets_all_of_it_again(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running(tmp_path, look_again_blocks=5) as keepers:
        unlucky = keepers.nodes[0]
        await keepers.blocks(2)
        for digest in unlucky.store.digests():
            unlucky.store.delete(digest)
        await keepers.until(lambda: unlucky.held() == keepers.assigned(unlucky), blocks=8)


async def test_a_shard_that_nobody_has_does_not_keep_the_others_from_being_mended(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as keepers:
        await keepers.blocks(1)
        gone, bystanders = _holders_of(keepers, 0)
        lost = set.intersection(*(node.held() for node in gone))
        for node in gone:
            keepers.silent.add(node.address)
            keepers.network.vanish(node.port.name)
        await keepers.blocks(AWAY_BLOCKS + 3)
        assert all(copies(bystanders, shard) == 3 for shard in ALL - lost)
        assert all(copies(bystanders, shard) == 0 for shard in lost)
        assert 0 in lost


def _holders_of(keepers: Keepers, shard: int) -> tuple[list[Node], list[Node]]:
    holding = keepers.placed()[shard]
    return (
        [node for node in keepers.nodes if node.address in holding],
        [node for node in keepers.nodes if node.address not in holding],
    )


def test_attendance_gives_everybody_a_whole_window() -> None:
    one, two, new = (bytes([number]) * 20 for number in range(3))
    signed = {height: [one, two] if height < 6 else [one] for height in range(1, 40)}
    attendance = Attendance(lambda height: signed.get(height, []), window_blocks=10)
    assert attendance.away(5, [one, two], [one]) == set()
    assert attendance.away(14, [one, two, new], []) == set()
    assert attendance.away(15, [one, two, new], []) == {two}
    assert attendance.away(15, [one, two, new], [two]) == set()
    assert attendance.away(24, [one, two, new], []) == {two, new}
    # A node that starts knows nothing of the past but what its blocks show.
    started = Attendance(lambda height: signed.get(height, []), window_blocks=10)
    assert started.away(30, [one, two], []) == set()
    assert started.away(39, [one, two], []) == set()
    assert started.away(40, [one, two], []) == {two}


def test_a_port_may_have_a_key_of_its_own() -> None:
    port = MemoryNetwork().join("somebody", public_key=bytes(32))
    assert port.info.public_key == bytes(32)
