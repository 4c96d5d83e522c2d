"""The tip of the chain: builds, checks, executes and stores blocks. No networking, no voting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from deepshard.consensus.blocks import build_header, genesis_tip, tip_of, validate_block
from deepshard.consensus.certificates import verify_certificate
from deepshard.consensus.types import Block, CommitCertificate, Header, Validator
from deepshard.consensus.validators import ValidatorSet
from deepshard.disk.chain import ChainStore, NewReceipt, StoredBlock
from deepshard.encoding import decode, encode
from deepshard.errors import DiskCorruption, InvalidBlock, LocalError, RemoteError
from deepshard.ledger.execution import (
    BlockContext,
    BlockResult,
    check_transaction,
    execute_block,
    receipts_root,
    select_transactions,
)
from deepshard.ledger.genesis import genesis_state
from deepshard.ledger.keys import ACTIVE
from deepshard.ledger.params import Genesis, Params
from deepshard.ledger.state import State
from deepshard.limits import BLOCK_BYTES_MAX, BLOCK_TRANSACTIONS_MAX, CERTIFICATE_BYTES_MAX, VALIDATOR_SET_BYTES_MAX
from deepshard.services.view import ChainView

_log = structlog.get_logger(__name__)
SNAPSHOT_BLOCKS = 50
"""A state snapshot is stored every so many blocks; a restart executes the blocks after it again."""
HANDED_OVER = 2
"""States that are handed over to nodes that join: the newest so many at multiples of `snapshot_interval`."""
VERIFIED_MAX = 1 << 14


@dataclass(frozen=True, slots=True)
class _Executed:
    block: Block
    encoded: bytes
    result: BlockResult


class NotTheNamedBlock(InvalidBlock):
    """A block at the height of one that a person named, and another; the peer lies, or the person was told wrong."""

    penalty = 0

    def __init__(self, height: int, named: bytes, shown: bytes) -> None:
        super().__init__(f"block {height} is {shown.hex()}, and --trust names {named.hex()}")


class ChainExecutor:
    """Execution of the chain on top of what is stored.

    A block is executed once: the result is kept by block id from the proposal's check until a block of its height is
    committed. Signatures that verified once aren't verified again for the same transaction.
    """

    def __init__(
        self, genesis: Genesis, store: ChainStore, view: ChainView, *, named: tuple[int, bytes] | None = None
    ) -> None:
        """`named` are height and id of a block that a person vouches for: there no other is accepted."""
        self._named = named
        self._genesis = genesis
        self._store = store
        self._view = view
        self._executed: dict[bytes, _Executed] = {}
        self._verified: set[bytes] = set()
        self._interval = snapshot_interval(genesis.params)
        self._begin()

    def _begin(self) -> None:
        """Stand at genesis."""
        self.header: Header | None = None
        self.certificate: CommitCertificate | None = None
        self.state: State = genesis_state(self._genesis)
        self.validators = validators_of(self.state)
        self._active: tuple[bytes | None, ValidatorSet] = (self.state.get(ACTIVE), self.validators)
        self.tip = genesis_tip(self._genesis.hash(), self._genesis.time_ms, self.validators)
        self._executed.clear()

    @property
    def height(self) -> int:
        """Height of the tip, 0 at genesis."""
        return 0 if self.header is None else self.header.height

    def restore(self) -> None:
        """Bring the state to the stored tip: newest snapshot, then the blocks after it, executed again.

        That is `SNAPSHOT_BLOCKS` blocks at most, so it is quick enough to be done on the event loop at every start.

        Raises:
            DiskCorruption: a stored block or snapshot fails its checksum or doesn't lead to its own roots.
        """
        self._begin()
        tip = self._store.height()
        snapshot = self._store.snapshot()
        height = 0
        instead = 0 if snapshot is None else snapshot[0]
        if instead != self._store.snapshot_height:
            _log.error("snapshot.damaged", height=self._store.snapshot_height, instead=instead)
        if snapshot is None and self._store.base > 1:
            raise DiskCorruption(
                f"no state snapshot is intact, and the chain here begins at height {self._store.base}: move the chain "
                "database away (never guard.db), and the node joins the network again"
            )
        if snapshot is not None and snapshot[0] <= tip:
            height, data = snapshot
            stored = self._store.block(height)
            if stored is None:
                raise LocalError(f"the chain store has a snapshot at {height}, but no block")
            header = decode(stored.block, Block, bytes_max=BLOCK_BYTES_MAX).header
            self.validators = decode(stored.validators, ValidatorSet, bytes_max=VALIDATOR_SET_BYTES_MAX)
            state = State.load(data)
            if state.root != header.state_root:
                raise DiskCorruption(f"the state snapshot of height {height} doesn't have its header's root")
            certificate = decode(stored.certificate, CommitCertificate, bytes_max=CERTIFICATE_BYTES_MAX)
            self._advance(header, certificate, state)
        for next_height in range(height + 1, tip + 1):
            stored = self._store.block(next_height)
            if stored is None:
                raise LocalError(f"the chain store has blocks up to {tip}, but not {next_height}")
            block = decode(stored.block, Block, bytes_max=BLOCK_BYTES_MAX)
            try:
                result = self.check(block)
            except RemoteError as error:
                raise DiskCorruption(f"the stored block {next_height} doesn't follow its parent: {error}") from error
            certificate = decode(stored.certificate, CommitCertificate, bytes_max=CERTIFICATE_BYTES_MAX)
            self._advance(block.header, certificate, result.state)
        self._publish()
        _log.info("chain.restored", height=self.height, snapshot=height, state_root=self.state.root.hex())

    def _publish(self) -> None:
        """Show the tip to the other services."""
        if self.header is not None:
            self._view.publish(self.state, self.header)

    def _advance(self, header: Header, certificate: CommitCertificate, state: State) -> None:
        """Make a decided block the tip."""
        self.tip = tip_of(header, self.validators, certificate)
        self.validators = self._validators_after(state)
        self.header, self.certificate, self.state = header, certificate, state
        if header.height % self._interval == 0:
            self._view.keep(state, header.height, count=HANDED_OVER)
        self._executed.clear()

    def admit(self, data: bytes) -> None:
        """Check a transaction against the newest state, for the mempool.

        Raises:
            RemoteError: the ledger refuses it.
        """
        if len(self._verified) > VERIFIED_MAX:
            self._verified.clear()
        check_transaction(self.state, self._genesis.chain_id, data, verified=self._verified)

    def check(self, block: Block, *, proposer: bytes | None = None, time_ms_max: int | None = None) -> BlockResult:
        """Check that `block` is a valid child of the tip and execute it; see `validate_block` for the arguments.

        Raises:
            RemoteError: it isn't; the error carries the facts.
        """
        block_id = block.header.block_id()
        known = self._executed.get(block_id)
        if known is not None:
            return known.result
        encoded = encode(block)
        if self._named is not None and block.header.height == self._named[0] and block_id != self._named[1]:
            raise NotTheNamedBlock(block.header.height, self._named[1], block_id)
        validate_block(
            block,
            chain_id=self._genesis.chain_id,
            parent=self.tip,
            validators=self.validators,
            proposer=proposer,
            time_ms_max=time_ms_max,
            interval_ms=self._genesis.params.block_interval_ms,
        )
        header = block.header
        context = BlockContext(header.chain_id, header.height, header.proposer, header.onion_preimage)
        result = execute_block(self.state, context, block.transactions, verified=self._verified)
        self._compare(header, result)
        self._executed[block_id] = _Executed(block, encoded, result)
        return result

    def _validators_after(self, state: State) -> ValidatorSet:
        """Validator set that decides the height after `state`: nearly always that of the last call."""
        active = state.get(ACTIVE)
        if self._active[0] != active:
            self._active = (active, validators_of(state))
        return self._active[1]

    def _compare(self, header: Header, result: BlockResult) -> None:
        state = result.state
        expected = {
            "state_root": state.root,
            "receipts_root": receipts_root(result.receipts),
            "manifest": state.current_model().manifest,
            "next_validators_hash": self._validators_after(state).hash(),
        }
        for name, value in expected.items():
            if getattr(header, name) != value:
                raise InvalidBlock(
                    f"block {header.height}: {name} is {getattr(header, name).hex()}, expected {value.hex()}"
                )

    def build(self, candidates: Sequence[bytes], *, proposer: bytes, onion_preimage: bytes, now_ms: int) -> bytes:
        """Build, execute and keep the next block; its id."""
        height = self.height + 1
        context = BlockContext(self._genesis.chain_id, height, proposer, onion_preimage)
        chosen = tuple(
            select_transactions(
                self.state,
                context,
                candidates,
                bytes_max=BLOCK_BYTES_MAX // 2,
                count_max=BLOCK_TRANSACTIONS_MAX,
                verified=self._verified,
            )
        )
        result = execute_block(self.state, context, chosen, verified=self._verified)
        header = build_header(
            chain_id=self._genesis.chain_id,
            parent=self.tip,
            now_ms=now_ms,
            proposer=proposer,
            last_commit=self.certificate,
            transactions=chosen,
            state_root=result.state.root,
            receipts_root=receipts_root(result.receipts),
            validators=self.validators,
            next_validators_hash=self._validators_after(result.state).hash(),
            manifest=result.state.current_model().manifest,
            onion_preimage=onion_preimage,
            interval_ms=self._genesis.params.block_interval_ms,
        )
        block = Block(header, chosen, self.certificate)
        block_id = header.block_id()
        self._executed[block_id] = _Executed(block, encode(block), result)
        return block_id

    def encoded(self, block_id: bytes) -> bytes | None:
        """Encoded block of the height being decided, if it was built or checked here."""
        known = self._executed.get(block_id)
        return None if known is None else known.encoded

    def commit(self, block_id: bytes, certificate: CommitCertificate) -> Block:
        """Store a checked block with its certificate, durably, then publish its state."""
        executed = self._executed[block_id]
        header = executed.block.header
        is_kept = header.height % SNAPSHOT_BLOCKS == 0 or header.height % self._interval == 0
        self._store.save_block(
            StoredBlock(header.height, executed.encoded, encode(certificate), encode(self.validators)),
            [NewReceipt(r.kind, r.account, r.subject, encode(r)) for r in executed.result.receipts],
            snapshot=executed.result.state.dump() if is_kept else None,
            keep=handed_over_heights(header.height, self._interval),
        )
        self._advance(header, certificate, executed.result.state)
        self._publish()
        return executed.block

    def install(self, stored: StoredBlock, state: State) -> None:
        """Go on from a block and the state after it, both verified, instead of executing what led there; durable.

        Raises:
            LocalError: the block is not above ours.
        """
        block = decode(stored.block, Block, bytes_max=BLOCK_BYTES_MAX)
        assert state.root == block.header.state_root
        self._store.install(stored, state.dump())
        self.validators = decode(stored.validators, ValidatorSet, bytes_max=VALIDATOR_SET_BYTES_MAX)
        certificate = decode(stored.certificate, CommitCertificate, bytes_max=CERTIFICATE_BYTES_MAX)
        self._advance(block.header, certificate, state)
        self._publish()

    def apply_synced(self, block_bytes: bytes, certificate_bytes: bytes) -> Block:
        """Verify, execute and store a decided block that a peer sent.

        Raises:
            RemoteError: the block or its certificate is not the next of this chain.
        """
        block = decode(block_bytes, Block, bytes_max=BLOCK_BYTES_MAX)
        certificate = decode(certificate_bytes, CommitCertificate, bytes_max=CERTIFICATE_BYTES_MAX)
        if block.header.height != self.height + 1:
            raise InvalidBlock(f"a block of height {block.header.height} came, {self.height + 1} was asked")
        block_id = block.header.block_id()
        verify_certificate(self._genesis.chain_id, self.validators, certificate, block_id, block.header.height)
        self.check(block)
        return self.commit(block_id, certificate)


def validators_of(state: State) -> ValidatorSet:
    """Validator set that decides the height after `state`."""
    active = state.active().validators
    return ValidatorSet(tuple(Validator(entry.address, entry.public_key, entry.stake) for entry in active))


def snapshot_interval(params: Params) -> int:
    """Blocks between two states that are handed over: whole epochs, and not fewer than `SNAPSHOT_BLOCKS`."""
    return -(-SNAPSHOT_BLOCKS // params.epoch_blocks) * params.epoch_blocks


def handed_over_heights(height: int, interval: int) -> list[int]:
    """Heights up to `height` whose states are handed over, ascending."""
    newest = height // interval * interval
    return [at for at in range(newest - (HANDED_OVER - 1) * interval, newest + 1, interval) if at > 0]
