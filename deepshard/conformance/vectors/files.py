"""The vector files by name: what makes each and what checks it."""

from __future__ import annotations

import json
from importlib import import_module
from typing import Final

from deepshard.conformance.vectors.check import failures
from deepshard.conformance.vectors.document import Json, render

NAMES: Final = (
    "encoding",
    "blake3",
    "merkle",
    "identities",
    "signatures",
    "handshake",
    "packets",
    "frames",
    "streams",
    "gossip",
    "manifests",
    "chunks",
    "placement",
    "votes",
    "traces",
    "certificates",
    "evidence",
    "blocks",
    "light",
    "proofs",
    "snapshots",
    "genesis",
    "transactions",
    "convictions",
    "audits",
    "rounds",
    "draws",
    "tally",
    "verdict",
    "price",
)


def text_of(name: str) -> str:
    """The whole file, generated."""
    document: Json = import_module(f"deepshard.conformance.vectors.generate.{name}").make()
    return render(document) + "\n"


def failures_of(name: str, text: str) -> list[str]:
    """What is wrong with the text of this file, one line for each case that doesn't hold."""
    checks = import_module(f"deepshard.conformance.vectors.checks.{name}")
    return failures(json.loads(text), checks.check)
