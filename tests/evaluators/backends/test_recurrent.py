"""Recurrent layers in parts compute what torch's do, and each matrix is a layer like any other."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from evaluators.artifacts.packed import decode, dense, encode
from evaluators.backends.pytorch.channels import channel_groups
from evaluators.backends.pytorch.export import artifact_of_model
from evaluators.backends.pytorch.layers import (
    compressible_layers,
    excluded_modules,
    trace_shapes,
)
from evaluators.backends.pytorch.recurrent import parted
from spaces import LayerPolicy, Measurement, Policy, Stage
from tests import networks
from tests.evaluators.backends.conftest import Bench

FEATURES, UNITS, STEPS = 5, 7, 4
Kind = type[nn.LSTM] | type[nn.GRU]


def both(kind: Kind, **options: object) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    whole = nn.ModuleDict({"r": kind(FEATURES, UNITS, **options)}).eval()  # type: ignore[arg-type]
    return whole["r"], copy.deepcopy(parted(whole))["r"]  # type: ignore[index]


def same(first: object, second: object) -> bool:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.allclose(first, second, rtol=0, atol=1e-6)
    assert isinstance(first, tuple)
    assert isinstance(second, tuple)
    pairs = zip(first, second, strict=True)
    return all(a is b is None or same(a, b) for a, b in pairs)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from([nn.LSTM, nn.GRU]),
    layers=st.integers(1, 3),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    batch=st.integers(1, 3),
    has_state=st.booleans(),
)
def test_parts_compute_what_the_layer_does(
    kind: Kind, layers: int, flags: tuple[bool, bool, bool], batch: int, has_state: bool
) -> None:
    bias, batch_first, bidirectional = flags
    whole, parts = both(
        kind, num_layers=layers, bias=bias, batch_first=batch_first, bidirectional=bidirectional
    )
    inputs = torch.randn((batch, STEPS, FEATURES) if batch_first else (STEPS, batch, FEATURES))
    state = torch.randn(layers * (1 + bidirectional), batch, UNITS)
    given_state = (state, 2 * state) if kind is nn.LSTM else state
    more = (given_state,) if has_state else ()
    assert same(whole(inputs, *more), parts(inputs, *more))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_sequences_without_a_batch_and_packed_ones(kind: Kind) -> None:
    whole, parts = both(kind)
    inputs = torch.randn(STEPS, FEATURES)
    assert same(whole(inputs), parts(inputs))
    packed = nn.utils.rnn.pack_sequence([torch.randn(n, FEATURES) for n in (4, 2)])
    assert same(whole(packed), parts(packed))
    shapes = trace_shapes(parts, compressible_layers(parts), packed)  # type: ignore[arg-type]
    assert shapes["recurrent"].input_elements == 6 * UNITS


@pytest.mark.parametrize("remake", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_have_weights_of_their_own(remake: Callable[[nn.Module], nn.Module]) -> None:
    _, parts = both(nn.LSTM)
    inputs = torch.randn(2, STEPS, FEATURES)
    before = parts(inputs)[0]
    other = remake(parts)
    with torch.no_grad():
        for values in other.parameters():
            values.zero_()
    assert torch.equal(parts(inputs)[0], before)
    assert torch.equal(other(inputs)[0], torch.zeros_like(before))


def test_gradients_reach_every_part() -> None:
    for kind in (nn.LSTM, nn.GRU):
        _, parts = both(kind, num_layers=2, bidirectional=True)
        parts.train()(torch.randn(2, STEPS, FEATURES))[0].sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in parts.parameters())


def test_the_network_itself_is_left_alone() -> None:
    model = nn.Sequential(nn.Linear(3, 3))
    assert parted(model) is model
    whole = nn.Sequential(nn.LSTM(3, 3))
    state = {name: values.clone() for name, values in whole.state_dict().items()}
    parted(whole)
    assert state.keys() == whole.state_dict().keys()
    assert all(torch.equal(values, state[name]) for name, values in whole.state_dict().items())


def test_one_layer_under_two_names_stays_one() -> None:
    twice = nn.ModuleDict({"a": nn.GRU(3, 3)})
    twice["b"] = twice["a"]
    found = parted(twice)
    assert found["a"] is found["b"]  # type: ignore[index]
    assert set(compressible_layers(found)) == {"a.input", "a.recurrent"}


def test_parts_with_one_weight_are_left_out_by_name() -> None:
    model = nn.ModuleList([nn.GRU(3, 3), nn.GRU(3, 3)])
    model[1].weight_hh_l0 = model[0].weight_hh_l0
    found = parted(model)
    layers = compressible_layers(found)
    assert set(layers) == {"0.input", "1.input"}
    excluded = dict(excluded_modules(found, layers))
    assert set(excluded) == {"0.recurrent", "1.recurrent"}
    assert all("shared" in reason for reason in excluded.values())


@pytest.mark.parametrize(
    ("module", "why"),
    [
        (nn.LSTM(3, 3, proj_size=2), "LSTM layers with a projection"),
        (nn.Embedding(3, 3, sparse=True), "sparse gradients"),
        (nn.Embedding(3, 3, max_norm=1.0), "max_norm"),
    ],
)
def test_what_is_left_as_it_is_says_why(module: nn.Module, why: str) -> None:
    model = parted(nn.ModuleList([module, nn.Linear(3, 3)]))
    layers = compressible_layers(model)
    assert set(layers) == {"1"}
    ((name, reason),) = excluded_modules(model, layers)
    assert name == "0"
    assert why in reason


def test_an_lstm_has_one_bias_and_a_gru_two() -> None:
    whole, parts = both(nn.LSTM)
    added = whole.bias_ih_l0 + whole.bias_hh_l0  # type: ignore[operator]
    assert torch.equal(parts.get_parameter("input.bias"), added)
    assert parts.get_submodule("recurrent").bias is None
    whole, parts = both(nn.GRU)
    assert torch.equal(parts.get_parameter("recurrent.bias"), whole.bias_hh_l0)


def test_costs_of_the_parts() -> None:
    """Each step multiplies by both matrices once."""
    _, parts = both(nn.LSTM, num_layers=2, bidirectional=True, batch_first=True)
    layers = compressible_layers(parts)
    shapes = trace_shapes(parts, layers, torch.randn(1, STEPS, FEATURES))
    assert list(shapes)[:4] == ["input", "recurrent", "input_reverse", "recurrent_reverse"]
    assert len(shapes) == 8
    for name, shape in shapes.items():
        width = UNITS if "recurrent" in name else 2 * UNITS if "l1" in name else FEATURES
        assert shape.macs == STEPS * 4 * UNITS * width
        assert (shape.input_elements, shape.output_elements) == (STEPS * width, STEPS * 4 * UNITS)


class Mixed(nn.Module):
    """Convolutions before an LSTM, linear layers behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(3, 8, 3), nn.Conv1d(8, 5, 3)
        self.lstm = nn.LSTM(5, 7, batch_first=True)
        self.hidden, self.head = nn.Linear(7, 9), nn.Linear(9, 4)

    def forward(self, waves: Tensor) -> Tensor:
        features = torch.relu(self.second(torch.relu(self.first(waves)))).transpose(1, 2)
        states, _ = self.lstm(features)
        logits: Tensor = self.head(torch.relu(self.hidden(states[:, -1])))
        return logits


