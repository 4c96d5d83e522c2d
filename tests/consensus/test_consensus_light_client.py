"""The light client as a machine: bisection, witnesses and attacks, over chains whose validators change."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from light_network import (
    BLOCK_MS,
    GENESIS,
    KEYS,
    LENGTH,
    PERIOD_MS,
    START_MS,
    Chain,
    LightNetwork,
    Peer,
    grow,
    honest,
    members,
    quorum,
    sets,
    sign,
    truth,
)
from msgspec.structs import replace

from deepshard.consensus.light import LightBlock, TrustExpired
from deepshard.consensus.light_events import Expired, HeaderFound, Mismatch, Trusted
from deepshard.consensus.validators import ValidatorSet
from deepshard.encoding import decode, encode
from deepshard.limits import LIGHT_BACKWARD_HEADERS_MAX, LIGHT_BLOCKS_MAX, WITNESS_PATIENCE_S, WITNESSES_MAX
from deepshard.primitives import content_digest

STRANGERS = range(30, 40)
"""Places of keys that never are in the true sets."""


@cache
def second_history(seed: int, at: int) -> Chain:
    """Another history from `at` on, signed by two thirds of the true validators."""
    return grow(sets(seed), LENGTH, below={h: truth(seed)[h] for h in range(1, at)}, mark="bought")


def invented(chain: Chain, height: int, bought: list[bytes], mark: bytes = b"invented") -> Chain:
    """The chain with another header at one height, by validators of the liar's making and those it bought."""
    public = {key.address: key.public for key in KEYS}
    own = ValidatorSet.of([(public[address], 10) for address in bought] + [(KEYS[p].public, 100) for p in STRANGERS])
    header = replace(
        chain[height].header,
        state_root=content_digest(mark),
        validators_hash=own.hash(),
        next_validators_hash=own.hash(),
    )
    signers = [entry.address for entry in own.validators]
    return {**chain, height: LightBlock(header, sign(header, signers), own)}


def is_true(seed: int, network: LightNetwork) -> bool:
    return all(header == truth(seed)[header.height].header for header in network.trusted)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 5), start=st.integers(1, LENGTH), peers=st.integers(2, 5), salt=st.binary(max_size=4))
@pytest.mark.clause("10.5/5", "10.5/10")
def test_it_reaches_what_honest_peers_have_by_bisection(seed: int, start: int, peers: int, salt: bytes) -> None:
    network = LightNetwork(honest(seed, peers, start), sets(seed), salt)
    network.run(5)
    assert network.core.trusted.header == truth(seed)[start].header
    for name in sorted(network.peers):
        network.reach(name, LENGTH)
    network.run(30)
    assert network.core.trusted.header == truth(seed)[LENGTH].header
    assert is_true(seed, network)
    assert (network.attacks, network.penalised, network.core.unwitnessed) == ([], [], False)
    rounds = [effect for effect in network.effects if isinstance(effect, Trusted)]
    assert all(effect.witnesses == min(peers - 1, WITNESSES_MAX) for effect in rounds)


def test_a_long_way_takes_few_headers_where_the_validators_stay() -> None:
    same = dict.fromkeys(range(1, 1002), members(range(4)))
    chain = grow(same, 1000)
    network = LightNetwork({b"a": Peer(chain, 1000), b"b": Peer(chain, 1000)}, same)
    network.run(5)
    assert network.core.trusted.height == 1000
    assert sorted(count for _, _, count in network.asked) == [1, 1]


def test_bisection_takes_a_logarithm_of_headers_where_they_change_once() -> None:
    change = {h: members(range(4)) if h <= 400 else members(range(10, 14)) for h in range(1, 1002)}
    chain = grow(change, 1000)
    network = LightNetwork({b"a": Peer(chain, 1000), b"b": Peer(chain, 1000)}, change)
    network.run(10)
    assert network.core.trusted.height == 1000
    assert len(network.asked) <= 14


