"""Genesis files, as text and to the state a network starts from."""

from __future__ import annotations

from typing import Final

from harness import Harness
from ledger_network import genesis_of
from msgspec.structs import replace

from deepshard.errors import UsageError
from deepshard.ledger.genesis import dump_genesis, genesis_state, load_genesis


def check(data: bytes) -> None:
    genesis = load_genesis(data.decode(errors="surrogateescape"))
    assert load_genesis(dump_genesis(genesis)) == genesis
    assert len(genesis.hash()) == 32
    genesis_state(genesis)


def seeds() -> dict[str, bytes]:
    genesis = genesis_of()
    small = replace(genesis, validators=genesis.validators[:1], accounts=genesis.accounts[:1], general=())
    return {"genesis": dump_genesis(small).encode()}


HARNESS: Final = Harness(check, seeds, refuses=UsageError, input_bytes_max=8 * 1024)
