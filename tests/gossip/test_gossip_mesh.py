"""One mesh core: every rule of chapter 7 by itself, and invariants under whatever peers may do."""

from __future__ import annotations

from random import Random

import pytest
from gossip_network import proposal, transaction, vote
from hypothesis import given, settings
from hypothesis import strategies as st

from deepshard import limits
from deepshard.gossip import Mesh, Topic, Unit, Verdict
from deepshard.gossip.events import (
    Control,
    ControlReceived,
    Effect,
    Event,
    Examine,
    Forward,
    GossipAbuse,
    Graft,
    Heartbeat,
    IDontWant,
    IHave,
    IWant,
    PeerJoined,
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
    UnitsReceived,
)

DEGREE_MAX = limits.GOSSIP_DEGREE_HIGH + limits.GOSSIP_DEGREE_OUTBOUND


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def unknown(number: int) -> bytes:
    return number.to_bytes(16, "big")


class Driver:
    """A mesh, a clock and a die."""

    def __init__(self, peers: int = 0, *, outbound: bool = False, subnet: str | None = None) -> None:
        self.mesh = Mesh()
        self.now = 0.0
        self.rng = Random(1)
        for number in range(peers):
            self.join(number, outbound=outbound, subnet=subnet)

    def do(self, event: Event) -> list[Effect]:
        return self.mesh.apply(event, self.now, self.rng)

    def join(
        self, number: int, *, is_member: bool = True, outbound: bool = False, subnet: str | None = None
    ) -> list[Effect]:
        return self.do(PeerJoined(key(number), is_member, outbound, subnet))

    def control(self, number: int, control: Control) -> list[Effect]:
        return self.do(ControlReceived(key(number), control))

    def receive(self, number: int, *units: Unit, verdict: Verdict | None = Verdict.VALID) -> list[Effect]:
        """Units of a peer, each judged at once unless `verdict` is None."""
        effects = self.do(UnitsReceived(key(number), units))
        for unit in examined(effects):
            if verdict is not None:
                effects += self.do(UnitJudged(unit.id, verdict))
        return effects

    def beat(self, times: int = 1) -> list[Effect]:
        effects: list[Effect] = []
        for _ in range(times):
            self.now += limits.GOSSIP_HEARTBEAT_S
            effects += self.do(Heartbeat())
        return effects


def examined(effects: list[Effect]) -> list[Unit]:
    return [unit for effect in effects if isinstance(effect, Examine) for unit in effect.units]


def forwarded(effects: list[Effect]) -> dict[bytes, set[bytes]]:
    """Ids of units by the peers they go to."""
    result: dict[bytes, set[bytes]] = {}
    for effect in effects:
        if isinstance(effect, Forward):
            for peer in effect.peers:
                result.setdefault(peer, set()).update(unit.id for unit in effect.units)
    return result


def told(effects: list[Effect], kind: type[Control]) -> list[tuple[bytes, Control]]:
    return [
        (effect.peer, effect.control)
        for effect in effects
        if isinstance(effect, Tell) and isinstance(effect.control, kind)
    ]


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


# -- anything at all -------------------------------------------------------------------------------------------------

UNITS = [vote(f"u{n}", 100) for n in range(6)] + [proposal("p", 20_000), transaction("t")]
IDS = [unit.id for unit in UNITS] + [unknown(number) for number in range(3)]
peers = st.integers(0, 19)
topics = st.sampled_from([0, 1, 2, 255])
ids = st.lists(st.sampled_from(IDS), max_size=6).map(tuple)
controls = st.one_of(
    st.builds(Graft, topics),
    st.builds(Prune, topics, st.integers(0, 4000)),
    st.builds(IHave, topics, ids),
    st.builds(IWant, ids),
    st.builds(IDontWant, ids),
)
steps = st.one_of(
    st.builds(
        lambda n, member, outbound, net: PeerJoined(key(n), member, outbound, net),
        peers,
        st.booleans(),
        st.booleans(),
        st.sampled_from([None, "203.0.113.0/24", "2001:db8::/64"]),
    ),
    st.builds(lambda n: PeerLeft(key(n)), peers),
    st.builds(lambda n, control: ControlReceived(key(n), control), peers, controls),
    st.builds(
        lambda n, units: UnitsReceived(key(n), tuple(units)), peers, st.lists(st.sampled_from(UNITS), max_size=5)
    ),
    st.builds(lambda unit: Published((unit,)), st.sampled_from(UNITS)),
    st.sampled_from([Heartbeat(), RelayDue(), ProgressMade()]),
)


@given(st.lists(st.tuples(steps, st.sampled_from(list(Verdict)), st.floats(0, 30)), max_size=60), st.integers(0, 99))
@settings(max_examples=300, deadline=None)
def test_whatever_happens_the_invariants_hold(script: list[tuple[Event, Verdict, float]], seed: int) -> None:
    driver = Driver()
    driver.rng = Random(seed)
    final: set[bytes] = set()
    postponed: set[bytes] = set()
    valid: set[bytes] = set()
    for event, verdict, pause_s in script:
        driver.now += pause_s
        if isinstance(event, ProgressMade):
            postponed.clear()
        if isinstance(event, Published):
            final.update(unit.id for unit in event.units)
            valid.update(unit.id for unit in event.units)
            postponed.difference_update(final)
        if isinstance(event, Heartbeat) and pause_s:
            final.clear()  # the mesh may forget in time; then it may look again
        effects = driver.do(event)
        for unit in examined(effects):
            assert unit.id not in final
            assert unit.id not in postponed
            effects += driver.do(UnitJudged(unit.id, verdict))
            (postponed if verdict is Verdict.LATER else final).add(unit.id)
            if verdict is Verdict.VALID:
                valid.add(unit.id)
        check(driver, event, effects, valid)


def check(driver: Driver, event: Event, effects: list[Effect], valid: set[bytes]) -> None:
    state = driver.mesh._state
    for peer, unit_ids in forwarded(effects).items():
        assert unit_ids <= valid
        assert state.peers[peer].is_member
        if isinstance(event, UnitsReceived):
            assert peer != event.peer
    for peer, control in told(effects, Graft) + told(effects, IHave) + told(effects, IWant) + told(effects, IDontWant):
        assert state.peers[peer].is_member
        if isinstance(control, IHave | IWant | IDontWant):
            assert 0 < len(control.ids) <= limits.GOSSIP_IDS_MAX
        if isinstance(control, IWant):
            assert not any(state.knows(unit_id) for unit_id in control.ids)
        if isinstance(control, Graft):
            assert not state.topics[Topic(control.topic)].mesh.backoffs.runs(peer, driver.now)
    for topic in Topic:
        members = driver.mesh.members(topic)
        assert len(members) <= DEGREE_MAX
        assert set(members) <= set(state.peers)
        subnets = [state.peers[peer].subnet for peer in members]
        assert all(subnets.count(net) <= limits.GOSSIP_SUBNET_MESH_MAX for net in subnets if net is not None)
    assert state.pending == {}
    assert set(state.allowances) == set(state.peers)
    assert len(state.asking) <= limits.GOSSIP_ASKED_PEERS_MAX * len(IDS)
