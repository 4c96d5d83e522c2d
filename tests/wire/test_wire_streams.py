from __future__ import annotations

import os
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_sessions import data_plain, established_pair, failure, frame_plain, messages, pump, said, sealed

from deepshard.errors import BadSignature, MalformedMessage, OversizedMessage
from deepshard.limits import (
    BULK_CREDIT_BYTES,
    BULK_WINDOW_BYTES_MIN,
    DATA_BYTES_MAX,
    FRAME_CHARGE_BYTES,
    MIB,
    PEER_REASSEMBLY_BYTES_MAX,
    STREAM_CREDIT_BYTES,
    STREAMS_OPEN_MAX,
)
from deepshard.primitives import ZERO_DIGEST, content_digest
from deepshard.wire.events import MessageReceived, PeerLeft
from deepshard.wire.frames import CorruptAttachment, prepare
from deepshard.wire.messages import BlobReply, BlobStatus, Status, Transactions, Votes
from deepshard.wire.packets import Credit, Goodbye, Ping, Streams, pack_control
from deepshard.wire.receiving import (
    CreditExceeded,
    RawFrame,
    ReassemblyBudget,
    StreamLimitExceeded,
    UnexpectedMessage,
    _BulkWindow,
)
from deepshard.wire.sending import SendQueue
from deepshard.wire.session import Session
from deepshard.wire.states import State

VOTES = Votes((b"v" * 100,))


def blob(number: int) -> BlobReply:
    return BlobReply(number, bytes(32), BlobStatus.FOUND)


def kinds(session: Session, data: bytes | bytearray) -> list[type]:
    """Kinds of messages in the order in which they are complete."""
    return [type(received.message) for received in messages(session, session.receive(data, 0.0)) if received]


@pytest.mark.clause("5.2/5", "5.2/10", "5.4/5", "5.4/6", "5.3/5")
def test_large_bodies_and_attachments_arrive_through_small_credit() -> None:
    dialler, listener = established_pair()
    sent: list[tuple[object, bytes]] = []
    for number in range(40):
        attachment = os.urandom(number * 70_001)
        dialler.send(blob(number), attachment)
        sent.append((blob(number), attachment))
    bodies = [Transactions(tuple(os.urandom(100_000) for _ in range(count))) for count in (30, 1, 12)]
    for body in bodies:
        dialler.send(body)
    received = [message for message in pump(dialler, listener) if message is not None]
    of_bulk = [(one.message, one.attachment) for one in received if isinstance(one.message, BlobReply)]
    assert sorted(of_bulk, key=lambda pair: pair[0].request) == sent
    assert [one.message for one in received if isinstance(one.message, Transactions)] == bodies
    assert all(
        one.attachment_digest == (content_digest(one.attachment) if one.attachment else ZERO_DIGEST) for one in received
    )
    assert len(dialler.outgoing) == 0


@pytest.mark.clause("5.5/1")
def test_a_vote_overtakes_gossip_and_bulk_that_have_begun() -> None:
    dialler, listener = established_pair()
    dialler.send(blob(1), os.urandom(300_000))
    dialler.send(Transactions((os.urandom(120_000), os.urandom(120_000))))
    before = said(dialler, 100_000)
    dialler.send(VOTES)
    listener.receive(before, 0.0)
    assert kinds(listener, said(dialler, 1)) == [Votes]
    rest = [type(one.message) for one in pump(dialler, listener) if one]
    assert rest == [Transactions, BlobReply]


@pytest.mark.clause("5.1/6", "5.5/1")
def test_control_packets_go_before_frames() -> None:
    dialler, listener = established_pair()
    dialler.send(VOTES)
    dialler.receive(sealed(listener, pack_control(Ping(7))), 0.0)
    first, second = dialler.packets()
    assert len(first) == 4 + 9 + 32
    listener._pings.append((7, 0.0))
    assert listener.receive(first, 0.0) == []
    assert kinds(listener, second) == [Votes]


