"""Loader snippets run as they are, in a fresh process, on a file of their format."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from evaluators.formats import FORMATS, missing_libraries
from search.loaders import loader_of
from tests import keras_networks, networks
from tests.evaluators.backends.conftest import Bench


def test_every_format_has_one_that_is_python() -> None:
    for name in FORMATS:
        compile(loader_of(name, f"a 'quoted' name.{name}"), "loader", "exec")


@pytest.mark.parametrize("name", ["packed", "onnx", "tflite"])
def test_it_runs(name: str, tmp_path: Path) -> None:
    """Not Core ML's: that needs a Mac."""
    from spaces import Policy

    if missing := missing_libraries(name):
        pytest.skip(f"format {name} needs {', '.join(missing)}")
    source = networks
    if name == "tflite":
        if find_spec("tensorflow_model_optimization") is None:
            pytest.skip("Keras networks need the extra keras")
        source = keras_networks
    bench = Bench(source.name("mlp"), tmp_path, "m1", name)
    file = bench.file(bench.measure(Policy(), fidelity=0))
    snippet = tmp_path / "load.py"
    snippet.write_text(loader_of(name, file.name))
    ran = subprocess.run([sys.executable, snippet], capture_output=True, text=True, check=True)
    last = {
        "packed": "5.bias [4]",
        "onnx": "[1, 1, 8, 8] -> [1, 4]",
        "tflite": "[1, 8, 8, 1] -> [1, 4]",
    }[name]
    assert last in ran.stdout
