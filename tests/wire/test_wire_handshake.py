from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepshard.encoding import encode
from deepshard.errors import BadSignature, OversizedMessage, UsageError
from deepshard.identity.keys import SecretKey
from deepshard.limits import HANDSHAKE_MESSAGE_BYTES_MAX
from deepshard.wire.events import Established, Event, Failed
from deepshard.wire.handshake import (
    HandshakeFailed,
    HandshakeKind,
    HandshakeRefused,
    Hello,
    LocalNode,
    PeerIdentity,
    RefusalReason,
    frame_handshake_message,
)
from deepshard.wire.session import Session
from deepshard.wire.states import State

GENESIS = b"\x01" * 32
# Order 1, 2, 4 and 8, and forms of them that aren't reduced: RFC 7748's and libsodium's list.
LOW_ORDER = [
    "00" * 32,
    "01" + "00" * 31,
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]


def node(
    number: int, *, chain_id: str = "chain", genesis: bytes = GENESIS, features: tuple[str, ...] = ()
) -> LocalNode:
    key = SecretKey(bytes([number]) * 32)
    return LocalNode(key, chain_id, genesis, ("validator",), f"127.0.0.1:{number}", features)


def dialler(local: LocalNode, seed: int = 10, **more: bytes) -> Session:
    secret, nonce = bytes([seed]) * 32, bytes([seed + 1]) * 32
    expected_key = more.get("expected_key")
    return Session(local, dialling=True, ephemeral_secret=secret, nonce=nonce, now=0.0, expected_key=expected_key)


def listener(local: LocalNode, seed: int = 20, *, refuse: RefusalReason | None = None) -> Session:
    secret, nonce = bytes([seed]) * 32, bytes([seed + 1]) * 32

    def admit(_: PeerIdentity) -> RefusalReason | None:
        return refuse

    return Session(local, dialling=False, ephemeral_secret=secret, nonce=nonce, now=0.0, admit=admit)


def converse(a: Session, b: Session) -> tuple[list[Event], list[Event]]:
    """Carry bytes to and fro until both are silent; events of each side."""
    events: tuple[list[Event], list[Event]] = [], []
    while True:
        to_b, to_a = b"".join(a.packets()), b"".join(b.packets())
        if not to_a and not to_b:
            return events
        events[1].extend(b.receive(to_b, 0.0))
        events[0].extend(a.receive(to_a, 0.0))


def refusals(a: Session, b: Session) -> list[HandshakeRefused]:
    """The error each side ends with."""
    errors: list[HandshakeRefused] = []
    for events in converse(a, b):
        [failed] = events
        assert isinstance(failed, Failed)
        assert isinstance(failed.error, HandshakeRefused)
        errors.append(failed.error)
    assert a.state is b.state is State.CLOSED
    return errors


@pytest.mark.clause("4.2/4", "14.2/3")
def test_both_sides_learn_who_the_other_is_and_what_both_can() -> None:
    a, b = dialler(node(1, features=("x", "y"))), listener(node(2, features=("y", "z")))
    at_a, at_b = converse(a, b)
    one, two = node(1), node(2)
    assert at_a[0] == Established(PeerIdentity(two.key.public, ("validator",), "127.0.0.1:2"), ("y",))
    assert at_b[0] == Established(PeerIdentity(one.key.public, ("validator",), "127.0.0.1:1"), ("y",))
    assert len(at_a) == len(at_b) == 1
    assert a.state is b.state is State.ESTABLISHED


def test_what_is_said_before_the_keys_exist_tells_no_identity() -> None:
    a, b = dialler(node(1)), listener(node(2))
    said = first = b"".join(a.packets())
    b.receive(first, 0.0)
    said += (reply := b"".join(b.packets()))
    a.receive(reply, 0.0)
    said += b"".join(a.packets())
    for local in (node(1), node(2)):
        assert local.key.public not in said
        assert local.listen.encode() not in said


def test_wrong_genesis_is_seen_by_both() -> None:
    other = b"\x02" * 32
    ours, theirs = refusals(dialler(node(1)), listener(node(2, genesis=other)))
    assert ours.reason is theirs.reason is RefusalReason.GENESIS_MISMATCH
    assert (ours.ours, ours.theirs, ours.by_peer) == (GENESIS.hex(), other.hex(), True)
    assert (theirs.ours, theirs.theirs, theirs.by_peer) == (other.hex(), GENESIS.hex(), False)


def test_wrong_chain_is_seen_by_both() -> None:
    ours, theirs = refusals(dialler(node(1, chain_id="main")), listener(node(2, chain_id="test")))
    assert ours.reason is theirs.reason is RefusalReason.CHAIN_MISMATCH
    assert (ours.ours, ours.theirs, theirs.ours, theirs.theirs) == ("main", "test", "test", "main")


@pytest.mark.clause("4.3/6")
def test_a_connection_to_oneself_is_refused() -> None:
    ours, theirs = refusals(dialler(node(1)), listener(node(1)))
    assert ours.reason is theirs.reason is RefusalReason.SELF_CONNECTION


@pytest.mark.clause("4.3/7", "4.6/4")
def test_an_unexpected_key_is_refused_and_the_stranger_learns_no_key() -> None:
    expected = node(3).key.public
    ours, theirs = refusals(dialler(node(1), expected_key=expected), listener(node(2)))
    assert ours.reason is theirs.reason is RefusalReason.UNEXPECTED_KEY
    assert (ours.ours, ours.theirs) == (expected.hex(), node(2).key.public.hex())
    assert (theirs.ours, theirs.theirs) == ("", "")


