"""libtorrent, generously tuned: TCP only, no limits, many requests under way, one file of the same bytes, v1 pieces.

`seed FOLDER BLOBS` prints where it listens, `leech FOLDER BLOBS ADDRESS` how many seconds it took: from the time the
peer is named until the last piece has passed its check.
"""

from __future__ import annotations

import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any, Final

_SETTINGS: Final = {
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_incoming_utp": False,
    "enable_outgoing_utp": False,
    "allow_multiple_connections_per_ip": True,
    "max_out_request_queue": 3000,
    "max_allowed_in_request_queue": 3000,
    "send_buffer_watermark": 8 * 1024 * 1024,
    "send_buffer_low_watermark": 1024 * 1024,
    "send_socket_buffer_size": 4 * 1024 * 1024,
    "recv_socket_buffer_size": 4 * 1024 * 1024,
    "max_queued_disk_bytes": 64 * 1024 * 1024,
    "aio_threads": 4,
    "hashing_threads": 2,
    "out_enc_policy": 2,
    "in_enc_policy": 2,
    "unchoke_slots_limit": -1,
}
_PIECE_BYTES: Final = 1024 * 1024


def _session(interface: str) -> Any:  # noqa: ANN401  # of a package that need not be there
    torrent = import_module("libtorrent")
    return torrent.session({**_SETTINGS, "listen_interfaces": interface, "alert_mask": 0})


def _seed(folder: Path) -> None:
    torrent = import_module("libtorrent")
    storage = torrent.file_storage()
    torrent.add_files(storage, str(folder / "file"))
    made = torrent.create_torrent(storage, _PIECE_BYTES, torrent.create_torrent.v1_only)
    torrent.set_piece_hashes(made, str(folder))
    encoded = torrent.bencode(made.generate())
    (folder / "file.torrent").write_bytes(encoded)
    session = _session("127.0.0.1:0")
    handle = session.add_torrent({"ti": torrent.torrent_info(encoded), "save_path": str(folder), "flags": 1})
    while not handle.status().is_seeding:
        time.sleep(0.05)
    print(f"{session.listen_port()} {folder / 'file.torrent'}", flush=True)
    while True:
        time.sleep(60)


def _leech(folder: Path, where: str) -> float:
    torrent = import_module("libtorrent")
    folder.mkdir(parents=True)
    port, _, name = where.partition(" ")
    session = _session("127.0.0.2:0")
    handle = session.add_torrent({"ti": torrent.torrent_info(name), "save_path": str(folder)})
    handle.resume()
    started = time.perf_counter()
    handle.connect_peer(("127.0.0.1", int(port)))
    while not handle.status().is_seeding:
        time.sleep(0.005)
    return time.perf_counter() - started


if __name__ == "__main__":
    if sys.argv[1] == "seed":
        _seed(Path(sys.argv[2]))
    else:
        print(_leech(Path(sys.argv[2]), sys.argv[4]), flush=True)
