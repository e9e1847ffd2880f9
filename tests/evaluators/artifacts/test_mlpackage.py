"""The `mlpackage` format without a network: codes in a program, read back to the last bit."""

import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("coremltools", reason="the extra coreml is not installed")

from evaluators.backends.pytorch.coreml_export import export_program, quiet

with quiet():
    from evaluators.artifacts.mlpackage.package import MODEL, WEIGHTS, build
    from evaluators.artifacts.mlpackage.read import read
    from evaluators.artifacts.mlpackage.store import halved

from evaluators.artifacts.base import CannotHold
from evaluators.artifacts.packed import (
    Artifact,
    CodebookTensor,
    DamagedArtifact,
    FloatCodebook,
    FloatTensor,
    GridCodebook,
    GridTensor,
    Tensor,
)
from evaluators.backends.pytorch.recurrent import lstm_tensors, parted

ROWS, COLUMNS = 40, 30
RNG = np.random.default_rng(0)
BIAS = FloatTensor("0.bias", RNG.normal(size=ROWS).astype(np.float32))


def package(weight: Tensor) -> dict[str, bytes]:
    """Linear(30, 40) with this weight."""
    artifact = halved(Artifact((weight, BIAS)))
    model = torch.nn.Sequential(torch.nn.Linear(COLUMNS, ROWS))
    with torch.no_grad():
        model[0].weight.copy_(torch.from_numpy(artifact.tensors[0].decode()))
        model[0].bias.copy_(torch.from_numpy(artifact.tensors[1].decode()))
    with quiet():
        return dict(build(export_program(model, torch.zeros(1, COLUMNS)), artifact, {}))


def mask(density: float) -> np.ndarray:
    return RNG.random((ROWS, COLUMNS)) < density


def grid(most: int, density: float, *, channels: bool = False) -> GridTensor:
    levels = RNG.integers(-most, most + 1, (ROWS, COLUMNS)) * mask(density)
    scale = RNG.uniform(0.01, 0.1, ROWS if channels else 1).astype(np.float32)
    return GridTensor("0.weight", levels.astype(np.int32), scale)


def codes(entries: int, density: float, *, on_grid: bool = False) -> CodebookTensor:
    indices = (RNG.integers(0, entries + 1, (ROWS, COLUMNS)) * mask(density)).astype(np.int32)
    if on_grid:
        levels = RNG.integers(-127, 128, entries).astype(np.int32)
        return CodebookTensor("0.weight", indices, GridCodebook(levels, np.float32([0.03])))
    values = RNG.normal(size=entries).astype(np.float32)
    return CodebookTensor("0.weight", indices, FloatCodebook(values))


DENSITIES = st.sampled_from([1.0, 0.5, 0.05, 0.0])
WEIGHTS_OF: st.SearchStrategy[Callable[[], Tensor]] = st.one_of(
    st.builds(lambda m, d, c: lambda: grid(m, d, channels=c),
              st.sampled_from([1, 3, 7, 15, 63, 127]), DENSITIES, st.booleans()),
    st.builds(lambda k, d, g: lambda: codes(k, d, on_grid=g),
              st.integers(1, 255), DENSITIES, st.booleans()),
    st.builds(lambda d: lambda: FloatTensor(
              "0.weight", (RNG.normal(size=(ROWS, COLUMNS)) * mask(d)).astype(np.float32)),
              DENSITIES),
)  # fmt: skip


@settings(max_examples=25)
@given(WEIGHTS_OF)
def test_every_value_comes_back_and_every_byte_is_counted(make: Callable[[], Tensor]) -> None:
    weight = make()
    content = package(weight)
    stored = halved(Artifact((weight, BIAS))).tensors
    with quiet():
        file = read(content)
    for tensor in stored:
        assert np.array_equal(file.weights[tensor.name], tensor.decode())
        halves = file.computed[tensor.name]
        assert np.array_equal(halves, tensor.decode().astype(np.float16))
    counted = sum(line.size_bytes for line in file.ledger)
    assert counted == sum(len(data) for data in content.values())


def test_the_same_network_gives_the_same_bytes() -> None:
    weight = codes(5, 0.5)
    assert package(weight) == package(weight)


def test_nothing_stays_behind_in_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with quiet():
        read(package(codes(5, 0.5)))
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("weight", "bits"),
    [
        (codes(1, 1.0), 1),
        (codes(3, 1.0), 2),
        (codes(7, 1.0), 3),
        (codes(15, 1.0), 4),
        (codes(20, 1.0), 6),
        (codes(70, 1.0), 8),
        (grid(7, 1.0), 4),
        (grid(127, 1.0), 8),
    ],
)
def test_codes_take_the_fewest_bits(weight: Tensor, bits: int) -> None:
    with quiet():
        lines = read(package(weight)).ledger
    stored = sum(x.size_bytes for x in lines if x.section in ("indices", "data"))
    need = ROWS * COLUMNS * bits / 8
    # A blob has a header of 64 bytes and is padded to a multiple of 64.
    assert need <= stored <= need + 64 + 64 + 64


