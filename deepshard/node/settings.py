"""What a person can set on a node: defaults, then the TOML file, then the environment, then the command line."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

import msgspec

from deepshard.compute.jobs import ScoringPath
from deepshard.errors import UsageError
from deepshard.net.endpoints import parse_endpoint
from deepshard.primitives import parse_block_reference
from deepshard.services.catching_up import SNAPSHOT_GAP_BLOCKS

ROLES = ("validator", "trainer", "informant", "inference")
LogFormat = Literal["json", "console"]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of one node; paths are absolute after `resolve`."""

    home: str = "~/.deepshard"
    listen: str = "127.0.0.1:7420"
    advertise: str = ""
    peers: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    genesis: str = ""
    trust: str = ""
    snapshot_gap_blocks: int = SNAPSHOT_GAP_BLOCKS
    http: str = "127.0.0.1:7421"
    log_format: LogFormat = "console"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    passphrase_file: str = ""
    upload_rate: float = 0.0
    download_rate: float = 0.0
    threads: int = 0
    leases: tuple[str, ...] = ()
    scoring: ScoringPath = "auto"
    scoring_memory: float = 0.0
    micro_batch: int = 1
    trainer_stake: str = "0"
    trainer_extra_text: str = ""
    block_interval_ms: int = 300
    empty_block_interval_ms: int = 1000
    propose_timeout_ms: int = 3000
    vote_timeout_ms: int = 1000


def load_settings(config: Path | None, given: dict[str, Any]) -> Settings:
    """Merge the TOML file and what was given on the command line or in the environment (None: not given).

    Raises:
        UsageError: the file or a value is wrong; the message names it.
    """
    merged: dict[str, Any] = {}
    if config is not None:
        try:
            merged = tomllib.loads(config.read_text())
        except OSError as error:
            raise UsageError(f"cannot read the settings file {config}: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"the settings file {config} is not TOML: {error}") from None
    merged.update({name: value for name, value in given.items() if value is not None})
    for name in ("peers", "roles", "leases"):
        if isinstance(merged.get(name), str):
            merged[name] = [part.strip() for part in merged[name].split(",") if part.strip()]
    try:
        settings = msgspec.convert(merged, Settings)
    except msgspec.ValidationError as error:
        raise UsageError(f"settings: {error}") from None
    return _checked(settings)


def _checked(settings: Settings) -> Settings:
    for role in settings.roles:
        if role not in ROLES:
            raise UsageError(f"unknown role {role!r}: choose from {', '.join(ROLES)}")
    for name in ("listen", "http", "advertise"):
        if getattr(settings, name):
            parse_endpoint(getattr(settings, name))
    for peer in settings.peers:
        parse_endpoint(peer)
    if settings.trust:
        parse_block_reference(settings.trust)
    if settings.snapshot_gap_blocks < 0:
        raise UsageError(
            f"snapshot_gap_blocks is {settings.snapshot_gap_blocks}: give a number of blocks, or 0 for never"
        )
    for name in ("upload_rate", "download_rate"):
        rate = getattr(settings, name)
        if not 0 <= rate < float("inf"):
            raise UsageError(f"{name} is {rate}: give MiB per second, or 0 for no cap")
    if not 0 <= settings.scoring_memory < float("inf"):
        raise UsageError(
            f"scoring_memory is {settings.scoring_memory}: give MiB, or 0 for half of what the machine has left"
        )
    if not settings.genesis:
        raise UsageError("no genesis file: name the network to join with --genesis FILE")
    if settings.micro_batch < 1:
        raise UsageError(f"micro_batch is {settings.micro_batch}: a forward pass takes at least one segment")
    return msgspec.structs.replace(settings, home=str(Path(settings.home).expanduser().absolute()))
