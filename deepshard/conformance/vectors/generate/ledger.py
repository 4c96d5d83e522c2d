"""A small chain for the vectors of the ledger: people, blocks one after the other, snapshots of the state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final

from deepshard.chunk_tree import NO_CHUNKS
from deepshard.conformance.vectors.document import Json, accept, digest_of, key_of, plain, refuse
from deepshard.conformance.vectors.generate.merkle import root_of as list_root
from deepshard.conformance.vectors.generate.proofs import root_of as state_root
from deepshard.conformance.vectors.params import PARAMS
from deepshard.encoding import decode, encode
from deepshard.identity import SecretKey
from deepshard.ledger import BlockContext, OnionChain, execute_block, genesis_state
from deepshard.ledger.params import Genesis, GenesisAccount, GenesisValidator
from deepshard.ledger.state import State
from deepshard.ledger.transactions import Action, TransactionBody, decode_transaction, sign_transaction, transaction_id
from deepshard.primitives import UNITS_PER_TOKEN

CHAIN: Final = "vector-chain"
TOKEN: Final = UNITS_PER_TOKEN
BALANCE: Final = 5000 * TOKEN
VALIDATORS: Final = tuple(sorted((key_of(f"validator {n}") for n in range(4)), key=lambda key: key.address))
TRAINERS: Final = tuple(sorted((key_of(f"trainer {n}") for n in range(3)), key=lambda key: key.address))
INFORMANT: Final = key_of("informant")
BUYER: Final = key_of("buyer")
STRANGER: Final = key_of("stranger")
_PEOPLE: Final = (*VALIDATORS, *TRAINERS, INFORMANT, BUYER)
_LAYERS: Final = 64
Entries = list[tuple[bytes, bytes]]


@cache
def onion(key: SecretKey) -> OnionChain:
    """A person's hash onion."""
    return OnionChain(key.seed, _LAYERS)


@cache
def genesis() -> Genesis:
    """What the chain starts from."""
    return Genesis(
        chain_id=CHAIN,
        time_ms=0,
        params=PARAMS,
        validators=tuple(GenesisValidator(key.public, 1000 * TOKEN, onion(key).tip) for key in VALIDATORS),
        accounts=tuple(GenesisAccount(key.address, BALANCE) for key in _PEOPLE),
        manifest=digest_of("manifest 0"),
        weights_root=digest_of("weights 0"),
        chunks_root=NO_CHUNKS,
        shard_count=0,
        heldout=(digest_of("heldout 0"), digest_of("heldout 1")),
        general=(digest_of("general 0"),),
        canaries=(digest_of("canary 0"),),
    )


class Ledger:
    """A chain whose blocks are decided here."""

    def __init__(self) -> None:
        """Begin at genesis."""
        self.state: State = genesis_state(genesis())

    def sign(self, sender: SecretKey, *actions: Action) -> list[bytes]:
        """The sender's next transactions."""
        nonce = self.state.account(sender.address).nonce
        return [sign_transaction(sender, CHAIN, nonce + place, action) for place, action in enumerate(actions)]

    def block(self, *transactions: bytes) -> None:
        """Add a block."""
        self.state = execute_block(self.state, context_on(self.state), transactions).state

    def until(self, reached: Callable[[State], bool]) -> None:
        """Add empty blocks until something holds."""
        for _ in range(40):
            if reached(self.state):
                return
            self.block()
        raise AssertionError("not reached")


def context_on(state: State) -> BlockContext:
    """Whose turn the next block is, in some order, with its preimage."""
    height = state.chain().height + 1
    proposer = state.active_validators()[height % len(state.active_validators())][0]
    record = state.validator(proposer)
    assert record is not None
    key = next(key for key in (*_PEOPLE, STRANGER) if key.address == proposer)
    return BlockContext(CHAIN, height, proposer, onion(key).preimage(record.onion_tip))


def entries_of(state: State) -> Entries:
    """All entries in the order of their keys."""
    return list(decode(state.dump(), tuple[tuple[bytes, bytes], ...], bytes_max=1 << 26))


def shown_state(state: State) -> Json:
    """A state as the vectors give it."""
    entries = entries_of(state)
    assert state_root(entries) == state.root
    return {"height": state.chain().height, "root": state.root, "entries": entries}


class Cases:
    """Cases of blocks on named states."""

    def __init__(self, states: dict[str, State]) -> None:
        """Blocks stand on one of these."""
        self._states = states
        self._ledgers: dict[str, Ledger] = {}

    def on(self, name: str) -> Ledger:
        """A ledger at this state, to sign for."""
        ledger = Ledger()
        ledger.state = self._states[name]
        return ledger

    def good(self, name: str, clauses: Sequence[str], state: str, transactions: Sequence[bytes]) -> Json:
        """A block that is valid, and all that changes."""
        before = self._states[state]
        result = execute_block(before, context_on(before), transactions)
        old, new = dict(entries_of(before)), dict(entries_of(result.state))
        changes = [[key, new.get(key)] for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
        assert state_root(list(new.items())) == result.state.root
        receipts = [encode(receipt) for receipt in result.receipts]
        outcome: Json = {"ids": [transaction_id(data) for data in transactions], "changes": changes}
        outcome |= {"state_root": result.state.root, "receipts": result.receipts, "receipts_root": list_root(receipts)}
        outcome["validators_changed"] = result.validators_changed
        bodies = {"bodies": [body_of(data) for data in transactions]} if transactions else {}
        return accept(name, clauses, **_block(state, before, transactions), **bodies, **outcome)

    def bad(
        self,
        name: str,
        clauses: Sequence[str],
        error: str,
        state: str,
        transactions: Sequence[bytes],
        **context: Any,  # noqa: ANN401
    ) -> Json:
        """A block that has to be refused with this error."""
        return refuse(name, clauses, error, **{**_block(state, self._states[state], transactions), **context})


def _block(state: str, before: State, transactions: Sequence[bytes]) -> Json:
    context = context_on(before)
    header = {"height": context.height, "proposer": context.proposer, "onion_preimage": context.onion_preimage}
    return {"state": state, **header, "transactions": transactions}


def body_of(data: bytes) -> Json:
    """The body of a transaction; of a report without what it reports."""
    body: TransactionBody = decode_transaction(data)[1]
    shown: Json = plain(body)
    if shown["action"]["type"] == "report-scores":
        shown["action"] = {key: shown["action"][key] for key in ("type", "round")}
    return shown
