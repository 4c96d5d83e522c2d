"""A trace out of a stopped node's log: the inputs as they were taken in, effects and states as our core has them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import structlog

from deepshard import __version__
from deepshard.consensus.events import StartHeight
from deepshard.consensus.replay import Trace, record
from deepshard.consensus.validators import ValidatorSet
from deepshard.disk.chain import ChainStore
from deepshard.disk.database import DatabaseInUse
from deepshard.disk.input_log import ENTRIES_MAX, Recalled
from deepshard.disk.keystore import load_public_key
from deepshard.encoding import decode
from deepshard.errors import DiskCorruption, RemoteError, UsageError
from deepshard.ledger.genesis import genesis_state, load_genesis
from deepshard.ledger.params import Genesis
from deepshard.limits import VALIDATOR_SET_BYTES_MAX
from deepshard.primitives import address_of
from deepshard.services.executor import ChainExecutor
from deepshard.services.input_history import inputs_of
from deepshard.services.view import ChainView


@dataclass(frozen=True, slots=True)
class Exported:
    """A trace of a height, and what the log lacks of it (None: nothing)."""

    trace: Trace
    fault: str | None


def export_height(home: Path, genesis_file: Path, height: int | None) -> Exported:
    """The trace of a height of the node in `home`: of the one being decided or the last decided one.

    Without a height it is the one being decided, if the node has taken in something of it.

    Raises:
        UsageError: no stopped node of this network is in `home`, or its log has nothing of the height.
        DiskCorruption: its chain or an entry of the log is damaged.
    """
    genesis = _genesis(genesis_file)
    path = home / "chain.sqlite"
    if not path.exists():
        raise UsageError(f"{home} has no chain.sqlite: there is no full node's home")
    key = load_public_key(home / "key.json", warn=lambda _: None)
    try:
        store = ChainStore(path, genesis_hash=genesis.hash())
    except DatabaseInUse:
        raise UsageError(f"a node is running in {home}: stop it first") from None
    try:
        return _export(store, genesis, address_of(key), height)
    finally:
        store.close()


def _export(store: ChainStore, genesis: Genesis, address: bytes, height: int | None) -> Exported:
    tip = store.height()
    wanted = height if height is not None else tip + 1 if store.log.entries(tip + 1) else tip
    recalled = store.log.resume(wanted, store.guard.logged(wanted))
    if not recalled.entries:
        raise UsageError(f"the log has nothing of height {wanted}: it keeps heights {max(1, tip)} and {tip + 1}")
    validators = _validators(store, genesis, wanted)
    start = StartHeight(wanted, validators, address if address in validators.by_address else None)
    source = (
        f"deepshard trace export {__version__}, height {wanted}: inputs as the node logged them; effects and states as "
        "this version's core has them"
    )
    fault = _fault(recalled)
    if fault is not None:
        source += f"; {fault}"
    try:
        return Exported(record(genesis.chain_id, inputs_of(recalled.entries, start), source), fault)
    except RemoteError as error:
        raise DiskCorruption(f"the log of height {wanted} has an entry that isn't what it says: {error}") from error


def _fault(recalled: Recalled) -> str | None:
    if recalled.fault is None and len(recalled.entries) >= ENTRIES_MAX:
        return f"only the last {ENTRIES_MAX} entries are kept"
    return recalled.fault


def _validators(store: ChainStore, genesis: Genesis, height: int) -> ValidatorSet:
    stored = store.block(height)
    if stored is not None:
        return decode(stored.validators, ValidatorSet, bytes_max=VALIDATOR_SET_BYTES_MAX)
    structlog.configure(processors=[_drop])
    executor = ChainExecutor(genesis, store, ChainView(genesis_state(genesis), None))
    executor.restore()
    return executor.validators


def _drop(_logger: object, _method: str, _event: object) -> NoReturn:
    raise structlog.DropEvent


def _genesis(path: Path) -> Genesis:
    try:
        return load_genesis(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read genesis file {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"genesis file {path} is not UTF-8 text") from None
