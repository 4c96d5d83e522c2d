"""Chapter 6: the catalogue's bounds, requests and answers."""

from __future__ import annotations

from typing import Any

from deepshard.conformance import expect
from deepshard.conformance.harness import Harness
from deepshard.conformance.registry import Lane, Level, case
from deepshard.encoding import encode
from deepshard.limits import (
    BLOCK_BYTES_MAX,
    BODY_BYTES_MAX,
    EVIDENCE_BYTES_MAX,
    GOSSIP_BACKOFF_S_MAX,
    LOCK_PROOF_BYTES_MAX,
    PEERS_MAX,
    RANGE_BLOCKS_MAX,
    RANGE_PROOF_DIGESTS_MAX,
    SYNC_BLOCKS_MAX,
    TRANSACTION_BYTES_MAX,
    WANT_DIGESTS_MAX,
)
from deepshard.primitives import content_digest
from deepshard.wire import messages as catalogue
from deepshard.wire.messages import (
    BlobReply,
    BlobRequest,
    BlobStatus,
    Blocks,
    BlocksRequest,
    HaveReply,
    HaveRequest,
    Headers,
    HeadersRequest,
    Message,
    Peers,
    ProofReply,
    ProofRequest,
    Status,
)

D = content_digest(b"nobody has this")
ABOVE = 2**62 + 1
BEYOND: dict[str, tuple[type[Message], tuple[Any, ...]]] = {
    "Peers of PEERS_MAX + 1 addresses": (Peers, (("192.0.2.1:1",) * (PEERS_MAX + 1),)),
    "Peers with an address of 281 characters": (Peers, (("x" * 279 + ":1",),)),
    "Status of a height above 2^62": (Status, (ABOVE,)),
    "Status of a negative height": (Status, (-1,)),
    "Transactions of 1025 entries": (catalogue.Transactions, ((b"x",) * 1025,)),
    "Transactions with an entry too long": (catalogue.Transactions, ((bytes(TRANSACTION_BYTES_MAX + 1),),)),
    "BlockProposal with a proposal of 513 bytes": (catalogue.BlockProposal, (bytes(513), b"")),
    "BlockProposal with a block too long": (catalogue.BlockProposal, (b"", bytes(BLOCK_BYTES_MAX + 1))),
    "ProofOfLock too long": (catalogue.ProofOfLock, (bytes(LOCK_PROOF_BYTES_MAX + 1),)),
    "Votes of 513 entries": (catalogue.Votes, ((b"x",) * 513,)),
    "Votes with an entry of 513 bytes": (catalogue.Votes, ((bytes(513),),)),
    "BlocksRequest of 0 blocks": (BlocksRequest, (1, 1, 0)),
    "BlocksRequest of SYNC_BLOCKS_MAX + 1 blocks": (BlocksRequest, (1, 1, SYNC_BLOCKS_MAX + 1)),
    "BlocksRequest with a number above 2^62": (BlocksRequest, (ABOVE, 1, 1)),
    "BlocksRequest with a negative number": (BlocksRequest, (-1, 1, 1)),
    "BlocksRequest from a height above 2^62": (BlocksRequest, (1, ABOVE, 1)),
    "Blocks of SYNC_BLOCKS_MAX + 1 pairs": (Blocks, (1, ((b"", b""),) * (SYNC_BLOCKS_MAX + 1))),
    "Blocks with a triple": (Blocks, (1, ((b"", b"", b""),))),
    "HeadersRequest of 0 headers": (HeadersRequest, (1, 1, 0)),
    "HeadersRequest of SYNC_BLOCKS_MAX + 1 headers": (HeadersRequest, (1, 1, SYNC_BLOCKS_MAX + 1)),
    "HeadersRequest from a negative height": (HeadersRequest, (1, -1, 1)),
    "Headers of SYNC_BLOCKS_MAX + 1 triples": (Headers, (1, ((b"", b"", b""),) * (SYNC_BLOCKS_MAX + 1))),
    "Headers with a pair": (Headers, (1, ((b"", b""),))),
    "ProofRequest with a key of 129 bytes": (ProofRequest, (1, bytes(129))),
    "ProofRequest with a key as text": (ProofRequest, (1, "chain")),
    "ProofReply with a value as text": (ProofReply, (1, 1, "x", b"")),
    "Snapshots of nine heights": (catalogue.Snapshots, (1, tuple(range(9)))),
    "SnapshotChunkRequest with a cursor of 31 bytes": (catalogue.SnapshotChunkRequest, (1, 50, bytes(31))),
    "SnapshotChunkRequest of a negative height": (catalogue.SnapshotChunkRequest, (1, -1, bytes(32))),
    "LightAttackReport with evidence too long": (
        catalogue.LightAttackReport,
        (1, D, bytes(EVIDENCE_BYTES_MAX + 1)),
    ),
    "LightAttackReport with an id of 31 bytes": (catalogue.LightAttackReport, (1, bytes(31), b"")),
    "HaveRequest of WANT_DIGESTS_MAX + 1 digests": (HaveRequest, (1, (D,) * (WANT_DIGESTS_MAX + 1))),
    "HaveRequest with a digest of 31 bytes": (HaveRequest, (1, (bytes(31),))),
    "HaveReply with a bitmap too long": (HaveReply, (1, bytes(WANT_DIGESTS_MAX // 8 + 1))),
    "BlobRequest with a digest of 33 bytes": (BlobRequest, (1, bytes(33))),
    "BlobReply of status 4": (BlobReply, (1, D, 4)),
    "BlobReply of a negative status": (BlobReply, (1, D, -1)),
    "Graft of a negative topic": (catalogue.Graft, (-1,)),
    "Prune with a backoff too long": (catalogue.Prune, (0, GOSSIP_BACKOFF_S_MAX + 1)),
    "IWant with an id of 17 bytes": (catalogue.IWant, ((bytes(17),),)),
    "RangeRequest of 0 blocks": (catalogue.RangeRequest, (1, D, 0, 0)),
    "RangeRequest of RANGE_BLOCKS_MAX + 1 blocks": (catalogue.RangeRequest, (1, D, 0, RANGE_BLOCKS_MAX + 1)),
    "RangeReply with a proof too long": (
        catalogue.RangeReply,
        (1, D, 0, 1, 0, (D,) * (RANGE_PROOF_DIGESTS_MAX + 1)),
    ),
}
ANSWERS: dict[str, Message] = {
    "Blocks": Blocks(999, ()),
    "Blocks with garbage": Blocks(999, ((b"\xc1", b"\xc1"),)),
    "Headers": Headers(999, ()),
    "Headers with garbage": Headers(999, ((b"\xc1", b"\xc1", b"\xc1"),)),
    "ProofReply": ProofReply(999, 1, None, b"\xc1"),
    "HaveReply": HaveReply(999, b"\xff"),
    "BlobReply": BlobReply(999, D, BlobStatus.NOT_FOUND),
    "RangeReply": catalogue.RangeReply(999, D, BlobStatus.NOT_FOUND, 0, 0, ()),
}
NO_ADDRESSES = (
    "", "nonsense", "host:", ":1", "host:65536", "host:123456", "host:1x", "[::1:1", "::1:1", "a b:1", "1.2.3.4:-1",
    "http://x:1", "x" * 254 + ":1", "host\n:1",
)  # fmt: skip


@case("6.2/1", "2.3/2", title="{} is refused", each=BEYOND)
async def beyond_bounds(harness: Harness, entry: tuple[type[Message], tuple[Any, ...]]) -> None:
    kind, fields = entry
    peer = await harness.link()
    frame = peer.frame((kind.KIND, encode(fields)), stream=int(kind.PRIORITY))
    await peer.send_frame(frame, f"{kind.__name__} beyond a bound")
    await harness.refused(peer, "MalformedMessage")


@case("6.1/4", title="an answer that nobody waits for is ignored: {}", each=ANSWERS)
async def unasked_answer(harness: Harness, message: Message) -> None:
    peer = await harness.link()
    for _ in range(8):
        await peer.say(message)
    await expect.unblamed(peer, "the answers ignored")


@case("6.1/3", title="an answer carries its request's number: {}", each=[0, 1, 2**31, 2**62])
async def number_of_answer(harness: Harness, number: int) -> None:
    peer = await harness.link()
    await peer.say(BlocksRequest(number, 1, 1))
    await expect.message(
        peer, Blocks, lambda reply: reply.request == number, expected=f"Blocks with the number {number}"
    )
    await peer.say(BlobRequest(number, D))
    await expect.message(peer, BlobReply, lambda reply: reply.request == number, expected="BlobReply with the number")
    await peer.say(HaveRequest(number, (D,)))
    await expect.message(peer, HaveReply, lambda reply: reply.request == number, expected="HaveReply with the number")


@case("6.1/3", title="an answer comes on the link of its request")
async def link_of_answer(harness: Harness) -> None:
    asking, other = await harness.link(), await harness.link()
    await asking.say(BlocksRequest(77, 1, 1))
    await expect.message(asking, Blocks, lambda reply: reply.request == 77)
    await expect.no_message(other, Blocks, lambda _: True, expected="no answer to another's request")


@case("6.1/1", title="messages are taken as soon as the link is up, in any order")
async def any_order(harness: Harness) -> None:
    peer = await harness.dial()
    await peer.shake_hands()
    await expect.taken_in(peer)
    await peer.say(ProofRequest(1, b"chain"))
    await peer.say(Peers(()))
    await peer.say(Status(0))
    await expect.message(peer, ProofReply, lambda reply: reply.request == 1)


@case(
    "6.3/2",
    title="a full node answers {}",
    level=Level.SHOULD,
    each={
        "BlocksRequest": (BlocksRequest(5, 1, 1), Blocks),
        "HeadersRequest": (HeadersRequest(5, 1, 1), Headers),
        "ProofRequest": (ProofRequest(5, b"chain"), ProofReply),
    },
)
async def full_node_answers(harness: Harness, entry: tuple[Message, type[Any]]) -> None:
    request, answer = entry
    peer = await harness.link()
    await peer.say(request)
    await expect.message(peer, answer, lambda reply: reply.request == 5)


@case("6.1/6", title="a message without a service keeps the link")
async def without_service(harness: Harness) -> None:
    peer = await harness.link()
    for number in range(20):
        await peer.say(Headers(number, ()))
        await peer.say(ProofReply(number, 1, None, b""))
    await expect.unblamed(peer, "no more than a point for each")


@case("6.4/1", title="Peers with {} for an address is refused", each={repr(text): text for text in NO_ADDRESSES})
async def no_address(harness: Harness, text: str) -> None:
    peer = await harness.link()
    await peer.say(Peers((text,)))
    await harness.refused(peer, "MalformedMessage")


@case("6.4/1", title="an empty Peers, and one of addresses nobody listens at, are taken")
async def odd_addresses(harness: Harness) -> None:
    peer = await harness.link()
    await peer.say(Peers(()))
    await peer.say(Peers(("0.0.0.0:0", "[::]:0", "a-host.invalid.:0", "x:0")))
    await expect.alive(peer)


@case("6.4/3", title="any number of addresses is taken and doesn't stop the target", lane=Lane.ALONE)
async def many_addresses(harness: Harness) -> None:
    """Addresses of a network that is for documentation only, with the port that can't be dialled."""
    peer = await harness.link()
    for block in range(8):
        await peer.say(
            Peers(
                tuple(f"192.0.2.{number}:0" for number in range(PEERS_MAX * block % 192, PEERS_MAX * block % 192 + 64))
            )
        )
    await expect.alive(peer)
    harness.must_still_serve = True


@case("6.3/1", title="who doesn't follow the chain isn't sent proposals and votes", level=Level.SHOULD)
async def no_gossip_for_light(harness: Harness) -> None:
    peer = await harness.link()
    status, _ = await expect.message(peer, Status)
    await expect.message(peer, Status, lambda later: later.height > status.height, expected="Status of a later block")
    for packet in peer.messages:
        if isinstance(packet.message, catalogue.Votes | catalogue.BlockProposal | catalogue.ProofOfLock):
            raise peer.failed("no proposals and votes", type(packet.message).__name__)


@case("6.4/4", title="Status may name a lower height than before")
async def lower_height(harness: Harness) -> None:
    peer = await harness.link()
    for height in (5, 3, 0, 4):
        await peer.say(Status(height))
    await expect.unblamed(peer, "any height accepted")


@case(
    "6.4/14",
    title="Blocks answers no more than asked for, from the height asked for: {} blocks",
    each=[1, 2, SYNC_BLOCKS_MAX],
)
async def count_of_blocks(harness: Harness, count: int) -> None:
    peer = await harness.link()
    await peer.say(BlocksRequest(3, 1, count))
    reply, _ = await expect.message(peer, Blocks, lambda reply: reply.request == 3)
    if not 1 <= len(reply.blocks) <= count:
        raise peer.failed(f"1 to {count} blocks", f"{len(reply.blocks)} blocks")


@case("6.4/14", title="Blocks from a height that isn't there yet is empty: {}", each=[2**40, 2**62])
async def blocks_ahead(harness: Harness, height: int) -> None:
    peer = await harness.link()
    await peer.say(BlocksRequest(3, height, 4))
    reply, _ = await expect.message(peer, Blocks, lambda reply: reply.request == 3)
    if reply.blocks:
        raise peer.failed("no blocks", f"{len(reply.blocks)} blocks")


@case("6.4/14", title="Blocks from height 0, which no block has, is empty")
async def no_block_zero(harness: Harness) -> None:
    peer = await harness.link()
    await peer.say(BlocksRequest(1, 0, 2))
    reply, _ = await expect.message(peer, Blocks, lambda reply: reply.request == 1)
    if reply.blocks:
        raise peer.failed("no blocks", f"{len(reply.blocks)} blocks")


@case("6.4/15", title="an answer of many blocks stays below half of a body", level=Level.SHOULD)
async def size_of_answer(harness: Harness) -> None:
    peer = await harness.link()
    await peer.say(BlocksRequest(3, 1, SYNC_BLOCKS_MAX))
    reply, _ = await expect.message(peer, Blocks, lambda reply: reply.request == 3)
    size = sum(len(block) + len(certificate) for block, certificate in reply.blocks)
    if len(reply.blocks) > 1 and size > BODY_BYTES_MAX // 2:
        raise peer.failed(f"at most {BODY_BYTES_MAX // 2} bytes", f"{size} bytes")


@case(
    "6.4/22",
    title="a bitmap has a bit for each digest, and no more: {} digests",
    each=[0, 1, 7, 8, 9, WANT_DIGESTS_MAX],
)
async def bitmap(harness: Harness, count: int) -> None:
    peer = await harness.link()
    await peer.say(HaveRequest(4, tuple(content_digest(number.to_bytes(4, "little")) for number in range(count))))
    reply, _ = await expect.message(peer, HaveReply, lambda reply: reply.request == 4)
    bits = int.from_bytes(reply.bitmap, "little")
    if len(reply.bitmap) != -(-count // 8) or bits >> count:
        raise peer.failed(
            f"{-(-count // 8)} bytes with nothing beyond bit {count}", f"{len(reply.bitmap)} bytes, {bits:#x}"
        )


@case("6.4/23", title="BlobReply repeats the digest, and has an attachment only if it was found")
async def blob_reply(harness: Harness) -> None:
    peer = await harness.link()
    await peer.say(BlobRequest(6, D))
    reply, packet = await expect.message(peer, BlobReply, lambda reply: reply.request == 6)
    if reply.digest != D or reply.status is BlobStatus.FOUND or packet.attachment:
        raise peer.failed(
            "not found, without an attachment", f"{reply.status.name} with {len(packet.attachment)} bytes"
        )


@case("6.5/1", title="a burst of requests within the rates is answered", level=Level.SHOULD)
async def burst(harness: Harness) -> None:
    peer = await harness.link()
    for number in range(100):
        await peer.say(ProofRequest(number, b"chain"))
    await expect.message(peer, ProofReply, lambda reply: reply.request == 99)
