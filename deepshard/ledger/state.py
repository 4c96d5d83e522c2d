"""The ledger's state: typed records in an authenticated map, and the draft that rules write to.

`State` never changes; a block's rules work on a `Draft` over it, which can be rolled back to a mark, and which becomes
the next `State` when all of them have passed. Both are read through `View`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeVar, overload

from deepshard.encoding import Record, decode, encode
from deepshard.errors import DiskCorruption, RemoteError
from deepshard.ledger import keys
from deepshard.ledger.params import Params
from deepshard.ledger.records import (
    Account,
    ActiveSet,
    Agenda,
    Audit,
    Chain,
    Committee,
    Conviction,
    DataProposal,
    Licence,
    ModelVersion,
    RoundScoring,
    SegmentRecord,
    StorageOffer,
    Supply,
    TrainingRound,
    ValidatorRecord,
)
from deepshard.ledger.transactions import ReportScores, RevealVote
from deepshard.ledger.trie import Proof, Trie, trie_of
from deepshard.ledger.trie_chunks import StateChunk, chunk_at

POOLS: Final = ("heldout", "rejected", "general", "canary")
"""Append-only pools of probe texts; `rejected` holds the canaries too."""
_VALUE_BYTES_MAX: Final = 1 << 26
"""Our own values; the largest are rounds with thousands of segments."""

_ALWAYS_READ: Final = (keys.CHAIN, keys.PARAMS, keys.SUPPLY, keys.ACTIVE, keys.AGENDA)
"""Records that every block reads: a state that doesn't change them hands on what it has decoded."""

T = TypeVar("T")


