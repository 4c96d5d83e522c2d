"""Votes take each author's quickest paths, doubled, and find others when those fail (protocol-spec, 7.6)."""

from __future__ import annotations

import pytest
from gossip_driver import Driver, forwarded, key, told
from gossip_network import GossipNetwork, Node, proposal, transaction, vote

from deepshard import limits
from deepshard.gossip import Topic, Unit
from deepshard.gossip.events import (
    Effect,
    Forward,
    Graft,
    IDontWant,
    IHave,
    IWant,
    PeerLeft,
    ProgressMade,
    Prune,
    Published,
    RelayDue,
    Tell,
)

AUTHOR, OTHER = key(100), key(101)


def relayed(driver: Driver, unit: Unit, author: bytes = AUTHOR) -> set[bytes]:
    """To whom a vote is passed on that comes from peer 0."""
    driver.receive(0, unit, author=author)
    return set(forwarded(driver.do(RelayDue())))


def spared(driver: Driver) -> Driver:
    """Peer 1 has said that votes of AUTHOR come to it sooner from others."""
    unit = vote("first")
    assert relayed(driver, unit) == {key(1), key(2)}
    assert driver.control(1, IDontWant((unit.id,))) == []
    return driver


# -- what we say -----------------------------------------------------------------------------------------------------


def copies(driver: Driver, unit: Unit, *peers: int) -> list[Effect]:
    return [effect for number in peers for effect in driver.receive(number, unit, author=AUTHOR)]


@pytest.mark.clause("7.6/3")
def test_who_sends_more_copies_than_are_welcome_is_told_so_once_in_two_heartbeats() -> None:
    driver = Driver(6)
    first, second, third = vote("1"), vote("2"), vote("3")
    assert told(copies(driver, first, 0, 1), IDontWant) == []
    assert told(copies(driver, first, 2, 3), IDontWant) == [
        (key(2), IDontWant((first.id,))),
        (key(3), IDontWant((first.id,))),
    ]
    assert told(copies(driver, second, 2, 4, 3, 5), IDontWant) == [(key(5), IDontWant((second.id,)))]
    driver.beat(2)
    assert told(copies(driver, third, 0, 1, 2), IDontWant) == [(key(2), IDontWant((third.id,)))]


@pytest.mark.clause("7.6/3")
def test_no_unit_is_declined_late_but_a_vote_with_a_known_author_from_a_peer_of_the_mesh() -> None:
    driver = Driver(5)
    driver.control(3, Prune(Topic.CONSENSUS, 60))
    for unit in (transaction("t"), vote("nobody's")):
        assert told([e for number in range(5) for e in driver.receive(number, unit)], IDontWant) == []
    block = proposal("block", 1000)
    assert told(copies(driver, block, 0, 1, 2, 3, 4), IDontWant) == []
    assert [peer for peer, _ in told(copies(driver, vote("v"), 0, 1, 2, 3, 4), IDontWant)] == [key(2), key(4)]


@pytest.mark.clause("7.6/3")
def test_what_a_peer_sends_again_is_no_further_copy() -> None:
    driver = Driver(4)
    unit = vote("v")
    # Consensus repeats its votes when nothing moves: that must not cut the paths they came by.
    assert told(copies(driver, unit, 0, 1, 0, 1, 0, 1), IDontWant) == []
    assert told(copies(driver, unit, 2), IDontWant) == [(key(2), IDontWant((unit.id,)))]


def test_copies_of_one_message_are_declined_in_one() -> None:
    driver = Driver(3)
    units = [vote(str(number)) for number in range(4)]
    authors = [key(200 + number) for number in range(4)]
    for unit, author in zip(units, authors, strict=True):
        driver.receive(0, unit, author=author)
        driver.receive(1, unit, author=author)
    assert told(driver.receive(2, *units), IDontWant) == [(key(2), IDontWant(tuple(unit.id for unit in units)))]


# -- what we are told ------------------------------------------------------------------------------------------------


@pytest.mark.clause("7.6/4")
def test_a_peer_is_spared_the_votes_of_one_author_and_nothing_else() -> None:
    driver = spared(Driver(3))
    assert relayed(driver, vote("second")) == {key(2)}
    assert relayed(driver, vote("of another"), OTHER) == {key(1), key(2)}
    own = vote("our own")
    assert set(forwarded(driver.do(Published((own,))))) == {key(0), key(1), key(2)}


@pytest.mark.clause("7.6/4")
def test_a_vote_that_was_not_sent_and_is_not_wanted_spares_nobody_the_next() -> None:
    driver = Driver(3)
    unit = vote("first")
    driver.receive(0, unit, author=AUTHOR)
    driver.control(1, IDontWant((unit.id,)))
    assert set(forwarded(driver.do(RelayDue()))) == {key(2)}
    assert relayed(driver, vote("second")) == {key(1), key(2)}


@pytest.mark.clause("7.6/4", "7.5/1")
def test_what_a_peer_is_spared_is_advertised_to_it_first_and_asking_for_it_ends_that() -> None:
    driver = Driver(12)
    first, second = vote("first"), vote("second")
    assert key(1) in relayed(driver, first)
    driver.control(1, IDontWant((first.id,)))
    assert key(1) not in relayed(driver, second)
    assert (key(1), IHave(Topic.CONSENSUS, (second.id,))) in told(driver.beat(), IHave)
    assert forwarded(driver.control(1, IWant((second.id,)))) == {key(1): {second.id}}
    assert key(1) in relayed(driver, vote("third"))


