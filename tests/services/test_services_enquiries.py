"""How long an answer is waited for: fixed, or growing with what a peer's answers take."""

from __future__ import annotations

from itertools import count

import pytest

from deepshard.services.enquiries import Enquiries

PEER, OTHER = b"peer", b"other"


def due_after(enquiries: Enquiries[str], peer: bytes, now: float) -> float:
    """How long after `now` an answer of this peer would be late, to a quarter of a second."""
    enquiries.begin(peer, "probe", now)
    ticks = (now + quarter / 4 for quarter in range(1, 1000))
    return next(at for at in ticks if enquiries.expire(at)) - now


def test_patience_doubles_while_a_peer_is_late_and_is_that_of_each_peer() -> None:
    enquiries: Enquiries[str] = Enquiries(count(), patience_s=4.0, per_peer=2, patience_max_s=20.0)
    assert [due_after(enquiries, PEER, at) for at in (0.0, 100.0, 200.0, 300.0)] == [4.0, 8.0, 16.0, 20.0]
    assert due_after(enquiries, OTHER, 400.0) == 4.0


@pytest.mark.parametrize(("took", "patience"), [(0.5, 4.0), (3.0, 6.0), (9.0, 18.0), (15.0, 20.0)])
def test_an_answer_sets_patience_to_twice_its_time_within_the_bounds(took: float, patience: float) -> None:
    enquiries: Enquiries[str] = Enquiries(count(), patience_s=4.0, per_peer=2, patience_max_s=20.0)
    assert enquiries.end(PEER, enquiries.begin(PEER, "subject", 10.0), 10.0 + took) == "subject"
    assert due_after(enquiries, PEER, 100.0) == patience


def test_patience_does_not_grow_unless_it_may() -> None:
    enquiries: Enquiries[str] = Enquiries(count(), patience_s=4.0, per_peer=2)
    assert [due_after(enquiries, PEER, at) for at in (0.0, 100.0)] == [4.0, 4.0]


def test_who_comes_back_is_met_with_the_first_patience() -> None:
    enquiries: Enquiries[str] = Enquiries(count(), patience_s=4.0, per_peer=2, patience_max_s=20.0)
    due_after(enquiries, PEER, 0.0)
    enquiries.forget(PEER)
    assert due_after(enquiries, PEER, 100.0) == 4.0
