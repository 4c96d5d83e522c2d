from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepshard.errors import MalformedMessage, OversizedMessage, RemoteError
from deepshard.limits import GOODBYE_BYTES_MAX, PACKET_BYTES_MAX
from deepshard.wire.packets import (
    SIZE_BYTES,
    Control,
    Credit,
    Goodbye,
    KeyExhausted,
    PacketOpener,
    PacketSealer,
    Ping,
    Pong,
    Rekey,
    Streams,
    TamperedFrame,
    pack_control,
    packet_size,
    parse_control,
)

KEY = b"k" * 32
U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
CONTROLS = st.one_of(
    st.builds(Credit, U32, U64),
    st.builds(Ping, U64),
    st.builds(Pong, U64),
    st.just(Rekey()),
    st.builds(Streams, U32),
    st.builds(Goodbye, st.integers(0, 2**16 - 1), st.text(max_size=GOODBYE_BYTES_MAX // 4)),
)


def opened(opener: PacketOpener, packet: bytes | bytearray) -> bytes:
    assert packet_size(packet) + SIZE_BYTES + 32 == len(packet)
    return bytes(opener.open(bytes(packet[:SIZE_BYTES]), bytes(packet[SIZE_BYTES:])))


@pytest.mark.clause("5.1/1", "5.1/5", "5.8/4")
@given(control=CONTROLS)
def test_control_packets_are_read_as_they_were_written(control: Control) -> None:
    assert parse_control(pack_control(control)) == control


@pytest.mark.clause("5.1/5", "5.8/3")
@given(control=CONTROLS, more=st.binary(min_size=1, max_size=3))
def test_a_control_packet_has_one_length(control: Control, more: bytes) -> None:
    plain = pack_control(control)
    if not isinstance(control, Goodbye):
        with pytest.raises(MalformedMessage):
            parse_control(plain + more)
        with pytest.raises(MalformedMessage):
            parse_control(plain[:-1] or b"\x00")
        return
    with pytest.raises(MalformedMessage):
        parse_control(plain[:2])
    with pytest.raises(MalformedMessage):
        parse_control(plain[:3] + b"\xff\xfe")
    with pytest.raises(MalformedMessage):
        parse_control(plain[:3] + b"x" * (GOODBYE_BYTES_MAX + 1))


@pytest.mark.clause("5.1/5")
@pytest.mark.parametrize("kind", [0, 9, 10, 77, 128, 255])
def test_a_packet_of_unknown_type_is_malformed(kind: int) -> None:
    with pytest.raises(MalformedMessage, match=f"unknown type {kind}"):
        parse_control(bytes((kind,)) + bytes(8))


def test_a_goodbye_that_is_too_long_is_cut_between_characters() -> None:
    long = Goodbye(5, "é" * GOODBYE_BYTES_MAX)
    assert parse_control(pack_control(long)) == Goodbye(5, "é" * (GOODBYE_BYTES_MAX // 2))


@pytest.mark.clause("5.1/1")
def test_a_size_out_of_bounds_is_refused_before_its_bytes_come() -> None:
    assert packet_size((1).to_bytes(4, "little")) == 1
    assert packet_size(PACKET_BYTES_MAX.to_bytes(4, "little")) == PACKET_BYTES_MAX
    for size in (PACKET_BYTES_MAX + 1, 2**31, 2**32 - 1):
        with pytest.raises(OversizedMessage):
            packet_size(size.to_bytes(4, "little"))
    with pytest.raises(MalformedMessage):
        packet_size(bytes(4))


@pytest.mark.clause("5.1/2", "5.1/3", "5.1/4")
def test_packets_open_once_in_order_under_their_key() -> None:
    sealer = PacketSealer(KEY)
    packets = [sealer.seal(bytes((4, number))) for number in range(3)]
    opener = PacketOpener(KEY)
    assert opened(opener, packets[0]) == bytes((4, 0))
    for wrong in (packets[0], packets[2]):
        other = PacketOpener(KEY)
        opened(other, packets[0])
        with pytest.raises(TamperedFrame):
            opened(other, wrong)
    assert opened(opener, packets[1]) == bytes((4, 1))
    with pytest.raises(TamperedFrame):
        opened(PacketOpener(b"l" * 32), packets[0])


@pytest.mark.clause("5.1/2", "5.1/4")
def test_no_byte_of_a_packet_may_change() -> None:
    packet = PacketSealer(KEY).seal(b"\x04plain text")
    for position in range(len(packet)):
        changed = bytearray(packet)
        changed[position] ^= 1
        with pytest.raises(RemoteError):
            PacketOpener(KEY).open(bytes(changed[:SIZE_BYTES]), bytes(changed[SIZE_BYTES:]))


def split(data: bytes | bytearray) -> list[bytes | bytearray]:
    packets: list[bytes | bytearray] = []
    while data:
        end = SIZE_BYTES + packet_size(data) + 32
        packets.append(data[:end])
        data = data[end:]
    return packets


@pytest.mark.clause("5.6/1", "5.6/2", "5.1/3")
@pytest.mark.parametrize(("packets_max", "bytes_max"), [(4, 1 << 30), (1 << 16, 150)])
def test_the_sender_changes_its_key_in_time_and_the_receiver_follows(packets_max: int, bytes_max: int) -> None:
    sealer = PacketSealer(KEY, rekey_packets=packets_max, rekey_bytes=bytes_max)
    opener = PacketOpener(KEY, rekey_packets=packets_max, rekey_bytes=bytes_max)
    plains = [opened(opener, packet) for number in range(20) for packet in split(sealer.seal(bytes((4, number))))]
    assert [plain[1] for plain in plains if plain != b"\x06"] == list(range(20))
    assert plains.count(b"\x06") >= 5
    assert plains[packets_max - 1 if packets_max == 4 else 3] == b"\x06"


@pytest.mark.clause("5.6/2")
def test_a_key_used_for_too_long_ends_the_link() -> None:
    sealer = PacketSealer(KEY)
    opener = PacketOpener(KEY, rekey_packets=3)
    for _ in range(3):
        opened(opener, sealer.seal(b"\x04"))
    with pytest.raises(KeyExhausted):
        opened(opener, sealer.seal(b"\x04"))
    by_bytes = PacketOpener(KEY, rekey_bytes=40)
    sealer = PacketSealer(KEY)
    opened(by_bytes, sealer.seal(b"\x04"))
    with pytest.raises(KeyExhausted):
        opened(by_bytes, sealer.seal(b"\x04"))


@pytest.mark.clause("5.6/3", "5.6/1")
def test_a_key_may_be_changed_at_any_time() -> None:
    sealer, opener = PacketSealer(KEY), PacketOpener(KEY)
    for number in range(5):
        assert opened(opener, sealer.rekey()) == b"\x06"
        assert opened(opener, sealer.seal(bytes((4, number)))) == bytes((4, number))
    with pytest.raises(TamperedFrame):
        opened(opener, PacketSealer(KEY).seal(b"\x04"))
