"""Reports of light attacks among whole nodes: what is kept, passed on, refused, and what nobody is blamed for."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing
from msgspec.structs import replace
from test_services_chain import BOB, GENESIS, cluster, folder
from test_services_light_witnesses import bought, followed, forged, name_of, tell_lies

from deepshard.ballots import Vote, VoteKind
from deepshard.consensus.forensics import (
    ConflictingCommits,
    DecidedHeader,
    conflicting_commits,
    culprits,
    decode_accusation,
    verify_conflicting_commits,
)
from deepshard.consensus.light import LightBlock
from deepshard.consensus.types import Block, CommitCertificate
from deepshard.consensus.validators import ValidatorSet
from deepshard.encoding import decode, encode
from deepshard.errors import RemoteError
from deepshard.evidence import InvalidEvidence, duplicate_vote
from deepshard.identity import SecretKey
from deepshard.limits import BLOCK_BYTES_MAX, CERTIFICATE_BYTES_MAX, VALIDATOR_SET_BYTES_MAX
from deepshard.primitives import content_digest
from deepshard.testing.chain_cluster import ChainCluster, FullNode
from deepshard.testing.chain_history import certify
from deepshard.testing.virtual_time import pass_time
from deepshard.wire.messages import LightAttackReport

__all__ = ["folder"]
AT = 6


def own(node: FullNode, height: int) -> LightBlock:
    stored = node.store.block(height)
    assert stored is not None
    return LightBlock(
        decode(stored.block, Block, bytes_max=BLOCK_BYTES_MAX).header,
        decode(stored.certificate, CommitCertificate, bytes_max=CERTIFICATE_BYTES_MAX),
        decode(stored.validators, ValidatorSet, bytes_max=VALIDATOR_SET_BYTES_MAX),
    )


def conflict(one: LightBlock, other: LightBlock) -> ConflictingCommits:
    first, second = (DecidedHeader(block.header, block.certificate, block.validators) for block in (one, other))
    return conflicting_commits(first, second)


def report(node: FullNode, evidence: object, *, common: int = 3) -> LightAttackReport:
    return LightAttackReport(common, own(node, common).header.block_id(), encode(evidence))


def kept(running: ChainCluster, node: FullNode) -> list[bytes]:
    return [path.read_bytes() for path in sorted((running.folder_of(node.name) / "evidence").glob("conflicting-*"))]


@pytest.mark.clause("6.4/32", "10.5/11")
async def test_what_a_light_client_finds_reaches_every_node(
    folder: Path,
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with cluster(folder) as (running, nodes):
        light = await followed(running, nodes, 2)
        liar = name_of(running, light.client.witnesses[0])
        tell_lies(running, lambda: liar, bought)
        with trio.fail_after(120):
            while light.client.attack is None:
                await light.client.changed()
        await pass_time(5)
        [file] = (folder / "light.evidence").iterdir()
        accusation = decode_accusation(file.read_bytes())
        assert isinstance(accusation, ConflictingCommits)
        assert file.name.startswith(f"conflicting-commits-{accusation.first.header.height}-")
        # The fourth node has no link with the light client: another told it.
        assert [kept(running, node) for node in nodes] == [[file.read_bytes()]] * 4
        assert [node.port.penalties for node in nodes] == [[]] * 4
        # Who signed both loses stake for it.
        guilty = culprits(verify_conflicting_commits(accusation, GENESIS.chain_id))
        assert len(guilty) >= 2  # more than a third; certificates differ in whose votes came first
        for node in nodes:
            convictions = dict(node.view.state.convictions())
            assert convictions.keys() == guilty
            assert {one.offence_height for one in convictions.values()} == {accusation.first.header.height}
        late = running.start("late", BOB)
        running.connect(late, *nodes, light)
        await running.reach(light.client.height + 2, [late])
        await pass_time(5)
        assert kept(running, late) in ([], [file.read_bytes()])


@pytest.mark.clause("6.4/31", "6.4/32")
async def test_reports_are_judged_by_the_own_chain(
    folder: Path,
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with cluster(folder) as (running, nodes):
        await running.reach(AT + 2, nodes)
        node, teller = nodes[0], running.network.join("teller", roles=("inference",))
        running.network.connect("teller", node.port.name)
        truth = own(node, AT)
        good = conflict(truth, bought(truth))

        async def tell(message: LightAttackReport) -> list[RemoteError]:
            before = len(node.port.penalties)
            await teller.send(node.port.info.public_key, message)
            await pass_time(1)
            return [error for _, error in node.port.penalties[before:]]

        # What can't be judged, or accuses nobody who had power here, costs nothing and leaves nothing.
        strangers = ValidatorSet.of((key.public, 10) for key in (SecretKey(content_digest(b"x")), BOB))
        header = replace(truth.header, validators_hash=strangers.hash())
        signed = certify(GENESIS.chain_id, [SecretKey(content_digest(b"x")), BOB], AT, header.block_id())
        own_making = conflict(truth, LightBlock(header, signed, strangers))
        assert await tell(report(node, own_making)) == []
        assert await tell(replace(report(node, good), common_id=bytes(32))) == []
        assert await tell(replace(report(node, good), common_height=10_000)) == []
        assert await tell(report(node, good, common=AT)) == []
        assert kept(running, node) == []
        # What is no evidence costs its sender.
        assert await tell(report(node, conflict(truth, forged(truth)))) != []
        [error] = await tell(replace(report(node, good), evidence=b"\xc1"))
        assert type(error).__name__ == "MalformedMessage"
        vote = duplicate_vote(BOB.public, *votes())
        [error] = await tell(report(node, vote))
        assert isinstance(error, InvalidEvidence)
        assert kept(running, node) == []
        assert await tell(report(node, good)) == []
        assert await tell(report(node, good)) == []
        assert kept(running, node) == [encode(good)]
        assert kept(running, nodes[1]) == [encode(good)]
        assert await tell(replace(report(node, conflict(own(node, 7), bought(own(node, 7)))), common_height=0)) == []
        genesis = LightAttackReport(0, GENESIS.hash(), encode(conflict(own(node, 7), bought(own(node, 7)))))
        assert await tell(genesis) == []
        assert len(kept(running, node)) == 2


def votes() -> tuple[Vote, Vote]:
    one, other = (
        Vote(VoteKind.PREVOTE, 1, 0, -1, content_digest(name), BOB.address, bytes(64)) for name in (b"a", b"b")
    )
    return one, other
