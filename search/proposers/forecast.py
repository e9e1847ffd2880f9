"""What is known of many vectors before training: size, latency and the surrogate's features.

All three are sums over layers. A layer has few states, a network's proposals meet the same ones
again and again, so each state's terms are computed once and looked up: no policy is built for a
vector. The formulas are `evaluators.cost`'s and `Features`'; here they are only remembered.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

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
_COLUMNS = ("harm", "channels", "coarse", "kept", "kind", "needs")
#: Of the stages that change weights, in the order of `SearchSpace.block_positions`' knobs.
_ACTING = (Stage.PRUNE, Stage.CLUSTER, Stage.QUANTIZE)
#: Codes, blocks and wholes, some 200 bytes each; beyond that all is forgotten and computed anew.
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
        #: By codes of `Forecast._codes`, of a layer that is decoded alone.
        self.by_code: dict[int, int] = {}
        #: By codes of `Forecast._sizes`, one for each model, and of `Forecast._latencies`.
        self.sizes: tuple[dict[int, float], dict[int, float]] = ({}, {})
        self.latency_ms: dict[int, float] = {}

    def add(self, asked: LayerPolicy, features: tuple[float, float, float]) -> int:
        """The number of a new state."""
        number = self.number[asked] = len(self.asked)
        self.asked.append(asked)
        if number == len(self.table):
            self.table = np.vstack([self.table, np.empty_like(self.table)])
        kept, _ = channels(self.profile, asked)
        kind = KINDS.index(layer_kind(asked))
        self.table[number] = (*features, kept, kind, asked.needs)
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
        self._acting = np.array([[x in stages for x in _ACTING] for stages in self._stages])
        self._forget()

    def _forget(self) -> None:
        self._layers = [_Layer(layer) for layer in self._profile.layers]
        self._blocks: dict[tuple[Any, ...], tuple[int, ...]] = {}
        self._policies: dict[tuple[bytes, int], _Whole] = {}

    def of(self, vectors: np.ndarray) -> Forecasts:
        """(n, knobs) ints, n at least 1 -> their forecasts."""
        codes = sum(len(layer.by_code) for layer in self._layers)
        if codes + len(self._blocks) + len(self._policies) > MOST_REMEMBERED:
            self._forget()
        states = self._states(vectors)
        tables = np.stack(
            [layer.table[states[:, i]] for i, layer in enumerate(self._layers)], axis=1
        )
        columns = {name: tables[:, :, at] for at, name in enumerate(_COLUMNS)}
        wholes, activation_bits, works = self._wholes(vectors, states, columns["needs"])
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
        orders = vectors[:, self._order]
        for block, positions in zip(self._space.blocks, self._space.block_positions, strict=True):
            entries = np.ascontiguousarray(vectors[:, positions], dtype=np.int64)
            if len(block) == 1:
                found[:, self._at[block[0]]] = self._alone(block, positions, entries, orders)
            else:
                at = [self._at[name] for name in block]
                found[:, at] = self._together(block, positions, entries, orders)
        return found

    def _alone(
        self,
        block: Sequence[str],
        positions: Sequence[int],
        entries: np.ndarray,
        orders: np.ndarray,
    ) -> np.ndarray:
        """(n,) numbers of the states of one layer that is decoded by itself."""
        known = self._layers[self._at[block[0]]].by_code
        codes = self._codes(entries, positions, orders)
        distinct, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
        for code, row in zip(distinct.tolist(), first.tolist(), strict=True):
            if code not in known:
                (known[code],) = self._block(block, positions, entries[row], orders[row])
        return np.array([known[code] for code in distinct.tolist()])[inverse]

    def _together(
        self,
        block: Sequence[str],
        positions: Sequence[int],
        entries: np.ndarray,
        orders: np.ndarray,
    ) -> list[tuple[int, ...]]:
        """(n, layers of the block) numbers of the states of layers that are decoded together."""
        at = [self._at[name] for name in block]
        keys = [(*at, order, row.tobytes()) for order, row in zip(orders, entries, strict=True)]
        for row, key in enumerate(keys):
            if key not in self._blocks:
                self._blocks[key] = self._block(block, positions, entries[row], orders[row])
        return [self._blocks[key] for key in keys]

    def _codes(
        self, entries: np.ndarray, positions: Sequence[int], orders: np.ndarray
    ) -> np.ndarray:
        """(n,) one number for what stages leave of a layer's (n, 5) entries: equal, same state."""
        prunes, clusters, quantizes = self._acting[orders].T
        sparsity, pattern, entry, bits, bias_bits = entries.T
        #: In the order of a block's positions; 0 where the stage that would act is not there.
        left = (
            (sparsity + 1) * prunes,
            (pattern + 1) * prunes,
            (entry + 1) * clusters,
            (bits + 1) * quantizes,
            (bias_bits + 1) * quantizes,
        )
        codes = np.zeros(len(entries), dtype=np.int64)
        for at, digits in zip(positions, left, strict=True):
            codes = codes * (len(self._space.knobs[at].choices) + 1) + digits
        return codes

    def _block(
        self,
        block: Sequence[str],
        positions: Sequence[int],
        entries: np.ndarray,
        order: int,
    ) -> tuple[int, ...]:
        """The numbers of the states that one policy's entries give the layers of a block."""
        knobs = [self._space.knobs[at] for at in positions]
        values = {knob.name: knob.choices[i] for knob, i in zip(knobs, entries, strict=True)}
        absent = [stage for stage in Stage if stage not in self._stages[order]]
        numbers = []
        for name, asked in self._space.layer_policies(block, values).items():
            layer, left = self._layers[self._at[name]], asked.without(absent)
            number = layer.number.get(left)
            if number is None:
                number = layer.add(left, self._features.of_layer(name, left))
            numbers.append(number)
        return tuple(numbers)

    def _wholes(
        self, vectors: np.ndarray, states: np.ndarray, needs: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """((n, w) `Features.of_whole`, (n,) activation bits, (n,) whether a stage is left)."""
        entries = np.ascontiguousarray(vectors[:, self._whole], dtype=np.int64)
        together = np.bitwise_or.reduce(needs.astype(np.int64), axis=1)
        rows = []
        for row, (whole, needed) in enumerate(zip(entries, together.tolist(), strict=True)):
            key = (whole.tobytes(), needed)
            known = self._policies.get(key)
            if known is None:
                known = self._policies[key] = self._policy(whole, states[row])
            rows.append(known)
        wholes, activation_bits, works = zip(*rows, strict=True)
        return np.array(wholes), np.array(activation_bits), np.array(works)

    def _policy(self, entries: np.ndarray, states: np.ndarray) -> _Whole:
        """What concerns all layers, from a policy with one layer of each `needs` there are.

        So `Policy` alone knows how a policy is normalised: which stages and knobs have work to do.
        """
        knobs = [self._space.knobs[at] for at in self._whole]
        values = {knob.name: knob.choices[i] for knob, i in zip(knobs, entries, strict=True)}
        pairs = zip(self._layers, states.tolist(), strict=True)
        found = [layer.asked[number] for layer, number in pairs]
        layers = {str(asked.needs): asked for asked in found}
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
