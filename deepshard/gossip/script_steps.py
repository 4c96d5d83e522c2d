"""The form of timed gossip scripts: chapter 7 in motion, as data.

A driver plays a script against one node: it opens the links (each with a key of its own, used for nothing else), makes
the units, does the steps in order, and fails the script's clauses at the first step that doesn't hold.

Names stand for what a driver has to make: in `entries` for a unit, in `ids` for that unit's id. The recipes of units:

- `transfer`: a transfer of one base unit to its sender, valid now, signed by an account with money (needs one);
- `unfunded`: a transfer with a good signature and nonce 0, by a new key that has no account;
- `forged`: a transfer by a new key whose signature is of other bytes;
- `garbage`: 40 random bytes after `c1`, which is no encoding;
- `old-vote`, `future-vote`: a prevote for nil by a new key with 64 zero bytes for a signature, for height 1 of a chain
  that is higher, or for 2^40;
- `unknown`: an id only, 16 random bytes;
- `short`: an id only, 15 random bytes.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Literal

import msgspec

Recipe = Literal["transfer", "unfunded", "forged", "garbage", "old-vote", "future-vote", "unknown", "short"]
Role = Literal["member", "light"]
Kind = Literal["Graft", "Prune", "IHave", "IWant", "IDontWant", "Transactions", "Votes"]
SOON_S: Final = 3.0
"""Long enough for a heartbeat to pass and a message to arrive."""


class Verdict(StrEnum):
    """What the script shows of what it sends."""

    VALID = "valid"
    IGNORE = "ignore"
    REJECT = "reject"


class Template(msgspec.Struct, frozen=True, omit_defaults=True):
    """A message to send; or a pattern: of this kind, of this topic, with all these entries or ids among its own."""

    kind: Kind
    topic: int | None = None
    backoff_s: int | None = None
    entries: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()


class Send(msgspec.Struct, frozen=True, tag_field="do", tag="send"):
    """Send the message, not before `at_s` seconds of the script have passed."""

    link: str
    message: Template
    at_s: float = 0.0


class Expect(msgspec.Struct, frozen=True, tag_field="do", tag="expect"):
    """Since the script began and within this time, what the pattern names has come so often.

    Each of its entries and ids, in whatever messages of the kind and topic; with neither, messages of them at all.
    """

    link: str
    message: Template
    within_s: float = SOON_S
    times: int = 1


class Absent(msgspec.Struct, frozen=True, tag_field="do", tag="absent"):
    """From this step on, for this time, no message comes that holds any of the entries or ids of the pattern.

    With neither entries nor ids: no message of the kind and topic at all. The link stays up.
    """

    link: str
    message: Template
    for_s: float = 1.5


class AtMost(msgspec.Struct, frozen=True, tag_field="do", tag="at-most"):
    """Since the script began and until this time is over, messages of this kind have come with at most so many ids."""

    link: str
    kind: Kind
    ids: int
    for_s: float = 1.5


class Alive(msgspec.Struct, frozen=True, tag_field="do", tag="alive"):
    """The link is up: a PING is answered."""

    link: str


class Closed(msgspec.Struct, frozen=True, tag_field="do", tag="closed"):
    """The node closes the link within this time. If it says why, it is by one of these error names, or "banned"."""

    link: str
    errors: tuple[str, ...]
    within_s: float = SOON_S


Step = Send | Expect | Absent | AtMost | Alive | Closed


class Script(msgspec.Struct, frozen=True):
    """One script. `links` gives the role that each link's key claims, `units` the recipe of each name."""

    name: str
    clauses: tuple[str, ...]
    verdict: Verdict
    reason: str
    links: dict[str, Role]
    units: dict[str, Recipe]
    steps: tuple[Step, ...]

    @property
    def needs_account(self) -> bool:
        """Whether the driver needs an account with money."""
        return "transfer" in self.units.values()
