"""Every field by which a peer declares a size, with sizes up to 2^64 and little or nothing behind it.

Run as a program, it takes all of them and prints by how many KiB the process grew: what tracemalloc can't see.
"""

from __future__ import annotations

import gc
import resource
import struct
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

import fuzz_frames as frames
import fuzz_listener as listener
import fuzz_packets as packets
import samples
from msgspec.structs import replace
from wire_sessions import make_session

from deepshard.encoding import decode, encode
from deepshard.errors import RemoteError
from deepshard.ledger.trie import Proof, verify_proof
from deepshard.limits import BODY_BYTES_MAX, MIB
from deepshard.merkle import MerkleProof, merkle_verify
from deepshard.primitives import ZERO_DIGEST
from deepshard.ranges import verify_range
from deepshard.shards.codec import decode_lora, decode_shard
from deepshard.shards.manifest import FileEntry, ShardEntry, TensorEntry, TensorSlice
from deepshard.shards.rules import decode_manifest
from deepshard.wire.frames import FrameHeader, decompress_body, parse_frame_start
from deepshard.wire.packets import PacketType

SIZES: Final = tuple(sorted({size + change for power in range(65) for size in (1 << power,) for change in (-1, 0)}))
"""Around every power of two up to 2^64."""
MEMORY_BYTES_MAX: Final = {"zstd_sizes": BODY_BYTES_MAX + MIB, "frame_lengths": BODY_BYTES_MAX + MIB}
"""Where it isn't `MIB`: the body of one frame may be allocated when its zstd frame declares just that."""
Case = Callable[[], object]


def fitting(field_bytes: int) -> list[int]:
    return [size for size in SIZES if 0 <= size < 1 << 8 * field_bytes]


def packet_sizes() -> Iterator[Case]:
    for size in fitting(4):
        for behind in (b"", bytes(100)):
            yield partial(fed, size.to_bytes(4, "little") + behind)


def fed(data: bytes) -> None:
    packets.Fed().feed(data)


def sealed_fields() -> Iterator[Case]:
    """Limits of credit and streams, nonces, and stream numbers, in packets that open."""
    for size in SIZES[:-1]:
        short = min(size, 2**32 - 1)
        yield partial(fed_sealed, struct.pack("<BIQ", PacketType.CREDIT, 0, size))
        yield partial(fed_sealed, struct.pack("<BIQ", PacketType.CREDIT, short, size))
        yield partial(fed_sealed, struct.pack("<BQ", PacketType.PING, size))
        yield partial(fed_sealed, struct.pack("<BQ", PacketType.PONG, size))
        yield partial(fed_sealed, struct.pack("<BI", PacketType.STREAMS, short))
        yield partial(fed_sealed, struct.pack("<BI", PacketType.DATA, short) + b"data")


def fed_sealed(plain: bytes) -> None:
    one = packets.Fed()
    one.feed(one.sealer.seal(plain))
    one.session.packets()
    one.session.close()


def frame_lengths() -> Iterator[Case]:
    """Each length of a frame's header, alone and with the flag of a compressed body; straight, and signed on a link."""
    for size in fitting(4):
        for lengths in ((size, size, 0), (10, size, 0), (10, 10, size), (size, size, size)):
            for flags in (0, 1):
                header = FrameHeader(b"DS", 2, flags, 35, 2, *lengths, 0)
                plain = b"\x01" + header.pack() + bytes(64 + 32 * (lengths[2] > 0)) + bytes(min(10, lengths[0]))
                yield partial(parse_frame_start, plain)
                yield partial(fed_signed, plain)


def fed_signed(plain: bytes) -> None:
    fed_sealed(frames.resigned(plain, session_id=packets.SESSION_ID, key=packets.PEER))


def handshake_lengths() -> Iterator[Case]:
    for size in fitting(2):
        for dialling in (True, False):
            yield partial(heard, size.to_bytes(2, "little") + bytes(100), dialling=dialling)


def heard(data: bytes, *, dialling: bool) -> None:
    listener.heard(make_session(1, dialling=dialling), data)


