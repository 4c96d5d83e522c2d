"""One mesh core: units, and who is in the mesh (protocol-spec, 7.2 to 7.4)."""

from __future__ import annotations

import pytest
from gossip_driver import DEGREE_MAX, Driver, examined, forwarded, key, told, unknown
from gossip_network import proposal, transaction, vote

from deepshard import limits
from deepshard.gossip import Topic, Verdict
from deepshard.gossip.events import (
    Control,
    Forward,
    GossipAbuse,
    Graft,
    IDontWant,
    IHave,
    IWant,
    PeerLeft,
    Penalise,
    ProgressMade,
    Prune,
    Published,
    RejectedUnit,
    RelayDue,
    ScheduleRelay,
    Tell,
    UnitJudged,
)

# -- units -----------------------------------------------------------------------------------------------------------


@pytest.mark.clause("7.2/1", "7.2/5")
def test_a_unit_is_examined_once_and_repeats_cost_nobody_anything() -> None:
    driver = Driver(3)
    unit = vote("a")
    assert examined(driver.receive(0, unit, unit)) == [unit]
    for number in (0, 1, 2):
        assert driver.receive(number, unit) == []
    assert driver.mesh.score(key(0)) > 0
    assert driver.mesh.score(key(1)) == 0


@pytest.mark.clause("7.3/2", "7.3/3", "7.3/4")
def test_a_valid_unit_goes_to_the_mesh_but_not_to_who_has_shown_or_signed_it() -> None:
    driver = Driver(6)
    unit = vote("a")
    effects = driver.receive(0, unit, verdict=None)
    assert forwarded(effects) == {}
    driver.receive(1, unit, verdict=None)
    driver.control(2, IHave(Topic.CONSENSUS, (unit.id,)))
    driver.control(3, IDontWant((unit.id,)))
    assert driver.do(UnitJudged(unit.id, Verdict.VALID, author=key(4))) == [ScheduleRelay()]
    assert forwarded(driver.do(RelayDue())) == {key(5): {unit.id}}
    assert forwarded(driver.do(RelayDue())) == {}


def test_units_that_come_close_together_share_messages_and_one_pause() -> None:
    driver = Driver(4)
    units = [vote(str(number)) for number in range(3)]
    effects = [effect for unit in units for effect in driver.receive(0, unit)]
    assert effects.count(ScheduleRelay()) == 1
    (sent,) = driver.do(RelayDue())
    assert sent == Forward((key(1), key(2), key(3)), tuple(units))


def test_a_proposal_is_not_held_back() -> None:
    driver = Driver(3)
    unit = proposal("block", 1000)
    assert forwarded(driver.receive(0, unit)) == {key(1): {unit.id}, key(2): {unit.id}}


@pytest.mark.clause("7.2/2", "7.2/3", "7.2/5", "7.3/4")
@pytest.mark.parametrize("verdict", [Verdict.IGNORE, Verdict.LATER, Verdict.REJECT])
def test_what_is_not_valid_is_neither_passed_on_nor_advertised_nor_served(verdict: Verdict) -> None:
    driver = Driver(3)
    unit = vote("a")
    effects = driver.receive(0, unit, verdict=verdict)
    effects += driver.do(RelayDue()) + driver.control(1, IWant((unit.id,))) + driver.beat(3)
    assert forwarded(effects) == {}
    assert told(effects, IHave) == []
    assert (driver.mesh.score(key(0)) < 0) == (verdict is Verdict.REJECT)


@pytest.mark.clause("7.2/3")
def test_what_was_for_later_is_judged_anew_after_the_next_block_and_the_rest_is_not() -> None:
    driver = Driver(2)
    later, ignored = vote("later"), vote("ignored")
    driver.receive(0, later, verdict=Verdict.LATER)
    driver.receive(0, ignored, verdict=Verdict.IGNORE)
    assert examined(driver.receive(1, later, ignored)) == []
    driver.do(ProgressMade())
    assert examined(driver.receive(1, later, ignored)) == [later]


@pytest.mark.clause("7.2/4")
def test_a_rejected_unit_costs_everybody_who_sends_it_without_another_look() -> None:
    driver = Driver(2)
    unit = vote("forged")
    driver.receive(0, unit, verdict=Verdict.REJECT)
    (effect,) = driver.receive(1, unit)
    assert isinstance(effect, Penalise)
    assert effect.peer == key(1)
    assert isinstance(effect.error, RejectedUnit)
    assert driver.mesh.score(key(0)) == driver.mesh.score(key(1)) == -20


@pytest.mark.clause("7.2/7")
def test_a_unit_counts_as_seen_for_a_minute_and_not_for_ever() -> None:
    driver = Driver(2)
    unit = vote("a")
    driver.receive(0, unit)
    driver.beat(int(limits.GOSSIP_SEEN_S / 2))
    assert examined(driver.receive(1, unit)) == []
    driver.beat(int(limits.GOSSIP_SEEN_S))
    assert examined(driver.receive(1, unit)) == [unit]