def test_zeros_are_a_mask_where_that_is_smaller() -> None:
    with quiet():
        sections = {x.section for x in read(package(codes(15, 0.05))).ledger}
        dense = {x.section for x in read(package(codes(15, 0.9))).ledger}
    assert "indices_mask" in sections
    assert "indices_mask" not in dense


@pytest.mark.parametrize(
    "weight",
    [
        GridTensor("0.weight", np.full((ROWS, COLUMNS), 200, np.int32), np.float32([1])),
        FloatTensor("0.weight", np.full((ROWS, COLUMNS), 1e6, np.float32)),
    ],
)
def test_what_it_cannot_hold_is_refused(weight: Tensor) -> None:
    with pytest.raises(CannotHold, match=r"0\.weight: mlpackage: "):
        package(weight)


def test_more_than_255_values_are_refused() -> None:
    indices = RNG.integers(0, 301, (ROWS, COLUMNS)).astype(np.int32)
    book = FloatCodebook(np.arange(1, 301, dtype=np.float32))
    with pytest.raises(CannotHold, match="at most 255 values"):
        package(CodebookTensor("0.weight", indices, book))


@pytest.mark.parametrize("file", [MODEL, WEIGHTS])
def test_damaged_packages_give_one_clear_error(file: str, tmp_path: Path) -> None:
    content = package(codes(5, 1.0))
    for cut in (0, 1, len(content[file]) // 2):
        with quiet(), pytest.raises(DamagedArtifact):
            read({**content, file: content[file][:cut]})
    with quiet(), pytest.raises(DamagedArtifact):
        read({name: data for name, data in content.items() if name != file})


def test_coremltools_brings_no_tensorflow() -> None:
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("the extra keras is not installed")
    code = (
        "import sys, evaluators.artifacts.mlpackage.package\n"
        "assert 'coremltools' in sys.modules and 'tensorflow' not in sys.modules\n"
        "import importlib.util\n"
        "assert importlib.util.find_spec('tensorflow') is not None\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML predicts here")
def test_a_package_is_timed_by_core_ml_or_refused_in_its_words() -> None:
    """All of it but the prediction runs here: coremltools loads the package and asks for times."""
    from evaluators.artifacts.mlpackage.runtime import benchmarked, load

    content = package(grid(7, 1.0))
    sample = np.zeros((1, COLUMNS), np.float32)
    with pytest.raises(CannotHold, match="Core ML cannot load it"):
        benchmarked(content, sample)
    with pytest.raises(CannotHold, match="nothing on this machine runs Core ML"):
        load(content, sample)


class _Padded(torch.nn.Module):
    """Computes with the sizes of its values, as ResNet-20's shortcuts do."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(COLUMNS, ROWS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.fc(x)
        added = (y.shape[1] - x.shape[1]) // 2
        return y + torch.nn.functional.pad(x, (added, added))


def test_sizes_that_a_network_computes_with_are_numbers() -> None:
    model = _Padded().half().float().eval()
    tensors = [FloatTensor(f"fc.{n}", v.detach().numpy()) for n, v in model.fc.named_parameters()]
    with quiet():
        program = export_program(model, torch.zeros(1, COLUMNS))
        content = build(program, halved(Artifact(tuple(tensors))), {})
        file = read(content)
    assert np.array_equal(file.weights["fc.weight"], tensors[0].values)


def test_an_lstm_s_gates_are_in_core_ml_s_order_and_come_back_in_torch_s() -> None:
    units = 6
    rows = RNG.integers(-7, 8, (4 * units, 3)).astype(np.int32)
    scale = RNG.uniform(0.01, 0.1, 4 * units).astype(np.float16).astype(np.float32)
    weight = GridTensor("lstm.input.weight", rows, scale)
    model = parted(torch.nn.ModuleDict({"lstm": torch.nn.LSTM(3, units)})).half().float().eval()
    network = _Last(model["lstm"])
    with torch.no_grad():
        model["lstm"].input.weight.copy_(torch.from_numpy(weight.decode()).half().float())
    others = [
        FloatTensor(f"lstm.{n}", v.detach().numpy())
        for n, v in model["lstm"].named_parameters()
        if n != "input.weight"
    ]
    artifact = halved(Artifact((weight, *others)))
    with quiet():
        program = export_program(network, torch.zeros(5, 1, 3))
        (function,) = program.functions.values()
        (layer,) = [op for op in function.operations if op.op_type == "lstm"]
        kept = np.split(layer.inputs["weight_ih"].val, 4)
        file = read(build(program, artifact, {}, lstm_tensors(network)))
    assert np.array_equal(file.weights["lstm.input.weight"], weight.decode())
    # Core ML's own layer has input, forget, output, cell; torch's has output and cell exchanged.
    halves = np.split(file.computed["lstm.input.weight"], 4)
    assert all(np.array_equal(kept[i], halves[j]) for i, j in enumerate((0, 1, 3, 2)))


class _Last(torch.nn.Module):
    def __init__(self, lstm: torch.nn.Module) -> None:
        super().__init__()
        self.lstm = lstm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lstm(x)[0][-1]
