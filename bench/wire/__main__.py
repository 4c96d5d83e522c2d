"""The table of what the wire has to reach, in one run: `python -m bench.wire [--quick] [--json FILE] [--check]`."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

import trio

from deepshard.limits import MIB

from .alone import codec_rows, handshake_rows, signature_seconds
from .link import LinkSender, linked
from .peer import pin, receiver, silence
from .plain import RECEIVERS, PlainSender
from .rows import Row, as_json, machine, show, spread


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    runs: int
    small_frames: int
    mebibytes: int
    votes: int
    handshakes: int


QUICK = Plan(runs=3, small_frames=1_280, mebibytes=32, votes=100, handshakes=20)
FULL = Plan(runs=9, small_frames=19_200, mebibytes=256, votes=1_000, handshakes=300)


async def small_rows(sender: LinkSender, plan: Plan) -> list[Row]:
    sign_s, verify_s = signature_seconds(runs=plan.runs)
    rates, sender_us, receiver_us = [], [], []
    for _ in range(plan.runs):
        rates.append(plan.small_frames / await sender.small_seconds(plan.small_frames))
        sender_us.append(1e6 * sender.cpu_s[0] / plan.small_frames)
        receiver_us.append(1e6 * sender.cpu_s[1] / plan.small_frames)
    rate, lowest, highest = spread(rates)
    one_core, two_cores = 1 / (sign_s + verify_s), 1 / max(sign_s, verify_s)
    beside = {
        "lowest of the runs": lowest,
        "highest": highest,
        "processor us per frame, sender": median(sender_us),
        "processor us per frame, receiver": median(receiver_us),
        "us to sign": 1e6 * sign_s,
        "us to verify": 1e6 * verify_s,
        "sign + verify alone, one after the other (1/s)": one_core,
        "sign + verify alone, each on a core of its own (1/s)": two_cores,
        "share of the latter": rate / two_cores,
    }
    return [
        Row("small signed frames", rate, "1/s", 5_000, at_least=True, beside=beside),
        Row("  as a share of sign + verify alone", rate / one_core, "ratio", 0.6, at_least=True),
    ]


async def bulk_rows(sender: LinkSender, others: dict[str, PlainSender], plan: Plan) -> list[Row]:
    """Rounds take turns, so that whatever else the machine does falls on all of them alike."""
    seconds: dict[str, list[float]] = {name: [] for name in ("link", *others)}
    sender_us, receiver_us = [], []
    for _ in range(plan.runs):
        for name, other in others.items():
            seconds[name].append(await trio.to_thread.run_sync(other.seconds, plan.mebibytes))
        seconds["link"].append(await sender.bulk_seconds(plan.mebibytes))
        sender_us.append(1e6 * sender.cpu_s[0] / plan.mebibytes)
        receiver_us.append(1e6 * sender.cpu_s[1] / plan.mebibytes)
    speed = {name: [plan.mebibytes * MIB / 1e9 / one for one in taken] for name, taken in seconds.items()}
    ratios = [ours / theirs for ours, theirs in zip(speed["link"], speed["plain"], strict=True)]
    ratio, lowest, highest = spread(ratios)
    beside = {
        "lowest of the runs": lowest,
        "highest": highest,
        "link (GB/s)": median(speed["link"]),
        "plain socket, BLAKE3 only (GB/s)": median(speed["plain"]),
        "the same in calls of 64 KiB (GB/s)": median(speed["pieces"]),
        "share of the link of that": median(speed["link"]) / median(speed["pieces"]),
        "AEGIS-256, BLAKE3 and socket alone (GB/s)": median(speed["sealed"]),
        "their share of the plain socket": median(speed["sealed"]) / median(speed["plain"]),
        "share of the link of them": median(speed["link"]) / median(speed["sealed"]),
        "processor us per MiB, sender": median(sender_us),
        "processor us per MiB, receiver": median(receiver_us),
    }
    return [Row("bulk, share of a plain socket with BLAKE3", ratio, "ratio", 0.6, at_least=True, beside=beside)]


async def latency_rows(sender: LinkSender, plan: Plan) -> list[Row]:
    found: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(plan.runs):
        for saturated in found:
            found[saturated] += await sender.vote_latencies(plan.votes, saturated=saturated)
    beside = {}
    for saturated, name in ((False, "idle"), (True, "beside a transfer")):
        beside[f"median ms, {name}"] = 1e3 * median(found[saturated])
        beside[f"99th percentile ms, {name}"] = 1e3 * quantiles(found[saturated], n=100)[98]
    ratio = median(found[True]) / median(found[False])
    return [Row("vote latency beside a transfer, to idle", ratio, "ratio", 3.0, at_least=False, beside=beside)]


async def measure(plan: Plan) -> list[Row]:
    with ExitStack() as stack:
        ports = {kind: stack.enter_context(receiver(kind)) for kind in ("link", *RECEIVERS)}
        pin(0)
        others = {kind: PlainSender(kind, ports[kind]) for kind in RECEIVERS}
        async with linked(ports["link"]) as sender:
            rows = await small_rows(sender, plan)
            rows += await bulk_rows(sender, others, plan)
            rows += handshake_rows(handshakes=plan.handshakes)
            rows += codec_rows(runs=plan.runs)
            rows += await latency_rows(sender, plan)
        for other in others.values():
            other.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.wire", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few seconds, for a first impression")
    parser.add_argument("--json", default="bench-wire.json", help="file for the numbers")
    parser.add_argument("--check", action="store_true", help="exit 1 if a target isn't met")
    arguments = parser.parse_args()
    silence()
    before = machine()
    print(f"{before['processor']}, {before['cores']} cores, load {before['load']:.2f}, Python {before['python']}")
    rows = trio.run(measure, QUICK if arguments.quick else FULL)
    show(rows)
    Path(arguments.json).write_text(json.dumps(as_json(rows), indent=1) + "\n", "utf-8")
    if arguments.check and not all(row.met for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
