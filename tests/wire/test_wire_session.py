from __future__ import annotations

import os
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_sessions import data_plain, established_pair, failure, frame_plain, make_session, messages, said, sealed

from deepshard.errors import MalformedMessage, OversizedMessage
from deepshard.limits import (
    HANDSHAKE_TIMEOUT_S,
    LINK_IDLE_TIMEOUT_S,
    PACKET_BYTES_MAX,
    PING_BURST_MAX,
    PING_INTERVAL_S,
    PINGS_UNANSWERED_MAX,
)
from deepshard.wire.events import Established, Event, Failed, LinkTimeout, PeerLeft, RateExceeded
from deepshard.wire.frames import prepare
from deepshard.wire.messages import BlobReply, BlobStatus, Status, Votes
from deepshard.wire.packets import (
    Credit,
    Goodbye,
    GoodbyeReason,
    Ping,
    Pong,
    Rekey,
    Streams,
    TamperedFrame,
    pack_control,
)
from deepshard.wire.receiving import RawFrame, UnexpectedMessage
from deepshard.wire.session import Session
from deepshard.wire.states import TRANSITIONS, Arrival, State


def comparable(events: list[Event]) -> list[object]:
    return [(type(event.error), str(event.error)) if isinstance(event, Failed) else event for event in events]


def fed(data: bytes, piece: int) -> list[object]:
    """Events of a listener that hears `data`, what a dialler of fixed secrets says, in pieces of a size."""
    listener = make_session(2, dialling=False)
    events: list[Event] = []
    for start in range(0, len(data), piece):
        events += listener.receive(data[start : start + piece], 0.0)
    return comparable(events)


def recorded_conversation() -> bytes:
    """All that the dialler says to the listener of `fed`; all secrets are fixed, so it can be said again."""
    dialler, listener = make_session(1, dialling=True), make_session(2, dialling=False)
    spoken = b""
    for _ in range(3):
        words = said(dialler)
        spoken += words
        listener.receive(words, 0.0)
        dialler.receive(said(listener), 0.0)
    dialler.send(Votes((b"v" * 400, b"w")))
    dialler.send(BlobReply(3, bytes(32), BlobStatus.FOUND), b"blob" * 200)
    dialler.send(Status(4))
    assert dialler._sealer is not None
    spoken += said(dialler) + dialler._sealer.rekey()
    return spoken + sealed(dialler, pack_control(Ping(2)), pack_control(Streams(18)))


def test_bytes_fed_whole_or_one_at_a_time_give_the_same_events() -> None:
    spoken = recorded_conversation()
    events = fed(spoken, len(spoken))
    assert [type(event) for event in events] == [Established, RawFrame, RawFrame, RawFrame]
    for piece in (1, 7, 100):
        assert fed(spoken, piece) == events


@pytest.mark.clause("5.1/1")
def test_garbage_behind_good_packets_takes_nothing_from_them() -> None:
    good = recorded_conversation()
    spoken = good + b"\xff" * 30
    for piece in (1, 7, 100, len(spoken)):
        *before, failed = fed(spoken, piece)
        assert before == fed(good, len(good))
        assert failed == (OversizedMessage, str(OversizedMessage("packet", 2**32 - 1, PACKET_BYTES_MAX)))


def test_truncated_at_every_byte_nothing_is_invented() -> None:
    spoken = recorded_conversation()
    whole = fed(spoken, len(spoken))
    for end in range(len(spoken)):
        events = fed(spoken[:end], end or 1)
        assert events == whole[: len(events)]


@given(data=st.binary(max_size=2000), dialling=st.booleans())
@settings(max_examples=100)
def test_any_bytes_in_a_handshake_give_events(data: bytes, dialling: bool) -> None:  # noqa: FBT001
    session = make_session(3, dialling=dialling)
    events = session.receive(data, 0.0)
    assert all(isinstance(event, Failed) for event in events)
    assert session.state is not State.ESTABLISHED


