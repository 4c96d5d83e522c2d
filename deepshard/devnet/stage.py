"""What the steps of a run share: the cast, the clients, the clock of phases, and the one way to wait."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import trio

from deepshard.devnet.client import POLL_INTERVAL_S, NodeClient
from deepshard.devnet.narration import Narrator
from deepshard.devnet.plans import Plan
from deepshard.devnet.processes import ManagedProcess, Processes
from deepshard.devnet.report import Report
from deepshard.devnet.roster import Participant, Role
from deepshard.devnet.story import tell
from deepshard.errors import LocalError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a person asked for. `threads` is 0 for the plan's own number."""

    model: str
    directory: Path
    cache: Path
    keep: bool = False
    dishonest: int = 1
    kill_validator: bool = False
    threads: int = 0


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
    roster: tuple[Participant, ...] = ()
    clients: dict[str, NodeClient] = field(default_factory=dict)
    running: dict[str, ManagedProcess] = field(default_factory=dict)
    step: str = "start"
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

    def end_phase(self) -> None:
        """Write down how long the present phase took; a name that comes twice adds up."""
        if self._started is not None:
            seconds = trio.current_time() - self._started
            self.report.phase_seconds[self.step] = round(self.report.phase_seconds.get(self.step, 0.0) + seconds, 2)
        self._started = None

    def of_role(self, role: Role) -> list[Participant]:
        """Participants of a role whose node is running."""
        return [each for each in self.roster if each.role == role and each.name in self.running]

    @property
    def observer(self) -> NodeClient:
        """The validator whose view of the chain is told; it is never the one that is killed."""
        return self.clients["validator-1"]

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
