from __future__ import annotations

import trio
from trio.testing import wait_all_tasks_blocked

from deepshard.limits import BULK_QUEUE_BYTES_MAX, OUTBOUND_QUEUE_FRAMES_MAX
from deepshard.net.outbox import BATCH_FRAMES_MAX, Outbox
from deepshard.wire.frames import Payload, prepare
from deepshard.wire.messages import BlobReply, BlobStatus, Ping, Status, Votes

VOTE, PING = prepare(Votes((b"v",))), prepare(Ping(1))
BULK = prepare(BlobReply(1, bytes(32), BlobStatus.FOUND), bytes(8 << 20))


async def test_consensus_leaves_before_gossip_and_gossip_before_bulk() -> None:
    outbox = Outbox()
    for payload in (BULK, PING, VOTE):
        assert outbox.offer(payload)
    assert [await outbox.take(), await outbox.take()] == [[VOTE, PING], [BULK]]
    assert len(outbox) == 0


async def test_a_batch_is_bounded_and_keeps_the_order() -> None:
    outbox = Outbox()
    payloads = [prepare(Status(height)) for height in range(BATCH_FRAMES_MAX + 3)]
    for payload in payloads:
        outbox.offer(payload)
    assert await outbox.take() + await outbox.take() == payloads


async def test_bulk_waits_for_room_and_the_rest_is_refused_when_full() -> None:
    outbox = Outbox()
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
        while BULK not in await outbox.take():
            pass
        await wait_all_tasks_blocked()
        assert results == [True]
        nursery.start_soon(put, BULK)
        await wait_all_tasks_blocked()
        outbox.close()
    assert results == [True, False]
    assert not outbox.offer(VOTE)