def test_a_very_long_way_is_gone_in_stages() -> None:
    each = {h: members(range(h % 4 * 4, h % 4 * 4 + 4)) for h in range(1, 302)}
    chain = grow(each, 300)
    network = LightNetwork({b"a": Peer(chain, 300), b"b": Peer(chain, 300)}, each)
    network.run(60)
    assert network.core.trusted.height == 300
    steps = [effect for effect in network.effects if isinstance(effect, Trusted)]
    assert len(steps) >= 2
    assert len(network.core.saved().blocks) == LIGHT_BLOCKS_MAX


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 5), data=st.data())
@pytest.mark.clause("10.5/10", "10.5/12")
def test_whoever_bought_a_third_or_less_deceives_nobody(seed: int, data: st.DataObject) -> None:
    """The liar has made-up sets and a third of the power at most, at all heights: as primary, and as witness."""
    known = data.draw(st.integers(1, LENGTH - 2))
    third = (len(sets(seed)[1].validators)) // 3
    bought = [entry.address for entry in sets(seed)[1].validators][:third]
    chain = truth(seed)
    for height in data.draw(st.sets(st.integers(1, LENGTH - 1), max_size=4)) | {LENGTH, known + 1}:
        chain = invented(chain, height, bought)
    peers = honest(seed, data.draw(st.integers(1, 3))) | {b"liar": Peer(chain, LENGTH)}
    network = LightNetwork(peers, sets(seed), data.draw(st.binary(max_size=4)))
    network.run(60)
    assert is_true(seed, network)
    assert network.attacks == []
    assert network.core.trusted.header == truth(seed)[LENGTH].header
    assert set(network.penalised) <= {b"liar"}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 5), at=st.integers(2, LENGTH), salt=st.binary(max_size=4), liars=st.integers(1, 2))
@pytest.mark.clause("10.5/11", "10.5/12")
def test_two_histories_signed_by_two_thirds_are_an_attack(seed: int, at: int, salt: bytes, liars: int) -> None:
    other = second_history(seed, at)
    peers = honest(seed, 2) | {b"liar%d" % number: Peer(other, LENGTH) for number in range(liars)}
    network = LightNetwork(peers, sets(seed), salt)
    network.run(60)
    [found] = network.attacks
    attack = found.attack
    first, second = attack.first.header, attack.second.header
    assert first.height == second.height >= at > attack.common_height
    assert {first, second} == {truth(seed)[first.height].header, other[first.height].header}
    common = GENESIS if attack.common_height == 0 else truth(seed)[attack.common_height].header.block_id()
    assert attack.common_id == common
    assert network.core.trusted.height == attack.common_height
    assert network.core.saved().attack == attack
    assert is_true(seed, network)
    asked = len(network.asked)
    network.reach(b"honest0", LENGTH - 1)
    network.run(60)
    assert (len(network.asked), network.core.trusted.height) == (asked, attack.common_height)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 5), salt=st.binary(max_size=4))
