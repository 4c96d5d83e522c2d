"""Consensus over the gossip mesh: lossy links, sparse networks, many validators, and how many messages it takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import msgspec
import pytest
import trio
import trio.testing
from memory_folder import memory_folder  # noqa: F401  # a fixture

from deepshard.ballots import VOTE_TAG, Proposal, Vote, VoteKind
from deepshard.chunk_tree import NO_CHUNKS
from deepshard.consensus.types import CommitCertificate, LockProof
from deepshard.consensus.validators import proposer
from deepshard.encoding import decode, encode
from deepshard.identity import SecretKey
from deepshard.ledger.genesis import genesis_state
from deepshard.ledger.onion import OnionChain
from deepshard.ledger.params import Genesis, GenesisAccount, GenesisValidator
from deepshard.ledger.transactions import Transfer
from deepshard.limits import CERTIFICATE_BYTES_MAX, LOCK_PROOF_BYTES_MAX, VOTES_PER_STEP_MAX
from deepshard.primitives import UNITS_PER_TOKEN as TOKEN
from deepshard.primitives import ZERO_DIGEST, content_digest
from deepshard.services.executor import validators_of
from deepshard.testing.builders import SMALL_PARAMS
from deepshard.testing.chain_cluster import ChainCluster, FullNode
from deepshard.wire.messages import (
    BlockProposal,
    Graft,
    IDontWant,
    IHave,
    IWant,
    Message,
    ProofOfLock,
    Prune,
    Transactions,
    Votes,
)

GOSSIP = (BlockProposal, ProofOfLock, Votes, Transactions, Graft, Prune, IHave, IWant, IDontWant)
ALICE = SecretKey(content_digest(b"alice"))


@asynccontextmanager
async def validators(count: int, folder: Path) -> AsyncIterator[tuple[ChainCluster, list[FullNode]]]:
    """Validators without links."""
    keys = sorted((SecretKey(content_digest(b"%d" % n)) for n in range(count)), key=lambda key: key.address)
    onions = {key.address: OnionChain(key.seed, 500) for key in keys}
    genesis = Genesis(
        chain_id="mesh-test",
        time_ms=1_700_000_000_000,
        params=SMALL_PARAMS,
        validators=tuple(GenesisValidator(key.public, 1000 * TOKEN, onions[key.address].tip) for key in keys),
        accounts=(GenesisAccount(ALICE.address, 1000 * TOKEN),),
        manifest=content_digest(b"manifest"),
        weights_root=content_digest(b"weights"),
        chunks_root=NO_CHUNKS,
        shard_count=0,
        heldout=(content_digest(b"h"),),
        general=(content_digest(b"g"),),
        canaries=(content_digest(b"c"),),
    )
    async with trio.open_nursery() as nursery:
        cluster = ChainCluster(genesis, onions, folder, nursery)
        yield cluster, [cluster.start(f"v{number}", key) for number, key in enumerate(keys)]
        nursery.cancel_scope.cancel()


def lose(cluster: ChainCluster, share: float, seed: int) -> None:
    rng = Random(seed)

    def tamper(sender: str, receiver: str, message: Message, attachment: bytes) -> tuple[Message, bytes] | None:
        return None if isinstance(message, GOSSIP) and rng.random() < share else (message, attachment)

    cluster.network.tamper = tamper


@pytest.mark.parametrize("share", [0.1, 0.2])
async def test_lost_gossip_slows_consensus_but_does_not_stop_it(
    share: float, memory_folder: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with validators(5, memory_folder) as (cluster, nodes):
        lose(cluster, share, seed=3)
        cluster.connect(*nodes)
        await cluster.reach(20, nodes, within_s=80)
        assert all(node.port.penalties == [] for node in nodes)


async def test_votes_and_blocks_cross_a_ring(memory_folder: Path, autojump_clock: trio.testing.MockClock) -> None:
    """Nobody hears more than two others directly, so everything has to be passed on three times."""
    async with validators(7, memory_folder) as (cluster, nodes):
        for one, other in zip(nodes, [*nodes[1:], nodes[0]], strict=True):
            cluster.connect(one, other)
        follower = cluster.start("alice", ALICE)
        cluster.connect(follower, nodes[0])
        await follower.wallet.send(Transfer(nodes[3].key.address, 1))
        await cluster.reach(follower.view.height + 10, [follower, *nodes], within_s=60)
        assert all(node.port.penalties == [] for node in [follower, *nodes])


async def test_a_lossy_ring_still_decides(memory_folder: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with validators(5, memory_folder) as (cluster, nodes):
        lose(cluster, 0.2, seed=4)
        for one, other in zip(nodes, [*nodes[1:], nodes[0]], strict=True):
            cluster.connect(one, other)
        await cluster.reach(10, nodes, within_s=120)


async def test_a_validator_that_votes_for_thousands_of_rounds_stops_nobody(
    memory_folder: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with validators(4, memory_folder) as (cluster, nodes):
        *honest, hostile = nodes
        await cluster.stop(hostile.name)
        mallory = cluster.network.join("mallory")
        cluster.connect(*honest)
        cluster.network.connect("mallory", *(node.port.name for node in honest))
        await cluster.reach(2, honest)
        height = max(node.view.height for node in honest) + 1
        flood = []
        for round_ in range(4500):
            vote = Vote(VoteKind.PREVOTE, height, round_, -1, ZERO_DIGEST, hostile.key.address, bytes(64))
            signature = hostile.key.sign(VOTE_TAG, vote.sign_bytes(cluster.genesis.chain_id))
            flood.append(encode(msgspec.structs.replace(vote, signature=signature)))
        for start in range(0, len(flood), 500):
            mallory.broadcast(Votes(tuple(flood[start : start + 500])))
        await cluster.reach(height + 3, honest, within_s=60)
        assert all(node.port.penalties == [] for node in honest)


async def test_twenty_validators_send_each_vote_a_bounded_number_of_times(
    memory_folder: Path, autojump_clock: trio.testing.MockClock
) -> None:
    sent: Counter[str] = Counter()

    def count(sender: str, receiver: str, message: Message, attachment: bytes) -> tuple[Message, bytes]:
        sent[type(message).__name__] += len(message.votes) if isinstance(message, Votes) else 1
        return message, attachment

    async with validators(20, memory_folder) as (cluster, nodes):
        cluster.network.tamper = count
        cluster.connect(*nodes)
        await cluster.reach(3, nodes, within_s=60)
        before, sent_before = max(node.view.height for node in nodes), dict(sent)
        await cluster.reach(before + 6, nodes, within_s=60)
        blocks = max(node.view.height for node in nodes) - before
        votes = (sent["Votes"] - sent_before["Votes"]) / (blocks * 40)
        # Two votes of each validator a block: each goes to 19 by its author; others pass it on to few of their meshes.
        assert 15 <= votes <= 19 * 13
        assert (sent["BlockProposal"] - sent_before["BlockProposal"]) / blocks <= 20 * 13


@pytest.mark.clause("9.3/13")
async def test_a_reproposal_brings_votes_that_an_equivocator_kept_from_one_validator(
    memory_folder: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """All but one lock in round 0; that one took in other votes of the faulty until it took no more of them.

    Then the faulty one falls silent, so the next round needs the vote of the one who doesn't know the proof-of-lock.
    """
    async with validators(4, memory_folder) as (cluster, nodes):
        power = validators_of(genesis_state(cluster.genesis))
        in_turn = [proposer(power, 1, round_).address for round_ in (0, 1)]
        faulty = next(node for node in nodes if node.key.address not in in_turn)
        kept_from = next(node for node in nodes if node is not faulty and node.key.address != in_turn[1])
        unheard = next(node for node in nodes if node.key.address == in_turn[1]).key.address
        honest = [node for node in nodes if node is not faulty]
        await cluster.stop(faulty.name)
        mallory = cluster.network.join("mallory")
        offered: list[bytes] = []
        proofs: list[LockProof] = []

        def tamper(sender: str, receiver: str, message: Message, attachment: bytes) -> tuple[Message, bytes] | None:
            match message:
                case BlockProposal(proposal=encoded) if not offered:
                    offered.append(decode(encoded, Proposal, bytes_max=512).block_id)
                case ProofOfLock(proof=encoded) if receiver == kept_from.port.name:
                    proofs.append(decode(encoded, LockProof, bytes_max=LOCK_PROOF_BYTES_MAX))
                case Votes(votes=entries) if receiver == kept_from.port.name:
                    votes = [decode(entry, Vote, bytes_max=512) for entry in entries]
                    kept = [one for one in votes if one.round > 0 or one.validator != unheard or one.kind != 1]
                    return (Votes(tuple(encode(one) for one in kept)), attachment) if kept else None
                case _:
                    pass
            return message, attachment

        def prevote(block_id: bytes) -> bytes:
            vote = Vote(VoteKind.PREVOTE, 1, 0, -1, block_id, faulty.key.address, bytes(64))
            signature = faulty.key.sign(VOTE_TAG, vote.sign_bytes(cluster.genesis.chain_id))
            return encode(msgspec.structs.replace(vote, signature=signature))

        cluster.network.tamper = tamper
        cluster.network.connect("mallory", kept_from.port.name)
        noise = tuple(prevote(content_digest(b"noise %d" % number)) for number in range(VOTES_PER_STEP_MAX))
        mallory.broadcast(Votes(noise))
        cluster.connect(*honest)
        await cluster.reach(1, honest, within_s=60)
        decided = kept_from.store.block(1)
        assert decided is not None
        certificate = decode(decided.certificate, CommitCertificate, bytes_max=CERTIFICATE_BYTES_MAX)
        assert (certificate.round, certificate.block_id) == (1, offered[0])
        assert {(proof.round, proof.block_id) for proof in proofs} == {(0, offered[0])}
