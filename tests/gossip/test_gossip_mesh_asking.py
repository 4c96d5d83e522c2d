"""One mesh core: advertising, asking, declining, and the bounds of each (protocol-spec, 7.5 to 7.8)."""

from __future__ import annotations

import pytest
from gossip_driver import Driver, forwarded, key, told, unknown
from gossip_network import proposal, transaction, vote

from deepshard import limits
from deepshard.gossip import Topic, Verdict
from deepshard.gossip.events import (
    IDontWant,
    IHave,
    IWant,
    PeerLeft,
    Penalise,
    Prune,
    RelayDue,
    Tell,
)

# -- advertising -----------------------------------------------------------------------------------------------------


@pytest.mark.clause("7.5/1", "7.1/3")
def test_heartbeats_advertise_what_is_new_to_peers_outside_the_mesh_first() -> None:
    driver = Driver(30)
    unit = vote("a")
    driver.receive(29, unit)
    counts = []
    for _ in range(limits.GOSSIP_ADVERTISED_WINDOWS + 1):
        told_to = [peer for peer, control in told(driver.beat(), IHave) if control == IHave(0, (unit.id,))]
        counts.append(len(told_to))
        assert not set(told_to) & {*driver.mesh.members(Topic.CONSENSUS), key(29)}
    assert counts[:-1] == pytest.approx([limits.GOSSIP_LAZY_PEERS] * limits.GOSSIP_ADVERTISED_WINDOWS, abs=1)
    assert counts[-1] == 0


@pytest.mark.clause("7.5/2", "7.5/3")
def test_ihave_is_answered_by_iwant_for_what_is_unknown_and_only_that() -> None:
    driver = Driver(3)
    seen, examining, later = vote("seen"), vote("examining"), vote("later")
    driver.receive(0, seen)
    driver.receive(0, later, verdict=Verdict.LATER)
    driver.receive(0, examining, verdict=None)
    new = unknown(1)
    ids = (seen.id, examining.id, later.id, new)
    assert driver.control(1, IHave(Topic.CONSENSUS, ids)) == [Tell(key(1), IWant((new,)))]


@pytest.mark.clause("7.5/2")
def test_another_peer_is_asked_after_a_second_a_third_after_two_and_then_nobody() -> None:
    driver = Driver(8)
    asked = []
    for number in range(8):
        asked.append(bool(driver.control(number, IHave(0, (unknown(1),)))))
        driver.now += limits.GOSSIP_ASK_AGAIN_S / 2
    assert asked == [True, False, True, False, True, False, False, False]


@pytest.mark.clause("7.5/4")
def test_iwant_is_served_from_the_last_heartbeats_and_unknown_ids_are_ignored() -> None:
    driver = Driver(3)
    unit = vote("a")
    driver.receive(0, unit)
    assert forwarded(driver.control(0, IWant((unknown(1), unit.id)))) == {key(0): {unit.id}}
    driver.beat(limits.GOSSIP_CACHE_WINDOWS - 1)
    assert forwarded(driver.control(1, IWant((unit.id,)))) == {key(1): {unit.id}}
    driver.beat()
    assert driver.control(1, IWant((unit.id,))) == []
    assert driver.mesh.score(key(1)) == 0


@pytest.mark.clause("7.5/5", "7.7/1")
def test_broken_promises_count_once_a_heartbeat_and_many_silence_the_peer() -> None:
    driver = Driver(2)
    scores: list[float] = []
    while not scores or scores[-1] >= limits.GOSSIP_SCORE_GOSSIP:
        for number in range(5):
            driver.control(0, IHave(0, (unknown(5 * len(scores) + number),)))
        driver.beat()
        scores.append(driver.mesh.score(key(0)))
    assert 10 < len(scores) < 40
    assert scores[-1] > limits.GOSSIP_SCORE_GRAYLIST
    assert driver.control(0, IHave(0, (unknown(10**6),))) == []
    unit = vote("a")
    driver.receive(1, unit)
    assert driver.control(0, IWant((unit.id,))) == []
    assert all(peer != key(0) for peer, _ in told(driver.beat(), IHave))


