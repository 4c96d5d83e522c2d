"""Checks of `transactions.json` and `rounds.json`."""

from __future__ import annotations

import json
from functools import cache

from deepshard.conformance.vectors.check import Fields
from deepshard.conformance.vectors.document import Json, plain, render, unspell
from deepshard.encoding import decode
from deepshard.ledger import BlockContext, execute_block, receipts_root
from deepshard.ledger.state import State
from deepshard.ledger.transactions import decode_transaction, transaction_id
from deepshard.ledger.trie import trie_of

_Entries = tuple[tuple[bytes, bytes], ...]


@cache
def _loaded(text: str) -> State:
    """A state from its JSON; kept, since many cases share it."""
    return State(trie_of((unspell(key), unspell(value)) for key, value in json.loads(text)))


def check(case: Fields) -> Json:
    """Execute a block on a state."""
    listed = case.shared["states"][case["state"]]
    state = _loaded(render(listed["entries"]))
    assert state.root == unspell(listed["root"])
    transactions = [unspell(data) for data in case["transactions"]]
    header = case.number("height"), case.data("proposer"), case.data("onion_preimage")
    result = execute_block(state, BlockContext(case.shared["chain_id"], *header), transactions)
    bodies = {"bodies": [_body(data) for data in transactions]} if transactions else {}
    before, after = dict(_entries(state)), dict(_entries(result.state))
    changed = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
    return bodies | {
        "ids": [transaction_id(data) for data in transactions],
        "changes": [[key, after.get(key)] for key in changed],
        "state_root": result.state.root,
        "receipts": result.receipts,
        "receipts_root": receipts_root(result.receipts),
        "validators_changed": result.validators_changed,
    }


def _entries(state: State) -> _Entries:
    return decode(state.dump(), _Entries, bytes_max=1 << 26)


def _body(data: bytes) -> Json:
    shown: Json = plain(decode_transaction(data)[1])
    if shown["action"]["type"] == "report-scores":
        shown["action"] = {key: shown["action"][key] for key in ("type", "round")}
    return shown
