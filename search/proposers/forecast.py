"""What is known of many vectors before training: size, latency and the surrogate's features.

All three are sums over layers. A layer has few states, a network's proposals meet the same ones
again and again, so each state's terms are computed once and looked up: no policy is built for a
vector. The formulas are `evaluators.cost`'s and `Features`'; here they are only remembered.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from evaluators.cost import (
    KINDS,
    SizeModel,
    call_latency_ms,
    channels,
    layer_kind,
    layer_latency_ms,
)
from search.proposers.filter import Sizes
from search.proposers.surrogate import Features
from spaces import (
    LayerPolicy,
    LayerProfile,
    SearchSpace,
    Stage,
    Target,
    parse_order,
)
from spaces.policy import FULL_BITS

__all__ = ["Forecast", "Forecasts"]

#: What is known of a layer's state; the first three are `Features.of_layer`.
_COLUMNS = ("harm", "channels", "coarse", "kept", "kind", "sort")
#: Blocks and wholes, some 200 bytes each; beyond that all is forgotten and computed anew.
MOST_REMEMBERED = 200_000
#: (`Features.of_whole`, activation bits, whether a stage is left).
_Whole = tuple[np.ndarray, int, bool]


@dataclass(frozen=True)
class Forecasts:
    """Of n vectors, in their order.

    Attributes:
        works: (n,) whether any stage is left once the policy is normalised.
        features: (n, d) as `Features.of`.
        size: of the files in the study's format.
        download: of the same in `packed` form.
        latency_ms: (n,) as `modelled_latency`.
    """

    works: np.ndarray
    features: np.ndarray
    size: Sizes
    download: Sizes
    latency_ms: np.ndarray

    def take(self, chosen: np.ndarray) -> "Forecasts":
        """Those of the vectors that (n,) booleans choose."""
        return Forecasts(
            self.works[chosen],
            self.features[chosen],
            self.size.take(chosen),
            self.download.take(chosen),
            self.latency_ms[chosen],
        )


class _Layer:
    """One layer's states so far, numbered as they were met; a row of `table` each."""

    def __init__(self, profile: LayerProfile) -> None:
        self.profile = profile
        self.number: dict[LayerPolicy, int] = {}
        self.asked: list[LayerPolicy] = []
        self.table = np.empty((256, len(_COLUMNS)))
        #: By codes of `Forecast._sizes`, one for each model, and of `Forecast._latencies`.
        self.sizes: tuple[dict[int, float], dict[int, float]] = ({}, {})
        self.latency_ms: dict[int, float] = {}

    def add(self, asked: LayerPolicy, features: tuple[float, float, float], sort: int) -> int:
        """The number of a new state; `sort`: see `_sort`."""
        number = self.number[asked] = len(self.asked)
        self.asked.append(asked)
        if number == len(self.table):
            self.table = np.vstack([self.table, np.empty_like(self.table)])
        kept, _ = channels(self.profile, asked)
        kind = KINDS.index(layer_kind(asked))
        self.table[number] = (*features, kept, kind, sort)
        return number


