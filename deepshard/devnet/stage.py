"""What the steps of a run share: the cast, the clients, the clock of phases, and the one way to wait."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import trio

from deepshard.devnet.client import POLL_INTERVAL_S, NodeClient
from deepshard.devnet.faults import Fault
from deepshard.devnet.namespaces import PrivateNetwork
from deepshard.devnet.narration import Narrator
from deepshard.devnet.plans import Plan
from deepshard.devnet.processes import ManagedProcess, Processes
from deepshard.devnet.report import Report
from deepshard.devnet.roster import OBSERVER, Participant, Role
from deepshard.devnet.story import tell
from deepshard.errors import LocalError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a person asked for. `threads` is 0 for the plan's own number, `recipe` is `full` or `lora`."""

    model: str
    directory: Path
    cache: Path
    keep: bool = False
    dishonest: int = 1
    faults: tuple[Fault, ...] = ()
    threads: int = 0
    recipe: str = "full"


class StepFailed(LocalError):
    """A step did not really happen; `culprit` names the node whose log should say why, if one is to blame."""

    def __init__(self, facts: str, culprit: str = "") -> None:
        super().__init__(facts)
        self.culprit = culprit


@dataclass(kw_only=True)
class Stage:
    """One run."""

    settings: Settings
    plan: Plan
    narrator: Narrator
    processes: Processes
    report: Report
    network: PrivateNetwork | None = None
    roster: tuple[Participant, ...] = ()
    clients: dict[str, NodeClient] = field(default_factory=dict)
    running: dict[str, ManagedProcess] = field(default_factory=dict)
    down: set[str] = field(default_factory=set)
    """Nodes that a fault has taken away for now."""
    step: str = "start"
    _turn: trio.Event = field(default_factory=trio.Event)
    _started: float | None = None
    _last_receipt: int = 0

    @property
    def threads(self) -> int:
        """Threads of each compute worker."""
        return self.settings.threads or min(self.plan.threads, os.cpu_count() or 1)

    def phase(self, name: str, title: str) -> None:
        """End the present phase and begin `name`; its seconds appear in the report when it ends."""
        self.end_phase()
        self.step, self._started = name, trio.current_time()
        self.narrator.phase(title)
        turn, self._turn = self._turn, trio.Event()
        turn.set()

    async def reached(self, name: str) -> None:
        """Wait until the phase `name` begins."""
        while self.step != name:
            await self._turn.wait()

    def end_phase(self) -> None:
        """Write down how long the present phase took; a name that comes twice adds up."""
        if self._started is not None:
            seconds = trio.current_time() - self._started
            self.report.phase_seconds[self.step] = round(self.report.phase_seconds.get(self.step, 0.0) + seconds, 2)
        self._started = None

    def of_role(self, role: Role) -> list[Participant]:
        """Participants of a role whose node runs and can be reached."""
        here = self.running.keys() - self.down
        return [each for each in self.roster if each.role == role and each.name in here]

    @property
    def observer(self) -> NodeClient:
        """The validator whose view of the chain is told; no fault is its own."""
        return self.clients[OBSERVER]

    @property
    def names(self) -> dict[str, str]:
        """Name of each participant by address, and by public key in hex."""
        by_address = {each.address: each.name for each in self.roster}
        return by_address | {each.key.public.hex(): each.name for each in self.roster}

    async def tell_news(self) -> None:
        """Tell the receipts written since the last time."""
        names = self.names
        for receipt in await self.observer.receipts(self._last_receipt):
            self._last_receipt = max(self._last_receipt, int(receipt["seq"]))
            sentence = tell(receipt, names)
            if sentence:
                self.narrator.say(sentence)

    async def until(
        self,
        look: Callable[[], Awaitable[T | None]],
        *,
        what: str,
        timeout_s: float,
        facts: Callable[[], str] = lambda: "",
        culprit: Callable[[], str] = lambda: "",
    ) -> T:
        """Look five times a second until `look` finds something, telling the news meanwhile.

        Raises:
            StepFailed: nothing was found in time; says what was waited for, and `facts` about how far it came.
        """
        with trio.move_on_after(timeout_s):
            while True:
                found = await look()
                await self.tell_news()
                if found is not None:
                    return found
                self.narrator.waiting(f"waiting for {what} {facts()}".rstrip())
                await trio.sleep(POLL_INTERVAL_S)
        raise StepFailed(f"{what} did not happen within {timeout_s:.0f} s {facts()}".rstrip(), culprit())
