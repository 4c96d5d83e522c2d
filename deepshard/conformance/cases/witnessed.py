"""What the target did by itself on every link of the run, judged at the end; with some traffic to look at."""

from __future__ import annotations

from deepshard.conformance import expect
from deepshard.conformance.harness import Harness
from deepshard.conformance.opening import MEMBER, Self
from deepshard.conformance.registry import Lane, case
from deepshard.limits import SYNC_BLOCKS_MAX
from deepshard.primitives import content_digest
from deepshard.wire.messages import (
    BlobReply,
    BlobRequest,
    Blocks,
    BlocksRequest,
    HeadersRequest,
    Peers,
    ProofReply,
    ProofRequest,
    Status,
)

WITNESSED = {
    "5.1/1": "its packets have sizes within the bound",
    "5.1/2": "its packets are sealed as the chapter says and numbered one after the other",
    "5.1/5": "its packets have known types, and the length of their type",
    "5.2/1": "its frames have the magic, the version and no flag but bit 0",
    "5.2/2": "its frames are numbered one after the other",
    "5.2/3": "its frames declare sizes within the bounds",
    "5.2/4": "its uncompressed bodies are as long as they say",
    "5.2/5": "its FRAME packets carry the first part of the body, and nothing more",
    "5.2/7": "its compressed bodies are single zstd frames that declare their size",
    "5.2/9": "its frames' signatures hold",
    "5.2/11": "its bodies are canonical",
    "5.3/2": "its bulk streams are opened in order",
    "5.3/4": "its bulk streams are below the limit",
    "5.3/7": "its frames on streams 0 and 1 don't begin inside others",
    "5.3/8": "its messages travel on streams of their class",
    "5.4/2": "it keeps to the suite's credit",
    "5.7/1": "its PONGs answer the PINGs in their order",
    "5.7/3": "it has only so many PINGs unanswered",
    "5.9/1": "its first packet as listener is PING or GOODBYE",
}


def _judge(clause: str) -> None:
    @case(clause, title=f"on every link of the run: {WITNESSED[clause]}", lane=Lane.LAST)
    async def on_every_link(harness: Harness) -> None:
        peer = await harness.link(Self.fresh(MEMBER))
        peer.note("requests for blocks, headers, proofs and blobs")
        await peer.say(BlocksRequest(1, 1, SYNC_BLOCKS_MAX))
        await peer.say(HeadersRequest(2, 1, SYNC_BLOCKS_MAX))
        await peer.say(ProofRequest(3, b"chain"))
        await peer.say(BlobRequest(4, content_digest(b"nobody has this")))
        await expect.message(peer, Blocks, lambda reply: reply.request == 1)
        await expect.message(peer, ProofReply, lambda reply: reply.request == 3)
        await expect.message(peer, BlobReply, lambda reply: reply.request == 4)
        await expect.alive(peer)
        broken = harness.witness.broken.get(clause)
        if broken:
            peer.notes.clear()
            peer.note("whatever was sent in this run")
            raise peer.failed(WITNESSED[clause], "; ".join(broken))


for _clause in WITNESSED:
    _judge(_clause)


@case("6.3/1", title="Peers comes once at the beginning, and Status")
async def introduced(harness: Harness) -> None:
    peer = await harness.link()
    await expect.message(peer, Peers)
    await expect.message(peer, Status)
