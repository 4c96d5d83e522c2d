"""Hidden states of a text and its variants in one pass of a transformers model, packed instead of padded.

All rows of a pack lie one after the other in a batch of one. Only attention looks across rows, and it is replaced, by
the library's own interface, with one that gathers each sequence's rows; everything else of the model runs as it is.
Variants begin like the text: rows of such a prefix are computed once, as the trunk, as far as that saves rows.

What is packed together is decided by a probe alone (a text and its variants), and a pack holds nothing else: so a
probe's hidden states are the same bytes whatever is scored beside it. Packs are worked off in lanes of one thread each.

A model qualifies if its packed states agree with its own on a trial. Others (recurrent ones, for instance) get batches
of sequences of equal length.

Shape suffixes: N rows of a pack, S sequences, T positions, A attention heads, D width of a head, H hidden width.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

import torch
from torch import Tensor
from transformers import AttentionInterface

from kernels.cpu_exact_products import exact_linears

Numbers = tuple[int, ...]

PACK_ROWS_MAX: Final = 2048
"""Rows of a pack, unless one sequence has more. More of them leave the cache, and products of fewer are slower."""
ATTENTION: Final = "deepshard_packed"
CANNOT_PACK: Final = (TypeError, ValueError, RuntimeError, AttributeError, KeyError, ImportError)
"""What a model raises that doesn't take the packed attention."""
_TRIAL_TOLERANCE: Final = 1e-3
_here = threading.local()


@dataclass(frozen=True, slots=True)
class Segment:
    """Sequences of one length: their rows, which of these are theirs alone, and where those are in the flat table."""

    rows_ST: Tensor  # noqa: N815  # a shape suffix
    own_rows: Tensor
    own_places: Tensor


@dataclass(frozen=True, slots=True)
class Pack:
    """Tokens of all rows with their positions, and where each sequence's rows are."""

    tokens_N: Tensor  # noqa: N815
    positions_N: Tensor  # noqa: N815
    segments: tuple[Segment, ...]
    sequences: tuple[tuple[int, ...], ...]
    """For each sequence the rows of its tokens, in order."""


def packs_of(sequences: Sequence[Numbers]) -> list[Pack]:
    """Packs of a probe: `sequences` is the text, then its variants, none of them empty."""
    packs: list[Pack] = []
    batch: list[Numbers] = []
    for place, sequence in enumerate(sequences):
        if batch and sum(map(len, batch)) + len(sequence) > PACK_ROWS_MAX:
            packs.append(_pack(sequences[0], batch, has_text=len(batch) == place))
            batch = []
        batch.append(sequence)
    packs.append(_pack(sequences[0], batch, has_text=len(batch) == len(sequences)))
    return packs


def _pack(text: Numbers, members: Sequence[Numbers], *, has_text: bool) -> Pack:
    shared = [_common(text, member) for member in members]
    if has_text:
        shared[0] = trunk = len(text)
    else:
        trunk = max((0, *shared), key=lambda rows: sum(min(rows, one) for one in shared) - rows)
    tokens, positions = list(text[:trunk]), list(range(trunk))
    rows: list[tuple[int, ...]] = []
    owned: list[int] = []
    for member, common in zip(members, shared, strict=True):
        kept = min(common, trunk)
        rows.append((*range(kept), *range(len(tokens), len(tokens) + len(member) - kept)))
        owned.append(kept)
        tokens += member[kept:]
        positions += range(kept, len(member))
    segments = [] if has_text or not trunk else [_segment([tuple(range(trunk))], [0])]
    if has_text:
        owned[0] = 0
    for _, places in groupby(range(len(members)), key=lambda place: len(members[place])):
        chosen = list(places)
        segments.append(_segment([rows[place] for place in chosen], [owned[place] for place in chosen]))
    return Pack(torch.tensor(tokens), torch.tensor(positions), tuple(segments), tuple(rows))


def _segment(rows: Sequence[tuple[int, ...]], first_owned: Sequence[int]) -> Segment:
    length = len(rows[0])
    places = [
        number * length + position for number, first in enumerate(first_owned) for position in range(first, length)
    ]
    rows_ST = torch.tensor(rows)
    own_places = torch.tensor(places, dtype=torch.int64)
    return Segment(rows_ST, rows_ST.flatten()[own_places], own_places)


def _common(text: Numbers, member: Numbers) -> int:
    """Rows of the member that are the text's: as long as the token and the one it predicts are."""
    same = 0
    for one, other in zip(text, member, strict=False):
        if one != other:
            break
        same += 1
    return max(0, same - 1)


