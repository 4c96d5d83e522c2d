"""A chain whose base model has real chunks, kept by a dictionary for each validator."""

from __future__ import annotations

from typing import Any

from ledger_network import ONIONS, PARAMS, TOKEN, VALIDATORS, Network, digest, genesis_of, key
from msgspec.structs import replace

from deepshard.chunk_tree import ChunkRef, ShardChunks, chunks_root, leaf_path
from deepshard.identity import SecretKey
from deepshard.ledger import genesis_state
from deepshard.ledger.audits import drawn_block, due_holders
from deepshard.ledger.params import GenesisAccount, GenesisValidator
from deepshard.ledger.records import Audit, Receipt
from deepshard.ledger.transactions import AnswerAudit, ShowAudit
from deepshard.placement import shard_key
from deepshard.primitives import block_hashes, content_digest, expand
from deepshard.ranges import range_proof

SHARDS = 7
SIZES = ((40_000, 100), (16_384,), (1,), (70_000, 20_000, 5), (0,), (33_000,), (16_385,))
"""Bytes of the chunks that are kept for each shard."""
CHUNKS = [
    [expand(bytes([row, place]), "test chunk", size) for place, size in enumerate(s)] for row, s in enumerate(SIZES)
]
BY_DIGEST = {content_digest(chunk): chunk for row in CHUNKS for chunk in row}
LEAVES = tuple(
    ShardChunks(row, shard_key("w", row), tuple(ChunkRef(content_digest(chunk), len(chunk)) for chunk in chunks))
    for row, chunks in enumerate(CHUNKS)
)
HOLDERS = [*VALIDATORS, key("validator 4"), key("validator 5")]
EPOCH_BLOCKS = 12


class AuditNetwork(Network):
    """Six validators, three copies, seven shards of which three are drawn in each epoch of twelve blocks."""

    def __init__(self, **changes: Any) -> None:
        super().__init__()
        settings: dict[str, Any] = {
            "epoch_blocks": EPOCH_BLOCKS,
            "unbonding_blocks": 60,
            "jail_blocks": EPOCH_BLOCKS,
            "audits_per_epoch": 3,
            "audit_blocks": 5,
            "audit_slash_bp": 40,
            **changes,
        }
        base = genesis_of(replace(PARAMS, **settings))
        for holder in HOLDERS:
            ONIONS.setdefault(holder.address, _onion(holder))
        extra = HOLDERS[len(VALIDATORS) :]
        self.genesis = replace(
            base,
            validators=tuple(
                GenesisValidator(holder.public, 1000 * TOKEN, ONIONS[holder.address].tip) for holder in HOLDERS
            ),
            accounts=(*base.accounts, *(GenesisAccount(holder.address, 5000 * TOKEN) for holder in extra)),
            chunks_root=chunks_root(LEAVES),
            shard_count=SHARDS,
        )
        self.state = genesis_state(self.genesis)
        self.receipts: list[Receipt] = []
        self.total = self.state.money()

    def until_audit(self) -> Audit:
        """Go on to the next audit that is open; its record."""
        self.blocks_until(lambda state: any(not audit.closed for audit in state.audits()))
        return self.audit()

    def audit(self) -> Audit:
        return self.state.audits()[-1]

    def close(self) -> Audit:
        """Go on until the open audit is closed; its record."""
        self.blocks_until(lambda state: state.audits()[-1].closed)
        return self.audit()

    def due(self, shard: int) -> list[SecretKey]:
        found = due_holders(self.state, LEAVES[shard].key)
        return [holder for holder in HOLDERS if holder.address in found]

    def answer(self, holder: SecretKey, shard: int) -> AnswerAudit:
        return answer(self.audit(), holder.address, shard)

    def show(self, shard: int) -> ShowAudit:
        return ShowAudit(self.audit().epoch, LEAVES[shard], leaf_path(LEAVES, shard))

    def answer_all(self, *, without: tuple[SecretKey, ...] = ()) -> None:
        """One block with every answer that is due, but for those of some holders."""
        transactions: list[bytes] = []
        for holder in HOLDERS:
            mine = [drawn.shard for drawn in self.audit().shards if holder in self.due(drawn.shard)]
            if holder not in without:
                transactions += self.sign(holder, *(self.answer(holder, shard) for shard in mine))
        self.block(*transactions)


def answer(audit: Audit, holder: bytes, shard: int) -> AnswerAudit:
    """What a holder that has everything answers."""
    leaf = LEAVES[shard]
    chunk, block = leaf.locate(drawn_block(audit.seed, shard, holder, leaf.blocks))
    data = BY_DIGEST[chunk.digest]
    return AnswerAudit(
        epoch=audit.epoch,
        leaf=leaf,
        path=leaf_path(LEAVES, shard),
        block=data[block * 16_384 : (block + 1) * 16_384],
        proof=range_proof(block_hashes(data), block, 1),
    )


def _onion(holder: SecretKey) -> Any:
    return type(ONIONS[VALIDATORS[0].address])(holder.seed, 300)


__all__ = ["HOLDERS", "LEAVES", "SHARDS", "AuditNetwork", "answer", "digest"]
