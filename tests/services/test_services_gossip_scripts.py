"""Plays the timed scripts of chapter 7 against a chain service, in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import trio
import trio.testing
from memory_folder import memory_folder  # noqa: F401  # a fixture

from deepshard.ballots import Vote, VoteKind
from deepshard.chunk_tree import NO_CHUNKS
from deepshard.encoding import encode
from deepshard.errors import MalformedMessage
from deepshard.gossip.script_steps import Absent, Alive, AtMost, Closed, Expect, Script, Send, Template
from deepshard.gossip.scripts import SCRIPTS, as_json
from deepshard.identity import SecretKey
from deepshard.ledger.onion import OnionChain
from deepshard.ledger.params import Genesis, GenesisAccount, GenesisValidator
from deepshard.ledger.transactions import TRANSACTION_TAG, Transaction, TransactionBody, Transfer, sign_transaction
from deepshard.net.types import NetworkEvent, PeerDown, Received
from deepshard.primitives import UNITS_PER_TOKEN as TOKEN
from deepshard.primitives import ZERO_DIGEST, content_digest
from deepshard.services.mesh_host import units_of
from deepshard.testing.builders import SMALL_PARAMS
from deepshard.testing.chain_cluster import ChainCluster, FullNode
from deepshard.testing.memory_network import MemoryPort
from deepshard.wire.messages import Graft, IDontWant, IHave, IWant, Message, Prune, Transactions, Votes

VALIDATOR, ALICE = SecretKey(content_digest(b"validator")), SecretKey(content_digest(b"alice"))
ONION = OnionChain(VALIDATOR.seed, 2000)
GENESIS = Genesis(
    chain_id="script-test",
    time_ms=1_700_000_000_000,
    params=SMALL_PARAMS,
    validators=(GenesisValidator(VALIDATOR.public, 1000 * TOKEN, ONION.tip),),
    accounts=(GenesisAccount(ALICE.address, 1000 * TOKEN),),
    manifest=content_digest(b"manifest"),
    weights_root=content_digest(b"weights"),
    chunks_root=NO_CHUNKS,
    shard_count=0,
    heldout=(content_digest(b"h"),),
    general=(content_digest(b"g"),),
    canaries=(content_digest(b"c"),),
)
PLAYED_FROM_HEIGHT = 3


class Link:
    """One of the script's links: what came over it, and how it ended."""

    def __init__(self, port: MemoryPort, node: FullNode) -> None:
        self.port, self.node = port, node
        self.received: list[Message] = []
        self.ended = ""
        self.news = trio.Event()

    async def take(self, event: NetworkEvent) -> None:
        if isinstance(event, Received):
            self.received.append(event.message)
        elif isinstance(event, PeerDown):
            self.ended = event.reason
        self.news.set()
        self.news = trio.Event()
        await trio.lowlevel.checkpoint()

    async def send(self, message: Message) -> None:
        try:
            await self.port.send(self.node.port.info.public_key, message)
        except MalformedMessage:
            # A real link refuses it where it is decoded, which the network in memory does within `send`.
            self.ended = "MalformedMessage"

    async def until(self, holds: Callable[[], bool], within_s: float) -> bool:
        with trio.move_on_after(within_s):
            while not holds():
                await self.news.wait()
        return holds()