class PackedModel:
    """A causal language model of transformers whose packs can be run, in any number of threads at once.

    `path` says how: `packed`, or `batched` where the model doesn't qualify. A packed model's attention is replaced for
    good: it runs packs only.
    """

    def __init__(self, model: Any) -> None:
        self._model = model.base_model
        self.path = "packed" if self._qualifies(model) else "batched"

    @torch.inference_mode()
    def hidden_states(self, pack: Pack) -> Tensor:
        """Last hidden states [N, H], after the final norm."""
        if self.path == "packed":
            return self._packed(pack)
        return unbatched(
            pack,
            [
                self._model(input_ids=pack.tokens_N[segment.rows_ST], use_cache=False).last_hidden_state
                for segment in pack.segments
            ],
        )

    def _packed(self, pack: Pack) -> Tensor:
        with laid_out(pack):
            states: Tensor = self._model(
                input_ids=pack.tokens_N[None], position_ids=pack.positions_N[None], use_cache=False
            ).last_hidden_state
        return states[0]

    @torch.inference_mode()
    def _qualifies(self, model: Any) -> bool:
        own = model.config._attn_implementation  # noqa: SLF001  # there is no public name for it
        if own == ATTENTION:
            return True
        pack = trial_pack(model.get_input_embeddings().weight.shape[0])
        expected = [
            self._model(input_ids=numbers_1T, use_cache=False).last_hidden_state[0] for numbers_1T in sequences_of(pack)
        ]
        try:
            model.set_attn_implementation(ATTENTION)
            found_NH = self._packed(pack)
        except CANNOT_PACK:
            agrees = False
        else:
            agrees = trial_agrees(pack, found_NH, expected)
        if not agrees:
            model.set_attn_implementation(own)
        return agrees


def unbatched(pack: Pack, segments: Sequence[Tensor]) -> Tensor:
    """Hidden states [N, H] of a pack's rows, out of its segments' [S, T, H]."""
    hidden_NH = segments[0].new_zeros((len(pack.tokens_N), segments[0].shape[2]))
    for segment, states_STH in zip(pack.segments, segments, strict=True):
        hidden_NH.index_copy_(0, segment.own_rows, states_STH.flatten(0, 1)[segment.own_places])
    return hidden_NH


def trial_pack(words: int) -> Pack:
    """A text and two variants that show whether a model can be packed."""
    text = tuple((7 * place + 3) % words for place in range(11))
    return _pack(text, [text, (*text[:6], (text[6] + 1) % words, *text[7:]), text[2:9]], has_text=True)


def sequences_of(pack: Pack) -> list[Tensor]:
    """Token numbers of each sequence of a pack, [1, T]."""
    return [pack.tokens_N[list(rows)][None] for rows in pack.sequences]


def trial_agrees(pack: Pack, found_NH: Tensor, expected: Sequence[Tensor]) -> bool:
    """Whether packed states are those of the sequences on their own, [T, H] each."""
    found = found_NH[[row for rows in pack.sequences for row in rows]]
    together = torch.cat(list(expected))
    return bool((found - together).abs().max() <= _TRIAL_TOLERANCE * together.abs().max())


@contextmanager
def laid_out(pack: Pack) -> Iterator[None]:
    """The pack whose rows the packed attention of this thread is given."""
    _here.pack = pack
    try:
        with exact_linears():
            yield
    finally:
        del _here.pack


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention [1, N, A, D] within each sequence of the thread's pack, of [1, A, N, D]."""
    unknown = [name for name in ("softcap", "s_aux", "position_bias") if options.get(name) is not None]
    if unknown or attention_mask is not None or False in {getattr(module, "is_causal", True), options.get("is_causal")}:
        raise ValueError(f"attention with {unknown or 'a mask'} cannot be packed")
    pack: Pack = _here.pack
    query_NAD, key_NAD, value_NAD = (states[0].transpose(0, 1) for states in (query, key, value))
    out_NAD = query_NAD.new_zeros((query_NAD.shape[0], query_NAD.shape[1], value_NAD.shape[2]))
    for segment in pack.segments:
        sequences, length = segment.rows_ST.shape
        rows = segment.rows_ST.flatten()
        parts = (states[rows].view(sequences, length, *states.shape[1:]) for states in (query_NAD, key_NAD, value_NAD))
        query_SATD, key_SATD, value_SATD = (part.transpose(1, 2) for part in parts)
        mask = None
        if sliding_window is not None and length > sliding_window:
            distance = torch.arange(length)[:, None] - torch.arange(length)[None]
            mask = (distance >= 0) & (distance < sliding_window)
        states_SATD = torch.nn.functional.scaled_dot_product_attention(
            query_SATD,
            key_SATD,
            value_SATD,
            attn_mask=mask,
            is_causal=mask is None,
            scale=scaling,
            enable_gqa=query_SATD.shape[1] != key_SATD.shape[1],
        )
        states_NAD = states_SATD.transpose(1, 2).reshape(sequences * length, *out_NAD.shape[1:])
        out_NAD.index_copy_(0, segment.own_rows, states_NAD[segment.own_places])
    return out_NAD[None], None


AttentionInterface.register(ATTENTION, _attention)
