"""Chapters 6.4 and 10.8: states that the target hands over, and chunks of them."""

from __future__ import annotations

from deepshard.conformance import expect
from deepshard.conformance.chain_view import state_root
from deepshard.conformance.harness import Harness
from deepshard.conformance.peer import RawPeer
from deepshard.conformance.registry import case
from deepshard.conformance.verdicts import CaseSkipped
from deepshard.encoding import decode
from deepshard.errors import RemoteError
from deepshard.ledger.trie_chunks import PATHS, StateChunk, cursor_of, verify_chunk
from deepshard.limits import BODY_BYTES_MAX
from deepshard.wire.messages import SnapshotChunk, SnapshotChunkRequest, Snapshots, SnapshotsRequest

NEVER = 2**40
CHUNKS_LOOKED_AT = 8


async def _heights(peer: RawPeer) -> tuple[int, ...]:
    await peer.say(SnapshotsRequest(1))
    reply, _ = await expect.message(peer, Snapshots, lambda reply: reply.request == 1)
    return reply.heights


async def _chunk(peer: RawPeer, height: int, cursor: bytes, number: int) -> bytes | None:
    await peer.say(SnapshotChunkRequest(number, height, cursor))
    reply, _ = await expect.message(peer, SnapshotChunk, lambda reply: reply.request == number)
    return reply.chunk


@case("6.4/25", title="heights of states are listed in ascending order, none of them 0")
async def offers(harness: Harness) -> None:
    peer = await harness.link()
    heights = await _heights(peer)
    if list(heights) != sorted(set(heights)) or 0 in heights:
        raise peer.failed("heights above 0 in ascending order", str(heights))


@case("6.4/27", title="a state that isn't handed over is answered with none")
async def not_handed_over(harness: Harness) -> None:
    peer = await harness.link()
    chunk = await _chunk(peer, NEVER, bytes(32), 2)
    if chunk is not None:
        raise peer.failed("no chunk of a height to come", f"{len(chunk)} bytes")


@case("6.4/27", "10.8/3", title="chunks of a state are proven, and each answers for the path asked for")
async def proven(harness: Harness) -> None:
    peer = await harness.link()
    heights = await _heights(peer)
    if not heights:
        raise CaseSkipped("the target has no state to hand over yet")
    root, at = await state_root(peer, heights[-1]), 0
    for number in range(2, 2 + CHUNKS_LOOKED_AT):
        data = await _chunk(peer, heights[-1], cursor_of(at), number)
        if data is None:
            raise CaseSkipped("the target has moved on to newer states")
        try:
            paths = verify_chunk(root, decode(data, StateChunk, bytes_max=BODY_BYTES_MAX))
        except RemoteError as error:
            raise peer.failed("a chunk under the state root of its height", str(error)) from None
        if not paths.start <= at < paths.stop:
            raise peer.failed(f"a chunk that answers for the path {at:064x}", f"one from {paths.start:064x} on")
        if paths.stop == PATHS:
            return
        at = paths.stop
