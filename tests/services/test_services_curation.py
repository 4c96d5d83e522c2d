"""A curator's automatic opinion: what moves it, and in which direction."""

import pytest

from deepshard.services.curation import Measurement, axis_scores, duplicate_share, shingles, verdict

PROSE = (
    "The harbour was dredged in 1884 so that larger ships could enter at low tide. Engineers measured the depth every "
    "spring and recorded it in a ledger that is still kept in the town archive."
)
SOUND = Measurement(tokens=60, log_prob=-3.0, conditional_curvature=-0.5, perturbation_curvature=0.6)
NOISE = Measurement(tokens=60, log_prob=-7.0, conditional_curvature=-12.0, perturbation_curvature=0.0)
PREDICTED = Measurement(tokens=60, log_prob=-0.1, conditional_curvature=3.0, perturbation_curvature=1.5)


def test_sound_prose_is_accepted_and_noise_is_not() -> None:
    assert verdict([axis_scores(PROSE, SOUND, [])])
    assert not verdict([axis_scores("xq zv wkpf jj qqz " * 8, NOISE, [])])


def test_the_same_words_read_as_noise_by_the_model_are_rejected() -> None:
    assert not verdict([axis_scores(PROSE, NOISE, [])])


def test_text_the_model_already_predicts_is_not_novel() -> None:
    assert axis_scores(PROSE, PREDICTED, [])[0] < 1_000 < axis_scores(PROSE, SOUND, [])[0]


def test_a_duplicate_of_accepted_text_is_not_novel() -> None:
    assert axis_scores(PROSE, SOUND, [shingles(PROSE)])[0] == 0
    assert not verdict([axis_scores(PROSE, SOUND, [shingles(PROSE)])])


def test_repetition_is_rejected() -> None:
    assert not verdict([axis_scores("great deal today " * 20, SOUND, [])])


def test_shouting_lowers_objectivity_only_so_far() -> None:
    loud = PROSE.replace(".", "!!!") + " I love it, the best ever, buy now!!!"
    calm, shouted = axis_scores(PROSE, SOUND, []), axis_scores(loud, SOUND, [])
    assert shouted[4] < calm[4] - 2_000
    assert shouted[3] < calm[3]


def test_scores_are_basis_points() -> None:
    for measured in (SOUND, NOISE, PREDICTED):
        for text in (PROSE, "", "!!!", "a"):
            assert all(0 <= score <= 10_000 for score in axis_scores(text, measured, []))


@pytest.mark.parametrize(("text", "share"), [(PROSE, 1.0), ("entirely different words stand in this short text", 0.0)])
def test_duplicate_share(text: str, share: float) -> None:
    assert duplicate_share(text, [shingles(PROSE)]) == share
