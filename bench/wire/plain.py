"""Two processes over a blocking socket, without our protocol: what the same bytes cost with BLAKE3 alone, or sealed.

`plain` sends a mebibyte a call, and the receiver hashes it once. `pieces` does the same in calls of 64 KiB: what a
program with the usual buffer gets. `sealed` is the least that an encrypted and
verified link has to do: AEGIS-256 over pieces of 64 KiB at both ends, and one BLAKE3 pass at the receiver.
"""

from __future__ import annotations

import os
import socket
import time

from blake3 import blake3

from deepshard.limits import MIB
from deepshard.net.allocation import keep_freed_memory
from deepshard.wire import aead

PIECE_BYTES = 64 * 1024
BOX_BYTES = PIECE_BYTES + aead.TAG_BYTES
PIECES_PER_CALL = 4
"""A call that sends wakes the receiver; one for each piece of 64 KiB takes twice the time of one for every four."""
COUNT_BYTES = 4
_KEY = bytes(32)
_NONCE = bytes(32)


def serve(kind: str) -> None:
    """Receive: a number of mebibytes, then so many of them, then one byte back; again until the other side closes."""
    keep_freed_memory()
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(server.getsockname()[1], flush=True)
        connection, _ = server.accept()
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while len(count := connection.recv(COUNT_BYTES, socket.MSG_WAITALL)) == COUNT_BYTES:
                for _ in range(int.from_bytes(count, "little")):
                    RECEIVERS[kind](connection)
                connection.sendall(b"!")


_buffer = bytearray(MIB)


def _receive_plain(connection: socket.socket) -> None:
    connection.recv_into(_buffer, MIB, socket.MSG_WAITALL)
    blake3(_buffer).digest()


def _receive_pieces(connection: socket.socket) -> None:
    hasher = blake3()
    with memoryview(_buffer) as view:
        for _ in range(MIB // PIECE_BYTES):
            connection.recv_into(_buffer, PIECE_BYTES, socket.MSG_WAITALL)
            hasher.update(view[:PIECE_BYTES])
    hasher.digest()


def _receive_sealed(connection: socket.socket) -> None:
    hasher = blake3()
    with memoryview(_buffer) as view:
        for _ in range(MIB // PIECE_BYTES // PIECES_PER_CALL):
            connection.recv_into(_buffer, PIECES_PER_CALL * BOX_BYTES, socket.MSG_WAITALL)
            for piece in range(PIECES_PER_CALL):
                with view[piece * BOX_BYTES : (piece + 1) * BOX_BYTES] as box:
                    opened = aead.open_box(box, b"", _NONCE, _KEY)
                assert opened is not None
                hasher.update(opened)
    hasher.digest()


RECEIVERS = {"plain": _receive_plain, "pieces": _receive_pieces, "sealed": _receive_sealed}


class PlainSender:
    """The sending side of `serve`."""

    def __init__(self, kind: str, port: int) -> None:
        self._kind = kind
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._data = os.urandom(MIB)

    def seconds(self, mebibytes: int) -> float:
        """Wall time until the receiver has hashed the last byte."""
        started = time.perf_counter()
        self._socket.sendall(mebibytes.to_bytes(COUNT_BYTES, "little"))
        for _ in range(mebibytes):
            self._send()
        assert self._socket.recv(1) == b"!"
        return time.perf_counter() - started

    def _send(self) -> None:
        match self._kind:
            case "plain":
                self._socket.sendall(self._data)
            case "pieces":
                with memoryview(self._data) as view:
                    for start in range(0, MIB, PIECE_BYTES):
                        self._socket.sendall(view[start : start + PIECE_BYTES])
            case _:
                for start in range(0, MIB, PIECES_PER_CALL * PIECE_BYTES):
                    starts = range(start, start + PIECES_PER_CALL * PIECE_BYTES, PIECE_BYTES)
                    boxes = [aead.seal(self._data[at : at + PIECE_BYTES], b"", _NONCE, _KEY) for at in starts]
                    self._socket.sendall(b"".join(boxes))

    def close(self) -> None:
        self._socket.close()
