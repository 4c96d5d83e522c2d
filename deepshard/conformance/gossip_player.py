"""Plays the timed gossip scripts of chapter 7.9 against the target; `gossip.script_steps` says what they mean.

A target lives on a network where others gossip, too: a step by which no transaction at all may come isn't played.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from secrets import randbits, token_bytes

import trio

from deepshard.ballots import Vote, VoteKind
from deepshard.conformance import packets as wire
from deepshard.conformance.account import Purse
from deepshard.conformance.harness import Harness
from deepshard.conformance.inbound import Packet
from deepshard.conformance.opening import LIGHT, MEMBER, Self
from deepshard.conformance.peer import Ended, RawPeer
from deepshard.conformance.verdicts import ClauseFailed
from deepshard.encoding import encode
from deepshard.gossip.script_steps import (
    Absent,
    Alive,
    AtMost,
    Closed,
    Expect,
    Recipe,
    Script,
    Send,
    Template,
)
from deepshard.identity import SecretKey
from deepshard.ledger.transactions import TRANSACTION_TAG, Transaction, TransactionBody, Transfer, sign_transaction
from deepshard.limits import FRAME_CHARGE_BYTES, STREAM_CREDIT_BYTES
from deepshard.primitives import ZERO_DIGEST, tagged_hash
from deepshard.wire import messages as catalogue

ID_BYTES = 16
BANNED = 2


def unit_id(kind: type[catalogue.Message], unit: bytes) -> bytes:
    """Id of a unit (7.1/2)."""
    body = encode(kind((unit,)))
    return tagged_hash("gossip id", kind.KIND.to_bytes(2, "little"), body)[:ID_BYTES]


class _Line:
    """One link, read all the time."""

    def __init__(self, peer: RawPeer) -> None:
        self.peer = peer
        self.packets: list[Packet] = []
        self.ended = ""
        self.news = trio.lowlevel.ParkingLot()

    async def listen(self) -> None:
        """Keep what comes."""
        while True:
            try:
                packet = await self.peer.read()
            except Ended as ended:
                self.ended = ended.how
                self.news.unpark_all()
                return
            self.packets.append(packet)
            self.news.unpark_all()

    async def wait(self, holds: Callable[[], bool], within_s: float) -> bool:
        """Whether something holds in time."""
        with trio.move_on_after(within_s):
            while not holds():
                await self.news.park()
            return True
        return holds()


def _sender(step: object) -> str | None:
    return step.link if isinstance(step, Send) else None


class Player:
    """One script against one node."""

    def __init__(self, harness: Harness, script: Script, purse: Purse | None) -> None:
        self._harness, self._script, self._purse = harness, script, purse
        self._lines: dict[str, _Line] = {}
        self._units: dict[str, bytes] = {}
        self._ids: dict[str, bytes] = {}
        self._marks: dict[str, int] = {}
        """Packets of each link before what was sent last, until a step waits for something: answers may be quick."""

    async def play(self) -> None:
        """Do the steps.

        Raises:
            ClauseFailed: one of them doesn't hold.
        """
        for name, role in self._script.links.items():
            peer = await self._harness.link(Self.fresh(MEMBER if role == "member" else LIGHT))
            self._lines[name] = _Line(peer)
        for name, recipe in self._script.units.items():
            await self._make(name, recipe)
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for line in self._lines.values():
                line.packets += line.peer.messages
                nursery.start_soon(line.listen)
            for link, group in groupby(self._script.steps, key=_sender):
                steps = list(group)
                if link is not None:
                    self._marks = {name: len(line.packets) for name, line in self._lines.items()}
                    await self._send(self._lines[link].peer, [step for step in steps if isinstance(step, Send)], began)
                    continue
                for step in steps:
                    if not isinstance(step, Send):
                        await self._check(step)
                    if not isinstance(step, Absent):
                        self._marks = {}
            nursery.cancel_scope.cancel()

    # -- units and messages ------------------------------------------------------------------------------------------

    async def _make(self, name: str, recipe: Recipe) -> None:
        key, chain_id = SecretKey(token_bytes(32)), self._harness.target.network.chain_id
        transfer = Transfer(key.address, 1)
        match recipe:
            case "transfer":
                assert self._purse is not None  # the case is skipped without an account
                first = next(iter(self._lines.values()))
                self._units[name] = await self._purse.transfer(first.peer)
            case "unfunded":
                self._units[name] = sign_transaction(key, chain_id, 0, transfer)
            case "forged":
                body = encode(TransactionBody(chain_id, key.public, 0, transfer))
                self._units[name] = encode(Transaction(body, key.sign(TRANSACTION_TAG, body + b"\x00")))
            case "garbage":
                self._units[name] = b"\xc1" + token_bytes(40)
            case "old-vote" | "future-vote":
                height = 1 if recipe == "old-vote" else 2**40
                self._units[name] = encode(Vote(VoteKind.PREVOTE, height, 0, -1, ZERO_DIGEST, key.address, bytes(64)))
            case "unknown" | "short":
                self._ids[name] = token_bytes(ID_BYTES if recipe == "unknown" else ID_BYTES - 1)

    def _id(self, name: str) -> bytes:
        if name in self._ids:
            return self._ids[name]
        votes = self._script.units[name] in {"old-vote", "future-vote"}
        return unit_id(catalogue.Votes if votes else catalogue.Transactions, self._units[name])

    async def _send(self, peer: RawPeer, steps: list[Send], began: float) -> None:
        """Send what follows each other on one link; what is due at once leaves at once, before a heartbeat falls in."""
        for at_s, group in groupby(steps, key=lambda step: step.at_s):
            await trio.sleep_until(began + at_s)
            frames = [peer.frame(self._message(step)) for step in group]
            due = sum(FRAME_CHARGE_BYTES + frame.payload_bytes for frame in frames)
            if len(frames) == 1 or due > STREAM_CREDIT_BYTES // 4 or any(frame.rest for frame in frames):
                for frame in frames:
                    await peer.send_frame(frame)
                continue
            for frame in frames:
                peer.use(frame.header.stream, FRAME_CHARGE_BYTES + len(frame.first))
            await peer.send_together([frame.start for frame in frames], f"{len(frames)} times {frames[0].note}")

    def _message(self, step: Send) -> catalogue.Message:
        template = step.message
        ids = tuple(self._id(name) for name in template.ids)
        entries = tuple(self._units[name] for name in template.entries)
        topic = template.topic or 0
        message: catalogue.Message
        match template.kind:
            case "Graft":
                message = catalogue.Graft(topic)
            case "Prune":
                message = catalogue.Prune(topic, template.backoff_s or 0)
            case "IHave":
                message = catalogue.IHave(topic, ids)
            case "IWant":
                message = catalogue.IWant(ids)
            case "IDontWant":
                message = catalogue.IDontWant(ids)
            case "Transactions":
                message = catalogue.Transactions(entries)
            case "Votes":
                message = catalogue.Votes(entries)
        return message

    def _contents(self, packet: Packet, template: Template) -> set[bytes] | None:
        """What a message of the template's kind and topic holds; None for another message."""
        message = packet.message
        if message is None or type(message).__name__ != template.kind:
            return None
        topic = getattr(message, "topic", None)
        if template.topic is not None and topic is not None and topic != template.topic:
            return None
        for attribute in ("ids", "transactions", "votes"):
            if hasattr(message, attribute):
                return set(getattr(message, attribute))
        return set()

    def _wanted(self, template: Template) -> list[bytes]:
        return [self._units[name] for name in template.entries] + [self._id(name) for name in template.ids]

    # -- steps that check --------------------------------------------------------------------------------------------

    async def _check(self, step: Expect | Absent | AtMost | Alive | Closed) -> None:
        line = self._lines[step.link]
        match step:
            case Expect():
                await self._expect(line, step)
            case Absent():
                await self._absent(line, step)
            case AtMost():
                await self._at_most(line, step)
            case Alive():
                await self._alive(line, step.link)
            case Closed():
                await self._closed(line, step)

    async def _expect(self, line: _Line, step: Expect) -> None:
        wanted = self._wanted(step.message)

        def came() -> bool:
            found = [held for packet in line.packets if (held := self._contents(packet, step.message)) is not None]
            if not wanted:
                return len(found) >= step.times
            return all(sum(each in held for held in found) >= step.times for each in wanted)

        within_s = max(step.within_s, self._harness.target.timeout_s)  # a busy target may take as long as anywhere else
        if not await line.wait(came, within_s):
            times = f" {step.times} times" if step.times > 1 else ""
            expected = f"{self._shown(step.message)}{times} on link {step.link} within {within_s:g} s"
            raise self._failed(line, expected, "less")

    async def _absent(self, line: _Line, step: Absent) -> None:
        wanted, since = self._wanted(step.message), self._marks.get(step.link, len(line.packets))
        if not wanted and step.message.kind in {"Transactions", "Votes"}:
            return

        def came() -> bool:
            for packet in line.packets[since:]:
                held = self._contents(packet, step.message)
                if held is not None and (not wanted or held.intersection(wanted)):
                    return True
            return bool(line.ended)

        if await line.wait(came, step.for_s):
            got = line.ended or f"a {step.message.kind}"
            raise self._failed(line, f"no {self._shown(step.message)} on link {step.link} for {step.for_s:g} s", got)

    async def _at_most(self, line: _Line, step: AtMost) -> None:
        template = Template(step.kind)

        def count() -> int:
            return sum(len(held) for packet in line.packets if (held := self._contents(packet, template)) is not None)

        if await line.wait(lambda: count() > step.ids, step.for_s):
            raise self._failed(line, f"{step.kind} with at most {step.ids} ids on link {step.link}", f"{count()} ids")

    async def _alive(self, line: _Line, name: str) -> None:
        nonce = randbits(64)
        await line.peer.send_quietly(wire.ping(nonce))

        def answered() -> bool:
            return any(packet.kind == wire.PONG and packet.number == nonce for packet in line.packets) or bool(
                line.ended
            )

        if not await line.wait(answered, self._harness.target.timeout_s) or line.ended:
            raise self._failed(line, f"link {name} still up: a PING answered", line.ended or "no PONG")

    async def _closed(self, line: _Line, step: Closed) -> None:
        within_s = max(step.within_s, self._harness.target.timeout_s)
        expected = f"link {step.link} closed, for {' or '.join(step.errors)}"
        if not await line.wait(lambda: bool(line.ended), within_s):
            raise self._failed(line, expected, "the link stayed open")
        said = [packet for packet in line.packets if packet.kind == wire.GOODBYE]
        if said and self._harness.target.strict:
            banned = "banned" in step.errors and said[-1].number == BANNED
            if not banned and not said[-1].text.startswith(step.errors):
                raise self._failed(line, expected, f"GOODBYE {said[-1].number} {said[-1].text!r}")

    def _shown(self, template: Template) -> str:
        named = ", ".join((*template.entries, *template.ids)[:3])
        return f"{template.kind} {named}".strip()

    def _failed(self, line: _Line, expected: str, got: str) -> ClauseFailed:
        sent = (
            ", ".join(filter(None, (each.peer.sent for each in self._lines.values() if each.peer.notes))) or "nothing"
        )
        del line
        return ClauseFailed(sent=sent, expected=f"{expected}, since {self._script.reason}", got=got)
