"""The structure of blocks: what can be checked of one without executing its transactions.

The ledger executes a block and compares the roots; the manifest and the onion preimage are its business, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from deepshard.consensus.certificates import InvalidCertificate, certificate_hash, verify_certificate
from deepshard.consensus.types import Block, CommitCertificate, Header
from deepshard.consensus.validators import ValidatorSet
from deepshard.encoding import encode
from deepshard.errors import InvalidBlock
from deepshard.limits import BLOCK_BYTES_MAX, BLOCK_TRANSACTIONS_MAX, HEADER_BYTES_MAX, TRANSACTION_BYTES_MAX
from deepshard.merkle import merkle_root

BLOCK_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class ChainTip:
    """A committed block as its successor needs it; `validators` signed it.

    Height 0 is the genesis: its hash stands for the block id, so every block descends from its genesis.
    """

    height: int
    block_id: bytes
    time_ms: int
    validators: ValidatorSet
    next_validators_hash: bytes
    certificate: CommitCertificate | None = None
    """A verified certificate of it, if one is at hand: its signatures in the successor aren't verified again."""


def genesis_tip(genesis_hash: bytes, time_ms: int, validators: ValidatorSet) -> ChainTip:
    """The tip of an empty chain; `validators` are those of height 1."""
    return ChainTip(0, genesis_hash, time_ms, validators, validators.hash())


def tip_of(header: Header, validators: ValidatorSet, certificate: CommitCertificate | None = None) -> ChainTip:
    """The tip that a committed header makes, with the validators of its height."""
    block_id, next_hash = header.block_id(), header.next_validators_hash
    return ChainTip(header.height, block_id, header.time_ms, validators, next_hash, certificate)


def validate_block(
    block: Block,
    *,
    chain_id: str,
    parent: ChainTip,
    validators: ValidatorSet,
    proposer: bytes | None = None,
    time_ms_max: int | None = None,
    interval_ms: int = 1,
) -> None:
    """Check that a block is a well-formed successor of `parent`, all but its execution.

    Args:
        block: the block.
        chain_id: ours.
        parent: the committed block before it.
        validators: the set of the block's own height.
        proposer: whose turn it is; given for a fresh proposal, not for a re-proposed or committed block, which may
            stem from an earlier round.
        time_ms_max: the latest time accepted, our clock plus `CLOCK_DRIFT_MS_MAX`; given for a fresh proposal only,
            since whether a committed block is valid can't depend on anyone's clock.
        interval_ms: by how much its time has to be above the parent's at least.

    Raises:
        InvalidBlock: with what was found and what was expected.
    """
    header = block.header
    _expect(header, "version", header.version, BLOCK_VERSION)
    _expect(header, "chain id", header.chain_id, chain_id)
    _expect(header, "height", header.height, parent.height + 1)
    _expect(header, "parent", header.parent_id, parent.block_id)
    if header.time_ms < parent.time_ms + interval_ms:
        raise InvalidBlock(
            f"block {header.height} has time {header.time_ms}, its parent {parent.time_ms} ms: "
            f"at least {interval_ms} ms have to be between them"
        )
    if time_ms_max is not None and header.time_ms > time_ms_max:
        raise InvalidBlock(f"block {header.height} has time {header.time_ms}, later than {time_ms_max} ms")
    _expect(header, "validators hash", header.validators_hash, validators.hash())
    _expect(header, "validators hash", header.validators_hash, parent.next_validators_hash)
    if header.proposer not in validators.by_address:
        raise InvalidBlock(f"block {header.height} is by {header.proposer.hex()}, who is no validator")
    if proposer is not None:
        _expect(header, "proposer", header.proposer, proposer)
    _validate_sizes(block)
    _expect(header, "transactions root", header.transactions_root, merkle_root(block.transactions))
    _validate_last_commit(block, chain_id, parent)


def _expect(header: Header, what: str, found: bytes | str | int, expected: bytes | str | int) -> None:
    if found != expected:
        shown = [value.hex() if isinstance(value, bytes) else repr(value) for value in (found, expected)]
        raise InvalidBlock(f"block {header.height} has {what} {shown[0]}, expected {shown[1]}")


def _validate_sizes(block: Block) -> None:
    height = block.header.height
    if len(block.transactions) > BLOCK_TRANSACTIONS_MAX:
        raise InvalidBlock(
            f"block {height} has {len(block.transactions)} transactions, the limit is {BLOCK_TRANSACTIONS_MAX}"
        )
    largest = max((len(transaction) for transaction in block.transactions), default=0)
    if largest > TRANSACTION_BYTES_MAX:
        raise InvalidBlock(f"block {height} has a transaction of {largest} bytes, limit {TRANSACTION_BYTES_MAX}")
    for part, limit in ((block.header, HEADER_BYTES_MAX), (block, BLOCK_BYTES_MAX)):
        size = len(encode(part))
        if size > limit:
            raise InvalidBlock(f"{type(part).__name__.lower()} {height} is {size} bytes, the limit is {limit}")


def _validate_last_commit(block: Block, chain_id: str, parent: ChainTip) -> None:
    header, certificate = block.header, block.last_commit
    _expect(header, "last commit hash", header.last_commit_hash, certificate_hash(certificate))
    if parent.height == 0:
        if certificate is not None:
            raise InvalidBlock("block 1 carries a certificate, but the genesis has none")
        return
    if certificate is None:
        raise InvalidBlock(f"block {header.height} carries no certificate of its parent")
    try:
        verify_certificate(
            chain_id, parent.validators, certificate, parent.block_id, parent.height, known=parent.certificate
        )
    except InvalidCertificate as error:
        raise InvalidBlock(f"block {header.height}: {error}") from error


def build_header(
    *,
    chain_id: str,
    parent: ChainTip,
    now_ms: int,
    proposer: bytes,
    last_commit: CommitCertificate | None,
    transactions: Sequence[bytes],
    state_root: bytes,
    receipts_root: bytes,
    validators: ValidatorSet,
    next_validators_hash: bytes,
    manifest: bytes,
    onion_preimage: bytes,
    interval_ms: int = 1,
) -> Header:
    """Header of a new block on `parent`; where our clock is behind, its time is the earliest that is valid."""
    return Header(
        version=BLOCK_VERSION,
        chain_id=chain_id,
        height=parent.height + 1,
        time_ms=max(now_ms, parent.time_ms + interval_ms),
        parent_id=parent.block_id,
        proposer=proposer,
        last_commit_hash=certificate_hash(last_commit),
        transactions_root=merkle_root(transactions),
        state_root=state_root,
        receipts_root=receipts_root,
        validators_hash=validators.hash(),
        next_validators_hash=next_validators_hash,
        manifest=manifest,
        onion_preimage=onion_preimage,
    )
