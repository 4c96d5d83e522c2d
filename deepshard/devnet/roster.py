"""Who takes part in a devnet: names, keys, homes and addresses."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from deepshard.compute.jobs import ScoringPath
from deepshard.devnet.plans import (
    INFERENCE_BALANCE,
    INFORMANT_BALANCE,
    TRAINER_BALANCE,
    VALIDATOR_BALANCE,
    Plan,
    read_text,
)
from deepshard.errors import LocalError
from deepshard.identity import SecretKey
from deepshard.identity.keyfile import write_key_file
from deepshard.primitives import format_address

Role = Literal["validator", "informant", "trainer", "inference"]
VALIDATORS = 4
OBSERVER = "validator-1"
"""The node from which the story is told."""
TRAINERS = 4
NODES = VALIDATORS + TRAINERS + 2
BALANCES: dict[Role, int] = {
    "validator": VALIDATOR_BALANCE,
    "informant": INFORMANT_BALANCE,
    "trainer": TRAINER_BALANCE,
    "inference": INFERENCE_BALANCE,
}
# The least that libsodium accepts: these keys guard nothing, and ten slow derivations would be felt.
KDF_OPS = 1
KDF_MEMORY_BYTES = 8192
_PORTS = range(20_000, 32_000)


@dataclass(frozen=True, kw_only=True)
class Participant:
    """One node to be: `dishonest_text` is the unapproved text that a dishonest trainer adds to its batch."""

    name: str
    role: Role
    key: SecretKey
    home: Path
    listen: str
    http: str
    micro_batch: int = 0
    scoring: ScoringPath = "auto"
    dishonest_text: Path | None = None

    @property
    def address(self) -> str:
        """Address of its account, in text form."""
        return format_address(self.key.address)

    @property
    def honest(self) -> bool:
        """Whether it was configured to keep to the batch."""
        return self.dishonest_text is None


@dataclass(frozen=True, slots=True)
class Hosts:
    """Addresses that a node binds: for its peers, and for its HTTP API."""

    peers: str = "127.0.0.1"
    api: str = "127.0.0.1"


def free_ports(count: int) -> list[int]:
    """Loopback ports free a moment ago.

    They lie below those that systems hand out to whoever asks for any (32768 and up on Linux, 49152 elsewhere): nobody
    else is given one until its node binds it, nor while that node is down. Neighbours from a place by chance, so that
    two networks that start together hardly ever choose the same.
    """
    first = secrets.randbelow(len(_PORTS))
    found: list[int] = []
    for port in (*_PORTS[first:], *_PORTS[:first]):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise LocalError(f"of {len(_PORTS)} loopback ports from {_PORTS[0]} on, fewer than {count} are free")


def make_roster(
    directory: Path,
    plan: Plan,
    *,
    dishonest: int,
    hosts: Hosts = Hosts(),  # immutable
    hosts_of: Mapping[str, Hosts] = MappingProxyType({}),
) -> tuple[Participant, ...]:
    """Fresh keys, homes below `directory`, free ports; the last `dishonest` trainers each get a text of their own.

    A node binds the addresses that `hosts_of` has for its name, or else `hosts`.
    """
    ports = free_ports(2 * NODES)
    places: list[tuple[str, Role, int]] = [
        *((f"validator-{number}", "validator", number) for number in range(1, VALIDATORS + 1)),
        ("informant", "informant", 1),
        *((f"trainer-{number}", "trainer", number) for number in range(1, TRAINERS + 1)),
        ("inference", "inference", 1),
    ]
    roster = []
    for position, (name, role, number) in enumerate(places):
        extra = number - (TRAINERS - dishonest) if role == "trainer" else 0
        home, own = directory / name, hosts_of.get(name, hosts)
        roster.append(
            Participant(
                name=name,
                role=role,
                key=SecretKey(secrets.token_bytes(32)),
                home=home,
                listen=f"{own.peers}:{ports[2 * position]}",
                http=f"{own.api}:{ports[2 * position + 1]}",
                micro_batch=plan.micro_batches[number % len(plan.micro_batches)] if role == "trainer" else 0,
                scoring=plan.scoring[number % len(plan.scoring)] if role == "validator" else "auto",
                dishonest_text=home / f"unapproved-{extra}.txt" if extra > 0 else None,
            )
        )
    return tuple(roster)


def write_home(participant: Participant) -> None:
    """Create the home directory: encrypted key and its random passphrase, both readable by the owner only.

    The key's seed lies beside them, for programs that act for the account, such as the conformance suite.
    """
    participant.home.mkdir(mode=0o700)
    passphrase = secrets.token_urlsafe(24)
    text = write_key_file(participant.key, passphrase, ops=KDF_OPS, memory_bytes=KDF_MEMORY_BYTES)
    _write_private(participant.home / "key.json", text)
    _write_private(participant.home / "passphrase", passphrase + "\n")
    _write_private(participant.home / "account.hex", participant.key.seed.hex() + "\n")
    if participant.dishonest_text is not None:
        _write_private(participant.dishonest_text, read_text(participant.dishonest_text.stem) + "\n")


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")


def node_command(
    participant: Participant,
    roster: Sequence[Participant],
    *,
    python: str,
    genesis: Path,
    threads: int,
    leases: Sequence[Path],
) -> tuple[str, ...]:
    """Command line of a participant's node: the same that a person would type. Its peers are the validators."""
    peers = [other.listen for other in roster if other.role == "validator" and other.name != participant.name]
    command = [
        *(python, "-m", "deepshard.node", "--home", str(participant.home), "--listen", participant.listen),
        *("--peers", ",".join(peers), "--roles", participant.role, "--genesis", str(genesis)),
        *("--http", participant.http, "--log-format", "json"),
        *("--passphrase-file", str(participant.home / "passphrase")),
        *("--threads", str(threads), "--lease", ",".join(str(lease) for lease in leases)),
    ]
    if participant.micro_batch:
        command += ["--micro-batch", str(participant.micro_batch)]
    if participant.scoring != "auto":
        command += ["--scoring", participant.scoring]
    if participant.dishonest_text is not None:
        command += ["--trainer-extra-text", str(participant.dishonest_text)]
    return tuple(command)