@pytest.mark.parametrize("reason", [RefusalReason.BANNED, RefusalReason.TOO_MANY_PEERS, RefusalReason.DUPLICATE_LINK])
def test_a_listener_that_wants_no_more_says_so(reason: RefusalReason) -> None:
    ours, theirs = refusals(dialler(node(1)), listener(node(2), refuse=reason))
    assert (ours.reason, ours.by_peer) == (reason, True)
    assert (theirs.reason, theirs.by_peer) == (reason, False)


@pytest.mark.clause("4.1/4", "14.1/1")
def test_another_version_is_refused_before_its_record_is_read() -> None:
    b = listener(node(2))
    [failed] = b.receive(b"\x05\x00\x01\x09\xc1\xc1\xc1", 0.0)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, HandshakeRefused)
    assert (failed.error.ours, failed.error.theirs) == ("version 2", "version 9")
    a = dialler(node(1))
    b"".join(a.packets())
    [told] = a.receive(b"".join(b.packets()), 0.0)
    assert isinstance(told, Failed)
    assert isinstance(told.error, HandshakeRefused)
    assert (told.error.reason, told.error.ours, told.error.theirs) == (
        RefusalReason.UNSUPPORTED_VERSION,
        "version 9",
        "version 2",
    )


@pytest.mark.parametrize("point", LOW_ORDER)
def test_points_of_low_order_are_refused_by_both_sides(point: str) -> None:
    hello = Hello("chain", GENESIS, bytes.fromhex(point), bytes(32), ())
    [failed] = listener(node(2)).receive(frame_handshake_message(HandshakeKind.HELLO, hello), 0.0)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, HandshakeFailed)
    assert "low order" in str(failed.error)


def test_reflection_of_the_diallers_own_hello_establishes_nothing() -> None:
    a = dialler(node(1))
    [failed] = a.receive(b"".join(a.packets()), 0.0)
    assert isinstance(failed, Failed)
    assert a.state is State.CLOSED


def test_a_recorded_handshake_cannot_be_replayed() -> None:
    a, b = dialler(node(1)), listener(node(2))
    first = b"".join(a.packets())
    b.receive(first, 0.0)
    a.receive(b"".join(b.packets()), 0.0)
    finish = b"".join(a.packets())
    again = listener(node(2), seed=30)
    again.receive(first, 0.0)
    [failed] = again.receive(finish, 0.0)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, HandshakeFailed)
    other = dialler(node(1), seed=40)
    b"".join(other.packets())
    replier = listener(node(2))
    replier.receive(first, 0.0)
    [failed] = other.receive(b"".join(replier.packets()), 0.0)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, HandshakeFailed)


@pytest.mark.parametrize("message", [0, 1, 2])
def test_no_single_byte_may_change(message: int) -> None:
    """Every byte of every message, two masks each: no side is established, or only the one that spoke last."""
    a, b = dialler(node(1)), listener(node(2))
    script = [b"".join(a.packets())]
    b.receive(script[0], 0.0)
    script.append(b"".join(b.packets()))
    a.receive(script[1], 0.0)
    script.append(b"".join(a.packets()))
    for position in range(len(script[message])):
        for mask in (0x01, 0x80):
            changed = bytearray(script[message])
            changed[position] ^= mask
            a, b = dialler(node(1)), listener(node(2))
            events: list[Event] = []
            b"".join(a.packets())
            events += b.receive(changed if message == 0 else script[0], 0.0)
            reply = b"".join(b.packets())
            events += a.receive(changed if message == 1 else reply, 0.0)
            finish = b"".join(a.packets())
            events += b.receive(changed if message == 2 else finish, 0.0)
            events += a.receive(b"".join(b.packets()), 0.0)
            assert not any(isinstance(event, Established) for event in events), (position, mask)


@given(size=st.integers(HANDSHAKE_MESSAGE_BYTES_MAX + 1, 65535))
@settings(max_examples=20)
def test_a_declared_length_beyond_the_bound_fails_at_once(size: int) -> None:
    [failed] = listener(node(2)).receive(size.to_bytes(2, "little"), 0.0)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, OversizedMessage)
    assert failed.error.size == size


def test_the_largest_node_still_fits_and_a_larger_is_a_usage_error() -> None:
    names = tuple("abcdefgh"[index] * 16 for index in range(8))
    large = LocalNode(SecretKey(bytes(32)), "c" * 64, GENESIS, names, "h" * 280, names)
    small = LocalNode(SecretKey(b"\x01" * 32), "c" * 64, GENESIS)
    for a, b in ((dialler(large), listener(small)), (dialler(small), listener(large))):
        at_a, at_b = converse(a, b)
        assert isinstance(at_a[0], Established)
        assert isinstance(at_b[0], Established)
    with pytest.raises(UsageError, match="introduce itself"):
        LocalNode(SecretKey(bytes(32)), "c" * 64, GENESIS, (*names, "i"))


def test_a_refusals_text_cannot_forge_a_log_line() -> None:
    b = listener(node(2))
    evil = Hello("x\n[error] all is lost\x1b[2J", GENESIS, b"\x09" + bytes(31), bytes(32), ())
    [failed] = b.receive(frame_handshake_message(HandshakeKind.HELLO, evil), 0.0)
    assert isinstance(failed, Failed)
    assert "\n" not in str(failed.error)
    assert "\x1b" not in str(failed.error)
    assert encode(evil) != b""


@pytest.mark.parametrize("impostor_dials", [True, False])
def test_an_identity_without_its_secret_is_worth_nothing(impostor_dials: bool) -> None:  # noqa: FBT001
    impostor = node(1)
    impostor.key.public = node(5).key.public
    if impostor_dials:
        a, b = dialler(impostor), listener(node(2))
        _, [failed] = converse(a, b)
    else:
        a, b = dialler(node(2)), listener(impostor)
        [failed], _ = converse(a, b)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, BadSignature)
    assert a.state is not State.ESTABLISHED
