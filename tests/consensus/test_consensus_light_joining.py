"""A node that joins by a snapshot verifies its header as a light client does, however often the validators change."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from light_network import BLOCK_MS, CHAIN, GENESIS, LENGTH, PERIOD_MS, START_MS, Chain, grow, members, truth
from msgspec.structs import replace

from deepshard.consensus.light import trust_genesis
from deepshard.encoding import encode
from deepshard.errors import RemoteError
from deepshard.limits import LIGHT_BLOCKS_MAX
from deepshard.primitives import content_digest
from deepshard.services.snapshot_join import SnapshotJoin
from deepshard.wire.messages import Headers, HeadersRequest, Message, Snapshots, SnapshotsRequest

PEER = b"peer"


def climb(chain: Chain, goal: int, *, shown_max: int = 64) -> tuple[SnapshotJoin, list[tuple[int, int]]]:
    """Let one peer with this chain show the way to `goal`; the join, and which headers were asked for."""
    join = SnapshotJoin(
        trust_genesis(CHAIN, GENESIS, START_MS, chain[1].validators),
        above=0,
        numbers=count(1),
        trusting_period_ms=PERIOD_MS,
    )
    asked: list[tuple[int, int]] = []
    now_ms = START_MS + BLOCK_MS * (len(chain) + 1)
    waiting: list[Message] = [request for _, request in join.wanted(0.0, [PEER])]
    while waiting:
        match waiting.pop(0):
            case SnapshotsRequest(request=number):
                join.take_offers(PEER, Snapshots(number, (goal,)))
            case HeadersRequest(request=number, from_height=first, count=length):
                asked.append((first, length))
                blocks = [chain[at] for at in range(first, first + min(length, shown_max)) if at in chain]
                parts = tuple((encode(one.header), encode(one.certificate), encode(one.validators)) for one in blocks)
                join.take_headers(PEER, Headers(number, parts), now=0.0, now_ms=now_ms)
            case _:
                break  # the header is verified, and chunks are asked for
        waiting += [request for _, request in join.wanted(0.0, [PEER])]
    return join, asked


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 5), goal=st.integers(1, LENGTH), shown_max=st.integers(1, 64))
def test_it_gets_to_any_height_of_a_chain_whose_validators_change(seed: int, goal: int, shown_max: int) -> None:
    join, _ = climb(truth(seed), goal, shown_max=shown_max)
    assert (join.root, join.failure) == (truth(seed)[goal].header.state_root, None)


def test_a_way_longer_than_what_is_kept_is_gone_in_stages() -> None:
    each = {height: members(range(height % 4 * 4, height % 4 * 4 + 4)) for height in range(1, 202)}
    chain = grow(each, 200)
    join, asked = climb(chain, 200, shown_max=1)
    assert join.root == chain[200].header.state_root
    assert asked.count((200, 1)) >= 2  # the goal is asked for again at each stage
    assert len(asked) > LIGHT_BLOCKS_MAX


@pytest.mark.parametrize("at", [1, 100, LENGTH])
def test_a_forged_header_is_refused(at: int) -> None:
    chain = truth(1)
    forged = replace(chain[at], header=replace(chain[at].header, state_root=content_digest(b"forged")))
    with pytest.raises(RemoteError):
        climb({**chain, at: forged}, at)


@pytest.mark.parametrize("shown", [1, LENGTH - 1])
def test_a_header_that_was_not_asked_for_is_refused(shown: int) -> None:
    chain = truth(2)
    with pytest.raises(RemoteError, match=f"1 from height {LENGTH} on were asked for"):
        climb({LENGTH: chain[shown], 1: chain[1]}, LENGTH)