@pytest.mark.clause("7.3/1")
def test_own_small_units_go_to_every_member_and_large_ones_to_the_mesh() -> None:
    driver = Driver(30)
    driver.join(30, is_member=False)
    small, large = vote("small"), proposal("large", limits.GOSSIP_FLOOD_BYTES_MAX + 1)
    assert set(forwarded(driver.do(Published((small,))))) == {key(number) for number in range(30)}
    assert set(forwarded(driver.do(Published((large,))))) == set(driver.mesh.members(Topic.CONSENSUS))
    assert len(driver.mesh.members(Topic.CONSENSUS)) <= limits.GOSSIP_DEGREE_HIGH


def test_an_own_unit_published_again_goes_to_all_who_have_not_shown_to_have_it() -> None:
    driver = Driver(3)
    unit = transaction("mine")
    driver.do(Published((unit,)))
    driver.receive(1, unit)
    assert set(forwarded(driver.do(Published((unit,))))) == {key(0), key(2)}


# -- the mesh --------------------------------------------------------------------------------------------------------


@pytest.mark.clause("7.4/2")
def test_up_to_the_high_bound_every_member_is_grafted_when_its_link_is_up() -> None:
    driver = Driver()
    for number in range(limits.GOSSIP_DEGREE_HIGH):
        assert driver.join(number) == [Tell(key(number), Graft(topic)) for topic in Topic]
    assert len(driver.mesh.members(Topic.CONSENSUS)) == limits.GOSSIP_DEGREE_HIGH


@pytest.mark.clause("7.4/1")
def test_graft_is_accepted_in_silence() -> None:
    driver = Driver(20)
    assert driver.join(20) == []
    assert key(20) not in driver.mesh.members(Topic.CONSENSUS)
    for _ in range(2):
        assert driver.control(20, Graft(Topic.CONSENSUS)) == []
        assert key(20) in driver.mesh.members(Topic.CONSENSUS)


@pytest.mark.clause("7.1/4", "7.1/3")
def test_who_is_no_member_is_pruned_told_nothing_and_heard_as_an_author() -> None:
    driver = Driver(2)
    assert driver.join(9, is_member=False) == []
    assert driver.control(9, Graft(Topic.CONSENSUS)) == [Tell(key(9), Prune(0, limits.GOSSIP_BACKOFF_S))]
    unit = transaction("light")
    driver.control(0, IHave(Topic.TRANSACTIONS, (unknown(1),)))
    for control in (IHave(1, (unknown(2),)), IWant((unit.id,)), IDontWant((unit.id,)), Prune(0, 5), Graft(77)):
        assert driver.control(9, control) == []
    assert examined(driver.receive(9, unit)) == [unit]
    effects = driver.do(RelayDue()) + driver.beat(3)
    assert forwarded(effects) == {key(0): {unit.id}, key(1): {unit.id}}
    assert all(peer != key(9) for peer, _ in told(effects, IHave))


@pytest.mark.clause("7.1/5")
@pytest.mark.parametrize("control", [Graft(200), Prune(200, 5), IHave(200, (unknown(1),))])
def test_unknown_topics_are_ignored(control: Control) -> None:
    driver = Driver(2)
    assert driver.control(0, control) == []
    assert driver.mesh.score(key(0)) == 0


@pytest.mark.clause("7.4/4", "7.4/5")
def test_after_prune_the_peer_is_out_and_not_grafted_before_the_backoff_is_over() -> None:
    driver = Driver(2)
    driver.control(0, Prune(Topic.CONSENSUS, 30))
    assert driver.mesh.members(Topic.CONSENSUS) == (key(1),)
    assert key(0) in driver.mesh.members(Topic.TRANSACTIONS)
    assert told(driver.beat(30), Graft) == []
    assert told(driver.beat(2), Graft) == [(key(0), Graft(Topic.CONSENSUS))]


@pytest.mark.clause("7.4/5")
def test_a_backoff_outlives_the_link_and_is_never_longer_than_an_hour() -> None:
    driver = Driver(2)
    driver.control(0, Prune(Topic.CONSENSUS, 10**6))
    driver.do(PeerLeft(key(0)))
    assert driver.join(0) == [Tell(key(0), Graft(Topic.TRANSACTIONS))]
    driver.now += limits.GOSSIP_BACKOFF_S_MAX + 1
    assert told(driver.beat(), Graft) == [(key(0), Graft(Topic.CONSENSUS))]


@pytest.mark.clause("7.4/6", "7.4/5")
def test_graft_during_the_backoff_is_pruned_begins_it_anew_and_counts() -> None:
    driver = Driver(2)
    driver.control(0, Prune(Topic.CONSENSUS, 10))
    driver.now += 9
    assert driver.control(0, Graft(Topic.CONSENSUS)) == [Tell(key(0), Prune(0, limits.GOSSIP_BACKOFF_S))]
    driver.now += limits.GOSSIP_BACKOFF_S - 1
    assert driver.control(0, Graft(Topic.CONSENSUS)) == [Tell(key(0), Prune(0, limits.GOSSIP_BACKOFF_S))]
    driver.now += limits.GOSSIP_BACKOFF_S + 1
    assert driver.control(0, Graft(Topic.CONSENSUS)) == []
    assert key(0) in driver.mesh.members(Topic.CONSENSUS)
    assert driver.mesh.score(key(0)) == 0  # a few are free: messages cross