@pytest.mark.clause("5.5/2")
def test_bulk_streams_take_turns() -> None:
    queue = SendQueue()
    for number in range(3):
        queue.add(prepare(blob(number), bytes(200_000)))
    assert [piece.stream for _ in range(6) if (piece := queue.next_piece())] == [2, 2, 3, 3, 4, 4]
    assert queue.next_piece() is None
    for stream in (2, 3, 4):
        queue.credit(stream, MIB)
    order: list[int] = []
    while piece := queue.next_piece():
        order.append(piece.stream)
    assert order == [2, 3, 4] * 3


@pytest.mark.clause("5.4/1", "5.4/2")
def test_a_sender_stops_at_its_credit() -> None:
    dialler, listener = established_pair()
    dialler.send(blob(1), os.urandom(MIB))
    first = said(dialler)
    assert BULK_CREDIT_BYTES - 16 * 1024 < len(first) < BULK_CREDIT_BYTES + 500
    assert said(dialler) == b""
    assert listener.receive(first, 0.0) == []
    dialler.receive(said(listener), 0.0)
    assert BULK_WINDOW_BYTES_MIN - DATA_BYTES_MAX < len(said(dialler)) < BULK_WINDOW_BYTES_MIN + 4 * DATA_BYTES_MAX


@pytest.mark.clause("5.4/1", "5.4/2", "5.4/6")
def test_gossip_that_nobody_takes_does_not_hold_up_votes() -> None:
    dialler, listener = established_pair()
    for _ in range(20):
        dialler.send(Transactions((os.urandom(100_000),)))
    held = listener.receive(said(dialler), 0.0)
    assert 8 <= len(held) <= 10
    assert said(dialler) == b""
    dialler.send(VOTES)
    assert kinds(listener, said(dialler)) == [Votes]
    messages(listener, held)
    dialler.receive(said(listener), 0.0)
    assert len(pump(dialler, listener)) == 20 - len(held)


@pytest.mark.clause("5.4/2")
@pytest.mark.parametrize("stream", [0, 1, 2])
def test_payload_beyond_the_limit_ends_the_link(stream: int) -> None:
    dialler, listener = established_pair()
    limit = STREAM_CREDIT_BYTES if stream < 2 else BULK_CREDIT_BYTES
    body = prepare(Transactions(tuple(os.urandom(100_000) for _ in range(20))))
    payload = replace(prepare(blob(1)), attachment=bytes(MIB), attachment_digest=bytes(32)) if stream == 2 else body
    first = min(len(payload.body), DATA_BYTES_MAX)
    plains = [frame_plain(dialler, payload, stream=stream, sequence=0)]
    allowed = limit - FRAME_CHARGE_BYTES - first
    plains += [data_plain(stream, bytes(min(DATA_BYTES_MAX, allowed - at))) for at in range(0, allowed, DATA_BYTES_MAX)]
    assert listener.receive(sealed(dialler, *plains), 0.0) == []
    answered = said(listener)  # credit for the rest is granted at once, but this sender didn't wait for it
    assert answered
    listener._receiver._ordered[0].limit = listener._receiver._ordered[1].limit = limit
    if stream == 2:
        listener._receiver._bulk[2].limit = limit
    assert isinstance(failure(listener.receive(sealed(dialler, data_plain(stream, b"x")), 0.0)), CreditExceeded)


@pytest.mark.clause("5.4/2")
def test_frames_without_payload_use_credit_too() -> None:
    dialler, listener = established_pair()
    payload = prepare(Transactions(()))
    fitting = STREAM_CREDIT_BYTES // (FRAME_CHARGE_BYTES + len(payload.body))
    plains = [frame_plain(dialler, payload, stream=1, sequence=number) for number in range(fitting)]
    events = listener.receive(sealed(dialler, *plains), 0.0)
    assert len(events) == fitting
    one_more = sealed(dialler, frame_plain(dialler, payload, stream=1, sequence=fitting))
    assert isinstance(failure(listener.receive(one_more, 0.0)), CreditExceeded)