class View(ABC):
    """Typed reading of the state; reading a record that genesis writes never fails."""

    @abstractmethod
    def read(self, key: bytes, kind: type[T]) -> T | None:
        """The record at `key`, or None."""

    @abstractmethod
    def items(self, prefix: bytes, kind: type[T]) -> Iterator[tuple[bytes, T]]:
        """Keys (without the prefix) and records under `prefix`, in the order of the keys."""

    def _always(self, key: bytes, kind: type[T]) -> T:
        record = self.read(key, kind)
        assert record is not None, key
        return record

    def chain(self) -> Chain:
        """Height, beacon and the numbers of round, version and epoch."""
        return self._always(keys.CHAIN, Chain)

    def params(self) -> Params:
        """The network's parameters."""
        return self._always(keys.PARAMS, Params)

    def supply(self) -> Supply:
        """Totals of the money; see `Supply` for what must hold."""
        return self._always(keys.SUPPLY, Supply)

    def active(self) -> ActiveSet:
        """Validators of the next height, ordered by address."""
        return self._always(keys.ACTIVE, ActiveSet)

    def active_validators(self) -> tuple[tuple[bytes, bytes, int], ...]:
        """Address, public key and stake of each validator of the next height, ordered by address."""
        return tuple((entry.address, entry.public_key, entry.stake) for entry in self.active().validators)

    def agenda(self) -> Agenda:
        """Proposals that are voted on or wait for training."""
        return self._always(keys.AGENDA, Agenda)

    def account(self, address: bytes) -> Account:
        """The account of `address`; an empty one if it was never used."""
        return self.read(keys.account_key(address), Account) or Account()

    def validator(self, address: bytes) -> ValidatorRecord | None:
        """The bond of `address`, if any."""
        return self.read(keys.validator_key(address), ValidatorRecord)

    def validators(self) -> list[tuple[bytes, ValidatorRecord]]:
        """All bonds by address, also of those that aren't in the active set yet or any more."""
        return list(self.items(keys.VALIDATORS, ValidatorRecord))

    def conviction(self, address: bytes) -> Conviction | None:
        """The latest conviction of a validator, if any."""
        return self.read(keys.conviction_key(address), Conviction)

    def convictions(self) -> list[tuple[bytes, Conviction]]:
        """All who were ever convicted, by address."""
        return list(self.items(keys.CONVICTIONS, Conviction))

    def is_jailed(self, address: bytes) -> bool:
        """Whether a validator is kept out of the active set from the next epoch on."""
        conviction = self.conviction(address)
        return conviction is not None and conviction.jailed_until > 0

    def validators_of_epoch(self, epoch: int) -> ActiveSet | None:
        """The active set of an epoch; None where it is too old for evidence, or to come."""
        return self.read(keys.epoch_key(epoch), ActiveSet)

    def proposal(self, proposal: bytes) -> DataProposal | None:
        """The data proposal with this id."""
        return self.read(keys.proposal_key(proposal), DataProposal)

    def proposals(self) -> list[DataProposal]:
        """All data proposals, by height and id."""
        found = [record for _, record in self.items(keys.PROPOSALS, DataProposal)]
        return sorted(found, key=lambda record: (record.opened_height, record.id))

    def committee(self, proposal: bytes) -> Committee | None:
        """Who votes on a proposal, with the stakes of the draw; None before the draw."""
        return self.read(keys.committee_key(proposal), Committee)

    def vote(self, proposal: bytes, voter: bytes) -> RevealVote | None:
        """The revealed vote of `voter`."""
        return self.read(keys.vote_key(proposal, voter), RevealVote)

    def segment(self, digest: bytes) -> SegmentRecord | None:
        """What is known of a segment."""
        return self.read(keys.segment_key(digest), SegmentRecord)

    def segment_owner(self, digest: bytes) -> bytes | None:
        """Id of the accepted proposal that brought this segment, or None if none did."""
        record = self.segment(digest)
        return record.proposal if record is not None and record.status == "accepted" else None

    def pool(self, name: str) -> Pool:
        """The texts of a pool (one of `POOLS`) as a sequence of digests that reads only what is asked for."""
        return Pool(self, name)

    def heldout_pool(self) -> Pool:
        """Genesis' held-out texts, then the data of earlier accepted rounds."""
        return self.pool("heldout")

    def rejected_pool(self) -> Pool:
        """Genesis' canaries, then the segments of rejected and harmful proposals."""
        return self.pool("rejected")

    def general_pool(self) -> Pool:
        """Genesis' general texts."""
        return self.pool("general")

    def canary_pool(self) -> Pool:
        """Genesis' canaries alone."""
        return self.pool("canary")

    def round(self, number: int) -> TrainingRound | None:
        """The training round with this number; rounds count from 1."""
        return self.read(keys.round_key(number), TrainingRound)

    def current_round(self) -> TrainingRound | None:
        """The latest training round, running or over."""
        return self.round(self.chain().round)

    def rounds(self) -> list[TrainingRound]:
        """All training rounds in order."""
        return [record for _, record in self.items(keys.ROUNDS, TrainingRound)]

    def scoring(self, number: int) -> RoundScoring | None:
        """Probes and reporters of a round; None before its commits have closed."""
        return self.read(keys.scoring_key(number), RoundScoring)

    def report(self, number: int, validator: bytes) -> ReportScores | None:
        """What a validator reported on a round."""
        return self.read(keys.report_key(number, validator), ReportScores)

    def model(self, version: int) -> ModelVersion | None:
        """The weights of a version."""
        return self.read(keys.model_key(version), ModelVersion)

    def current_model(self) -> ModelVersion:
        """The latest accepted weights."""
        return self._always(keys.model_key(self.chain().version), ModelVersion)

    def licence(self, address: bytes) -> Licence | None:
        """The licence of an account."""
        return self.read(keys.licence_key(address), Licence)

    def licences(self) -> list[tuple[bytes, Licence]]:
        """All licences by the buyer's address."""
        return list(self.items(keys.LICENCES, Licence))

    def storage_offer(self, address: bytes) -> StorageOffer | None:
        """What a validator says of its storage, if anything."""
        return self.read(keys.storage_key(address), StorageOffer)

    def audit(self, epoch: int) -> Audit | None:
        """The audit of an epoch, if there was one and it isn't too old."""
        return self.read(keys.audit_key(epoch), Audit)

    def audits(self) -> list[Audit]:
        """The audits of the latest epochs, the oldest first."""
        return [record for _, record in self.items(keys.AUDITS, Audit)]

    def money(self) -> int:
        """Sum of all balances, locked, unbonding and bonded stake and the treasury, by counting every account."""
        accounts = sum(total_of(account) for _, account in self.items(keys.ACCOUNTS, Account))
        bonded = sum(record.stake for _, record in self.items(keys.VALIDATORS, ValidatorRecord))
        return accounts + bonded + self.supply().treasury