@given(kind=st.sampled_from([1, 2, 3, 255, 0, 77]), body=st.binary(max_size=300), dialling=st.booleans())
@settings(max_examples=100)
def test_any_handshake_message_gives_events(kind: int, body: bytes, dialling: bool) -> None:  # noqa: FBT001
    session = make_session(3, dialling=dialling)
    payload = bytes((kind, 2)) + body
    events = session.receive(len(payload).to_bytes(2, "little") + payload, 0.0)
    [failed] = events
    assert isinstance(failed, Failed)
    assert session.state is State.CLOSED


@given(data=st.binary(min_size=1, max_size=600), position=st.integers(0, 400))
@settings(max_examples=60)
def test_any_bytes_on_an_established_link_give_events(data: bytes, position: int) -> None:
    dialler, listener = established_pair()
    dialler.send(Votes((b"x" * 300,)))
    packets = bytearray(said(dialler))
    packets[position : position + len(data)] = data
    events = listener.receive(packets, 0.0)
    assert len(events) <= 2
    assert all(isinstance(event, Failed | RawFrame) for event in events)


@given(plains=st.lists(st.binary(min_size=1, max_size=120), min_size=1, max_size=5))
@settings(max_examples=200)
def test_any_plain_text_that_a_peer_seals_gives_events(plains: list[bytes]) -> None:
    dialler, listener = established_pair()
    events = listener.receive(sealed(dialler, *plains), 0.0)
    assert all(isinstance(event, Failed | RawFrame | PeerLeft) for event in events)


def test_after_a_failure_nothing_more_is_heard() -> None:
    dialler, listener = established_pair()
    [failed] = listener.receive(b"\xff" * 8, 0.0)
    assert isinstance(failed, Failed)
    dialler.send(Status(1))
    assert listener.receive(said(dialler), 0.0) == []
    assert listener.next_deadline() == float("inf")
    assert listener.handle_timer(10**6) == []


@pytest.mark.clause("5.8/1", "5.8/5")
def test_after_a_failure_the_last_word_is_goodbye() -> None:
    dialler, listener = established_pair()
    listener.send(Status(1))
    listener.receive(b"\xff" * 8, 0.0)
    listener.goodbye(GoodbyeReason.PROTOCOL_ERROR, "OversizedMessage: packet")
    assert dialler.receive(said(listener), 0.0) == [PeerLeft(5, "OversizedMessage: packet")]


@pytest.mark.clause("5.1/4")
def test_a_packet_with_a_changed_byte_ends_the_link() -> None:
    dialler, listener = established_pair()
    dialler.send(Status(1))
    packet = bytearray(said(dialler))
    packet[-1] ^= 1
    assert isinstance(failure(listener.receive(packet, 0.0)), TamperedFrame)


@pytest.mark.clause("5.1/1", "5.2/3")
def test_a_declared_size_allocates_nothing_before_its_bytes_come() -> None:
    dialler, listener = established_pair()
    largest = PACKET_BYTES_MAX.to_bytes(4, "little")
    begin = bytearray(
        frame_plain(dialler, prepare(BlobReply(1, bytes(32), BlobStatus.FOUND), b"x"), stream=2, sequence=0)
    )
    begin[1 + 18 : 1 + 22] = (8 << 20).to_bytes(4, "little")
    packet = sealed(dialler, bytes(begin))
    tracemalloc.start()
    try:
        assert listener.receive(packet, 0.0) == []
        assert listener.receive(largest, 0.0) == []
        assert listener.receive(bytes(1000), 0.0) == []
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_single_bytes_of_data_cost_no_object_each() -> None:
    dialler, listener = established_pair()
    payload = prepare(BlobReply(1, bytes(32), BlobStatus.FOUND), bytes(30_000))
    plains = [frame_plain(dialler, payload, stream=2, sequence=0), *[data_plain(2, b"\x00")] * 20_000]
    packets = sealed(dialler, *plains)
    tracemalloc.start()
    try:
        for at in range(0, len(packets), 10_000):
            assert listener.receive(packets[at : at + 10_000], 0.0) == []
        assert tracemalloc.get_traced_memory()[0] < 100_000
    finally:
        tracemalloc.stop()