@pytest.mark.clause("5.4/3", "5.3/6")
@pytest.mark.parametrize(
    "control",
    [Credit(0, STREAM_CREDIT_BYTES - 1), Credit(1, 0), Credit(2, MIB), Credit(2**32 - 1, MIB), Streams(17), Streams(0)],
)
def test_credit_and_stream_limits_only_grow_and_name_what_is_open(control: Credit | Streams) -> None:
    dialler, listener = established_pair()
    assert isinstance(failure(dialler.receive(sealed(listener, pack_control(control)), 0.0)), MalformedMessage)


@pytest.mark.clause("5.4/4", "5.4/3")
def test_credit_for_a_complete_stream_means_nothing_and_equal_credit_is_fine() -> None:
    dialler, listener = established_pair()
    dialler.send(blob(1), b"x")
    listener.receive(said(dialler), 0.0)
    plains = [
        pack_control(control) for control in (Credit(2, 5), Credit(2, MIB), Credit(0, STREAM_CREDIT_BYTES), Streams(18))
    ]
    assert dialler.receive(sealed(listener, *plains), 0.0) == []


@pytest.mark.clause("5.3/2")
@pytest.mark.parametrize("stream", [3, 17, 2**32 - 1])
def test_bulk_streams_are_opened_in_order(stream: int) -> None:
    dialler, listener = established_pair()
    plain = frame_plain(dialler, prepare(blob(1)), stream=stream, sequence=0)
    assert isinstance(failure(listener.receive(sealed(dialler, plain), 0.0)), MalformedMessage)


@pytest.mark.clause("5.3/4", "5.3/5")
def test_more_streams_than_the_limit_end_the_link_and_consuming_raises_it() -> None:
    dialler, listener = established_pair()
    plains = [frame_plain(dialler, prepare(blob(n)), stream=2 + n, sequence=n) for n in range(STREAMS_OPEN_MAX)]
    held = listener.receive(sealed(dialler, *plains), 0.0)
    assert len(held) == STREAMS_OPEN_MAX
    messages(listener, held[:3])
    assert said(listener) == b""
    messages(listener, held[3:8])
    assert dialler.receive(said(listener), 0.0) == []
    assert dialler.outgoing._stream_limit == 2 + STREAMS_OPEN_MAX + 8
    more = [frame_plain(dialler, prepare(blob(n)), stream=2 + n, sequence=n) for n in range(16, 25)]
    events = listener.receive(sealed(dialler, *more), 0.0)
    assert len(events) == 9
    assert isinstance(failure(events), StreamLimitExceeded)


@pytest.mark.clause("5.3/4", "5.3/5")
def test_a_sender_keeps_to_the_stream_limit() -> None:
    dialler, listener = established_pair()
    for number in range(50):
        dialler.send(blob(number), b"small")
    held = listener.receive(said(dialler), 0.0)
    assert len(held) == STREAMS_OPEN_MAX
    messages(listener, held)
    dialler.receive(said(listener), 0.0)
    assert len(pump(dialler, listener)) == 50 - STREAMS_OPEN_MAX


@pytest.mark.clause("5.2/6", "5.3/3")
def test_data_belongs_to_an_incomplete_frame() -> None:
    for stream in (0, 1, 2, 99):
        dialler, listener = established_pair()
        assert isinstance(failure(listener.receive(sealed(dialler, data_plain(stream, b"x")), 0.0)), UnexpectedMessage)
    dialler, listener = established_pair()
    payload = prepare(blob(1), b"12345")
    begin = frame_plain(dialler, payload, stream=2, sequence=0)
    assert listener.receive(sealed(dialler, begin, data_plain(2, b"1234")), 0.0) == []
    assert isinstance(failure(listener.receive(sealed(dialler, data_plain(2, b"56")), 0.0)), MalformedMessage)
    dialler, listener = established_pair()
    begin = frame_plain(dialler, payload, stream=2, sequence=0)
    [frame] = listener.receive(sealed(dialler, begin, data_plain(2, b"12345")), 0.0)
    assert isinstance(frame, RawFrame)
    assert isinstance(failure(listener.receive(sealed(dialler, data_plain(2, b"6")), 0.0)), UnexpectedMessage)