def test_a_promise_is_kept_by_whoever_delivers() -> None:
    driver = Driver(2)
    unit = vote("a")
    driver.control(0, IHave(0, (unit.id,)))
    driver.receive(1, unit)
    driver.beat(5)
    assert driver.mesh.score(key(0)) == 0


@pytest.mark.clause("7.6/1")
def test_a_large_unit_is_declined_at_once_and_a_small_one_is_not() -> None:
    driver = Driver(3)
    large = proposal("large", limits.GOSSIP_IDONTWANT_BYTES_MIN)
    effects = driver.receive(0, large, verdict=None)
    assert effects[:2] == [Tell(key(1), IDontWant((large.id,))), Tell(key(2), IDontWant((large.id,)))]
    assert told(driver.receive(0, vote("small", limits.GOSSIP_IDONTWANT_BYTES_MIN - 1)), IDontWant) == []


@pytest.mark.clause("7.6/1")
def test_a_flood_of_large_units_is_declined_a_few_times_a_heartbeat_so_that_no_bound_of_others_is_passed() -> None:
    driver = Driver(2)
    size = limits.GOSSIP_IDONTWANT_BYTES_MIN
    bound = limits.GOSSIP_IDONTWANTS_PER_HEARTBEAT_MAX
    for flood in ("first", "second"):
        declined = [bool(told(driver.receive(0, transaction(f"{flood} {n}", size)), IDontWant)) for n in range(100)]
        assert declined == [True] * bound + [False] * (100 - bound)
        driver.beat()
    assert 2 * (bound + 12) <= limits.GOSSIP_CONTROLS_PER_HEARTBEAT_MAX


@pytest.mark.clause("7.6/2")
def test_what_is_not_wanted_is_not_sent_unless_asked_for_and_that_is_forgotten_in_time() -> None:
    driver = Driver(3)
    first, second = vote("first"), vote("second")
    driver.control(1, IDontWant((first.id, second.id)))
    driver.beat(limits.GOSSIP_ADVERTISED_WINDOWS)
    driver.receive(0, first)
    assert forwarded(driver.do(RelayDue())) == {key(2): {first.id}}
    assert forwarded(driver.control(1, IWant((first.id,)))) == {key(1): {first.id}}
    driver.beat(2)
    driver.receive(0, second)
    assert forwarded(driver.do(RelayDue())) == {key(1): {second.id}, key(2): {second.id}}


# -- bounds ----------------------------------------------------------------------------------------------------------


@pytest.mark.clause("7.8/2", "7.8/4")
def test_ihaves_beyond_the_bound_are_ignored_until_the_next_heartbeat_and_count() -> None:
    driver = Driver(2)
    answers = [driver.control(0, IHave(0, (unknown(number),))) for number in range(60)]
    assert [bool(answer) for answer in answers] == [True] * limits.GOSSIP_IHAVES_PER_HEARTBEAT_MAX + [False] * 50
    driver.beat()
    assert driver.control(0, IHave(0, (unknown(100),))) != []
    assert not any(isinstance(effect, Penalise) for answer in answers for effect in answer)


@pytest.mark.clause("7.8/2", "7.8/5")
def test_ids_asked_of_one_peer_are_bounded_by_heartbeat_and_in_all() -> None:
    driver = Driver(3)
    ids = tuple(unknown(number) for number in range(3000))
    size = limits.GOSSIP_IDS_MAX
    asked = 0
    for start in range(0, 3000, size):
        for effect in driver.control(0, IHave(0, ids[start : start + size])):
            assert isinstance(effect, Tell)
            assert isinstance(effect.control, IWant)
            asked += len(effect.control.ids)
    assert asked == limits.GOSSIP_IHAVE_IDS_PER_HEARTBEAT_MAX
    driver.beat()
    assert driver.control(0, IHave(0, ids[-size:])) == []  # nothing has come yet
    assert len(told(driver.control(1, IHave(0, ids[-size:])), IWant)) == 1


@pytest.mark.clause("7.8/2", "7.8/4")
def test_control_messages_beyond_the_bound_are_ignored() -> None:
    driver = Driver(2)
    driver.control(0, Prune(0, 60))
    unit = vote("a")
    driver.receive(1, unit)
    answers = [driver.control(0, IWant(())) for _ in range(limits.GOSSIP_CONTROLS_PER_HEARTBEAT_MAX)]
    assert answers == [[]] * limits.GOSSIP_CONTROLS_PER_HEARTBEAT_MAX
    assert driver.control(0, IWant((unit.id,))) == []
    driver.beat()
    assert forwarded(driver.control(0, IWant((unit.id,)))) == {key(0): {unit.id}}