@pytest.mark.clause("10.5/11")
def test_a_header_of_a_set_of_the_liars_making_is_an_attack_if_it_bought_enough(seed: int, salt: bytes) -> None:
    """More than a third of the first set signs: that skips from genesis, and only a witness shows that it is false."""
    bought = [entry.address for entry in sets(seed)[1].validators][: len(sets(seed)[1].validators) // 3 + 1]
    chain = invented(truth(seed), LENGTH, bought)
    network = LightNetwork(honest(seed, 2) | {b"liar": Peer(chain, LENGTH)}, sets(seed), salt)
    network.run(60)
    if network.penalised:  # it was a witness, and the power it bought is gone where it parts from the truth
        assert (network.penalised, network.attacks) == ([b"liar"], [])
        assert network.core.trusted.header == truth(seed)[LENGTH].header
    else:
        [found] = network.attacks
        shown = {found.attack.first.header, found.attack.second.header}
        assert shown == {chain[LENGTH].header, truth(seed)[LENGTH].header}
    assert is_true(seed, network)


@pytest.mark.clause("10.5/11")
def test_a_primary_that_bought_a_third_is_found_out_by_the_first_honest_witness() -> None:
    seed = 0
    validators = sets(seed)[1].validators
    bought = [entry.address for entry in validators][: len(validators) // 3 + 1]
    chain = invented(truth(seed), LENGTH, bought)
    network = LightNetwork({b"liar": Peer(chain, LENGTH)}, sets(seed))
    network.run(WITNESS_PATIENCE_S - 1)
    network.peers[b"honest"] = Peer(truth(seed), LENGTH)
    network.reach(b"honest", LENGTH)
    network.run(10)
    [found] = network.attacks
    assert (found.witness, found.attack.common_height) == (b"honest", 0)
    assert (found.attack.first, found.attack.second) == (chain[LENGTH], truth(seed)[LENGTH])
    assert network.trusted == []


@pytest.mark.clause("10.5/12")
def test_a_witness_that_contradicts_and_lacks_the_way_keeps_the_header_from_being_trusted_at_once() -> None:
    """As a node does that joined by a snapshot. It isn't blamed, and the primary isn't believed for want of others."""
    seed = 0
    validators = sets(seed)[1].validators
    bought = [entry.address for entry in validators][: len(validators) // 3 + 1]
    liar = Peer(invented(truth(seed), LENGTH, bought), LENGTH)
    network = LightNetwork({b"liar": liar}, sets(seed))
    network.run(0.1)
    assert network.core.primary == b"liar"
    network.peers[b"joined"] = Peer({LENGTH: truth(seed)[LENGTH]}, LENGTH)
    network.reach(b"joined", LENGTH)
    network.run(2.9)
    assert (network.trusted, network.penalised, network.attacks) == ([], [], [])
    assert (b"joined", LENGTH, 1) in network.asked


def test_answers_that_hold_few_headers_lead_on_as_well() -> None:
    peers = honest(0, 2, 50)
    for peer in peers.values():
        peer.headers_max = 20
    network = LightNetwork(peers, sets(0))
    network.run(5)
    assert network.core.trusted.height == 50
    assert network.penalised == []


@pytest.mark.clause("10.5/11")
def test_an_attack_is_found_above_the_last_height_that_both_have() -> None:
    """The witness comes late: what was trusted in the meantime is looked through, and the common height is in there."""
    seed, at = 1, 150
    network = LightNetwork({b"a": Peer(second_history(seed, at), 100)}, sets(seed))
    for height in range(100, 190, 4):
        network.reach(b"a", height)
        network.run(4)
    assert network.core.trusted.height == 188
    kept = [block.header.height for block in network.core.saved().blocks]
    network.peers[b"late"] = Peer(truth(seed), LENGTH)
    network.reach(b"late", LENGTH)
    network.reach(b"a", LENGTH)
    network.run(20)
    [found] = network.attacks
    assert found.attack.common_height == max(height for height in kept if height < at)
    assert found.attack.first.header.height == min(height for height in kept if height >= at)
    assert network.core.saved().blocks[-1].header.height == found.attack.common_height


@pytest.mark.clause("10.5/12")
def test_a_witness_whose_header_does_not_hold_is_penalised_and_another_is_asked() -> None:
    seed = 2
    forged = {
        height: replace(block, header=replace(block.header, state_root=content_digest(b"forged")))
        for height, block in truth(seed).items()
    }
    for salt in range(8):
        peers = honest(seed, 2) | {b"liar": Peer(forged, LENGTH)}
        network = LightNetwork(peers, sets(seed), bytes([salt]))
        network.run(20)
        assert network.core.trusted.header == truth(seed)[LENGTH].header
        assert set(network.penalised) == {b"liar"}
        assert not network.core.unwitnessed


@pytest.mark.clause("10.5/8")
def test_it_begins_from_a_header_that_a_person_names() -> None:
    seed, old = 5, START_MS + 2 * PERIOD_MS
    block_id = truth(seed)[120].header.block_id()
    period = BLOCK_MS * 100
    late = START_MS + BLOCK_MS * LENGTH
    expired = LightNetwork(honest(seed, 2), sets(seed), period_ms=period, start_ms=late)
    with pytest.raises(TrustExpired, match="--trust HEIGHT:ID"):
        expired.core.check_trust(late)
    expired.run(5)
    assert [type(effect) for effect in expired.effects] == [Expired]
    network = LightNetwork(honest(seed, 2), sets(seed), trust=(120, block_id), period_ms=period, start_ms=late)
    network.core.check_trust(late)
    network.run(5)
    assert network.core.trusted.height == LENGTH
    assert network.trusted[0] == truth(seed)[120].header
    saved = decode(encode(network.core.saved()), type(network.core.saved()), bytes_max=1 << 20)
    again = LightNetwork(honest(seed, 2), sets(seed), trust=(120, block_id), saved=saved, start_ms=old)
    assert (again.core.trusted.height, again.core.is_waiting_for_root) == (LENGTH, False)
    other = LightNetwork(honest(seed, 2), sets(seed), trust=(130, block_id), saved=saved)
    assert other.core.is_waiting_for_root


@pytest.mark.clause("10.5/8")
def test_a_peer_that_shows_another_header_than_the_named_one_is_not_believed_nor_blamed() -> None:
    seed = 5
    network = LightNetwork(honest(seed, 2), sets(seed), trust=(120, content_digest(b"misread")))
    network.run(10)
    assert {effect.peer for effect in network.effects if isinstance(effect, Mismatch)} == {b"honest0", b"honest1"}
    assert (network.trusted, network.penalised) == ([], [])
    block_id = truth(seed)[120].header.block_id()
    weak = replace(truth(seed)[120], certificate=sign(truth(seed)[120].header, quorum(sets(seed)[120])[:-1]))
    liar = Peer({**truth(seed), 120: weak}, LENGTH)
    mended = LightNetwork(honest(seed, 1) | {b"liar": liar}, sets(seed), trust=(120, block_id))
    mended.run(10)
    assert mended.trusted[0] == truth(seed)[120].header
    assert set(mended.penalised) <= {b"liar"}


def test_after_an_attack_only_a_person_lets_it_go_on() -> None:
    seed = 1
    peers = honest(seed, 2) | {b"liar": Peer(second_history(seed, 90), LENGTH)}
    network = LightNetwork(peers, sets(seed))
    network.run(20)
    saved = network.core.saved()
    assert saved.attack is not None
    stopped = LightNetwork(honest(seed, 3), sets(seed), saved=saved)
    stopped.run(20)
    assert (stopped.core.attack, stopped.asked) == (saved.attack, [])
    block_id = truth(seed)[100].header.block_id()
    resumed = LightNetwork(honest(seed, 3), sets(seed), saved=saved, trust=(100, block_id))
    resumed.run(20)
    assert (resumed.core.attack, resumed.core.trusted.height) == (None, LENGTH)


def test_what_was_saved_of_another_network_is_passed_over() -> None:
    network = LightNetwork(honest(0, 2), sets(0))
    network.run(5)
    saved = replace(network.core.saved(), genesis_hash=content_digest(b"elsewhere"))
    assert LightNetwork(honest(0, 2), sets(0), saved=saved).core.trusted.height == 0
    kept = LightNetwork(honest(0, 2), sets(0), saved=network.core.saved())
    assert kept.core.trusted == network.core.trusted


@pytest.mark.clause("10.5/9")
def test_an_old_header_is_found_by_parent_ids() -> None:
    seed = 0
    network = LightNetwork(honest(seed, 2), sets(seed))
    network.run(5)
    for height in (150, 20, LENGTH, LENGTH + 5):
        network.want(height)
    network.run(10)
    found = {effect.height: effect.header for effect in network.effects if isinstance(effect, HeaderFound)}
    assert found == {
        150: truth(seed)[150].header,
        20: truth(seed)[20].header,
        LENGTH: None,
        LENGTH + 5: None,
    }
    forged = {
        height: replace(b, header=replace(b.header, time_ms=b.header.time_ms + 1)) for height, b in truth(0).items()
    }
    liar = Peer(truth(seed), LENGTH)
    lied_to = LightNetwork({b"liar": liar}, sets(seed))
    lied_to.run(5)
    liar.chain = forged
    lied_to.want(150)
    lied_to.run(2)
    assert b"liar" in lied_to.penalised
    assert not [effect for effect in lied_to.effects if isinstance(effect, HeaderFound)]


def test_a_header_too_far_down_is_not_looked_up() -> None:
    height = LIGHT_BACKWARD_HEADERS_MAX + 2
    same = dict.fromkeys(range(1, height + 2), members([0]))
    header = replace(grow(same, 1)[1].header, height=height)
    chain = {height: LightBlock(header, sign(header, quorum(same[1])), same[1])}
    network = LightNetwork({b"a": Peer(chain, height)}, same, start_ms=START_MS + 2 * BLOCK_MS)
    network.run(5)
    network.want(1)
    network.run(1)
    assert network.core.trusted.height == height
    assert [effect for effect in network.effects if isinstance(effect, HeaderFound)] == [HeaderFound(1, None)]
    assert [first for _, first, _ in network.asked] == [height]
