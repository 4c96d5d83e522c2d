"""Transactions against states in every phase of proposals and rounds: decoded, checked for the mempool, put in a block.

The first byte chooses the state, and (bit 7) whether chain id and nonce are mended. Signatures are taken for good, so
that the fuzzer meets the rules; a block made of whatever passes has to execute, and money has to stay what it was.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from audit_network import HOLDERS, AuditNetwork
from harness import Harness
from ledger_evidence import amnesia, two_proposals, two_votes
from ledger_network import BUYER, CHAIN_ID, INFORMANT, ONIONS, VALIDATORS, Network
from msgspec.structs import replace

from deepshard.encoding import decode, encode
from deepshard.ledger import BlockResult, execute_block
from deepshard.ledger.execution import BlockContext, check_transaction
from deepshard.ledger.state import State
from deepshard.ledger.transactions import (
    Bond,
    BuyLicence,
    OfferStorage,
    ReportEvidence,
    Transaction,
    TransactionBody,
    Transfer,
    Unbond,
    Unjail,
    decode_transaction,
    transaction_id,
)
from deepshard.limits import TRANSACTION_BYTES_MAX
from deepshard.primitives import address_of

MEND: Final = 0x80


class Collected(Network):
    """A network that remembers the transactions of its blocks with the state and context each block was made in."""

    def __init__(self) -> None:
        super().__init__(committee_size=5)  # all of them, whatever the beacon draws
        self.seen: list[tuple[State, BlockContext, list[bytes]]] = []

    def block(self, *transactions: bytes) -> BlockResult:
        if transactions:
            self.seen.append((self.state, self.context(), list(transactions)))
        return super().block(*transactions)


@cache
def collected() -> list[tuple[State, BlockContext, list[bytes]]]:
    """One training round from the first proposal to the licence for its outcome."""
    network = Collected()
    network.block(*network.sign(INFORMANT, Transfer(BUYER.address, 5)))
    network.block(*network.sign(BUYER, Bond(network.params.validator_stake_min, ONIONS[BUYER.address].tip)))
    network.block(*network.sign(VALIDATORS[0], Unbond(5)))
    network.block(*network.sign(VALIDATORS[1], OfferStorage(9, "operator", "network")))
    proposal = network.propose("one text", "another text")
    network.vote(proposal, *[True, True, True, False])
    network.epoch(["base", "injector", "other"])
    network.block(*network.sign(BUYER, BuyLicence(network.state.chain().version, 1 << 62)))
    for kind in (two_votes, two_proposals, amnesia):
        height = network.state.chain().height + 1
        network.block(*network.sign(VALIDATORS[1], ReportEvidence(kind(VALIDATORS[2], height))))
        while network.state.chain().height < height + network.params.jail_blocks:
            network.block()
        network.block(*network.sign(VALIDATORS[2], Unjail()))
        network.blocks_until(lambda state: VALIDATORS[2].address in {each for each, _, _ in state.active_validators()})
    return network.seen + audited()


def audited() -> list[tuple[State, BlockContext, list[bytes]]]:
    """An audit with every answer, and one in which a leaf is shown."""
    network = AuditNetwork()
    network.until_audit()
    seen = []
    for holder in HOLDERS:
        drawn = [one.shard for one in network.audit().shards if holder in network.due(one.shard)]
        answers = network.sign(holder, *(network.answer(holder, shard) for shard in drawn))
        seen.append((network.state, network.context(), answers))
    shown = network.sign(HOLDERS[0], *(network.show(one.shard) for one in network.audit().shards))
    return [*seen, (network.state, network.context(), shown)]


def unsigned(data: bytes) -> bytes:
    """The transaction without its signature: corpora say what the fuzzer can change."""
    return decode_transaction(data)[0].body


def check(data: bytes) -> None:
    if not data:
        return
    states = collected()
    state, context, _ = states[(data[0] & ~MEND) % len(states)]
    encoded = data[1:]
    if data[0] & MEND:
        body = decode(encoded, TransactionBody, bytes_max=TRANSACTION_BYTES_MAX)
        nonce = state.account(address_of(body.sender)).nonce
        encoded = encode(replace(body, chain_id=CHAIN_ID, nonce=nonce))
    transaction = encode(Transaction(encoded, bytes(64)))
    verified = {transaction_id(transaction)}
    body = check_transaction(state, CHAIN_ID, transaction, verified=verified)
    assert decode(encoded, TransactionBody, bytes_max=TRANSACTION_BYTES_MAX) == body
    if body.nonce != state.account(address_of(body.sender)).nonce:
        return
    after = execute_block(state, context, [transaction], verified=verified).state
    supply = after.supply()
    assert after.money() == supply.genesis + supply.minted - supply.burned


def seeds() -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for place, (_, _, transactions) in enumerate(collected()):
        for data in transactions:
            name = type(decode_transaction(data)[1].action).__name__
            if sum(label.startswith(name) for label in found) < 4 and len(data) < 18_000:
                found[f"{name}-{place}"] = bytes((place | MEND,)) + unsigned(data)
                found[f"{name}-{place}-as-it-is"] = bytes((place,)) + unsigned(data)
    return found


HARNESS: Final = Harness(check, seeds, prefix_bytes=1, shape="record")
