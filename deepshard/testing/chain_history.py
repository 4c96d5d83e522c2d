"""Chains of many blocks made at once: executed and certified as by the network, without the rounds of voting."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from deepshard.ballots import VOTE_TAG, VoteKind, vote_sign_bytes
from deepshard.consensus.types import CommitCertificate, CommitSignature
from deepshard.disk.chain import ChainStore
from deepshard.identity import SecretKey
from deepshard.ledger.genesis import genesis_state
from deepshard.ledger.onion import OnionChain
from deepshard.ledger.params import Genesis
from deepshard.services.executor import ChainExecutor
from deepshard.services.view import ChainView


def grow_chain(
    folder: Path,
    genesis: Genesis,
    keys: Sequence[SecretKey],
    onions: Mapping[bytes, OnionChain],
    *,
    height: int,
    transactions: Callable[[int], Sequence[bytes]] = lambda _: (),
    interval_ms: int = 1000,
) -> None:
    """Write a chain of `height` blocks to the folder of a node, which must not be running.

    Args:
        folder: of the node; a chain that is there already is continued.
        genesis: of the network.
        keys: of its validators, who all sign every block and propose in turn.
        onions: theirs, by address.
        height: of the last block.
        transactions: candidates for the block of a height.
        interval_ms: between the times of two blocks.
    """
    store = ChainStore(folder / "chain.sqlite", genesis_hash=genesis.hash())
    executor = ChainExecutor(genesis, store, ChainView(genesis_state(genesis), None))
    executor.restore()
    while executor.height < height:
        at = executor.height + 1
        proposer = keys[at % len(keys)].address
        record = executor.state.validator(proposer)
        assert record is not None
        block_id = executor.build(
            transactions(at),
            proposer=proposer,
            onion_preimage=onions[proposer].preimage(record.onion_tip),
            now_ms=genesis.time_ms + at * interval_ms,
        )
        executor.commit(block_id, certify(genesis.chain_id, keys, at, block_id))
    store.close()


def certify(chain_id: str, keys: Sequence[SecretKey], height: int, block_id: bytes) -> CommitCertificate:
    """A certificate by all of these validators, for round 0."""
    payload = vote_sign_bytes(chain_id, VoteKind.PRECOMMIT, height, 0, block_id)
    ordered = sorted(keys, key=lambda key: key.address)
    signatures = tuple(CommitSignature(key.address, key.sign(VOTE_TAG, payload)) for key in ordered)
    return CommitCertificate(height, 0, block_id, signatures)
