"""One mesh core: invariants under whatever peers may do."""

from __future__ import annotations

from random import Random

from gossip_driver import DEGREE_MAX, Driver, examined, forwarded, key, told, unknown
from gossip_network import proposal, transaction, vote
from hypothesis import given, settings
from hypothesis import strategies as st

from deepshard import limits
from deepshard.gossip import Topic, Verdict
from deepshard.gossip.events import (
    ControlReceived,
    Effect,
    Event,
    Graft,
    Heartbeat,
    IDontWant,
    IHave,
    IWant,
    PeerJoined,
    PeerLeft,
    ProgressMade,
    Prune,
    Published,
    RelayDue,
    UnitJudged,
    UnitsReceived,
)

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
