"""Executing blocks: every transaction in order, then the rules that run at the end of a block.

A block is invalid if any of its transactions is, so an invalid one leaves nothing behind.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, MutableSet, Sequence
from dataclasses import dataclass
from typing import Any, Final

from msgspec.structs import replace

from deepshard.errors import InvalidBlock, RemoteError
from deepshard.identity import verify_signature
from deepshard.ledger import keys
from deepshard.ledger.accountability import apply_report_evidence, apply_unjail
from deepshard.ledger.audits import advance_audits, apply_answer_audit, apply_show_audit
from deepshard.ledger.call import Call
from deepshard.ledger.faults import NonceMismatch, WrongChain
from deepshard.ledger.market import apply_buy_licence
from deepshard.ledger.onion import beacon_after, onion_layer_above
from deepshard.ledger.proposals import advance_proposals, apply_commit_vote, apply_propose_data, apply_reveal_vote
from deepshard.ledger.receipts import Receipts, receipts_root
from deepshard.ledger.records import Receipt
from deepshard.ledger.rounds import (
    apply_commit_weights,
    apply_join_round,
    apply_report_scores,
    apply_reveal_weights,
)
from deepshard.ledger.schedule import advance_rounds
from deepshard.ledger.state import Draft, State
from deepshard.ledger.storage import apply_offer_storage
from deepshard.ledger.transactions import (
    TRANSACTION_TAG,
    AnswerAudit,
    Bond,
    BuyLicence,
    CommitVote,
    CommitWeights,
    JoinRound,
    OfferStorage,
    ProposeData,
    ReportEvidence,
    ReportScores,
    RevealVote,
    RevealWeights,
    ShowAudit,
    TransactionBody,
    Transfer,
    Unbond,
    Unjail,
    decode_transaction,
    transaction_id,
)
from deepshard.ledger.transfers import (
    apply_bond,
    apply_transfer,
    apply_unbond,
    change_validators,
    release_unbonded,
)
from deepshard.limits import BLOCK_TRANSACTIONS_MAX, MEMPOOL_PER_SENDER_MAX
from deepshard.primitives import address_of

__all__ = [
    "BlockContext",
    "BlockResult",
    "check_transaction",
    "execute_block",
    "receipts_root",
    "select_transactions",
    "validator_set_at",
]

RULES: Final[dict[type, Callable[[Call, Any], None]]] = {
    Transfer: apply_transfer,
    Bond: apply_bond,
    Unbond: apply_unbond,
    OfferStorage: apply_offer_storage,
    ProposeData: apply_propose_data,
    CommitVote: apply_commit_vote,
    RevealVote: apply_reveal_vote,
    JoinRound: apply_join_round,
    CommitWeights: apply_commit_weights,
    RevealWeights: apply_reveal_weights,
    ReportScores: apply_report_scores,
    BuyLicence: apply_buy_licence,
    ReportEvidence: apply_report_evidence,
    Unjail: apply_unjail,
    AnswerAudit: apply_answer_audit,
    ShowAudit: apply_show_audit,
}


@dataclass(frozen=True, slots=True)
class BlockContext:
    """What a block's header gives the ledger."""

    chain_id: str
    height: int
    proposer: bytes
    """Address of the proposer."""
    onion_preimage: bytes
    """The layer below the proposer's registered hash-onion tip."""


@dataclass(frozen=True, slots=True)
class BlockResult:
    """State after a block, what happened in it, and whether the next height has other validators."""

    state: State
    receipts: tuple[Receipt, ...]
    validators_changed: bool


@dataclass(frozen=True, slots=True)
class _Decoded:
    data: bytes
    id: bytes
    body: TransactionBody
    sender: bytes


def _decode(data: bytes, verified: MutableSet[bytes] | None) -> _Decoded:
    """Decode a transaction and check its signature, unless its id is in `verified`; then add it there."""
    transaction, body = decode_transaction(data)
    identifier = transaction_id(data)
    if verified is None or identifier not in verified:
        verify_signature(body.sender, TRANSACTION_TAG, transaction.body, transaction.signature)
        if verified is not None:
            verified.add(identifier)
    return _Decoded(data, identifier, body, address_of(body.sender))


def _apply(
    draft: Draft, receipts: Receipts, context: BlockContext, decoded: _Decoded, *, nonce: int | None = None
) -> None:
    """Apply one transaction, or raise and leave draft and receipts as they were.

    `nonce` stands in for the transaction's own where the mempool looks at one that isn't the next yet.
    """
    body, sender = decoded.body, decoded.sender
    if body.chain_id != context.chain_id:
        raise WrongChain(context.chain_id, body.chain_id)
    account = draft.account(sender)
    used = body.nonce if nonce is None else nonce
    if used != account.nonce:
        raise NonceMismatch(sender, account.nonce, used)
    drafted, written = draft.mark(), receipts.mark()
    call = Call(draft, receipts, draft.params(), context.chain_id, context.height, sender, body.sender, decoded.id)
    try:
        draft.put_account(sender, replace(account, nonce=account.nonce + 1))
        RULES[type(body.action)](call, body.action)
    except RemoteError:
        draft.rollback(drafted)
        receipts.rollback(written)
        raise


