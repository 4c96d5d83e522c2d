from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepshard.errors import BadSignature, RemoteError
from deepshard.gossip import PeerScores, Rate, RateLimiter, SeenCache
from deepshard.limits import PEER_BAN_S, PEER_SCORE_BAN, PEER_SCORE_DECAY_PER_S


class Fault(RemoteError):
    penalty = 30


class Harmless(RemoteError):
    penalty = 0


@given(st.lists(st.integers(0, 30).map(lambda number: bytes([number])), max_size=200), st.integers(2, 20))
@settings(max_examples=80)
def test_the_cache_is_bounded_and_remembers_the_latest_half(digests: list[bytes], entries_max: int) -> None:
    cache = SeenCache(entries_max)
    fresh: list[bytes] = []
    for digest in digests:
        known = digest in cache
        assert cache.add(digest) is not known
        if not known:
            fresh.append(digest)
        assert len(cache) <= entries_max
        assert all(recent in cache for recent in fresh[-(entries_max // 2) :])


def test_the_cache_forgets_the_elder_generation() -> None:
    cache = SeenCache(4)
    assert [cache.add(digest) for digest in (b"a", b"b", b"a", b"c", b"d", b"e", b"a")] == [
        True,
        True,
        False,
        True,
        True,
        True,
        True,
    ]


def test_penalties_add_up_to_a_ban_that_ends_with_a_clean_sheet() -> None:
    scores = PeerScores()
    assert [scores.penalise(b"p", Fault(), 0.0) for _ in range(4)] == [False, False, False, True]
    assert scores.is_banned(b"p", PEER_BAN_S - 0.1)
    assert scores.penalise(b"p", Fault(), 10.0)
    assert not scores.is_banned(b"p", PEER_BAN_S)
    assert scores.points(b"p", PEER_BAN_S) == 0
    assert not scores.penalise(b"p", Fault(), PEER_BAN_S)
    assert not scores.is_banned(b"q", 0.0)


def test_time_takes_points_away() -> None:
    scores = PeerScores()
    scores.penalise(b"p", Fault(), 0.0)
    assert scores.points(b"p", 50.0) == 30 - 50 * PEER_SCORE_DECAY_PER_S
    assert scores.points(b"p", 1000.0) == 0
    for step in range(20):
        assert not scores.penalise(b"p", Fault(), 1000.0 + 150 * step)


@pytest.mark.clause("13.2/4")
def test_one_bad_signature_bans_and_a_fault_of_the_network_costs_nothing() -> None:
    scores = PeerScores()
    assert BadSignature.penalty >= PEER_SCORE_BAN
    assert scores.penalise(b"p", BadSignature("vote"), 0.0)
    assert not scores.penalise(b"q", Harmless(), 0.0)
    assert len(scores) == 1


def test_records_are_bounded_and_bans_are_forgotten_last() -> None:
    scores = PeerScores(records_max=3)
    scores.penalise(b"banned", BadSignature("vote"), 0.0)
    for number in range(50):
        scores.penalise(bytes([number]), Fault(), 1.0)
        assert len(scores) <= 3
    assert scores.is_banned(b"banned", 2.0)


@pytest.mark.clause("6.1/7")
def test_a_bucket_lets_a_burst_through_and_then_slows_to_its_rate() -> None:
    limiter = RateLimiter({1: Rate(per_s=10, burst=5)}, now=0.0)
    assert [limiter.spend(1, 0.0) for _ in range(7)] == [0, 0, 0, 0, 0, 0.1, 0.2]
    assert limiter.spend(1, 0.7) == 0
    assert limiter.spend(1, 100.0) == 0


def test_kinds_have_buckets_of_their_own_and_the_others_share_one() -> None:
    limiter = RateLimiter({1: Rate(per_s=1, burst=1)}, other=Rate(per_s=1, burst=2), now=0.0)
    assert [limiter.spend(kind, 0.0) for kind in (1, 7, 8)] == [0, 0, 0]
    assert [limiter.spend(kind, 0.0) for kind in (9, 1)] == [1, 1]
