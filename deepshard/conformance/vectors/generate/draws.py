"""`draws.json`: what is drawn from the beacon: committees, data orders, probes, perturbed texts (chapter 11)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from deepshard.conformance.vectors.document import Json, accept, digest_of, document, key_of
from deepshard.primitives import expand, tagged_hash

_BEACON, _COMMITTEE, _SHUFFLE, _SAMPLE, _PROBES, _ORDER, _PERTURB = (
    ("11.7/2",),
    ("11.4/3", "11.4/4"),
    ("11.5/9", "1.4/3"),
    ("11.5/10", "1.4/3"),
    ("11.5/11", "11.5/10"),
    ("11.5/12", "11.5/9"),
    ("11.10/4", "11.5/9"),
)
_POOLS: Final = ("batch", "heldout", "rejected", "general")


def make() -> Json:
    """The file."""
    return document(
        "draws",
        "Draws from the beacon (chapter 11): onions, committees, permutations, samples, probes, perturbed texts.",
        [*_beacons(), *_committees(), *_shuffles(), *_samples(), *_probes(), *_orders(), *_perturbations()],
    )


class Stream:
    """1.4/2 and 1.4/3."""

    def __init__(self, seed: bytes, tag: str) -> None:
        self._seed, self._tag, self._data, self._at, self._blocks = seed, tag, b"", 0, 0

    def below(self, bound: int) -> int:
        """A number below `bound`."""
        while True:
            if self._at == len(self._data):
                self._data += expand(self._seed + self._blocks.to_bytes(8, "little"), self._tag, 1024)
                self._blocks += 1
            x = int.from_bytes(self._data[self._at : self._at + 8], "little")
            self._at += 8
            if x < 2**64 - 2**64 % bound:
                return x % bound

    def permutation(self, count: int) -> list[int]:
        """By 11.5/9."""
        order = list(range(count))
        for place in range(count - 1, 0, -1):
            other = self.below(place + 1)
            order[place], order[other] = order[other], order[place]
        return order

    def sample(self, size: int, count: int) -> list[int]:
        """By 11.5/10."""
        order = list(range(size))
        for place in range(min(size, count)):
            other = place + self.below(size - place)
            order[place], order[other] = order[other], order[place]
        return order[: min(size, count)]

    def weighted(self, weights: Sequence[int], count: int) -> list[int]:
        """By 11.4/4."""
        left = list(weights)
        drawn: list[int] = []
        while sum(left) > 0 and len(drawn) < count:
            x = self.below(sum(left))
            chosen = next(index for index in range(len(left)) if x < sum(left[: index + 1]))
            drawn.append(chosen)
            left[chosen] = 0
        return drawn


def _beacons() -> Iterator[Json]:
    beacon, layer = digest_of("beacon"), digest_of("onion secret")
    layers = [layer]
    for _ in range(3):
        layers.append(tagged_hash("onion", layers[-1]))
    yield accept("layers of an onion", _BEACON, operation="onion", innermost=layers[0], layers=layers[1:])
    after = tagged_hash("beacon", beacon, layers[2])
    yield accept("a beacon", _BEACON, operation="beacon", beacon=beacon, onion_preimage=layers[2], then=after)


def _committees() -> Iterator[Json]:
    addresses = sorted(key_of(f"validator {number}").address for number in range(9))
    for size, stakes in (
        (4, [100] * 9),
        (4, [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (3, [10**18, 1, 1, 1, 2**60, 1]),
        (4, [5, 6, 7, 8]),
        (9, [5, 6, 7]),
    ):
        beacon, proposal = digest_of(f"beacon {size}"), digest_of("proposal")
        seats = list(range(len(stakes)))
        if size < len(stakes):
            stream = Stream(tagged_hash("committee", beacon, proposal), "committee draws")
            seats = sorted(stream.weighted(stakes, size))
        listed = [list(pair) for pair in zip(addresses, stakes, strict=False)]
        fields = {"beacon": beacon, "proposal": proposal, "size": size, "validators": listed}
        name = f"a committee of {size} among stakes {stakes}"
        yield accept(name, _COMMITTEE, operation="committee", **fields, seats=[addresses[seat] for seat in seats])


def _shuffles() -> Iterator[Json]:
    for count in (0, 1, 2, 10, 200):
        seed, tag = digest_of("permutation"), "data order"
        fields = {"seed": seed, "tag": tag, "count": count, "permutation": Stream(seed, tag).permutation(count)}
        yield accept(f"a permutation of {count}", _SHUFFLE, operation="permutation", **fields)


def _samples() -> Iterator[Json]:
    for size, count in ((10, 3), (10, 10), (3, 10), (0, 5), (5, 0), (10**9, 20)):
        seed, tag = digest_of("sample"), "probes batch"
        drawn = _sparse(Stream(seed, tag), size, count) if size > 1000 else Stream(seed, tag).sample(size, count)
        fields = {"seed": seed, "tag": tag, "size": size, "count": count, "sample": drawn}
        yield accept(f"a sample of {count} from {size}", _SAMPLE, operation="sample", **fields)


def _sparse(stream: Stream, size: int, count: int) -> list[int]:
    places: dict[int, int] = {}
    for place in range(count):
        other = place + stream.below(size - place)
        places[place], places[other] = places.get(other, other), places.get(place, place)
    return [places[place] for place in range(count)]


def _probes() -> Iterator[Json]:
    for sizes, plan in (((7, 5, 3, 4), (4, 2, 2, 2)), ((2, 0, 1, 9), (4, 2, 2, 2)), ((40, 1, 1, 1), (16, 1, 0, 1))):
        seed = digest_of(f"probes {sizes}")
        pools = {
            name: [digest_of(f"{name} {number}") for number in range(size)]
            for name, size in zip(_POOLS, sizes, strict=True)
        }
        wanted = dict(zip(_POOLS, plan, strict=True))
        drawn = [
            {"pool": name, "digest": pools[name][place]}
            for name in _POOLS
            for place in Stream(seed, f"probes {name}").sample(len(pools[name]), wanted[name])
        ]
        fields = {"seed": seed, "pools": pools, "plan": wanted, "probes": drawn}
        yield accept(f"{list(plan)} probes from pools of {list(sizes)}", _PROBES, operation="probes", **fields)


def _orders() -> Iterator[Json]:
    for count, passes in ((5, 3), (1, 2), (64, 2)):
        seed = digest_of("order seed")
        stream = Stream(seed, "data order")
        order = [stream.permutation(count) for _ in range(passes)]
        fields = {"seed": seed, "segments": count, "passes": passes, "order": order}
        yield accept(f"{passes} passes over {count} segments", _ORDER, operation="order", **fields)


def _perturbed(
    tokens: Sequence[int], table: Sequence[int], share: int, span: int, seed: bytes, k: int, i: int
) -> list[int]:
    n, s = len(tokens), max(1, span)
    wanted = min(-(-n * share // 10_000), n - 1)
    if wanted <= 0 or not table:
        return list(tokens)
    numbers = (k.to_bytes(4, "little"), i.to_bytes(4, "little"))
    stream = Stream(tagged_hash("perturb", seed, *numbers), "perturb draws")
    offset = stream.below(s)
    spans = [list(range(1, min(n, 1 + offset)))] if offset else []
    spans += [list(range(start, min(n, start + s))) for start in range(1 + offset, n, s)]
    taken = [position for which in stream.permutation(len(spans)) for position in spans[which]][:wanted]
    out = list(tokens)
    for position in sorted(taken):
        place = stream.below(len(table))
        around = [table[(place + step) % len(table)] for step in range(len(table))]
        out[position] = next((token for token in around if token != tokens[position]), tokens[position])
    return out


def _perturbations() -> Iterator[Json]:
    text = [5, 9, 9, 2, 14, 7, 7, 1, 30, 8, 4, 11]
    table = [5, 9, 9, 2, 14, 7, 7, 1, 30, 8, 4, 11, 100, 101, 102]
    for name, tokens, words, share, span in (
        ("fifteen percent in spans of two", text, table, 1500, 2),
        ("half in spans of three", text, table, 5000, 3),
        ("everything but the first", text, table, 10_000, 1),
        ("spans longer than the text", text, table, 1500, 100),
        ("nothing", text, table, 0, 2),
        ("one token", [5], table, 10_000, 2),
        ("a table of equal tokens", [7, 7, 7, 7], [7, 7], 10_000, 1),
        ("an empty table", text, [], 1500, 2),
    ):
        for k, i in ((0, 0), (3, 1)):
            seed = digest_of("probe seed")
            fields: Json = {"tokens": tokens, "table": words, "replaced_bp": share, "span_tokens": span}
            fields |= {
                "seed": seed,
                "probe": k,
                "form": i,
                "perturbed": _perturbed(tokens, words, share, span, seed, k, i),
            }
            yield accept(f"perturbed: {name}, form {i} of probe {k}", _PERTURB, operation="perturb", **fields)
