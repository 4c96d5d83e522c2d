"""A light client in a process of its own: a network, a client, and when it is level with its peers.

The network identity is a fresh key each time: a reader signs nothing, and nobody needs to know that it came back.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, MutableMapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import structlog
import trio

from deepshard.cli.exits import ATTACKED, TRUST_EXPIRED, UNREACHABLE, CommandFailed
from deepshard.cli.light_home import FILE_NAME, LightHome, damaged
from deepshard.cli.light_view import short
from deepshard.consensus.light import TrustExpired
from deepshard.consensus.light_attack import blame, evidence_of
from deepshard.consensus.light_events import Effect, LightAttack, Mismatch
from deepshard.disk.evidence import EvidenceFolder
from deepshard.errors import DeepshardError, LocalError, MalformedMessage, OversizedMessage
from deepshard.identity import SecretKey
from deepshard.net.network import Network
from deepshard.net.types import PeerDown, Received
from deepshard.primitives import format_address
from deepshard.services.light import LightAttackDetected, LightClient
from deepshard.wire.messages import Status

REPORT_S: Final = 0.5
"""For the report of an attack to leave on all links, before they are closed."""
GATHER_S: Final = 1.0
"""How long other peers are waited for after the first."""


class LinkTrouble:
    """Why addresses could not be dialled, taken from the network's log; the log itself goes nowhere."""

    def __init__(self) -> None:
        self.by_address: dict[str, str] = {}

    def __call__(self, _logger: object, _method: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Take a log entry; as structlog wants its processors."""
        if entry.get("event") == "dial.failed":
            self.by_address[str(entry["address"])] = str(entry["error"])
        if os.environ.get("DEEPSHARD_DEBUG"):
            return entry
        raise structlog.DropEvent

    def listen(self) -> None:
        """Become this process's log."""
        structlog.configure(
            processors=[self, structlog.dev.ConsoleRenderer(colors=False)],
            logger_factory=structlog.PrintLoggerFactory(),
            cache_logger_on_first_use=False,
        )


class LightSession:
    """One run of a light client.

    Attributes:
        client: follows the chain, and proves records.
    """

    def __init__(
        self,
        home: LightHome,
        *,
        trust: tuple[int, bytes] | None,
        needs_witness: bool,
        heard: Callable[[Effect], None],
        linked: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Nobody is dialled yet.

        Args:
            home: what is known.
            trust: a block that a person vouches for.
            needs_witness: whether a header waits for a second peer that shows it.
            heard: told what the client does, after it is done.
            linked: told the number of peers that follow the chain, whenever it changes.

        Raises:
            DiskCorruption: what was kept can't be read.
            LightAttackDetected: an attack ended trust before, and no header is named.
            TrustExpired: what is trusted is too old, and no header is named.
        """
        genesis = home.followed.genesis
        self._home = home
        self._told, self._count = heard, linked
        self._trust = trust
        self._needs_witness = needs_witness
        self._trouble = LinkTrouble()
        self._trouble.listen()
        self._network = Network(
            key=SecretKey(os.urandom(32)),
            chain_id=genesis.chain_id,
            genesis_hash=genesis.hash(),
            roles=("inference",),
            listen=None,
            dial=home.followed.peers,
        )
        path = home.folder / FILE_NAME
        try:
            self.client = LightClient(
                genesis=genesis,
                network=self._network,
                journal=home.journal,
                now_ms=_now_ms,
                trust=trust,
                needs_witness=needs_witness,
                heard=self._heard,
                evidence=home.evidence,
            )
        except (MalformedMessage, OversizedMessage) as error:
            raise damaged(path, f"{path}: {error}") from error
        self.client.check()
        self._claims: dict[bytes, int] = {}
        self._first_claim_at: float | None = None
        self._mismatch: Mismatch | None = None
        self._news = trio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Be on the network."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._network.run)
            nursery.start_soon(self._listen)
            nursery.start_soon(self.client.run)
            try:
                yield
            except LightAttackDetected:
                await trio.sleep(REPORT_S)
                raise
            nursery.cancel_scope.cancel()

    async def level(self, patience_s: float) -> None:
        """Wait until the newest trusted header is as new as what most peers claim to have.

        Raises:
            CommandFailed: nothing came that led on for `patience_s`.
            LightAttackDetected: two histories are both signed.
        """
        height, deadline = -1, trio.current_time() + patience_s
        while not self._is_level():
            self.check()
            if self.client.height > height:
                height, deadline = self.client.height, trio.current_time() + patience_s
            if trio.current_time() >= deadline:
                raise self._stuck(patience_s)
            with trio.move_on_at(min(deadline, trio.current_time() + GATHER_S)):
                await self._news.wait()
        self.check()

    async def run_on(self) -> None:
        """Follow for ever.

        Raises:
            LightAttackDetected: two histories are both signed.
        """
        while True:
            self.check()
            await self._news.wait()

    def check(self) -> None:
        """Check that there is still something to trust.

        Raises:
            LightAttackDetected: there isn't.
        """
        if self.client.attack is not None:
            raise LightAttackDetected(self.client.attack)

    async def _listen(self) -> None:
        async for event in self._network.events:
            await self.client.mailbox.put(event)
            match event:
                case Received(peer=peer, message=Status(height=height)):
                    is_new = peer.public_key not in self._claims
                    self._claims[peer.public_key] = height
                    if self._first_claim_at is None:
                        self._first_claim_at = trio.current_time()
                    if is_new:
                        self._count(len(self._claims))
                    self._wake()
                case PeerDown(peer=peer) if self._claims.pop(peer.public_key, None) is not None:
                    self._count(len(self._claims))
                case _:
                    pass

    def _heard(self, effect: Effect) -> None:
        if isinstance(effect, Mismatch):
            self._mismatch = effect
        self._told(effect)
        self._wake()

    def _wake(self) -> None:
        news, self._news = self._news, trio.Event()
        news.set()

    def _is_level(self) -> bool:
        if self._first_claim_at is None or self.client.is_waiting_for_root:
            return False
        are_all_here = len(self._claims) >= len(self._home.followed.peers)
        if not are_all_here and trio.current_time() < self._first_claim_at + GATHER_S:
            return False
        return is_level(self.client.height, self._claims.values())

    def _stuck(self, patience_s: float) -> CommandFailed:
        waited = f"within {patience_s:g} s"
        if not self._claims:
            troubles = (f"{address}: {reason}" for address, reason in sorted(self._trouble.by_address.items()))
            why = "; ".join(troubles) or "no answer"
            return CommandFailed(
                f"none of the peers {', '.join(self._home.followed.peers)} could be linked {waited} ({why}): are they "
                "running, and of this network? Others are named with --peers",
                UNREACHABLE,
            )
        if self.client.is_waiting_for_root and self._trust is not None:
            named = f"block {self._trust[0]}:{short(self._trust[1])}... that you named"
            said = f"; {self._mismatch.error}" if self._mismatch is not None else ""
            return CommandFailed(f"no peer shows the {named}{said}: check it, or name other peers", UNREACHABLE)
        claimed = f"{len(self._claims)} peers claim heights up to {max(self._claims.values())}"
        if self._needs_witness and len(self._claims) < 2:
            return CommandFailed(
                f"only one peer is linked, and --need-witness wants a second that shows the same ({claimed}, "
                f"{self.client.height} is trusted): name more with --peers",
                UNREACHABLE,
            )
        return CommandFailed(
            f"{claimed}, and nothing above the trusted {self.client.height} was verified {waited}: try other peers",
            UNREACHABLE,
        )


def is_level(height: int, claims: Collection[int]) -> bool:
    """Whether more than half of the peers claim no more than `height`.

    One that boasts doesn't keep anybody waiting, and one that lags, or claims to, doesn't end the wait.
    """
    return bool(claims) and sorted(claims)[len(claims) // 2] <= height


@contextmanager
def exit_codes(evidence: EvidenceFolder) -> Iterator[None]:
    """Take errors out of their groups, and give those of light clients their exit codes.

    Raises:
        CommandFailed: for an attack, and for trust that has expired.
    """
    try:
        yield
    except (DeepshardError, BaseExceptionGroup) as raised:
        leaves = list(_leaves(raised))
        error = next((one for one in leaves if not isinstance(one, DeepshardError)), leaves[0])
        if isinstance(error, TrustExpired):
            raise CommandFailed(str(error), TRUST_EXPIRED) from None
        if isinstance(error, LightAttackDetected):
            raise CommandFailed(f"{error}. {attack_text(error.attack, evidence)}", ATTACKED) from None
        raise error from None


@contextmanager
def proving() -> Iterator[None]:
    """Give what keeps a record from being proven its exit code.

    Raises:
        CommandFailed: no peer proved it.
    """
    try:
        yield
    except LightAttackDetected:
        raise
    except LocalError as error:
        raise CommandFailed(str(error), UNREACHABLE) from error


def attack_text(attack: LightAttack, folder: EvidenceFolder) -> str:
    """Who is to blame for an attack, and where the evidence is."""
    evidence = evidence_of(attack)
    found = blame(evidence, attack.chain_id)
    path = folder.path_of(evidence)
    kept = f"The evidence is in {path}: `deepshard evidence verify {path} --chain {attack.chain_id}`"
    if found.convicted:
        guilty = ", ".join(format_address(address) for address in found.convicted)
        return f"Guilty beyond doubt, since they signed both: {guilty}. {kept}"
    sides = zip((evidence.first, evidence.second), found.signers, strict=True)
    lists = (
        f"of {short(one.header.block_id())}: {', '.join(format_address(address) for address in signers)}"
        for one, signers in sides
    )
    return f"Nobody signed both in one round; the signers {' and '.join(lists)}. Some of one side are guilty. {kept}"


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
