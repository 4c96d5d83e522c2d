"""Whom the light client follows and whom it asks: slow, silent, late and boasting peers, which nobody blames."""

from __future__ import annotations

import pytest
from light_network import LENGTH, START_MS, LightNetwork, Peer, honest, sets, truth

from deepshard.consensus.light_events import Trusted, Unwitnessed
from deepshard.limits import WITNESS_PATIENCE_S


@pytest.mark.clause("10.5/10")
def test_a_silent_witness_is_replaced_and_costs_nothing() -> None:
    seed = 3
    peers = honest(seed, 5)
    peers[b"honest0"].delay_s = peers[b"honest1"].delay_s = None
    for salt in range(6):
        network = LightNetwork(peers, sets(seed), bytes([salt]))
        network.run(20)
        assert network.core.trusted.height == LENGTH
        [step] = [effect for effect in network.effects if isinstance(effect, Trusted)]
        assert step.witnesses >= 2
        assert network.penalised == []


@pytest.mark.clause("10.5/10")
def test_a_witness_that_lags_is_asked_when_it_has_the_height() -> None:
    seed = 3
    network = LightNetwork(honest(seed, 2, 100), sets(seed))
    network.run(5)
    ahead = network.core.primary
    assert ahead is not None
    [behind] = set(network.peers) - {ahead}
    network.reach(ahead, 101)
    network.run(1)
    assert network.core.trusted.height == 100
    network.reach(behind, 101)
    network.run(1)
    assert network.core.trusted.height == 101
    assert not network.core.unwitnessed
    assert [peer for peer, first, _ in network.asked if first == 101] == [ahead, behind]


@pytest.mark.clause("10.5/10")
def test_without_a_witness_it_goes_on_with_a_warning_or_waits_as_it_is_told() -> None:
    seed = 4
    network = LightNetwork(honest(seed, 1, 100), sets(seed))
    network.run(WITNESS_PATIENCE_S)
    assert network.core.trusted.height == 0
    network.run(1)
    assert (network.core.trusted.height, network.core.unwitnessed) == (100, True)
    network.reach(b"honest0", 101)
    network.run(1)
    assert network.core.trusted.height == 101
    assert [effect.height for effect in network.effects if isinstance(effect, Unwitnessed)] == [100]
    strict = LightNetwork(honest(seed, 1, 100), sets(seed), needs_witness=True)
    strict.run(100)
    assert (strict.core.trusted.height, strict.core.unwitnessed) == (0, True)
    strict.peers[b"other"] = Peer(truth(seed), 100)
    strict.reach(b"other", 100)
    strict.run(1)
    assert (strict.core.trusted.height, strict.core.unwitnessed) == (100, False)


def test_a_primary_that_falls_silent_or_leaves_is_replaced() -> None:
    seed = 0
    network = LightNetwork(honest(seed, 3, 100), sets(seed))
    network.run(5)
    first = network.core.primary
    assert first is not None
    network.peers[first].delay_s = None
    for name in network.peers:
        network.reach(name, 101)
    network.run(10)
    second = network.core.primary
    assert second not in {None, first}
    assert network.core.trusted.height == 101
    assert second is not None
    network.leave(second)
    [third] = set(network.peers) - {first}
    network.reach(third, 102)
    network.run(10)
    assert (network.core.primary, network.core.trusted.height) == (third, 102)


def test_a_primary_that_withholds_new_blocks_is_replaced() -> None:
    seed = 0
    network = LightNetwork(honest(seed, 3, 100), sets(seed))
    network.run(5)
    stale = network.core.primary
    for name in set(network.peers) - {stale}:
        network.reach(name, 110)
    network.run(1)
    assert (network.core.primary, network.core.trusted.height) == (stale, 100)
    network.run(10)
    assert network.core.primary != stale
    assert network.core.trusted.height == 110


def test_a_peer_that_claims_the_sky_is_asked_seldom() -> None:
    seed = 0
    peers = honest(seed, 2) | {b"liar": Peer(truth(seed), 2**60)}
    network = LightNetwork(peers, sets(seed))
    network.run(30)
    assert network.core.trusted.height == LENGTH
    assert len([peer for peer, *_ in network.asked if peer == b"liar"]) <= 8
    alone = LightNetwork({b"liar": Peer({}, 2**60)}, sets(seed), start_ms=START_MS + 1)
    alone.run(30)
    assert len(alone.asked) <= 8
