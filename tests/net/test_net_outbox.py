from __future__ import annotations

import trio
from trio.testing import wait_all_tasks_blocked

from deepshard.limits import BULK_QUEUE_BYTES_MAX, OUTBOUND_QUEUE_FRAMES_MAX
from deepshard.net.outbox import Outbox
from deepshard.wire.frames import Payload, prepare
from deepshard.wire.messages import BlobReply, BlobStatus, Transactions, Votes
from deepshard.wire.sending import SendQueue

VOTE, GOSSIP = prepare(Votes((b"v",))), prepare(Transactions(()))
BULK = prepare(BlobReply(1, bytes(32), BlobStatus.FOUND), bytes(8 << 20))


async def test_consensus_leaves_before_gossip_and_gossip_before_bulk() -> None:
    queue = SendQueue()
    outbox = Outbox(queue)
    for payload in (BULK, GOSSIP, VOTE):
        assert outbox.offer(payload)
    pieces = [queue.next_piece() for _ in range(3)]
    assert [piece.payload for piece in pieces if piece] == [VOTE, GOSSIP, BULK]
    assert len(outbox) == 1


async def test_the_writer_sleeps_until_something_is_offered() -> None:
    outbox = Outbox(SendQueue())
    woken: list[str] = []

    async def writer() -> None:
        while True:
            await outbox.wait()
            woken.append("woken")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer)
        await wait_all_tasks_blocked()
        assert woken == []
        outbox.offer(VOTE)
        await wait_all_tasks_blocked()
        outbox.changed()
        await wait_all_tasks_blocked()
        assert woken == ["woken", "woken"]
        nursery.cancel_scope.cancel()


async def test_bulk_waits_for_room_and_the_rest_is_refused_when_full() -> None:
    queue = SendQueue()
    outbox = Outbox(queue)
    fitting = BULK_QUEUE_BYTES_MAX // BULK.size_bytes
    for _ in range(fitting):
        assert outbox.offer(BULK)
    assert not outbox.offer(BULK)
    for _ in range(OUTBOUND_QUEUE_FRAMES_MAX):
        assert outbox.offer(VOTE)
    assert not outbox.offer(VOTE)
    results: list[bool] = []

    async def put(payload: Payload) -> None:
        results.append(await outbox.put(payload))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(put, BULK)
        await wait_all_tasks_blocked()
        assert results == []
        while queue.next_piece():
            for stream in range(2, 2 + fitting):
                if stream < queue._opened:
                    queue.credit(stream, 9 << 20)
        outbox.drained()
        await wait_all_tasks_blocked()
        assert results == [True]
        for _ in range(fitting):
            outbox.offer(BULK)
        nursery.start_soon(put, BULK)
        await wait_all_tasks_blocked()
        outbox.close()
    assert results == [True, False]
    assert not outbox.offer(VOTE)