@pytest.mark.clause("5.1/5")
def test_data_needs_a_stream_and_a_byte() -> None:
    for plain in (b"\x02", b"\x02\x00\x00", data_plain(1, b"")):
        dialler, listener = established_pair()
        assert isinstance(failure(listener.receive(sealed(dialler, plain), 0.0)), MalformedMessage)


@pytest.mark.clause("5.3/7", "5.5/3")
def test_ordered_streams_carry_one_frame_after_the_other() -> None:
    dialler, listener = established_pair()
    long = prepare(Transactions((os.urandom(100_000),)))
    begin = frame_plain(dialler, long, stream=1, sequence=0)
    other = frame_plain(dialler, prepare(Transactions(())), stream=1, sequence=1)
    assert isinstance(failure(listener.receive(sealed(dialler, begin, other), 0.0)), UnexpectedMessage)


@pytest.mark.clause("5.2/12")
def test_an_attachment_on_an_ordered_stream_is_malformed() -> None:
    dialler, listener = established_pair()
    plain = frame_plain(dialler, prepare(blob(1), b"x"), stream=1, sequence=0)
    assert isinstance(failure(listener.receive(sealed(dialler, plain), 0.0)), MalformedMessage)


@pytest.mark.clause("5.2/2")
@pytest.mark.parametrize("sequence", [1, 2**64 - 1])
def test_frames_are_numbered(sequence: int) -> None:
    dialler, listener = established_pair()
    plain = frame_plain(dialler, prepare(VOTES), stream=0, sequence=sequence)
    assert isinstance(failure(listener.receive(sealed(dialler, plain), 0.0)), MalformedMessage)


@pytest.mark.clause("5.2/10")
def test_an_attachment_that_is_not_what_was_signed_ends_the_link() -> None:
    dialler, listener = established_pair()
    payload = replace(prepare(blob(1), b"12345"), attachment=b"12345")
    begin = frame_plain(dialler, payload, stream=2, sequence=0)
    error = failure(listener.receive(sealed(dialler, begin, data_plain(2, b"12346")), 0.0))
    assert isinstance(error, CorruptAttachment)
    assert error.penalty == 50


@pytest.mark.clause("5.2/9")
def test_a_signature_is_verified_before_the_message_is_seen() -> None:
    dialler, listener = established_pair()
    plain = bytearray(frame_plain(dialler, prepare(VOTES), stream=0, sequence=0))
    plain[40] ^= 1
    [frame] = listener.receive(sealed(dialler, bytes(plain)), 0.0)
    assert isinstance(frame, RawFrame)
    with pytest.raises(BadSignature):
        listener.open(frame)


@pytest.mark.clause("5.2/3")
def test_a_frame_that_declares_too_much_is_refused_when_it_begins() -> None:
    dialler, listener = established_pair()
    plain = bytearray(frame_plain(dialler, prepare(blob(1), b"x"), stream=2, sequence=0))
    plain[1 + 18 : 1 + 22] = b"\xff\xff\xff\xff"
    assert isinstance(failure(listener.receive(sealed(dialler, bytes(plain)), 0.0)), OversizedMessage)


