"""Genesis hash, first validators and the first state root, derived from the text of chapters 10 and 11 alone."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import msgspec
import pytest
from blake3 import blake3

from deepshard.identity.keys import SecretKey
from deepshard.ledger.genesis import dump_genesis, genesis_state
from deepshard.ledger.params import Genesis, GenesisAccount, GenesisValidator
from deepshard.ledger.trie import trie_of
from deepshard.testing.builders import SMALL_PARAMS

KEYS = [SecretKey(bytes([number]) * 32) for number in range(1, 4)]
GENESIS = Genesis(
    chain_id="spec-1",
    time_ms=1_700_000_000_000,
    params=SMALL_PARAMS,
    validators=tuple(
        GenesisValidator(key.public, 10**12 + place, bytes([place]) * 32) for place, key in enumerate(KEYS)
    ),
    accounts=(GenesisAccount(b"a" * 20, 5), GenesisAccount(b"b" * 20, 2**40)),
    manifest=b"m" * 32,
    weights_root=b"w" * 32,
    chunks_root=b"t" * 32,
    shard_count=300,
    heldout=(b"h" * 32, b"i" * 32, b"h" * 32),
    general=(b"g" * 32,),
    canaries=(b"c" * 32,),
)


def tagged(tag: str, *parts: bytes) -> bytes:
    material = b"".join(struct.pack("<Q", len(part)) + part for part in parts)
    return blake3(material, derive_key_context="deepshard 2026-11 v1 " + tag).digest()


def pack(value: object) -> bytes:
    """MessagePack of lists, bytes, texts and integers: their shortest forms are canonical."""
    return msgspec.msgpack.encode(value)


def read(text: str) -> list[Any]:
    """The file's lists; which of the texts are bytes is known from their places."""
    chain_id, time_ms, params, validators, accounts, *rest = json.loads(text)
    manifest, root, chunks_root, shard_count, *pools = rest
    raw = base64.b64decode
    return [
        chain_id,
        time_ms,
        params,
        [[raw(key), stake, raw(tip)] for key, stake, tip in validators],
        [[raw(address), balance] for address, balance in accounts],
        raw(manifest),
        raw(root),
        raw(chunks_root),
        shard_count,
        *[[raw(digest) for digest in pool] for pool in pools],
    ]


def pool_entries(name: bytes, digests: list[bytes]) -> dict[bytes, bytes]:
    distinct = list(dict.fromkeys(digests))
    entries = {b"pool/" + name + b"/" + struct.pack(">Q", i): pack(digest) for i, digest in enumerate(distinct)}
    entries |= {b"pool-member/" + name + b"/" + digest: b"\x90" for digest in distinct}
    return entries | {b"pool-size/" + name: pack(len(distinct))} if distinct else entries


@pytest.mark.clause("10.7/1", "10.7/2", "10.7/5", "10.7/6", "11.8/1", "11.8/5")
def test_genesis_follows_from_its_file() -> None:
    values = read(dump_genesis(GENESIS))
    _, _, params, validators, accounts, manifest, root, tree, shards, heldout, general, canaries = values
    genesis_hash = tagged("genesis", pack(values))
    assert genesis_hash == GENESIS.hash()

    issued = sum(stake for _, stake, _ in validators) + sum(balance for _, balance in accounts)
    by_address = sorted((tagged("address", key)[:20], key, stake, tip) for key, stake, tip in validators)
    entries = {
        b"chain": pack([0, tagged("genesis beacon", genesis_hash), 0, 0, 0]),
        b"supply": pack([issued, 0, 0, 0]),
        b"params": pack(params),
        b"agenda": pack([[], []]),
        b"model/" + bytes(8): pack([0, manifest, root, tree, shards, 0, 0]),
        b"active": pack([[[address, key, stake] for address, key, stake, _ in by_address]]),
    }
    entries[b"epoch/" + bytes(8)] = entries[b"active"]
    entries |= {b"validator/" + address: pack([key, stake, tip]) for address, key, stake, tip in by_address}
    entries |= {b"account/" + address: pack([0, balance, 0, []]) for address, balance in accounts}
    for name, digests in ((b"heldout", heldout), (b"rejected", canaries), (b"general", general), (b"canary", canaries)):
        entries |= pool_entries(name, digests)
    state = genesis_state(GENESIS)
    assert trie_of(entries.items()).root == state.root
    assert [entry[0] for entry in state.active_validators()] == [address for address, *_ in by_address]