class Forecast:
    """A memo and nothing else: the same vectors give the same numbers, in any company."""

    def __init__(
        self,
        space: SearchSpace,
        target: Target,
        models: tuple[SizeModel, SizeModel],
        features: Features,
    ) -> None:
        """Args: space: of the vectors; target: of latency; models: of size and of download.

        features: of rows.
        """
        self._space, self._target = space, target
        self._models, self._features = models, features
        self._call_ms = call_latency_ms(target)
        self._profile = models[0].profile
        self._at = {layer.name: i for i, layer in enumerate(self._profile.layers)}
        names = [knob.name for knob in space.knobs]
        in_blocks = {at for positions in space.block_positions for at in positions}
        self._whole = [at for at in range(len(names)) if at not in in_blocks]
        self._order = names.index("order")
        self._grid = [names.index(name) for name in ("scheme", "granularity")]
        self._stages = [frozenset(parse_order(text)) for text in space.knob("order").choices]
        self._forget()

    def _forget(self) -> None:
        self._layers = [_Layer(layer) for layer in self._profile.layers]
        self._blocks: dict[tuple[int, frozenset[Stage], bytes], tuple[int, ...]] = {}
        self._sorts: list[LayerPolicy] = []
        self._policies: dict[tuple[bytes, frozenset[float]], _Whole] = {}

    def of(self, vectors: np.ndarray) -> Forecasts:
        """(n, knobs) ints, n at least 1 -> their forecasts."""
        if len(self._blocks) + len(self._policies) > MOST_REMEMBERED:
            self._forget()
        states = self._states(vectors)
        tables = np.stack(
            [layer.table[states[:, i]] for i, layer in enumerate(self._layers)], axis=1
        )
        columns = {name: tables[:, :, at] for at, name in enumerate(_COLUMNS)}
        wholes, activation_bits, works = self._wholes(vectors, columns["sort"])
        kept = columns["kept"].astype(int)
        latencies = self._latencies(states, kept, activation_bits)
        size = self._sizes(0, vectors, states, columns["kind"], kept)
        download = size
        if self._models[1] is not self._models[0]:
            download = self._sizes(1, vectors, states, columns["kind"], kept)
        return Forecasts(
            works=works,
            features=self._features.assemble(tables[:, :, :3], wholes),
            size=size,
            download=download,
            latency_ms=np.array([sum(row) + self._call_ms for row in latencies.tolist()]),
        )

    def _states(self, vectors: np.ndarray) -> np.ndarray:
        """(n, layers) numbers of the normalised layer policies."""
        found = np.empty((len(vectors), len(self._layers)), dtype=np.int64)
        stages = [self._stages[i] for i in vectors[:, self._order]]
        for b, (block, positions) in enumerate(
            zip(self._space.blocks, self._space.block_positions, strict=True)
        ):
            entries = np.ascontiguousarray(vectors[:, positions], dtype=np.int64)
            rows = []
            for present, row in zip(stages, entries, strict=True):
                key = (b, present, row.tobytes())
                numbers = self._blocks.get(key)
                if numbers is None:
                    numbers = self._blocks[key] = self._block(block, positions, row, present)
                rows.append(numbers)
            found[:, [self._at[name] for name in block]] = rows
        return found

    def _block(
        self,
        block: Sequence[str],
        positions: Sequence[int],
        entries: np.ndarray,
        present: frozenset[Stage],
    ) -> tuple[int, ...]:
        """The states' numbers of layers that are decoded together."""
        knobs = [self._space.knobs[at] for at in positions]
        values = {knob.name: knob.choices[i] for knob, i in zip(knobs, entries, strict=True)}
        absent = [stage for stage in Stage if stage not in present]
        numbers = []
        for name, asked in self._space.layer_policies(block, values).items():
            layer, left = self._layers[self._at[name]], asked.without(absent)
            number = layer.number.get(left)
            if number is None:
                sort = _sort(left)
                if sort not in self._sorts:
                    self._sorts.append(sort)
                features = self._features.of_layer(name, left)
                number = layer.add(left, features, self._sorts.index(sort))
            numbers.append(number)
        return tuple(numbers)

    def _wholes(
        self, vectors: np.ndarray, sorts: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """((n, w) `Features.of_whole`, (n,) activation bits, (n,) whether a stage is left)."""
        entries = np.ascontiguousarray(vectors[:, self._whole], dtype=np.int64)
        rows = []
        for row, asked in zip(entries, map(frozenset, sorts.tolist()), strict=True):
            key = (row.tobytes(), asked)
            whole = self._policies.get(key)
            if whole is None:
                whole = self._policies[key] = self._policy(row, asked)
            rows.append(whole)
        wholes, activation_bits, works = zip(*rows, strict=True)
        return np.array(wholes), np.array(activation_bits), np.array(works)

    def _policy(self, entries: np.ndarray, sorts: frozenset[float]) -> _Whole:
        """What concerns all layers, from a small policy with one layer of each sort there is.

        So `Policy` alone knows how a policy is normalised: which stages and knobs have work to do.
        """
        knobs = [self._space.knobs[at] for at in self._whole]
        values = {knob.name: knob.choices[i] for knob, i in zip(knobs, entries, strict=True)}
        layers = {str(sort): self._sorts[int(sort)] for sort in sorts}
        policy = self._space.policy(values, layers)
        return self._features.of_whole(policy), policy.activation_bits, bool(policy.order)

    def _sizes(
        self,
        which: int,
        vectors: np.ndarray,
        states: np.ndarray,
        kinds: np.ndarray,
        kept: np.ndarray,
    ) -> Sizes:
        """By one of the models, from (n, layers) states, their kinds and kept channels.

        A scheme and a granularity that normalisation takes away are of no consequence: no layer
        has a grid then.
        """
        model = self._models[which]
        schemes, granularities = (self._space.knobs[at].choices for at in self._grid)
        pairs = list(itertools.product(schemes, granularities))
        grids = vectors[:, self._grid[0]] * len(granularities) + vectors[:, self._grid[1]]
        found: np.ndarray = np.empty(states.shape)
        for i, layer in enumerate(self._layers):
            read, all_read = self._read(layer, kept)

            def size_bytes(code: int, layer: _Layer = layer, all_read: int = all_read) -> float:
                rest, grid = divmod(code, len(pairs))
                number, read = divmod(rest, all_read + 1)
                asked = layer.asked[number]
                size = model.layer(layer.profile, asked, *pairs[grid], read / all_read)
                return size.total_bytes

            codes = (states[:, i] * (all_read + 1) + read) * len(pairs) + grids
            found[:, i] = _looked_up(codes, layer.sizes[which], size_bytes)
        rest_bytes = model.rest.total_bytes
        # Python's sum, as where the formulas are: numpy's may differ in the last digit.
        totals = np.array([sum([*row, rest_bytes]) for row in found.tolist()])
        return Sizes(totals, _kinds(kinds, found))

    def _latencies(
        self, states: np.ndarray, kept: np.ndarray, activation_bits: np.ndarray
    ) -> np.ndarray:
        """(n, layers) milliseconds."""
        found = np.empty(states.shape)
        for i, layer in enumerate(self._layers):
            read, all_read = self._read(layer, kept)

            def latency_ms(code: int, layer: _Layer = layer, all_read: int = all_read) -> float:
                rest, bits = divmod(code, FULL_BITS + 1)
                number, read = divmod(rest, all_read + 1)
                asked = layer.asked[number]
                return layer_latency_ms(layer.profile, asked, (read, all_read), bits, self._target)

            codes = (states[:, i] * (all_read + 1) + read) * (FULL_BITS + 1) + activation_bits
            found[:, i] = _looked_up(codes, layer.latency_ms, latency_ms)
        return found

    def _read(self, layer: _Layer, kept: np.ndarray) -> tuple[np.ndarray, int]:
        """((n,) channels a layer still reads, all it could): its input group's, or 1 of 1."""
        before = layer.profile.input_group
        if not before:
            return np.ones(len(kept), dtype=int), 1
        source = self._at[before]
        return kept[:, source], self._layers[source].profile.weight_shape[0]


def _sort(asked: LayerPolicy) -> LayerPolicy:
    """What normalisation of the whole policy may depend on: which knobs act, not how strongly."""
    return LayerPolicy(
        sparsity=0.5 if asked.sparsity > 0 else 0.0,
        pattern=asked.pattern,
        clusters=None if asked.clusters is None else 2,
        bits=8 if asked.bits < 16 else asked.bits,
        bias_bits=8 if asked.bias_bits < 16 else asked.bias_bits,
    )


def _looked_up(
    codes: np.ndarray, known: dict[int, float], value: Callable[[int], float]
) -> np.ndarray:
    """(n,) codes -> (n,) what is known of each, or `value` of it, known from then on."""
    distinct, inverse = np.unique(codes, return_inverse=True)
    values = []
    for code in distinct.tolist():
        if code not in known:
            known[code] = value(code)
        values.append(known[code])
    found: np.ndarray = np.array(values)[inverse]
    return found


def _kinds(kinds: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(n, layers) indices into KINDS and bytes -> (n,) kinds of most bytes, as `file_kind`."""
    best, most = np.zeros(len(kinds), dtype=int), np.zeros(len(kinds))
    for kind in range(len(KINDS)):  # of equal votes the last name counts
        votes = np.zeros(len(kinds))
        for i in range(kinds.shape[1]):
            votes += np.where(kinds[:, i] == kind, sizes[:, i], 0.0)
        wins = votes >= most
        best[wins], most = kind, np.maximum(votes, most)
    found: np.ndarray = np.array(KINDS)[best]
    return found
