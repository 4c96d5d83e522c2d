"""What the suite knows of the target's chain: asked of it, and verified as a light client would."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

from deepshard.conformance import expect
from deepshard.conformance.peer import RawPeer
from deepshard.conformance.verdicts import CaseSkipped
from deepshard.consensus.light import LightBlock, decode_light_block
from deepshard.consensus.types import Block, CommitCertificate
from deepshard.encoding import decode
from deepshard.errors import RemoteError
from deepshard.limits import BLOCK_BYTES_MAX, CERTIFICATE_BYTES_MAX
from deepshard.wire.messages import Blocks, BlocksRequest, Headers, HeadersRequest, ProofReply, ProofRequest

_numbers = count(1000)


@dataclass(frozen=True, slots=True)
class RawHeader:
    """A triple of Headers, as it came and decoded."""

    parts: tuple[bytes, bytes, bytes]
    light: LightBlock


async def headers(peer: RawPeer, first: int, amount: int) -> list[RawHeader]:
    """Headers from a height on.

    Raises:
        ClauseFailed: they don't come, or can't be decoded.
        CaseSkipped: there are none yet.
    """
    number = next(_numbers)
    await peer.say(HeadersRequest(number, first, amount))
    reply, _ = await expect.message(peer, Headers, lambda reply: reply.request == number)
    if not reply.headers:
        raise CaseSkipped("the target has no blocks yet")
    try:
        return [RawHeader(parts, decode_light_block(*parts)) for parts in reply.headers]
    except RemoteError as error:
        raise peer.failed("headers as in 10.2", str(error), "10.5/1") from None


async def blocks(peer: RawPeer, first: int, amount: int) -> list[tuple[Block, CommitCertificate]]:
    """Blocks with their certificates, from a height on.

    Raises:
        ClauseFailed: they don't come, or can't be decoded.
        CaseSkipped: there are none yet.
    """
    number = next(_numbers)
    await peer.say(BlocksRequest(number, first, amount))
    reply, _ = await expect.message(peer, Blocks, lambda reply: reply.request == number)
    if not reply.blocks:
        raise CaseSkipped("the target has no blocks yet")
    try:
        return [
            (
                decode(block, Block, bytes_max=BLOCK_BYTES_MAX),
                decode(certificate, CommitCertificate, bytes_max=CERTIFICATE_BYTES_MAX),
            )
            for block, certificate in reply.blocks
        ]
    except RemoteError as error:
        raise peer.failed("blocks as in 10.2", str(error), "10.2/1") from None


async def proof_of(peer: RawPeer, key: bytes) -> ProofReply:
    """The target's answer for a key of the state."""
    number = next(_numbers)
    await peer.say(ProofRequest(number, key))
    reply, _ = await expect.message(peer, ProofReply, lambda reply: reply.request == number)
    return reply


async def state_root(peer: RawPeer, height: int) -> bytes:
    """State root of a height, by its header."""
    return (await headers(peer, height, 1))[0].light.header.state_root