def test_large_attachments_arrive_in_pieces() -> None:
    dialler, listener = established_pair()
    attachment = os.urandom(4 << 20)
    reply = BlobReply(1, bytes(32), BlobStatus.FOUND)
    dialler.send(reply, attachment)
    received = []
    while data := said(dialler):
        for start in range(0, len(data), 1 << 16):
            received += messages(listener, listener.receive(memoryview(data)[start : start + (1 << 16)], 0.0))
        dialler.receive(said(listener), 0.0)
    [one] = received
    assert one is not None
    assert (one.message, one.attachment) == (reply, attachment)
    assert len(one.attachment_leaves) == 256


@pytest.mark.clause("5.8/2", "5.8/3")
def test_goodbye_closes_and_what_follows_is_not_read() -> None:
    dialler, listener = established_pair()
    dialler.send(Status(1))
    data = sealed(dialler, pack_control(Goodbye(77, "done\nnow"))) + said(dialler)
    assert listener.receive(data, 0.0) == [PeerLeft(77, "done?now")]
    assert listener.state is State.CLOSED


@pytest.mark.clause("5.7/1", "5.7/2")
def test_pongs_answer_our_pings_in_order_and_once() -> None:
    dialler, listener = established_pair()
    assert dialler.handle_timer(PING_INTERVAL_S) == []
    assert listener.receive(said(dialler), 1.0) == []
    answer = said(listener)
    assert dialler.receive(answer, PING_INTERVAL_S + 0.02) == []
    assert dialler._receiver.window.rtt_s < 0.1
    error = failure(dialler.receive(sealed(listener, pack_control(Pong(2))), 1.0))
    assert isinstance(error, UnexpectedMessage)


@pytest.mark.clause("5.7/2")
def test_a_pong_must_carry_the_nonce_of_the_oldest_unanswered_ping() -> None:
    dialler, listener = established_pair()
    dialler.handle_timer(PING_INTERVAL_S)
    error = failure(dialler.receive(sealed(listener, pack_control(Pong(3))), 1.0))
    assert str(error) == "PONG with nonce 3, pings unanswered 1"


@pytest.mark.clause("5.7/3")
def test_more_pings_than_anybody_needs_end_the_link() -> None:
    dialler, listener = established_pair()
    burst = sealed(dialler, *[pack_control(Ping(n)) for n in range(PING_BURST_MAX - 1)])  # one was sent before
    assert listener.receive(burst, 0.0) == []
    assert listener.receive(sealed(dialler, pack_control(Ping(99))), 1.0) == []
    more = sealed(dialler, *[pack_control(Ping(n)) for n in range(8)])
    assert isinstance(failure(listener.receive(more, 1.0)), RateExceeded)


@pytest.mark.clause("5.7/3")
def test_unanswered_pings_are_bounded() -> None:
    _, session = established_pair()
    for step in range(1, 40):
        session._heard_at = 15.0 * step - 15
        session.handle_timer(15.0 * step)
    assert len(session._pings) == PINGS_UNANSWERED_MAX


def test_a_handshake_has_a_deadline() -> None:
    session = make_session(1, dialling=False, now=100.0)
    assert session.next_deadline() == 100.0 + HANDSHAKE_TIMEOUT_S
    session.receive(b"\x10", 109.0)
    assert session.next_deadline() == 100.0 + HANDSHAKE_TIMEOUT_S
    assert session.handle_timer(109.9) == []
    error = failure(session.handle_timer(110.0))
    assert isinstance(error, LinkTimeout)
    assert error.penalty == 0