@pytest.mark.clause("5.4/7")
def test_memory_of_a_peer_and_of_the_node_bounds_credit() -> None:
    budget = ReassemblyBudget(bytes_max=3 * MIB)
    dialler, listener = established_pair(budget=budget)
    other_dialler, other = established_pair(budget=budget)
    dialler.send(blob(1), os.urandom(2 * MIB))
    other_dialler.send(blob(2), os.urandom(2 * MIB))
    listener.receive(said(dialler), 0.0)
    other.receive(said(other_dialler), 0.0)
    assert (listener.is_starved, other.is_starved, budget.refused) == (False, True, True)
    assert said(other) == b""
    assert [one.message for one in pump(dialler, listener) if one] == [blob(1)]
    assert budget.taken == 0
    other.retry_credit()
    assert not other.is_starved
    other_dialler.receive(said(other), 0.0)
    assert [one.message for one in pump(other_dialler, other) if one] == [blob(2)]
    assert budget.taken == 0


@pytest.mark.clause("5.4/7")
def test_one_peer_gets_its_share_and_a_closed_link_gives_it_back() -> None:
    budget = ReassemblyBudget()
    dialler, listener = established_pair(budget=budget)
    held: list[RawFrame] = []
    for number in range(10):
        dialler.send(blob(number), bytes(8 * MIB - 1))
    while data := said(dialler):
        held += [event for event in listener.receive(data, 0.0) if isinstance(event, RawFrame)]
        dialler.receive(said(listener), 0.0)
    assert len(held) == PEER_REASSEMBLY_BYTES_MAX // (8 * MIB)
    assert listener.is_starved
    assert 3 * 8 * MIB < budget.taken <= PEER_REASSEMBLY_BYTES_MAX
    listener.close()
    assert budget.taken == 0


@pytest.mark.clause("5.4/8")
def test_the_window_for_bulk_follows_what_the_link_carries_in_a_round_trip() -> None:
    window = _BulkWindow()
    window.note_rtt(0.1)
    for step in range(400):  # 100 MB/s over 100 ms
        window.note(500_000, step * 0.005)
    assert window.size == 8 * MIB
    for step in range(400, 800):  # 10 MB/s
        window.note(50_000, step * 0.005)
    assert 1.1e6 < window.size < 1.4e6
    for step in range(800, 2000):
        window.note(500, step * 0.005)
    assert window.size == BULK_WINDOW_BYTES_MIN


@given(
    sizes=st.lists(st.integers(0, 400_000), min_size=1, max_size=12), steps=st.lists(st.integers(1, 90_000), min_size=1)
)
@settings(max_examples=25, deadline=None)
def test_however_the_link_cuts_it_everything_arrives_once(sizes: list[int], steps: list[int]) -> None:
    dialler, listener = established_pair()
    for number, size in enumerate(sizes):
        dialler.send(blob(number), bytes(size))
        dialler.send(Status(number))
    received: list[MessageReceived | None] = []
    turn = 0
    while data := said(dialler, steps[turn % len(steps)]):
        for at in range(0, len(data), steps[turn % len(steps)]):
            received += messages(listener, listener.receive(data[at : at + steps[turn % len(steps)]], 0.0))
        dialler.receive(said(listener), 0.0)
        turn += 1
    arrived = [one.message for one in received if one is not None]
    assert [message for message in arrived if isinstance(message, Status)] == [Status(n) for n in range(len(sizes))]
    replies = [
        (one.message.request, len(one.attachment)) for one in received if one and isinstance(one.message, BlobReply)
    ]
    assert sorted(replies) == list(enumerate(sizes))


@pytest.mark.clause("5.8/1", "5.8/2")
def test_after_goodbye_nothing_is_said_and_nothing_heard() -> None:
    dialler, listener = established_pair()
    dialler.goodbye(0, "shutting down")
    dialler.send(VOTES)
    last = said(dialler)
    assert said(dialler) == b""
    more = sealed(dialler, pack_control(Goodbye(1, "again")))
    assert listener.receive(last + more, 0.0) == [PeerLeft(0, "shutting down")]
    assert listener.state is State.CLOSED
