"""Faults that a person asks for: what is done to which validator, in which phase of the epoch, and for how long. Pure.

| kind | what happens | ends with |
|---|---|---|
| `kill` | SIGKILL, as a crash or the kernel's memory killer would | the node is started again in its old home |
| `stop` | SIGSTOP: the process stands still while its peers' links stay open | SIGCONT |
| `partition` | its network cable is pulled: packets are lost, and no connection is refused | the cable is back |
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from deepshard.devnet.roster import OBSERVER, VALIDATORS
from deepshard.errors import UsageError

Kind = Literal["kill", "stop", "partition"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
PHASES: Final = ("voting", "joining", "training", "scoring")
"""Phases that a fault can begin with: those that last long enough not to be missed."""
VICTIMS: Final = tuple(name for number in range(1, VALIDATORS + 1) if (name := f"validator-{number}") != OBSERVER)
DEFAULT_S: Final[dict[Kind, int]] = {"kill": 5, "stop": 20, "partition": 20}
SECONDS_MIN, SECONDS_MAX = 5, 600
_FORM = re.compile(r"(?P<kind>[^:@]+):(?P<node>[^:@]+)@(?P<phase>[^:@]+)(?::(?P<seconds>[^:@]+))?", re.ASCII)
EXAMPLE: Final = "kill:validator-2@training or stop:validator-3@voting:30"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: `kind` done to `node` when `phase` begins, undone after `seconds`."""

    kind: Kind
    node: str
    phase: str
    seconds: int

    def __str__(self) -> str:
        return f"{self.kind}:{self.node}@{self.phase}:{self.seconds}"


def parse_fault(text: str) -> Fault:
    """Read KIND:VALIDATOR@PHASE[:SECONDS].

    Raises:
        UsageError: it isn't one; the message says which part is wrong and what can stand there.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        raise UsageError(f"--fault {text!r}: give KIND:VALIDATOR@PHASE[:SECONDS], as in {EXAMPLE}")
    kind = next((kind for kind in KINDS if kind == found["kind"]), None)
    if kind is None:
        raise UsageError(f"--fault {text!r}: unknown kind {found['kind']!r}: give {_listed(KINDS)}")
    if found["node"] == OBSERVER:
        raise UsageError(f"--fault {text!r}: the story is told from {OBSERVER}: give {_listed(VICTIMS)}")
    if found["node"] not in VICTIMS:
        raise UsageError(f"--fault {text!r}: no validator {found['node']!r} here: give {_listed(VICTIMS)}")
    if found["phase"] not in PHASES:
        raise UsageError(f"--fault {text!r}: unknown phase {found['phase']!r}: give {_listed(PHASES)}")
    seconds = found["seconds"] or str(DEFAULT_S[kind])
    if not (seconds.isdecimal() and len(seconds) <= 3 and SECONDS_MIN <= int(seconds) <= SECONDS_MAX):
        raise UsageError(f"--fault {text!r}: give whole seconds from {SECONDS_MIN} to {SECONDS_MAX}")
    return Fault(kind, found["node"], found["phase"], int(seconds))


def parse_faults(texts: Sequence[str]) -> tuple[Fault, ...]:
    """Read several; each begins a phase of its own, so that one validator of four is faulty at a time.

    Raises:
        UsageError: one is wrong, or two belong to one phase.
    """
    faults = tuple(parse_fault(text) for text in texts)
    by_phase: dict[str, Fault] = {}
    for fault in faults:
        other = by_phase.setdefault(fault.phase, fault)
        if other is not fault:
            raise UsageError(
                f"--fault {fault}: {other} is in that phase already, and four validators stand one fault at a time"
            )
    return faults


def _listed(choices: Sequence[str]) -> str:
    return f"{', '.join(choices[:-1])} or {choices[-1]}"
