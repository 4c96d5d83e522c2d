"""The shard exchange between processes: killed and started again, stalled near the end, without a licence."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
from keeper_network import model
from shards_process import Config, key_of

from deepshard.disk.chunks import ChunkStore
from deepshard.limits import KIB, MIB
from deepshard.primitives import content_digest, expand

PROGRAM = Path(__file__).with_name("shards_process.py")


class Peer:
    """A process, its output read line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the process ended early"
        return line.strip()

    def wait_for(self, wanted: str) -> None:
        while self.line() != wanted:
            pass

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def report(self) -> dict[str, Any]:
        while (line := self.line()).startswith("done"):
            pass
        report: dict[str, Any] = json.loads(line)
        return report


@contextmanager
def _peer(number: int, folder: Path, *dial: str, **options: Any) -> Iterator[Peer]:
    config = msgspec.json.encode(Config(number, str(folder), dial, **options)).decode()
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, str(PROGRAM), config], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            yield Peer(process)
        finally:
            process.kill()


def _stored(folder: Path, *sizes: int) -> dict[str, int]:
    """Blobs of these sizes in a store, as content address to size."""
    store = ChunkStore(folder)
    return {store.put(expand(b"blob", str(number), size)).hex(): size for number, size in enumerate(sizes)}


def _held_bytes(store: ChunkStore, wanted: dict[str, int]) -> int:
    held = 0
    for digest, size in wanted.items():
        state = store.partial(bytes.fromhex(digest))
        held += size if store.has(bytes.fromhex(digest)) else 0 if state is None else state.held_bytes
    return held


def test_a_buyer_that_is_killed_midway_fetches_no_verified_byte_again(tmp_path: Path) -> None:
    wanted = _stored(tmp_path / "seller", *[4 * MIB] * 5)
    with _peer(1, tmp_path / "seller", answers_max=10) as seller:
        where = seller.line()
        with _peer(2, tmp_path / "buyer", where, wanted=wanted) as buyer:
            seller.wait_for("stalled")
            buyer.line()
            buyer.wait_for("done 1")
            buyer.process.send_signal(signal.SIGKILL)
            assert buyer.process.wait() == -signal.SIGKILL
        held = _held_bytes(ChunkStore(tmp_path / "buyer"), wanted)
        assert 4 * MIB <= held <= 10 * MIB
        seller.tell("go on")
        with _peer(2, tmp_path / "buyer", where, wanted=wanted) as buyer:
            buyer.line()
            report = buyer.report()
    assert report["bytes"] == {key_of(1).public.hex(): 20 * MIB - held}
    assert report["resumed_bytes"] == held - report["present"] * 4 * MIB
    assert report["wasted_bytes"] == 0
    assert ChunkStore(tmp_path / "buyer").total_bytes() == 20 * MIB


def test_a_seller_that_stalls_at_99_percent_is_left_for_another(tmp_path: Path) -> None:
    size = 64 * KIB
    wanted = _stored(tmp_path / "seller", *[size + number for number in range(100)])
    with ExitStack() as stack:
        stalling = stack.enter_context(_peer(1, tmp_path / "seller", answers_max=99))
        buyer = stack.enter_context(_peer(2, tmp_path / "buyer", stalling.line(), wanted=wanted))
        where = buyer.line()
        stalling.wait_for("stalled")
        stack.enter_context(_peer(3, tmp_path / "seller", where))
        report = buyer.report()
    assert set(report["bytes"]) == {key_of(1).public.hex(), key_of(3).public.hex()}
    assert sum(report["bytes"].values()) == sum(wanted.values())
    assert report["bytes"][key_of(3).public.hex()] <= size + 100
    assert report["seconds"] < 15  # half of the time-out, after which a peer is left however slow answers are


def test_only_who_holds_a_licence_for_this_version_gets_it(tmp_path: Path) -> None:
    _, chunks = model(1)
    store = ChunkStore(tmp_path / "seller")
    for chunk in chunks:
        store.put(chunk)
    wanted = {content_digest(chunk).hex(): len(chunk) for chunk in chunks}
    licensed, expired, stranger = 2, 3, 4
    licences = {licensed: 1, expired: 0}
    with ExitStack() as stack:
        seller = stack.enter_context(_peer(1, tmp_path / "seller", licences=licences))
        where = seller.line()
        buyers = {
            number: stack.enter_context(
                _peer(number, tmp_path / str(number), where, wanted=wanted, licences=licences, timeout_s=timeout_s)
            )
            for number, timeout_s in ((licensed, 60.0), (expired, 4.0), (stranger, 4.0))
        }
        for buyer in buyers.values():
            buyer.line()
        reports = {number: buyer.report() for number, buyer in buyers.items()}
    assert reports[licensed]["bytes"] == {key_of(1).public.hex(): sum(wanted.values())}
    for number in (expired, stranger):
        assert reports[number]["unlicensed"]
        assert reports[number]["missing"] == len(wanted)
        assert f"{where}: not licensed" in reports[number]["error"]
        assert "buy a licence for these weights" in reports[number]["error"]
        assert ChunkStore(tmp_path / str(number)).total_bytes() == 0
