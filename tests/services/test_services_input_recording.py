"""A restarted validator takes in again what it had taken in; without its log the guard alone keeps it honest."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from pathlib import Path

import pytest
import structlog.testing
import trio
import trio.testing
from test_services_chain import GENESIS, ONIONS, VALIDATORS

from deepshard.ballots import Vote
from deepshard.encoding import decode
from deepshard.testing.chain_cluster import ChainCluster, FullNode
from deepshard.testing.virtual_time import pass_time
from deepshard.wire.messages import BlockProposal, Message, Votes

LONE = VALIDATORS[0].address


class Witness:
    """Notes every vote that ever left a validator's process; withholds proposals for as long as it is told."""

    def __init__(self) -> None:
        self.withholds = True
        self.votes: dict[tuple[int, int, int], set[bytes]] = defaultdict(set)

    def __call__(self, sender: str, receiver: str, message: Message, attachment: bytes) -> tuple[Message, bytes] | None:
        if self.withholds and isinstance(message, BlockProposal):
            return None
        if isinstance(message, Votes):
            for encoded in message.votes:
                vote = decode(encoded, Vote, bytes_max=512)
                if vote.validator == LONE:
                    self.votes[vote.height, vote.round, int(vote.kind)].add(vote.block_id)
        return message, attachment


def heard(node: FullNode) -> set[tuple[int, int, bytes]]:
    """Votes that the node's core counts, as (round, kind, validator)."""
    core = node.chain._core
    assert core is not None
    return {
        (round_, int(kind), validator) for (round_, kind), tally in core.tallies.items() for validator in tally.votes
    }


@pytest.mark.parametrize("damage", [None, "DELETE FROM inputs", "UPDATE inputs SET data = x'00' WHERE seq = 0"])
async def test_a_restart_recalls_what_justified_its_signatures(
    tmp_path: Path, damage: str | None, autojump_clock: trio.testing.MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        cluster = ChainCluster(GENESIS, ONIONS, tmp_path, nursery)
        witness = Witness()
        cluster.network.tamper = witness
        nodes = [cluster.start(f"v{i}", key) for i, key in enumerate(VALIDATORS[:3])]
        cluster.connect(*nodes)
        await pass_time(20)
        before = heard(nodes[0])
        await cluster.stop("v0")
        if damage is not None:
            with sqlite3.connect(tmp_path / "v0/chain.sqlite") as database:
                database.execute(damage)
            database.close()
        with structlog.testing.capture_logs() as logs:
            again = cluster.start("v0", VALIDATORS[0])
            await pass_time(0.1)
        after = heard(again)
        theirs = {entry for entry in before if entry[2] != LONE}
        assert len(theirs) > 4
        assert len(after & theirs) >= (len(theirs) - 2 if damage is None else 0)
        assert len(after & theirs) <= (0 if damage == "DELETE FROM inputs" else len(theirs))
        events = [entry["event"] for entry in logs]
        assert ("consensus.log_damaged" in events) == (damage is not None)
        assert "consensus.double_sign_refused" not in events
        cluster.connect(again, *nodes[1:])
        await pass_time(20)
        assert len(witness.votes) > 8
        assert all(len(blocks) == 1 for blocks in witness.votes.values())
        witness.withholds = False
        await cluster.reach(3, [again, *nodes[1:]])
        assert all(len(blocks) == 1 for blocks in witness.votes.values())
        nursery.cancel_scope.cancel()
