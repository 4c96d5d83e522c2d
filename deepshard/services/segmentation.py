"""How a proposed text becomes segments, the units that are judged, weighted and trained on. Pure and deterministic.

Paragraphs (separated by blank lines) are the natural units. Short neighbours share a segment, joined by one blank line;
a long one is cut into parts of about equal length at sentence ends, else between words, else within a word. A character
of a script written without spaces counts as a word.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Final

from deepshard.errors import UsageError
from deepshard.limits import SEGMENT_BYTES_MAX, SEGMENTS_MAX

TEXT_BYTES_MAX: Final = SEGMENTS_MAX * SEGMENT_BYTES_MAX
SEGMENT_WORDS_MAX: Final = 120

_SPACELESS: Final = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff"  # Thai, Lao, kana, Han
_WORD: Final = re.compile(rf"[{_SPACELESS}]|[^\s{_SPACELESS}]+")
_SENTENCE_END: Final = re.compile(
    r"[.!?\u2026]+[\"'\u201d\u2019)\]]*\s+(?![a-z])"  # not before a small letter: that was an abbreviation
    r"|[\u3002\uff01\uff1f]+[\u300d\u300f\u201d\uff09]*\s*"
)
_WORD_END: Final = re.compile(r"\s+")
_LINE_ENDS: Final = {0x0B: "\n", 0x0C: "\n\n", 0x85: "\n", 0x2028: "\n", 0x2029: "\n\n", 0xFEFF: None}


def split_segments(text: str) -> tuple[str, ...]:
    """Split `text` into trimmed, NFC-normalised segments in reading order.

    Each is at most `SEGMENT_BYTES_MAX` bytes of UTF-8 and `SEGMENT_WORDS_MAX` words; together they hold every character
    of the text but white space between them. Splitting a segment again gives that segment.

    Raises:
        UsageError: no words in it, binary, or more than `TEXT_BYTES_MAX` bytes or `SEGMENTS_MAX` segments.
    """
    segments: list[str] = []
    for paragraph in _paragraphs(_normalise(text)):
        for part, piece in enumerate(_pieces(paragraph)):
            joined = f"{segments[-1]}\n\n{piece}" if segments and part == 0 else ""
            if joined and _fits(joined):
                segments[-1] = joined
            else:
                segments.append(piece)
    if len(segments) > SEGMENTS_MAX:
        raise UsageError(
            f"the text makes {len(segments)} segments, a proposal has at most {SEGMENTS_MAX}: propose it in parts"
        )
    return tuple(segments)


def _normalise(text: str) -> str:
    # Before anything is built from the text, a cheap bound on its size: UTF-8 takes at least a byte a character.
    if len(text) > TEXT_BYTES_MAX:
        raise UsageError(_too_large(len(text)))
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n").translate(_LINE_ENDS))
    for character in text:
        if unicodedata.category(character) in {"Cc", "Cs"} and character not in "\n\t":
            raise UsageError(f"the text is binary or damaged: it holds the control character U+{ord(character):04X}")
    size = len(text.encode())
    if size > TEXT_BYTES_MAX:
        raise UsageError(_too_large(size))
    if not any(character.isalnum() for character in text):
        raise UsageError("the text is empty: it holds no words" if not text.strip() else "the text holds no words")
    return text


def _too_large(size: int) -> str:
    return f"the text is {size} bytes or more, a proposal has at most {TEXT_BYTES_MAX}: propose it in parts"


def _paragraphs(text: str) -> list[str]:
    lines = "\n".join(line.rstrip() for line in text.split("\n"))
    return [paragraph for block in re.split(r"\n{2,}", lines) if (paragraph := block.strip("\n"))]


def _pieces(paragraph: str) -> list[str]:
    """The paragraph itself if it fits, else parts of about equal length."""
    whole = paragraph.strip()
    if _fits(whole):
        return [whole]
    words = _words(whole)
    parts = max(-(-words // SEGMENT_WORDS_MAX), -(-len(whole.encode()) // SEGMENT_BYTES_MAX))
    target = -(-words // parts)
    pieces, piece, count = [], "", 0
    for atom in _atoms(whole):
        added = _words(atom)
        full = count + added > SEGMENT_WORDS_MAX or len((piece + atom).encode()) > SEGMENT_BYTES_MAX
        if piece and (full or count >= target):
            pieces.append(piece.strip())
            piece, count = "", 0
        piece, count = piece + atom, count + added
    pieces.append(piece.strip())
    return [piece for piece in pieces if piece]


def _atoms(paragraph: str) -> Iterator[str]:
    """Cut into sentences, where those don't fit into words, where those don't fit into runs of characters."""
    for sentence in _split_after(_SENTENCE_END, paragraph):
        if _fits(sentence):
            yield sentence
            continue
        for word in _split_after(_WORD_END, sentence):
            if _fits(word):
                yield word
                continue
            # A character is at most four bytes of UTF-8, and at most one word.
            run = SEGMENT_WORDS_MAX if _words(word) > SEGMENT_WORDS_MAX else SEGMENT_BYTES_MAX // 4
            yield from (word[start : start + run] for start in range(0, len(word), run))


def _split_after(end: re.Pattern[str], text: str) -> Iterator[str]:
    start = 0
    for match in end.finditer(text):
        yield text[start : match.end()]
        start = match.end()
    if start < len(text):
        yield text[start:]


def _fits(text: str) -> bool:
    return len(text.encode()) <= SEGMENT_BYTES_MAX and _words(text) <= SEGMENT_WORDS_MAX


def _words(text: str) -> int:
    return sum(1 for _ in _WORD.finditer(text))