class Player:
    def __init__(self, script: Script, node: FullNode, links: dict[str, Link]) -> None:
        self.links = links
        self.rng = Random(script.name)
        self.entries: dict[str, bytes] = {}
        self.ids: dict[str, bytes] = {}
        nonce = node.view.state.account(ALICE.address).nonce
        for name, recipe in script.units.items():
            stranger = SecretKey(self.rng.randbytes(32))
            match recipe:
                case "transfer":
                    self.entries[name] = sign_transaction(ALICE, GENESIS.chain_id, nonce, Transfer(ALICE.address, 1))
                    nonce += 1
                case "unfunded":
                    self.entries[name] = sign_transaction(stranger, GENESIS.chain_id, 0, Transfer(ALICE.address, 1))
                case "forged":
                    body = encode(TransactionBody(GENESIS.chain_id, stranger.public, 0, Transfer(ALICE.address, 1)))
                    self.entries[name] = encode(Transaction(body, stranger.sign(TRANSACTION_TAG, body + b"x")))
                case "garbage":
                    self.entries[name] = b"\xc1" + self.rng.randbytes(40)
                case "old-vote" | "future-vote":
                    height = 1 if recipe == "old-vote" else 2**40
                    vote = Vote(VoteKind.PREVOTE, height, 0, -1, ZERO_DIGEST, stranger.address, bytes(64))
                    self.entries[name] = encode(vote)
                case "unknown" | "short":
                    self.ids[name] = self.rng.randbytes(16 if recipe == "unknown" else 15)
            if name in self.entries:
                kind = Votes if recipe.endswith("vote") else Transactions
                self.ids[name] = next(units_of(kind((self.entries[name],)))).id

    def message(self, template: Template) -> Message:
        topic, ids = template.topic or 0, tuple(self.ids[name] for name in template.ids)
        entries = tuple(self.entries[name] for name in template.entries)
        match template.kind:
            case "Graft":
                return Graft(topic)
            case "Prune":
                assert template.backoff_s is not None
                return Prune(topic, template.backoff_s)
            case "IHave":
                return IHave(topic, ids)
            case "IWant":
                return IWant(ids)
            case "IDontWant":
                return IDontWant(ids)
            case "Transactions":
                return Transactions(entries)
            case "Votes":
                return Votes(entries)

    def count(self, template: Template, received: list[Message]) -> int:
        """How often everything that the pattern names has come."""
        alike = [
            message
            for message in received
            if type(message).__name__ == template.kind
            and (template.topic is None or getattr(message, "topic", template.topic) == template.topic)
        ]
        named = [self.entries[name] for name in template.entries] + [self.ids[name] for name in template.ids]
        if not named:
            return len(alike)
        held = [content for message in alike for content in contents(message)]
        return min(held.count(content) for content in named)

    def any_of(self, template: Template, received: list[Message]) -> bool:
        names = template.entries or template.ids
        if not names:
            return self.count(template, received) > 0
        single = [Template(template.kind, template.topic, entries=(name,)) for name in template.entries]
        single += [Template(template.kind, template.topic, ids=(name,)) for name in template.ids]
        return any(self.count(each, received) for each in single)

    async def play(self, script: Script) -> None:
        began = trio.current_time()
        for number, step in enumerate(script.steps):
            link = self.links[step.link]
            match step:
                case Send(message=template, at_s=at_s):
                    await trio.sleep_until(began + at_s)
                    await link.send(self.message(template))
                case Expect(message=template, within_s=within_s, times=times):
                    held = await link.until(lambda: self.count(template, link.received) >= times, within_s)  # noqa: B023
                    assert held, (number, step, [type(message).__name__ for message in link.received])
                case Absent(message=template, for_s=for_s):
                    since = len(link.received)
                    came = await link.until(lambda: self.any_of(template, link.received[since:]), for_s)  # noqa: B023
                    assert not came, (number, step)
                    assert not link.ended, (number, step, link.ended)
                case AtMost(kind=kind, ids=ids, for_s=for_s):
                    await link.until(lambda: False, for_s)
                    assert sum(len(contents(m)) for m in link.received if type(m).__name__ == kind) <= ids
                case Alive():
                    await trio.testing.wait_all_tasks_blocked()
                    assert not link.ended, (number, step, link.ended)
                case Closed(errors=errors, within_s=within_s):
                    assert await link.until(lambda: bool(link.ended), within_s), (number, step)  # noqa: B023
                    assert link.ended.startswith(errors), link.ended


def contents(message: Message) -> tuple[bytes, ...]:
    match message:
        case Transactions(transactions=held) | Votes(votes=held):
            return held
        case IHave(ids=held) | IWant(ids=held) | IDontWant(ids=held):
            return held
        case _:
            return ()


@pytest.mark.parametrize(
    "script", [pytest.param(each, id=each.name, marks=pytest.mark.clause(*each.clauses)) for each in SCRIPTS]
)
async def test_script(script: Script, memory_folder: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        running = ChainCluster(GENESIS, {VALIDATOR.address: ONION}, memory_folder, nursery)
        node = running.start("target", VALIDATOR)
        await running.reach(PLAYED_FROM_HEIGHT, [node])
        links = {}
        for name, role in script.links.items():
            roles = ("validator",) if role == "member" else ("inference",)
            links[name] = Link(running.network.join(name, roles=roles), node)
            nursery.start_soon(links[name].port.deliver, links[name].take)
            running.network.connect(name, node.port.name)
        await Player(script, node, links).play(script)
        nursery.cancel_scope.cancel()


def test_scripts_are_plain_data_with_unique_names_and_every_verdict() -> None:
    plain = as_json()
    assert len({script["name"] for script in plain}) == len(plain) >= 12
    assert {script["verdict"] for script in plain} == {"valid", "ignore", "reject"}
    for script in SCRIPTS:
        named = {name for step in script.steps for name in _names(step)}
        assert named <= set(script.units)
        assert {step.link for step in script.steps} <= set(script.links)


def _names(step: object) -> tuple[str, ...]:
    template = getattr(step, "message", None)
    return (*template.entries, *template.ids) if isinstance(template, Template) else ()