def zstd_sizes() -> Iterator[Case]:
    """Content sizes of eight bytes, and windows up to the format's largest (RFC 8878, section 3.1.1.1)."""
    for size in SIZES[:-1]:
        whole = b"\x28\xb5\x2f\xfd\xe0" + size.to_bytes(8, "little") + b"\x03\x00\x00x"
        yield partial(decompress_body, whole, 1)
        yield partial(decompress_body, whole, size)
        plane = struct.pack("<BI", 1, len(whole) | 1 << 31) + whole
        yield partial(decode_shard, plane, [("i8", 4096)], "planes")
    for window in range(256):
        whole = b"\x28\xb5\x2f\xfd\xc0" + bytes((window,)) + (4096).to_bytes(8, "little") + b"\x03\x00\x00x"
        yield partial(decompress_body, whole, 4096)


def plane_lengths() -> Iterator[Case]:
    for size in fitting(4):
        for table in ((size, 0, 0), (0, 0, size), (size, size, size)):
            chunk = struct.pack("<B3I", 1, *table) + bytes(40)
            yield partial(decode_shard, chunk, [("bf16", 64), ("i8", 32)], "planes")


def factor_ranks() -> Iterator[Case]:
    tensors = tuple(TensorEntry(f"t{number}", "bf16", (2**number, 2**20)) for number in range(21))
    base = bytes(2**21)
    for number in range(21):
        for rank in (1, 2, 127, 128, 129, 2**15, 2**16 - 1):
            chunk = struct.pack("<HB2I", rank, 1, 20, 20) + bytes(40)
            yield partial(decode_lora, chunk, tensors, (TensorSlice(number, 0, 1),), base)


def encoded_lengths() -> Iterator[Case]:
    """MessagePack heads of the largest lengths at many places of every record that peers send."""
    heads = [bytes.fromhex(head) for head in ("c6ffffffff", "dbffffffff", "ddffffffff", "dfffffffff", "c9ffffffff7f")]
    for sample in [*samples.message_samples(), *samples.record_samples()]:
        data = encode(sample)
        for at in range(0, len(data), 1 + len(data) // 60):
            for head in heads:
                changed = data[:at] + head + data[at + 1 :]
                yield partial(decode, changed, type(sample), bytes_max=BODY_BYTES_MAX)


def proof_counts() -> Iterator[Case]:
    for size in SIZES[:-1]:
        yield partial(merkle_proof, encode((0, size, (bytes(32),) * 3)))
        yield partial(state_proof, encode((((min(size, 255), bytes(32)),) * 200, None)))
    for size in SIZES:
        for first, count in ((0, 1), (size // 2, 64), (size, 1), (0, size)):
            proof = (bytes(32),) * 64
            yield partial(verify_range, bytes(32), size=size, first=first, count=count, data=b"", proof=proof)


def merkle_proof(data: bytes) -> None:
    proof = decode(data, MerkleProof, bytes_max=MIB)
    merkle_verify(bytes(32), b"", proof, leaf_count=proof.leaf_count)


def state_proof(data: bytes) -> None:
    verify_proof(bytes(32), b"", b"", decode(data, Proof, bytes_max=MIB))


def manifest_counts() -> Iterator[Case]:
    digest = bytes(32)
    for size in SIZES[:-1]:
        for rank in range(1, 10):
            tensor = TensorEntry("weight", "f32", (size,) * rank)
            entry = ShardEntry((TensorSlice(0, 0, size),), size, digest, "planes", digest, size, ZERO_DIGEST)
            yield partial(decode_manifest, encode(replace(samples.MANIFEST, tensors=(tensor,), shards=(entry,))))
        small = ShardEntry((TensorSlice(size, size, size),), 4, digest, "raw", digest, 4, ZERO_DIGEST)
        yield partial(decode_manifest, encode(replace(samples.MANIFEST, shards=(small,))))
        file = FileEntry("config.json", size, (digest,))
        yield partial(decode_manifest, encode(replace(samples.MANIFEST, files=(file,))))


FAMILIES: Final[dict[str, Callable[[], Iterator[Case]]]] = {
    family.__name__: family
    for family in (
        packet_sizes,
        sealed_fields,
        frame_lengths,
        handshake_lengths,
        zstd_sizes,
        plane_lengths,
        factor_ranks,
        encoded_lengths,
        proof_counts,
        manifest_counts,
    )
}


def refused(case: Case) -> bool:
    """Whether a case ended in the documented error; anything else gets through."""
    try:
        case()
    except RemoteError:
        return True
    return False


def main() -> None:
    for family in FAMILIES.values():
        refused(next(family()))  # what is imported on the way isn't counted
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for family in FAMILIES.values():
        for case in family():
            refused(case)
    sys.stdout.write(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))


if __name__ == "__main__":
    main()
