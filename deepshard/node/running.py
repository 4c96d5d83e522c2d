"""A node's life: read settings and key, wire the rooms together, run until told to stop."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from secrets import token_urlsafe
from typing import Any

import structlog
import trio

from deepshard import __version__
from deepshard.api.app import create_app, serve
from deepshard.disk.keystore import load_key, read_passphrase
from deepshard.errors import DeepshardError, LocalError, UsageError
from deepshard.identity import SecretKey
from deepshard.ledger.genesis import load_genesis
from deepshard.ledger.params import Genesis
from deepshard.net.allocation import keep_freed_memory
from deepshard.node.logs import configure_logs
from deepshard.node.settings import Settings, load_settings
from deepshard.node.wiring import Node
from deepshard.primitives import format_address

_log = structlog.get_logger(__name__)


def run_node(config: Path | None, given: Mapping[str, Any]) -> int:
    """Run a node in this process; its exit code: 0 stopped, 1 failed, 2 asked for the impossible."""
    try:
        settings = load_settings(config, dict(given))
        configure_logs(settings.log_format, settings.log_level)
        home = _home(settings)
        with _only_one(home):
            key = _key(settings, home)
            genesis = load_genesis(_read_text(Path(settings.genesis), "genesis file"))
            keep_freed_memory()
            trio.run(_live, settings, home, key, genesis, strict_exception_groups=True)
    except (DeepshardError, BaseExceptionGroup) as raised:
        errors = list(_leaves(raised))
        unexpected = [error for error in errors if not isinstance(error, DeepshardError)]
        if unexpected:
            raise
        first = next((error for error in errors if isinstance(error, UsageError)), errors[0])
        sys.stderr.write(f"deepshard: {first}\n")
        return 2 if isinstance(first, UsageError) else 1
    except KeyboardInterrupt:
        return 0
    return 0


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _home(settings: Settings) -> Path:
    home = Path(settings.home)
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot use {home} as the node's home: {error.strerror}") from None
    if not os.access(home, os.W_OK):
        raise UsageError(f"the node's home {home} is not writable: choose another with --home")
    return home


@contextmanager
def _only_one(home: Path) -> Iterator[None]:
    """Two nodes with one key would sign twice: the home is locked while a node runs."""
    with (home / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"another node is running in {home}: stop it, or use another --home") from None
        yield


def _key(settings: Settings, home: Path) -> SecretKey:
    path = home / "key.json"
    if not path.exists():
        raise UsageError(f"no key in {home}: make one with `deepshard keys new --home {home}`")
    file = Path(settings.passphrase_file) if settings.passphrase_file else None
    return load_key(path, read_passphrase(prompt=sys.stdin.isatty(), file=file, env=os.environ))


def _read_text(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read the {what} {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"the {what} {path} is not text") from None


async def _live(settings: Settings, home: Path, key: SecretKey, genesis: Genesis) -> None:
    extra = _read_text(Path(settings.trainer_extra_text), "extra text") if settings.trainer_extra_text else ""
    node = Node(settings, home, key, genesis, extra_texts=(extra,) if extra else (), now_ms=_now_ms)
    _log.info(
        "node.starting",
        version=__version__,
        address=format_address(key.address),
        chain_id=genesis.chain_id,
        genesis=genesis.hash().hex(),
        roles=list(settings.roles),
        pid=os.getpid(),
    )
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop_on_signal, nursery.cancel_scope)
            await nursery.start(node.network.run)
            token = token_urlsafe(32)
            app = create_app(node.backend, token=token, serve_chat="inference" in settings.roles)

            async def api(task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
                await serve(app, settings.http, task_status=task_status)

            address = await nursery.start(api)
            _write_access(home / "api.json", address, token)
            _log.info("node.ready", listen=node.network.listening, http=address)
            nursery.start_soon(_supervise, node.run)
    finally:
        (home / "api.json").unlink(missing_ok=True)
        node.close()
        _log.info("node.stopped")


async def _supervise(run: Callable[[], Awaitable[None]]) -> None:
    await run()
    raise LocalError("every service of the node has ended")


async def _stop_on_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for received in signals:
            _log.info("node.stopping", signal=signal.Signals(received).name)
            scope.cancel()
            return


def _write_access(path: Path, address: str, token: str) -> None:
    """Where the API listens and the token that opens it, for the CLI of the same user."""
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump({"http": address, "token": token}, file)
    temporary.replace(path)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