def _begin(state: State, context: BlockContext) -> Draft:
    """Check the block against the chain and fold the proposer's preimage into the beacon.

    Raises:
        InvalidBlock: wrong height, a proposer that is no active validator, or a preimage that isn't its next.
    """
    chain = state.chain()
    if context.height != chain.height + 1:
        raise InvalidBlock(f"block of height {context.height} on a state of height {chain.height}")
    record = state.validator(context.proposer)
    if record is None or all(entry.address != context.proposer for entry in state.active().validators):
        raise InvalidBlock(f"proposer {context.proposer.hex()} is not a validator at height {context.height}")
    if onion_layer_above(context.onion_preimage) != record.onion_tip:
        raise InvalidBlock(f"onion preimage of {context.proposer.hex()} doesn't open its tip {record.onion_tip.hex()}")
    draft = Draft(state)
    draft.write(keys.validator_key(context.proposer), replace(record, onion_tip=context.onion_preimage))
    beacon = beacon_after(chain.beacon, context.onion_preimage)
    epoch = context.height // state.params().epoch_blocks
    draft.write(keys.CHAIN, replace(chain, height=context.height, beacon=beacon, epoch=epoch))
    return draft


def execute_block(
    state: State, context: BlockContext, transactions: Sequence[bytes], *, verified: MutableSet[bytes] | None = None
) -> BlockResult:
    """The state after a block on top of `state`.

    Args:
        state: after the parent block.
        context: from the block's header.
        transactions: the block's, in order.
        verified: ids of transactions whose signatures are known to be good; grows. The caller bounds it.

    Raises:
        RemoteError: InvalidBlock for the header or too many transactions; MalformedMessage, OversizedMessage,
            BadSignature or a subclass of InvalidTransaction for the first transaction that the rules refuse.
    """
    if len(transactions) > BLOCK_TRANSACTIONS_MAX:
        raise InvalidBlock(f"block of {len(transactions)} transactions, the limit is {BLOCK_TRANSACTIONS_MAX}")
    draft = _begin(state, context)
    receipts = Receipts(context.height)
    for data in transactions:
        _apply(draft, receipts, context, _decode(data, verified))
    release_unbonded(draft, receipts, context.height)
    advance_proposals(draft, receipts, context.height)
    advance_rounds(draft, receipts, context.height)
    advance_audits(draft, receipts, context.height)
    changed = change_validators(draft, receipts, context.height)
    return BlockResult(draft.finish(), receipts.all(), changed)


def check_transaction(
    state: State, chain_id: str, data: bytes, *, verified: MutableSet[bytes] | None = None
) -> TransactionBody:
    """Check whether a transaction would pass in the next block; for mempools and wallets. Returns its body.

    A nonce up to `MEMPOOL_PER_SENDER_MAX` ahead of the account's passes, since the ones before may be on their way.

    Raises:
        RemoteError: it wouldn't pass; the error carries the facts.
    """
    decoded = _decode(data, verified)
    expected = state.account(decoded.sender).nonce
    if not expected <= decoded.body.nonce < expected + MEMPOOL_PER_SENDER_MAX:
        raise NonceMismatch(decoded.sender, expected, decoded.body.nonce)
    height = state.chain().height + 1
    context = BlockContext(chain_id, height, bytes(20), bytes(32))
    _apply(Draft(state), Receipts(height), context, decoded, nonce=expected)
    return decoded.body


def select_transactions(
    state: State,
    context: BlockContext,
    candidates: Sequence[bytes],
    *,
    bytes_max: int,
    count_max: int,
    verified: MutableSet[bytes] | None = None,
) -> tuple[bytes, ...]:
    """Transactions for a block that the caller proposes, all of which will pass in this order.

    Candidates keep their order, except that those of one sender are taken by nonce: where a candidate of some sender
    stands, the sender's lowest remaining nonce is tried. One that fails or doesn't fit is left out.

    Raises:
        InvalidBlock: the context is wrong, as in `execute_block`.
    """
    draft, receipts = _begin(state, context), Receipts(context.height)
    decoded: list[_Decoded] = []
    for data in candidates:
        try:
            decoded.append(_decode(data, verified))
        except RemoteError:
            continue
    queues: dict[bytes, deque[_Decoded]] = {}
    for one in sorted(decoded, key=lambda one: one.body.nonce):
        queues.setdefault(one.sender, deque()).append(one)
    chosen: list[bytes] = []
    size = 0
    for place in decoded:
        one = queues[place.sender].popleft()
        if len(chosen) == min(count_max, BLOCK_TRANSACTIONS_MAX):
            break
        if size + len(one.data) > bytes_max:
            continue
        try:
            _apply(draft, receipts, context, one)
        except RemoteError:
            continue
        chosen.append(one.data)
        size += len(one.data)
    return tuple(chosen)


def validator_set_at(state: State) -> tuple[tuple[bytes, bytes, int], ...]:
    """Address, public key and stake of the validators that decide the height after `state`, ordered by address."""
    return state.active_validators()