@pytest.mark.clause("7.8/2")
def test_ids_wanted_beyond_the_bound_are_not_looked_up() -> None:
    driver = Driver(2)
    unit = vote("a")
    driver.receive(1, unit)
    filler = tuple(unknown(number) for number in range(limits.GOSSIP_IDS_MAX))
    for _ in range(limits.GOSSIP_IWANT_IDS_PER_HEARTBEAT_MAX // limits.GOSSIP_IDS_MAX):
        assert driver.control(0, IWant(filler)) == []
    assert driver.control(0, IWant((unit.id,))) == []
    driver.beat()
    assert forwarded(driver.control(0, IWant((unit.id,)))) == {key(0): {unit.id}}


@pytest.mark.clause("7.8/3", "7.8/4")
def test_a_unit_is_served_a_few_times_and_so_many_bytes_a_heartbeat() -> None:
    driver = Driver(3)
    unit = vote("a")
    driver.receive(1, unit)
    served = [bool(driver.control(0, IWant((unit.id,)))) for _ in range(6)]
    assert served == [True] * limits.GOSSIP_IWANT_SERVED_MAX + [False] * 3
    assert driver.control(2, IWant((unit.id,))) != []
    blocks = [proposal(f"{number}", limits.BLOCK_BYTES_MAX) for number in range(6)]
    for block in blocks:
        driver.receive(1, block)
    wanted = IWant(tuple(block.id for block in blocks))
    fit = limits.GOSSIP_IWANT_BYTES_PER_HEARTBEAT_MAX // limits.BLOCK_BYTES_MAX
    assert forwarded(driver.control(2, wanted)) == {key(2): {block.id for block in blocks[: fit - 1]}}
    driver.beat()
    assert len(forwarded(driver.control(0, wanted))[key(0)]) == fit
    assert driver.mesh.score(key(2)) == 0


@pytest.mark.clause("7.8/5")
def test_a_flood_of_valid_units_is_kept_within_number_and_bytes() -> None:
    driver = Driver(2)
    for number in range(limits.GOSSIP_CACHE_UNITS_MAX + 100):
        driver.receive(0, vote(f"{number}", 20))
    driver.do(RelayDue())
    cache = driver.mesh._state.topics[Topic.CONSENSUS].cache
    assert len(cache) == limits.GOSSIP_CACHE_UNITS_MAX
    for number in range(40):
        driver.receive(0, proposal(f"block {number}", limits.BLOCK_BYTES_MAX))
    assert cache.bytes_held <= limits.GOSSIP_CACHE_BYTES_MAX
    advertised = told(driver.beat(), IHave)
    assert sum(len(control.ids) for _, control in advertised if isinstance(control, IHave)) <= (
        limits.GOSSIP_IHAVE_IDS_PER_HEARTBEAT_MAX
    )


@pytest.mark.clause("7.8/5")
def test_what_unwanted_ids_backoffs_and_scores_take_is_bounded() -> None:
    driver = Driver(1)
    for number in range(10):
        ids = tuple(unknown(1000 * number + index) for index in range(limits.GOSSIP_IDS_MAX))
        driver.control(0, IDontWant(ids))
    state = driver.mesh._state
    assert len(state.peers[key(0)].unwanted) == limits.GOSSIP_IDONTWANT_IDS_MAX
    for number in range(1, 6000):
        driver.join(number)
        driver.control(number, Prune(0, 3600))
        driver.receive(number, vote(f"{number}"), verdict=Verdict.REJECT)
        driver.do(PeerLeft(key(number)))
    assert len(state.topics[Topic.CONSENSUS].mesh.backoffs) <= limits.GOSSIP_BACKOFFS_MAX
    assert len(state.scores) <= limits.PEER_RECORDS_MAX
    assert len(state.topics[Topic.CONSENSUS].rejected) <= limits.GOSSIP_REJECTED_MAX
