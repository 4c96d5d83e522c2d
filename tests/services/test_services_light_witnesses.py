"""A light client among whole nodes of which one lies about a header, or is slow: over the in-memory network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing
from msgspec.structs import replace
from test_services_chain import BOB, GENESIS, VALIDATORS, cluster, folder  # noqa: F401  # folder is a fixture

from deepshard.ballots import VOTE_TAG, VoteKind, vote_sign_bytes
from deepshard.consensus.light import LightBlock, decode_light_block
from deepshard.consensus.light_attack import evidence_of
from deepshard.consensus.types import CommitCertificate, CommitSignature
from deepshard.disk.evidence import EvidenceFolder
from deepshard.encoding import encode
from deepshard.primitives import content_digest
from deepshard.services.light import LightAttackDetected, LightClient
from deepshard.testing.chain_cluster import ChainCluster, FullNode, LightNode
from deepshard.testing.virtual_time import pass_time
from deepshard.wire.messages import Headers, Message

Lie = Callable[[LightBlock], LightBlock]
AT = 6
"""Headers of this height and above are lied about."""


def forged(block: LightBlock) -> LightBlock:
    """Another state root under the true certificate."""
    return replace(block, header=replace(block.header, state_root=content_digest(b"forged")))


def bought(block: LightBlock) -> LightBlock:
    """Another state root, signed by three of the four validators."""
    header = replace(block.header, state_root=content_digest(b"bought"))
    block_id = header.block_id()
    message = vote_sign_bytes(GENESIS.chain_id, VoteKind.PRECOMMIT, header.height, 0, block_id)
    keys = sorted(VALIDATORS, key=lambda key: key.address)[:3]
    signatures = tuple(CommitSignature(key.address, key.sign(VOTE_TAG, message)) for key in keys)
    return LightBlock(header, CommitCertificate(header.height, 0, block_id, signatures), block.validators)


def tell_lies(cluster_: ChainCluster, liar: Callable[[], str], lie: Lie | None) -> None:
    """One node shows other headers, or loses them where `lie` is None."""

    def tamper(sender: str, receiver: str, message: Message, attachment: bytes) -> tuple[Message, bytes] | None:
        if not isinstance(message, Headers) or sender != liar():
            return message, attachment
        if lie is None:
            return None
        shown = []
        for parts in message.headers:
            block = decode_light_block(*parts)
            block = lie(block) if block.header.height >= AT else block
            shown.append((encode(block.header), encode(block.certificate), encode(block.validators)))
        return replace(message, headers=tuple(shown)), attachment

    cluster_.network.tamper = tamper


async def followed(running: ChainCluster, nodes: list[FullNode], height: int) -> LightNode:
    """A light client that has come to this height with three peers."""
    light = running.light("light", BOB)
    for node in nodes[:3]:
        running.connect(light, node)
    with trio.fail_after(60):
        while light.client.height < height:
            await light.client.changed()
    return light


def name_of(running: ChainCluster, key: bytes | None) -> str:
    assert key is not None
    return running.network.name_of(key)


@pytest.mark.clause("10.5/12")
@pytest.mark.parametrize("place", ["primary", "witness"])
async def test_a_forged_header_costs_its_sender_and_stops_nobody(
    folder: Path,
    autojump_clock: trio.testing.MockClock,
    place: str,
) -> None:
    async with cluster(folder) as (running, nodes):
        light = await followed(running, nodes, 2)
        key = light.client.primary if place == "primary" else light.client.witnesses[0]
        liar = name_of(running, key)
        tell_lies(running, lambda: liar, forged)
        with trio.fail_after(120):
            while light.client.height < AT + 6:
                await light.client.changed()
        assert {name for name, _ in light.port.penalties} == {liar}
        assert light.client.attack is None
        assert not light.client.unwitnessed
        stored = nodes[3].store.block(light.client.height)
        assert stored is not None


@pytest.mark.clause("10.5/11")
@pytest.mark.parametrize("place", ["primary", "witness"])
async def test_a_second_history_ends_trust_for_good(
    folder: Path,
    autojump_clock: trio.testing.MockClock,
    place: str,
) -> None:
    async with cluster(folder) as (running, nodes):
        light = await followed(running, nodes, 2)
        key = light.client.primary if place == "primary" else light.client.witnesses[0]
        liar = name_of(running, key)
        tell_lies(running, lambda: liar, bought)
        with trio.fail_after(120):
            while light.client.attack is None:
                await light.client.changed()
        attack = light.client.attack
        assert attack.first.header.height == attack.second.header.height >= AT
        assert light.client.height == attack.common_height < AT
        roots = {attack.first.header.state_root, attack.second.header.state_root}
        assert content_digest(b"bought") in roots
        assert len(roots) == 2
        await pass_time(20)
        assert light.client.height == attack.common_height
        with pytest.raises(LightAttackDetected, match=r"--trust HEIGHT:ID"):
            await light.client.account(BOB.address)
        kept = light.client._journal
        evidence = EvidenceFolder(folder / "kept again")
        again = LightClient(genesis=GENESIS, network=light.port, journal=kept, now_ms=running.now_ms, evidence=evidence)
        assert [path.read_bytes() for path in evidence.folder.iterdir()] == [encode(evidence_of(attack))]
        with pytest.raises(LightAttackDetected):
            again.check()
        named = (3, bytes(32))
        LightClient(genesis=GENESIS, network=light.port, journal=kept, now_ms=running.now_ms, trust=named).check()


@pytest.mark.clause("10.5/10")
async def test_a_witness_that_does_not_answer_is_replaced(
    folder: Path,
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with cluster(folder) as (running, nodes):
        light = await followed(running, nodes, 2)
        silent = name_of(running, light.client.witnesses[0])
        tell_lies(running, lambda: silent, None)
        before, since = light.client.height, trio.current_time()
        with trio.fail_after(60):
            while light.client.height < before + 10:
                await light.client.changed()
        assert trio.current_time() - since < 15
        assert silent not in {name_of(running, key) for key in light.client.witnesses}
        assert light.port.penalties == []
        assert not light.client.unwitnessed


async def test_an_old_header_is_certified_by_the_newest(
    folder: Path,
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with cluster(folder) as (running, nodes):
        await running.reach(8, nodes)
        light = await followed(running, nodes, 8)
        header = await light.client.header(3)
        stored = nodes[3].store.block(3)
        assert stored is not None
        assert encode(header) in stored.block