@pytest.mark.clause("5.7/4")
def test_silence_is_pinged_and_then_ends_the_link() -> None:
    _, session = established_pair()
    times: list[float] = []
    events: list[Event] = []
    pings = 0
    while session.state is State.ESTABLISHED:
        times.append(session.next_deadline())
        events += session.handle_timer(times[-1])
        pings += len(session.packets())
    assert times == [PING_INTERVAL_S, 2 * PING_INTERVAL_S, 3 * PING_INTERVAL_S, LINK_IDLE_TIMEOUT_S]
    assert pings == 3
    assert [type(event) for event in events] == [Failed]


def test_silence_while_nobody_listened_does_not_count() -> None:
    _, session = established_pair()
    session.resume(1000.0)
    assert session.next_deadline() == 1000.0 + PING_INTERVAL_S


@pytest.mark.clause("5.9/1")
def test_nothing_leaves_before_the_listener_has_confirmed() -> None:
    dialler, listener = make_session(1, dialling=True), make_session(2, dialling=False)
    dialler.send(Status(1))
    listener.receive(said(dialler), 0.0)
    dialler.receive(said(listener), 0.0)
    finish = said(dialler)
    assert finish[2] == 3
    assert len(finish) == 2 + int.from_bytes(finish[:2], "little")
    assert said(dialler) == b""
    assert dialler.state is State.AWAIT_CONFIRM
    assert isinstance(listener.receive(finish, 0.0)[0], Established)
    assert isinstance(dialler.receive(said(listener), 0.0)[0], Established)
    assert len(dialler.packets()) == 3  # a ping, a pong, the message


def awaiting_confirm() -> tuple[Session, Session]:
    dialler, listener = make_session(1, dialling=True), make_session(2, dialling=False)
    listener.receive(said(dialler), 0.0)
    dialler.receive(said(listener), 0.0)
    listener.receive(said(dialler), 0.0)
    listener._control.clear()
    return dialler, listener


@pytest.mark.clause("5.9/1")
@pytest.mark.parametrize(
    "plain",
    [pack_control(Pong(1)), b"\x06", pack_control(Credit(0, 1 << 21)), pack_control(Streams(30)), data_plain(1, b"x")],
)
def test_the_listeners_first_packet_is_a_ping_or_goodbye(plain: bytes) -> None:
    dialler, listener = awaiting_confirm()
    assert isinstance(failure(dialler.receive(sealed(listener, plain), 0.0)), UnexpectedMessage)


@pytest.mark.clause("5.6/3")
def test_rekeying_is_accepted_at_any_time() -> None:
    dialler, listener = established_pair()
    for height in range(3):
        assert dialler._sealer is not None
        assert listener.receive(dialler._sealer.rekey(), 0.0) == []
        dialler.send(Status(height))
        [one] = messages(listener, listener.receive(said(dialler), 0.0))
        assert one is not None
        assert one.message == Status(height)
    assert isinstance(failure(listener.receive(sealed(dialler, b"\x06\x00"), 0.0)), MalformedMessage)
    assert pack_control(Rekey()) == b"\x06"


@pytest.mark.clause("4.5/1")
def test_every_state_is_in_the_table_and_closed_is_final() -> None:
    assert set(TRANSITIONS) == set(State)
    assert TRANSITIONS[State.CLOSED] == {}
    reached = {state for arrivals in TRANSITIONS.values() for state in arrivals.values()}
    assert reached == set(State) - {State.AWAIT_HELLO, State.AWAIT_REPLY}
    assert {arrival for arrivals in TRANSITIONS.values() for arrival in arrivals} == set(Arrival)


@pytest.mark.clause("5.1/4", "5.1/2")
def test_a_packet_sent_back_does_not_even_open() -> None:
    dialler, _ = established_pair()
    dialler.send(Status(1))
    assert isinstance(failure(dialler.receive(said(dialler), 0.0)), TamperedFrame)
