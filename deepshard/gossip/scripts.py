"""Timed gossip scripts, each keyed by clauses of chapter 7; `script_steps` says what they mean.

`as_json` gives them as plain lists, maps, texts and numbers.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from deepshard.gossip.script_steps import (
    SOON_S,
    Absent,
    Alive,
    AtMost,
    Closed,
    Expect,
    Recipe,
    Role,
    Script,
    Send,
    Template,
    Verdict,
)
from deepshard.limits import (
    GOSSIP_IDS_MAX,
    GOSSIP_IHAVES_PER_HEARTBEAT_MAX,
    GOSSIP_IWANT_SERVED_MAX,
    PEER_SCORE_BAN,
)

CONSENSUS, TRANSACTIONS, UNKNOWN_TOPIC = 0, 1, 200


def as_json() -> list[dict[str, Any]]:
    """All scripts as plain data."""
    plain: list[dict[str, Any]] = msgspec.to_builtins(SCRIPTS)
    return plain


def _names(stem: str, count: int) -> tuple[str, ...]:
    return tuple(f"{stem}-{number}" for number in range(count))


def _transactions(*entries: str) -> Template:
    return Template("Transactions", entries=entries)


_TWO: Final[dict[str, Role]] = {"a": "member", "b": "member"}
_ONE: Final[dict[str, Role]] = {"a": "member"}
_TX: Final[dict[str, Recipe]] = {"tx": "transfer"}
_MANY: Final = _names("unknown", GOSSIP_IDS_MAX + 1)
_FLOOD: Final = _names("unknown", 3 * GOSSIP_IHAVES_PER_HEARTBEAT_MAX)
_GARBAGE: Final = _names("garbage", PEER_SCORE_BAN // 20 + 1)

_UNITS: Final = (
    Script(
        "valid-transaction-is-passed-on",
        ("7.2/2", "7.3/2"),
        Verdict.VALID,
        "a transaction that the state admits goes to every peer in the mesh",
        _TWO,
        _TX,
        (Send("a", _transactions("tx")), Expect("b", _transactions("tx")), Alive("a")),
    ),
    Script(
        "duplicate-is-ignored",
        ("7.2/1", "7.2/5"),
        Verdict.IGNORE,
        "a unit that was seen isn't passed on again, and sending it again is no fault",
        _TWO,
        _TX,
        (
            Send("a", _transactions("tx")),
            Expect("b", _transactions("tx")),
            Send("a", _transactions("tx")),
            Send("a", _transactions("tx")),
            Absent("b", _transactions("tx")),
            Alive("a"),
        ),
    ),
    Script(
        "sender-does-not-get-its-own-unit-back",
        ("7.3/3",),
        Verdict.VALID,
        "a peer that has sent a unit has it",
        _TWO,
        _TX,
        (
            Send("a", _transactions("tx")),
            Absent("a", _transactions("tx")),
            Expect("b", _transactions("tx")),
        ),
    ),
    Script(
        "forged-transaction-is-rejected",
        ("7.2/4", "7.2/2"),
        Verdict.REJECT,
        "its signature doesn't hold, which every honest node would have noticed",
        _TWO,
        {"tx": "forged"},
        (
            Send("a", _transactions("tx")),
            Absent("b", _transactions("tx")),
            Closed("a", ("BadSignature", "banned")),
            Alive("b"),
        ),
    ),
    Script(
        "unfunded-transaction-is-for-later",
        ("7.2/2", "7.2/5", "7.3/4"),
        Verdict.IGNORE,
        "the state doesn't admit it now, which is nobody's fault; it is neither passed on nor advertised",
        _TWO,
        {"tx": "unfunded"},
        (
            Send("a", _transactions("tx")),
            Absent("b", _transactions("tx"), for_s=0.2),
            Absent("b", Template("IHave", ids=("tx",)), for_s=SOON_S),
            Alive("a"),
        ),
    ),
    Script(
        "a-bad-entry-does-not-spoil-its-batch",
        ("7.1/1", "7.2/6"),
        Verdict.VALID,
        "each unit of a batch is judged by itself",
        _TWO,
        {"before": "transfer", "bad": "garbage", "after": "transfer"},
        (
            Send("a", _transactions("before", "bad", "after")),
            Expect("b", _transactions("before", "after")),
            Alive("a"),
        ),
    ),
    Script(
        "garbage-adds-up-to-a-ban",
        ("7.2/4",),
        Verdict.REJECT,
        "votes that don't decode cost their sender points until it is banned",
        _ONE,
        dict.fromkeys(_GARBAGE, "garbage"),
        (*(Send("a", Template("Votes", entries=(name,))) for name in _GARBAGE), Closed("a", ("banned", "Malformed"))),
    ),
    Script(
        "old-vote-is-ignored",
        ("7.2/2", "7.2/5"),
        Verdict.IGNORE,
        "its height is decided; whether its signature holds doesn't matter any more",
        _TWO,
        {"vote": "old-vote"},
        (
            Send("a", Template("Votes", entries=("vote",))),
            Absent("b", Template("Votes", entries=("vote",))),
            Alive("a"),
        ),
    ),
    Script(
        "future-vote-is-for-later",
        ("7.2/2", "7.2/5"),
        Verdict.IGNORE,
        "its height isn't being decided, so the validators that may vote aren't known",
        _TWO,
        {"vote": "future-vote"},
        (
            Send("a", Template("Votes", entries=("vote",))),
            Absent("b", Template("Votes", entries=("vote",))),
            Alive("a"),
        ),
    ),
)

_MESH: Final = (
    Script(
        "graft-in-the-mesh-is-not-answered",
        ("7.4/1",),
        Verdict.VALID,
        "a node that agrees says nothing",
        _ONE,
        {},
        (
            Send("a", Template("Graft", topic=CONSENSUS)),
            Send("a", Template("Graft", topic=CONSENSUS)),
            Absent("a", Template("Prune", topic=CONSENSUS)),
            Alive("a"),
        ),
    ),
    Script(
        "graft-during-backoff-is-pruned",
        ("7.4/5", "7.4/6"),
        Verdict.IGNORE,
        "whoever says PRUNE waits for the backoff, too",
        _ONE,
        {},
        (
            Send("a", Template("Prune", topic=TRANSACTIONS, backoff_s=60)),
            Send("a", Template("Graft", topic=TRANSACTIONS)),
            Expect("a", Template("Prune", topic=TRANSACTIONS), within_s=1.0),
            Absent("a", Template("Graft", topic=TRANSACTIONS), for_s=SOON_S),
            Alive("a"),
        ),
    ),
    Script(
        "pruned-peer-is-only-told",
        ("7.4/4", "7.5/1"),
        Verdict.VALID,
        "outside the mesh a peer gets ids by IHAVE instead of units",
        _TWO,
        _TX,
        (
            Send("b", Template("Prune", topic=TRANSACTIONS, backoff_s=60)),
            Send("a", _transactions("tx"), at_s=0.3),
            Absent("b", _transactions("tx"), for_s=0.3),
            Expect("b", Template("IHave", topic=TRANSACTIONS, ids=("tx",))),
        ),
    ),
    Script(
        "unknown-topic-is-ignored",
        ("7.1/5",),
        Verdict.IGNORE,
        "a later version may have more topics",
        _ONE,
        {"unit": "unknown"},
        (
            Send("a", Template("Graft", topic=UNKNOWN_TOPIC)),
            Send("a", Template("Prune", topic=UNKNOWN_TOPIC, backoff_s=1)),
            Send("a", Template("IHave", topic=UNKNOWN_TOPIC, ids=("unit",))),
            Absent("a", Template("Prune", topic=UNKNOWN_TOPIC), for_s=0.2),
            Absent("a", Template("IWant", ids=("unit",))),
            Alive("a"),
        ),
    ),
    Script(
        "light-client-is-no-member",
        ("7.1/3", "7.1/4"),
        Verdict.VALID,
        "it isn't grafted nor told what is new; its own transactions count",
        {"light": "light", "b": "member"},
        _TX,
        (
            Absent("light", Template("Graft"), for_s=1.5),
            Send("light", Template("Graft", topic=CONSENSUS)),
            Expect("light", Template("Prune", topic=CONSENSUS), within_s=1.0),
            Send("light", _transactions("tx")),
            Expect("b", _transactions("tx")),
            Absent("light", Template("IHave"), for_s=1.5),
        ),
    ),
)

_REPAIR: Final = (
    Script(
        "ihave-of-unknown-units-is-asked-for",
        ("7.5/2",),
        Verdict.VALID,
        "what is unknown is wanted, of whatever topic it may turn out to be",
        _ONE,
        {"one": "unknown", "two": "unknown"},
        (
            Send("a", Template("IHave", topic=TRANSACTIONS, ids=("one", "two"))),
            Expect("a", Template("IWant", ids=("one", "two")), within_s=1.0),
        ),
    ),
    Script(
        "ihave-of-a-seen-unit-is-not-asked-for",
        ("7.5/3", "7.5/2"),
        Verdict.IGNORE,
        "a unit that was seen is never asked for",
        _ONE,
        {"tx": "transfer", "other": "unknown"},
        (
            Send("a", _transactions("tx")),
            Send("a", Template("IHave", topic=TRANSACTIONS, ids=("tx", "other"))),
            Absent("a", Template("IWant", ids=("tx",)), for_s=0.5),
            Expect("a", Template("IWant", ids=("other",))),
        ),
    ),
    Script(
        "one-peer-is-asked-at-a-time",
        ("7.5/2",),
        Verdict.IGNORE,
        "a unit that was asked for a moment ago isn't asked of a second peer",
        _TWO,
        {"unit": "unknown"},
        (
            Send("a", Template("IHave", topic=CONSENSUS, ids=("unit",))),
            Expect("a", Template("IWant", ids=("unit",)), within_s=1.0),
            Send("b", Template("IHave", topic=CONSENSUS, ids=("unit",))),
            Absent("b", Template("IWant", ids=("unit",)), for_s=0.4),
            Alive("b"),
        ),
    ),
    Script(
        "iwant-is-answered",
        ("7.5/4",),
        Verdict.VALID,
        "a unit judged valid a moment ago is sent on request",
        {"a": "member", "b": "member", "c": "member"},
        _TX,
        (
            Send("b", Template("Prune", topic=TRANSACTIONS, backoff_s=60)),
            Send("a", _transactions("tx"), at_s=0.3),
            Expect("c", _transactions("tx")),
            Send("b", Template("IWant", ids=("tx",))),
            Expect("b", _transactions("tx"), within_s=1.0),
        ),
    ),
    Script(
        "iwant-is-answered-a-few-times-only",
        ("7.8/3", "7.8/4"),
        Verdict.IGNORE,
        "16 bytes must not buy any number of copies",
        _TWO,
        _TX,
        (
            Send("a", _transactions("tx")),
            Expect("b", _transactions("tx")),
            *(Send("a", Template("IWant", ids=("tx",))) for _ in range(GOSSIP_IWANT_SERVED_MAX)),
            Expect("a", _transactions("tx"), within_s=1.0, times=GOSSIP_IWANT_SERVED_MAX),
            Send("a", Template("IWant", ids=("tx",))),
            Absent("a", _transactions("tx"), for_s=1.0),
            Alive("a"),
        ),
    ),
    Script(
        "iwant-of-unknown-units-is-ignored",
        ("7.5/4",),
        Verdict.IGNORE,
        "it may have been dropped since it was advertised",
        _ONE,
        {"one": "unknown", "two": "unknown"},
        (
            Send("a", Template("IWant", ids=("one", "two"))),
            Absent("a", _transactions(), for_s=0.3),
            Alive("a"),
        ),
    ),
    Script(
        "idontwant-is-respected",
        ("7.6/2",),
        Verdict.VALID,
        "a peer that doesn't want a unit doesn't get it, but the others do",
        {"a": "member", "b": "member", "c": "member"},
        _TX,
        (
            Send("b", Template("IDontWant", ids=("tx",))),
            Send("a", _transactions("tx"), at_s=0.3),
            Absent("b", _transactions("tx")),
            Expect("c", _transactions("tx")),
            Alive("b"),
        ),
    ),
    Script(
        "idontwant-does-not-overrule-iwant",
        ("7.6/2",),
        Verdict.VALID,
        "whoever asks gets it",
        {"a": "member", "b": "member", "c": "member"},
        _TX,
        (
            Send("b", Template("IDontWant", ids=("tx",))),
            Send("a", _transactions("tx"), at_s=0.3),
            Expect("c", _transactions("tx")),
            Send("b", Template("IWant", ids=("tx",))),
            Expect("b", _transactions("tx"), within_s=1.0),
        ),
    ),
)

_BOUNDS: Final = (
    Script(
        "too-many-ids-are-rejected",
        ("7.8/1",),
        Verdict.REJECT,
        f"a control message holds at most {GOSSIP_IDS_MAX} ids",
        _ONE,
        dict.fromkeys(_MANY, "unknown"),
        (Send("a", Template("IHave", topic=CONSENSUS, ids=_MANY)), Closed("a", ("MalformedMessage",))),
    ),
    Script(
        "as-many-ids-as-allowed",
        ("7.8/1", "7.5/2"),
        Verdict.VALID,
        "the bound itself is allowed",
        _ONE,
        dict.fromkeys(_MANY[1:], "unknown"),
        (
            Send("a", Template("IHave", topic=CONSENSUS, ids=_MANY[1:])),
            Expect("a", Template("IWant", ids=_MANY[1:])),
            Alive("a"),
        ),
    ),
    Script(
        "a-short-id-is-rejected",
        ("7.8/1",),
        Verdict.REJECT,
        "an id has 16 bytes",
        _ONE,
        {"id": "short"},
        (Send("a", Template("IWant", ids=("id",))), Closed("a", ("MalformedMessage",))),
    ),
    Script(
        "a-flood-of-ihave-is-not-followed",
        ("7.8/2", "7.8/4"),
        Verdict.IGNORE,
        "between two heartbeats a peer's first few are looked at; one heartbeat may fall into the flood",
        _ONE,
        dict.fromkeys(_FLOOD, "unknown"),
        (
            *(Send("a", Template("IHave", topic=TRANSACTIONS, ids=(name,))) for name in _FLOOD),
            AtMost("a", "IWant", 2 * GOSSIP_IHAVES_PER_HEARTBEAT_MAX),
            Alive("a"),
        ),
    ),
)

SCRIPTS: Final[tuple[Script, ...]] = (*_UNITS, *_MESH, *_REPAIR, *_BOUNDS)
