"""Pairs of sessions that talk to each other, and a hand that seals whatever a test wants."""

from __future__ import annotations

from deepshard.identity.keys import SecretKey
from deepshard.wire.events import Event, Failed, MessageReceived
from deepshard.wire.frames import Payload, frame_start
from deepshard.wire.handshake import LocalNode
from deepshard.wire.receiving import RawFrame, ReassemblyBudget
from deepshard.wire.session import Session
from deepshard.wire.states import State


def make_session(number: int, *, dialling: bool, now: float = 0.0, budget: ReassemblyBudget | None = None) -> Session:
    local = LocalNode(SecretKey(bytes([number]) * 32), "chain", bytes(32))
    seed = bytes([number + 100]) * 32
    return Session(local, dialling=dialling, ephemeral_secret=seed, nonce=seed, now=now, budget=budget)


def said(session: Session, bytes_max: int = 1 << 62) -> bytes:
    """All that a session has to say now."""
    return b"".join(session.packets(bytes_max))


def established_pair(*, budget: ReassemblyBudget | None = None) -> tuple[Session, Session]:
    """Dialler and listener; the pings of the beginning are answered. The budget is the listener's."""
    dialler, listener = make_session(1, dialling=True), make_session(2, dialling=False, budget=budget)
    for _ in range(4):
        listener.receive(said(dialler), 0.0)
        dialler.receive(said(listener), 0.0)
    assert dialler.state is listener.state is State.ESTABLISHED
    assert said(dialler) == said(listener) == b""
    return dialler, listener


def messages(session: Session, events: list[Event]) -> list[MessageReceived | None]:
    """Open and consume every frame."""
    received: list[MessageReceived | None] = []
    for event in events:
        assert isinstance(event, RawFrame), event
        received.append(session.open(event))
        session.consumed(event)
    return received


def pump(sender: Session, receiver: Session, *, now: float = 0.0) -> list[MessageReceived | None]:
    """Let everything queued arrive, with credit going back, until both have nothing to say."""
    received: list[MessageReceived | None] = []
    sender.receive(said(receiver), now)
    while data := said(sender):
        received += messages(receiver, receiver.receive(data, now))
        sender.receive(said(receiver), now)
    return received


def sealed(session: Session, *plains: bytes) -> bytes:
    """Packets as the session's owner could seal them."""
    assert session._sealer is not None
    return b"".join(session._sealer.seal(plain) for plain in plains)


def frame_plain(session: Session, payload: Payload, *, stream: int, sequence: int) -> bytes:
    return frame_start(
        payload, stream=stream, sequence=sequence, signer=session._local.key, session_id=session._session_id
    )


def data_plain(stream: int, data: bytes) -> bytes:
    return b"\x02" + stream.to_bytes(4, "little") + data


def failure(events: list[Event]) -> Exception:
    """The error of the last event, which must be a failure."""
    assert events
    assert isinstance(events[-1], Failed), events
    return events[-1].error