class Pool(Sequence[bytes]):
    """An append-only list of digests in the state."""

    def __init__(self, view: View, name: str) -> None:
        """Read the pool `name` through `view`."""
        assert name in POOLS
        self._view, self._name = view, name

    def __len__(self) -> int:
        return self._view.read(keys.pool_size_key(self._name), int) or 0

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        digest = self._view.read(keys.pool_key(self._name, index), bytes)
        assert digest is not None
        return digest


def total_of(account: Account) -> int:
    """All an account holds besides a validator bond: balance, locked and unbonding stake."""
    return account.balance + account.locked + sum(entry.amount for entry in account.unbonding)


class State(View):
    """An immutable state."""

    def __init__(self, trie: Trie, decoded: dict[bytes, Any] | None = None) -> None:
        """Wrap a trie; `decoded` holds records that the caller has at hand."""
        self._trie = trie
        self._decoded: dict[bytes, Any] = {} if decoded is None else decoded

    @property
    def root(self) -> bytes:
        """Merkle root, the header's `state_root`."""
        return self._trie.root

    def read(self, key: bytes, kind: type[T]) -> T | None:
        """The record at `key`, or None."""
        record = self._decoded.get(key)
        if record is None:
            data = self._trie.get(key)
            if data is None:
                return None
            record = self._decoded[key] = decode(data, kind, bytes_max=_VALUE_BYTES_MAX)
        checked: T = record
        return checked

    def items(self, prefix: bytes, kind: type[T]) -> Iterator[tuple[bytes, T]]:
        """Keys (without the prefix) and records under `prefix`, in the order of the keys."""
        for key, data in self._trie.items(prefix):
            record = self._decoded.get(key)
            yield key[len(prefix) :], decode(data, kind, bytes_max=_VALUE_BYTES_MAX) if record is None else record

    def get(self, key: bytes) -> bytes | None:
        """Encoded record at `key`, as proofs show it."""
        return self._trie.get(key)

    def chunk(self, cursor: bytes) -> StateChunk:
        """The chunk of this state that is responsible for a path; see `trie_chunks.chunk_at`."""
        return chunk_at(self._trie, cursor)

    def prove(self, key: bytes) -> Proof:
        """Proof of the record at `key`, or of its absence; see `trie.verify_proof`."""
        return self._trie.prove(key)

    def changed(self, changes: dict[bytes, Any]) -> State:
        """The state with these records put in place; None deletes."""
        trie = self._trie.update((key, encode(record)) for key, record in changes.items() if record is not None)
        for key, record in changes.items():
            if record is None:
                trie = trie.delete(key)
        decoded: dict[bytes, Any] = {key: self._decoded[key] for key in _ALWAYS_READ if key in self._decoded}
        decoded.update(changes)
        return State(trie, {key: record for key, record in decoded.items() if record is not None})

    def dump(self) -> bytes:
        """Canonical snapshot: all entries, sorted by key."""
        return encode(tuple(self._trie.items()))

    @staticmethod
    def load(data: bytes) -> State:
        """Invert `dump`.

        Raises:
            DiskCorruption: not a snapshot.
        """
        try:
            entries = decode(data, tuple[tuple[bytes, bytes], ...], bytes_max=len(data))
        except RemoteError as error:
            raise DiskCorruption(f"state snapshot of {len(data)} bytes is damaged: {error}") from None
        return State(trie_of(entries))