@pytest.mark.clause("7.4/6", "7.7/1")
def test_who_keeps_grafting_during_backoffs_is_put_out_of_every_mesh_then_gray_then_penalised() -> None:
    driver = Driver(3)
    driver.control(0, Prune(Topic.CONSENSUS, 60))
    for _ in range(13):
        driver.control(0, Graft(Topic.CONSENSUS))
    assert driver.mesh.score(key(0)) < limits.GOSSIP_SCORE_GRAYLIST
    assert driver.control(0, Graft(Topic.CONSENSUS)) == []
    assert driver.receive(0, vote("gray")) == []
    effects = driver.beat()
    assert [peer for peer, _ in told(effects, Prune)] == [key(0)]
    assert [(e.peer, type(e.error)) for e in effects if isinstance(e, Penalise)] == [(key(0), GossipAbuse)]
    assert key(0) not in {*driver.mesh.members(Topic.CONSENSUS), *driver.mesh.members(Topic.TRANSACTIONS)}
    driver.do(PeerLeft(key(0)))
    assert driver.join(0) == []  # nothing is forgotten by dialling again
    driver.beat(60)
    assert driver.mesh.score(key(0)) == 0


@pytest.mark.clause("7.4/6", "7.4/7")
def test_a_full_mesh_prunes_unless_a_peer_that_we_dialled_is_missing() -> None:
    driver = Driver(20)
    accepted = [n for n in range(20) if not driver.control(n, Graft(Topic.CONSENSUS))]
    assert len(accepted) == len(driver.mesh.members(Topic.CONSENSUS)) == limits.GOSSIP_DEGREE_HIGH
    for number in range(20, 24):
        driver.join(number, outbound=True)
    answers = [driver.control(number, Graft(Topic.CONSENSUS)) for number in range(20, 24)]
    assert len(driver.mesh.members(Topic.CONSENSUS)) <= DEGREE_MAX
    assert any(told(answer, Prune) for answer in answers)


@pytest.mark.clause("7.4/3")
def test_a_heartbeat_cuts_a_mesh_that_is_too_large_and_keeps_the_best_and_those_dialled() -> None:
    driver = Driver(30)
    for number in (40, 41):
        driver.join(number, outbound=True)
    for number in [*range(30), 40, 41]:
        driver.control(number, Graft(Topic.CONSENSUS))
    members = driver.mesh.members(Topic.CONSENSUS)
    assert len(members) == DEGREE_MAX
    best = [int.from_bytes(member, "big") for member in members[:3]]
    for number in best:
        driver.receive(number, vote(f"from {number}"))
    driver.beat()
    left = driver.mesh.members(Topic.CONSENSUS)
    assert len(left) == limits.GOSSIP_DEGREE
    assert {key(number) for number in best} <= set(left)
    assert {key(40), key(41)} <= set(left)


@pytest.mark.clause("7.4/3")
def test_a_mesh_that_nobody_was_dialled_for_gets_outbound_peers_at_the_heartbeat() -> None:
    driver = Driver(20)
    for number in range(20):
        driver.control(number, Graft(Topic.CONSENSUS))
    for number in range(40, 44):
        driver.join(number, outbound=True)
    driver.beat()
    members = driver.mesh.members(Topic.CONSENSUS)
    assert sum(key(number) in members for number in range(40, 44)) >= limits.GOSSIP_DEGREE_OUTBOUND


@pytest.mark.clause("7.4/8")
def test_a_subnet_gets_a_few_places_and_addresses_that_are_not_counted_any_number() -> None:
    for subnet, expected in (("203.0.113.0/24", limits.GOSSIP_SUBNET_MESH_MAX), (None, limits.GOSSIP_DEGREE_HIGH)):
        driver = Driver(limits.GOSSIP_DEGREE_HIGH, subnet=subnet)
        answers = [driver.control(number, Graft(0)) for number in range(limits.GOSSIP_DEGREE_HIGH)]
        assert len(driver.mesh.members(Topic.CONSENSUS)) == expected
        assert sum(bool(told(answer, Prune)) for answer in answers) == limits.GOSSIP_DEGREE_HIGH - expected


@pytest.mark.clause("7.4/9")
def test_now_and_then_better_peers_replace_a_mesh_that_delivers_nothing() -> None:
    driver = Driver(30)
    for number in range(30):
        driver.control(number, Graft(Topic.CONSENSUS))
    idle = set(driver.mesh.members(Topic.CONSENSUS))
    useful = [number for number in range(30) if key(number) not in idle][:2]
    for beat in range(120):
        for number in useful:
            driver.receive(number, vote(f"{beat}/{number}"))
        driver.beat()
    assert {key(number) for number in useful} <= set(driver.mesh.members(Topic.CONSENSUS))
