"""A whole run, as the command line and the pytest plugin start it: find the target, run the cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from deepshard.conformance.listening import hub_for
from deepshard.conformance.opening import Network
from deepshard.conformance.registry import Case
from deepshard.conformance.runner import OnResult, Run
from deepshard.conformance.target import Target, find_network, meet
from deepshard.conformance.verdicts import Result
from deepshard.errors import UsageError
from deepshard.identity import SecretKey
from deepshard.ledger.genesis import load_genesis
from deepshard.ledger.params import Genesis
from deepshard.limits import GOSSIP_DEGREE_HIGH
from deepshard.net.endpoints import parse_dial_target

TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a person can ask for; see `deepshard.conformance.__main__`."""

    target: str
    listen: str | None = None
    genesis: Path | None = None
    chain_id: str | None = None
    genesis_hash: str | None = None
    key: str | None = None
    account: Path | None = None
    strict: bool = False
    timeout_s: float = TIMEOUT_S


async def find_target(options: Options) -> Target:
    """Reach the target and learn which network it is on.

    Raises:
        UsageError: an option is wrong, nobody answers, or the target is on another network or has another key.
    """
    dialled = parse_dial_target(options.target)
    expected = _hex(options.key, "--key", 32) if options.key else dialled.expected_key
    genesis = _genesis(options)
    account = None if options.account is None else _account(options.account)
    network = _network(options, genesis) or await find_network(dialled.endpoint, options.timeout_s)
    key, known = await meet(dialled.endpoint, network, options.timeout_s, expected)
    room = max(1, GOSSIP_DEGREE_HIGH - known)
    return Target(dialled.endpoint, network, key, options.timeout_s, options.strict, genesis, account, room)


def _genesis(options: Options) -> Genesis | None:
    if options.genesis is None:
        return None
    if options.chain_id or options.genesis_hash:
        raise UsageError("--genesis says all that --chain-id and --genesis-hash say: give one or the other")
    return load_genesis(_text(options.genesis, "genesis file"))


def _network(options: Options, genesis: Genesis | None) -> Network | None:
    if genesis is not None:
        return Network(genesis.chain_id, genesis.hash())
    if options.chain_id is None and options.genesis_hash is None:
        return None
    if options.chain_id is None or options.genesis_hash is None:
        raise UsageError("--chain-id and --genesis-hash go together")
    return Network(options.chain_id, _hex(options.genesis_hash, "--genesis-hash", 32))


def _account(path: Path) -> SecretKey:
    return SecretKey(_hex(_text(path, "account file").strip(), f"account file {path}", 32))


def _hex(text: str, what: str, size: int) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != size:
        raise UsageError(f"{what}: expected {2 * size} hexadecimal digits")
    return value


def _text(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read the {what} {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"the {what} {path} is not text") from None


async def run_cases(options: Options, cases: Sequence[Case], on_result: OnResult) -> list[Result]:
    """Find the target and run the cases against it.

    Raises:
        UsageError: see `find_target`; or the address of `--listen` can't be used.
    """
    target = await find_target(options)
    hub = None if options.listen is None else hub_for(options.listen)
    run = Run(target, hub, on_result)
    async with trio.open_nursery() as nursery:
        if hub is not None:
            await nursery.start(hub.run)
        await run.cases(cases)
        nursery.cancel_scope.cancel()
    return run.results
