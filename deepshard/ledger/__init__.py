"""The ledger: a pure state machine of integers over accounts, data proposals, training rounds and licences.

`genesis_state` gives the first `State`, `execute_block` each next one; `State.prove` and `verify_proof` serve light
clients. Key layout: `keys`. Receipts: `receipts`. Rules: `transfers`, `proposals`, `rounds`, `schedule`, `market`.
"""

from deepshard.ledger.execution import (
    BlockContext,
    BlockResult,
    check_transaction,
    execute_block,
    select_transactions,
    validator_set_at,
)
from deepshard.ledger.explain import explain_conviction, explain_proposal, explain_round
from deepshard.ledger.genesis import dump_genesis, genesis_state, load_genesis
from deepshard.ledger.market import licence_price
from deepshard.ledger.onion import OnionChain
from deepshard.ledger.probes import draw_probes, perturb, probes_of_round
from deepshard.ledger.receipts import receipts_root, round_subject
from deepshard.ledger.rounds import data_order
from deepshard.ledger.state import State
from deepshard.ledger.trie import Proof, verify_proof

__all__ = [
    "BlockContext",
    "BlockResult",
    "OnionChain",
    "Proof",
    "State",
    "check_transaction",
    "data_order",
    "draw_probes",
    "dump_genesis",
    "execute_block",
    "explain_conviction",
    "explain_proposal",
    "explain_round",
    "genesis_state",
    "licence_price",
    "load_genesis",
    "perturb",
    "probes_of_round",
    "receipts_root",
    "round_subject",
    "select_transactions",
    "validator_set_at",
    "verify_proof",
]