def test_channels_of_layers_around_an_lstm_can_still_go() -> None:
    model = parted(Mixed()).eval()
    layers = compressible_layers(model)
    groups = {g.layers[0]: g for g in channel_groups(model, layers, torch.randn(1, 3, 10))}
    assert set(groups) == set(layers)
    assert {name for name, group in groups.items() if group.removable} == {"first", "hidden"}
    assert "gates" in groups["lstm.input"].why_kept


@pytest.mark.parametrize("network", ["lstm", "gru", "stacked"])
def test_every_matrix_is_compressed(bench: Callable[[str], Bench], network: str) -> None:
    """All stages on every layer: pruned far enough that what is left is trained as a vector."""
    room = bench(network)
    asked = LayerPolicy(sparsity=0.9, clusters=5, bits=4)
    names = [layer.name for layer in room.worker.profile.layers]
    order = (Stage.PRUNE, Stage.CLUSTER, Stage.QUANTIZE)
    measured = room.measure(Policy(order, tuple((name, asked) for name in names)))
    assert all(audit.destroyed == () for audit in measured.audit)
    assert measured.size_bytes < room.worker.profile.baseline_size_bytes / 6
    weights = room.weights(measured)
    assert {f"{name}.weight" for name in names} <= set(weights)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_file_loads_into_the_parted_network(kind: Kind) -> None:
    """As the snippet beside an exported file says."""
    torch.manual_seed(0)
    model = networks.Words(kind).eval()
    weights = dense(decode(encode(artifact_of_model(parted(model))).data))
    fresh = parted(networks.Words(kind)).eval()
    fresh.load_state_dict({name: torch.from_numpy(values) for name, values in weights.items()})
    words = networks.texts()[1].inputs[:20]
    assert same(fresh(words), model(words))


def test_what_cannot_be_asked_of_them_fails_by_name(bench: Callable[[str], Bench]) -> None:
    room = bench("lstm")
    channels = LayerPolicy(sparsity=0.5, pattern="channel")
    for name in ("embed", "lstm.input", "lstm.recurrent"):
        failure = room.failure(Policy((Stage.PRUNE,), ((name, channels),)))
        assert (failure.layer, failure.stage) == (name, Stage.PRUNE)
    rounded = Policy((Stage.QUANTIZE,), (("fc", LayerPolicy(bits=8)),), activation_bits=8)
    failure = room.failure(rounded)
    assert (failure.layer, failure.stage) == ("lstm.input", Stage.QUANTIZE)
    assert "the state of LSTM layers stays in floats" in failure.reason


def test_one_scale_whatever_the_granularity(bench: Callable[[str], Bench]) -> None:
    """A scale a row would cost an embedding more than its codes."""
    room = bench("lstm")
    layers = tuple((n, LayerPolicy(bits=4)) for n in ("embed", "lstm.input", "lstm.recurrent"))
    measured = room.outcome(Policy((Stage.QUANTIZE,), layers, granularity="channel"), fidelity=0)
    assert isinstance(measured, Measurement)
    weights = room.weights(measured)
    for name, _ in layers:
        assert len(set(weights[f"{name}.weight"].ravel().tolist())) <= 15