@pytest.mark.clause("7.6/4")
def test_sparing_ends_in_time_and_when_a_peer_comes_into_the_mesh_anew() -> None:
    driver = spared(Driver(3))
    driver.beat(limits.GOSSIP_SPARED_HEARTBEATS - 1)
    assert relayed(driver, vote("still")) == {key(2)}
    driver.beat()
    assert relayed(driver, vote("again")) == {key(1), key(2)}
    driver = spared(Driver(3))
    driver.control(1, Prune(Topic.CONSENSUS, 0))
    driver.now += 10
    driver.control(1, Graft(Topic.CONSENSUS))
    assert relayed(driver, vote("anew")) == {key(1), key(2)}
    driver = spared(Driver(3))
    driver.do(PeerLeft(key(1)))
    driver.join(1)
    assert relayed(driver, vote("linked anew")) == {key(1), key(2)}


@pytest.mark.clause("7.6/4")
def test_authors_that_a_peer_is_spared_are_bounded() -> None:
    driver = Driver(3)
    for number in range(limits.GOSSIP_SPARED_MAX + 1):
        unit = vote(f"of {number}")
        assert relayed(driver, unit, key(1000 + number)) == {key(1), key(2)}
        driver.control(1, IDontWant((unit.id,)))
        if number % 50 == 49:
            driver.beat()
    assert relayed(driver, vote("the first again"), key(1000)) == {key(1), key(2)}
    assert relayed(driver, vote("the second again"), key(1001)) == {key(2)}


@pytest.mark.clause("7.5/1")
def test_votes_of_a_decided_height_are_served_and_not_advertised() -> None:
    driver = Driver(3)
    old, waiting, new = vote("old"), transaction("t"), vote("new")
    driver.receive(0, old, waiting)
    driver.do(ProgressMade(decided=False))
    driver.do(ProgressMade(decided=True))
    driver.receive(0, new)
    advertised = {control for _, control in told(driver.beat(), IHave)}
    assert advertised == {IHave(Topic.CONSENSUS, (new.id,)), IHave(Topic.TRANSACTIONS, (waiting.id,))}
    assert forwarded(driver.control(1, IWant((old.id,)))) == {key(1): {old.id}}


# -- whole networks --------------------------------------------------------------------------------------------------

VOTE_BYTES = 170


class Counted(GossipNetwork):
    """Counts what travels of consensus, in bytes of bodies."""

    def __init__(self, *, seed: int, latency_s: tuple[float, float]) -> None:
        super().__init__(seed=seed, latency_s=latency_s)
        self.bytes = 0

    def _perform(self, node: Node, effect: Effect) -> None:
        match effect:
            case Forward(peers=peers, units=units):
                self.bytes += len(peers) * sum(unit.size + 2 for unit in units)
            case Tell(control=IHave(ids=ids) | IWant(ids=ids) | IDontWant(ids=ids)):
                self.bytes += 4 + 18 * len(ids)
            case _:
                pass
        super()._perform(node, effect)


def step(network: GossipNetwork, voters: list[Node], name: str) -> list[Unit]:
    """Everybody votes within a tenth of a second; half a second later the next step begins."""
    units = []
    for index, node in enumerate(voters):
        unit = vote(f"{name} {index}", VOTE_BYTES)
        units.append(unit)
        network.later(0.1 * network.rng.random(), lambda node=node, unit=unit: network.publish(node, unit))  # type: ignore[misc]
    network.run(0.5)
    return units


def height(network: GossipNetwork, voters: list[Node], name: str) -> list[Unit]:
    units = [unit for kind in ("prevote", "precommit") for unit in step(network, voters, f"{name} {kind}")]
    for node in network.nodes:
        network.apply(node, ProgressMade(decided=True))
    return units


@pytest.mark.parametrize("dials", [4, 10, None])
@pytest.mark.parametrize("latency_s", [(0.005, 0.02), (0.05, 0.15)])
def test_fifty_validators_vote_in_two_and_a_half_times_the_bytes_of_each_vote_once(
    dials: int | None, latency_s: tuple[float, float]
) -> None:
    network = Counted(seed=3, latency_s=latency_s)
    nodes = network.add(50)
    if dials is None:
        network.connect_all(nodes)
    else:
        network.connect_randomly(nodes, dials)
    network.run(5)
    unlearned = height(network, nodes, "first")
    for number in range(3):
        height(network, nodes, f"learning {number}")
    before, heights = network.bytes, 3
    units = [unit for number in range(heights) for unit in height(network, nodes, f"learned {number}")]
    network.run(0.5)
    assert network.missing(units) == 0
    assert network.copies_of(units) < limits.GOSSIP_VOTE_COPIES + 0.2 < network.copies_of(unlearned)
    assert (network.bytes - before) / (heights * 2 * 50 * 49 * VOTE_BYTES) < 2.5
    assert [node.penalised for node in nodes] == [[]] * 50


def test_nodes_that_die_take_nobodys_votes_along_for_longer_than_a_heartbeat_or_two() -> None:
    network = GossipNetwork(seed=9)
    nodes = network.add(50)
    network.connect_randomly(nodes, 6)
    network.run(5)
    for number in range(4):
        height(network, nodes, f"learning {number}")
    dead, living = nodes[:8], nodes[8:]
    for node in dead:
        node.silent = True
    units = step(network, living, "first after")
    assert 0 < network.missing(units, living) < len(units) * len(living) * 0.05
    network.run(2)
    assert network.missing(units, living) == 0
    for number in range(4):
        units = step(network, living, f"later {number}")
    network.run(0.3)
    assert network.missing(units, living) == 0
    assert all(node.mesh.score(other.key) >= 0 for node in living for other in living)
