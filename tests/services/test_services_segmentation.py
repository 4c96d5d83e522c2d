"""Segments: bounded, normalised, complete, stable; and clear refusals."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from deepshard.errors import UsageError
from deepshard.limits import SEGMENT_BYTES_MAX, SEGMENTS_MAX
from deepshard.services.segmentation import SEGMENT_WORDS_MAX, TEXT_BYTES_MAX, split_segments

SENTENCE = "The moon turns once for each time it goes round. "
_PIECES = st.sampled_from(
    [
        "Water boils. ",
        "Is it so? ",
        "e\u0301tude",
        "\n",
        "\n\n",
        "  ",
        "\t",
        "水は百度で沸く。",
        "x" * 700,
        SENTENCE * 9,
        "🙂",
    ]
)
TEXTS = st.one_of(
    st.lists(_PIECES, max_size=40).map("".join),
    st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=300),
)


def squeezed(text: str) -> str:
    return re.sub(r"\s+", "", unicodedata.normalize("NFC", text.replace("\ufeff", "")))


@settings(max_examples=100, deadline=None)
@given(TEXTS)
def test_segments_are_bounded_trimmed_normalised_and_hold_the_whole_text(text: str) -> None:
    assume(any(character.isalnum() for character in unicodedata.normalize("NFC", text)))
    segments = split_segments(text)
    assert "".join(squeezed(segment) for segment in segments) == squeezed(text)
    for segment in segments:
        assert segment
        assert segment == segment.strip()
        assert unicodedata.is_normalized("NFC", segment)
        assert len(segment.encode()) <= SEGMENT_BYTES_MAX
        assert len(segment.split()) <= SEGMENT_WORDS_MAX
        if any(character.isalnum() for character in segment):
            assert split_segments(segment) == (segment,)


def test_short_paragraphs_share_a_segment_and_long_ones_do_not() -> None:
    long = (SENTENCE * 12).strip()  # 120 words
    assert split_segments(f"# Facts\n\nOne.\n   \n\nTwo.\r\n\r\n{long}\n") == ("# Facts\n\nOne.\n\nTwo.", long)


def test_a_long_paragraph_is_cut_evenly_at_sentence_ends() -> None:
    segments = split_segments(SENTENCE * 15)  # 150 words: two parts of 75, rounded up to whole sentences
    assert segments == ((SENTENCE * 8).strip(), (SENTENCE * 7).strip())


def test_a_full_stop_before_a_small_letter_is_no_sentence_end() -> None:
    text = "They sell apples, pears, etc. and more of it all year. " * 13  # 143 words
    assert all(segment.endswith("year.") for segment in split_segments(text))


def test_sentences_of_scripts_without_spaces_are_cut() -> None:
    sentence = "水は百度で沸く。"
    segments = split_segments(sentence * 40)
    assert len(segments) > 1
    assert "".join(segments) == sentence * 40
    assert all(segment.endswith("。") for segment in segments)


def test_a_word_longer_than_a_segment_is_cut_by_bytes() -> None:
    segments = split_segments("🙂" * 3000 + "a")
    assert [len(segment.encode()) for segment in segments] == [4096, 4096, 3809]


def test_line_breaks_inside_a_paragraph_stay() -> None:
    assert split_segments("\ufeffRoses are red,  \nviolets are blue.\u2028Sugar.") == (
        "Roses are red,\nviolets are blue.\nSugar.",
    )


def test_composed_and_decomposed_text_give_the_same_segments() -> None:
    assert split_segments("Caf\u00e9.") == split_segments("Cafe\u0301.") == ("Caf\u00e9.",)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is empty"),
        (" \n\t\u3000\ufeff\n", "is empty"),
        ("--- \u200b ***", "holds no words"),
        ("abc\x00def", r"control character U\+0000"),
        ("\x1b[31mred", r"control character U\+001B"),
        ("lone \ud800 surrogate", r"control character U\+D800"),
        ("a" * (TEXT_BYTES_MAX + 1), f"at most {TEXT_BYTES_MAX}"),
        ("é" * (TEXT_BYTES_MAX // 2 + 1), f"at most {TEXT_BYTES_MAX}"),
        ((SENTENCE * 12 + "\n\n") * (SEGMENTS_MAX + 1), f"makes {SEGMENTS_MAX + 1} segments"),
    ],
    ids=["empty", "white", "wordless", "nul", "escape", "surrogate", "characters", "bytes", "segments"],
)
def test_what_cannot_be_proposed_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        split_segments(text)


def test_the_largest_number_of_segments_is_allowed() -> None:
    assert len(split_segments((SENTENCE * 12 + "\n\n") * SEGMENTS_MAX)) == SEGMENTS_MAX