class Draft(View):
    """A state in the making: writes over a base state, with a journal to take them back."""

    def __init__(self, base: State) -> None:
        """Start from `base` without changes."""
        self._base = base
        self._changes: dict[bytes, Any] = {}
        self._journal: list[tuple[bytes, bool, Any]] = []

    def read(self, key: bytes, kind: type[T]) -> T | None:
        """The record at `key` as it stands now, or None."""
        if key in self._changes:
            record: T | None = self._changes[key]
            return record
        return self._base.read(key, kind)

    def items(self, prefix: bytes, kind: type[T]) -> Iterator[tuple[bytes, T]]:
        """Keys (without the prefix) and records under `prefix`, in the order of the keys."""
        found = {key: record for key, record in self._base.items(prefix, kind) if prefix + key not in self._changes}
        for key, record in self._changes.items():
            if record is not None and key.startswith(prefix):
                found[key[len(prefix) :]] = record
        yield from sorted(found.items(), key=lambda entry: entry[0])

    def write(self, key: bytes, record: Record | int | bytes | tuple[()] | None) -> None:
        """Put `record` at `key`; None deletes."""
        self._journal.append((key, key in self._changes, self._changes.get(key)))
        self._changes[key] = record

    def mark(self) -> int:
        """A point to roll back to."""
        return len(self._journal)

    def rollback(self, mark: int) -> None:
        """Take back every write since `mark`."""
        while len(self._journal) > mark:
            key, was_changed, old = self._journal.pop()
            if was_changed:
                self._changes[key] = old
            else:
                del self._changes[key]

    def finish(self) -> State:
        """The state with all writes.

        Asserts that the writes have created and destroyed no money but what `Supply` says was minted and burned: a
        rule that fails this is our own error, and must stop the node rather than fork the chain.
        """
        held = issued = 0
        for key in self._changes:
            if key.startswith(keys.ACCOUNTS):
                address = key[len(keys.ACCOUNTS) :]
                held += total_of(self.account(address)) - total_of(self._base.account(address))
            elif key.startswith(keys.VALIDATORS):
                address = key[len(keys.VALIDATORS) :]
                after, before = self.validator(address), self._base.validator(address)
                held += (after.stake if after else 0) - (before.stake if before else 0)
            elif key == keys.SUPPLY:
                after_supply, before_supply = self.supply(), self._base.supply()
                held += after_supply.treasury - before_supply.treasury
                issued += after_supply.minted - before_supply.minted - after_supply.burned + before_supply.burned
        assert held == issued, f"money held changed by {held}, issued by {issued}"
        return self._base.changed(self._changes)

    def put_account(self, address: bytes, account: Account) -> None:
        """Write an account; its amounts can't be negative."""
        assert account.balance >= 0, account
        assert account.locked >= 0, account
        self.write(keys.account_key(address), account)

    def put_proposal(self, proposal: DataProposal) -> None:
        """Write a proposal."""
        self.write(keys.proposal_key(proposal.id), proposal)

    def put_round(self, round_: TrainingRound) -> None:
        """Write a round."""
        self.write(keys.round_key(round_.number), round_)

    def put_agenda(self, agenda: Agenda) -> None:
        """Write the agenda."""
        self.write(keys.AGENDA, agenda)

    def add_to_pool(self, name: str, digest: bytes) -> None:
        """Append a text to a pool, unless it is there already."""
        member = keys.pool_member_key(name, digest)
        if self.read(member, tuple) is not None:
            return
        self.write(member, ())
        size = len(self.pool(name))
        self.write(keys.pool_key(name, size), digest)
        self.write(keys.pool_size_key(name), size + 1)
