"""Loader snippets in clean environments that have only the runtime, installed by plain pip.

`python -m bench.loaders`; ONLY=tflite for one format, whose row then replaces its earlier one. Each
format gets a venv of its own; a member of cnn-mnist (8-bit weights) is exported beside its snippet,
the snippet runs there as it is, then what it gives is compared with what the study's worker has:

- onnx, tflite: the runtime's outputs on 1,000 validation images;
- packed: the decoded tensors, every bit, and the outputs of torch with them on the same images;
- mlpackage: Core ML predicts on macOS only, so on Linux the snippet must load the package and end
  where coremltools refuses to predict, and its row says so.
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.parts import chosen
from bench.results import FOLDER, write_results

__all__ = ["main"]

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Place:
    """Where a snippet runs.

    Attributes:
        target: that has the format.
        packages: what is installed, by name; "." is this package's wheel without its dependencies.
    """

    target: str
    packages: tuple[str, ...]


PLACES = {
    "packed": Place("host", (".", "numpy")),
    "onnx": Place("x86", ("onnxruntime", "numpy")),
    "tflite": Place("rpi4", ("ai-edge-litert",)),
    "mlpackage": Place("m1", ("coremltools",)),
}
SAMPLES = 1000
_SAVED = "np.save(Path(__file__).with_name('found.npy'), np.stack(found))\n"
#: Appended to a snippet: the same session on real inputs, one at a time as the snippet does.
COMPARE = {
    "packed": (
        "import numpy as np\nnp.savez(Path(__file__).with_name('found.npz'), **weights)\n"
        "import sys\nassert not {'torch', 'numba'} & set(sys.modules), 'more than numpy was used'\n"
    ),
    "onnx": (
        "inputs = np.load(Path(__file__).with_name('inputs.npy'))\n"
        "found = [session.run(None, {given.name: x[None]})[0][0] for x in inputs]\n" + _SAVED
    ),
    "tflite": (
        "inputs = np.load(Path(__file__).with_name('inputs.npy'))\n"
        "found_ = []\nfor x in inputs:\n"
        "    interpreter.set_tensor(given['index'], x[None])\n    interpreter.invoke()\n"
        "    found_.append(interpreter.get_tensor(found['index'])[0])\nfound = found_\n" + _SAVED
    ),
}
NO_PREDICTION = "only supported on macOS"


def row_of(name: str) -> dict[str, Any]:
    """One format's row."""
    with tempfile.TemporaryDirectory() as text:
        return _row(name, Path(text))


def _row(name: str, folder: Path) -> dict[str, Any]:
    import torch

    from search.loaders import loader_of

    worker, file = _exported(name, folder)
    snippet = folder / "load.py"
    snippet.write_text(loader_of(name, file.name))
    python, listed = _environment(folder / "venv", PLACES[name].packages)
    clean = {"PATH": os.environ["PATH"]}
    row: dict[str, Any] = {"format": name, "installed": ", ".join(listed)}
    ran = subprocess.run([python, snippet], check=False, capture_output=True, text=True, env=clean)
    if name == "mlpackage" and sys.platform != "darwin":
        last = ran.stderr.strip().splitlines()[-1]
        assert ran.returncode != 0, "Core ML predicted here"
        assert NO_PREDICTION in last, ran.stderr
        return row | {"snippet prints": f"loads the package, then: {last}"}
    assert ran.returncode == 0, ran.stderr
    row["snippet prints"] = ran.stdout.strip().splitlines()[-1]
    if name not in COMPARE:
        return row
    split = worker.backend.workload.validation
    inputs = worker.backend.workload.prepare(split.inputs[:SAMPLES].clone())
    np.save(folder / "inputs.npy", inputs.numpy())
    longer = folder / "compare.py"
    longer.write_text(snippet.read_text() + COMPARE[name])
    subprocess.run([python, longer], check=True, capture_output=True, env=clean)
    restored = worker.format.read({"": file.read_bytes()})

    def outputs_of(run: Any) -> np.ndarray:
        with torch.inference_mode():
            return torch.cat([run(x[None]) for x in inputs]).numpy()

    expected = outputs_of(restored.run)
    if name == "packed":
        with np.load(folder / "found.npz") as stored:
            weights = dict(stored)
        assert weights.keys() == restored.weights.keys()
        for tensor, values in restored.weights.items():
            assert weights[tensor].tobytes() == values.tobytes(), f"{tensor} differs"
        restored.run.load_state_dict({n: torch.from_numpy(v) for n, v in weights.items()})
        found = outputs_of(restored.run)
    else:
        found = np.load(folder / "found.npy")
    labels = split.targets[:SAMPLES].numpy()
    return row | {
        "accuracy in it %": 100 * float((found.argmax(1) == labels).mean()),
        "in the worker %": 100 * float((expected.argmax(1) == labels).mean()),
        "largest difference of logits": float(np.abs(found - expected).max()),
    }


def _exported(name: str, folder: Path) -> tuple[Any, Path]:
    """(a worker, the file of its trial)."""
    from evaluators.backends.pytorch import profile as scan
    from evaluators.messages import WorkerContext
    from evaluators.worker import Worker
    from spaces import Identity, LayerPolicy, Measurement, Policy, Stage

    scan.SCAN = ()  # no sensitivity is needed here
    layers = tuple((layer, LayerPolicy(bits=8)) for layer in ("conv", "fc"))
    policy = Policy((Stage.QUANTIZE,), layers)
    context = WorkerContext("cnn-mnist", PLACES[name].target, name, str(folder), "cpu")
    worker = Worker(context)
    worker = worker.with_context(replace(context, profile=worker.make_profile().profile))
    measured = worker.evaluate(Identity("cnn-mnist", name, policy.digest, 0, 0, 0), policy)
    assert isinstance(measured, Measurement), str(measured)
    return worker, folder / f"{measured.sha256}.{name}"


def _environment(venv: Path, packages: tuple[str, ...]) -> tuple[Path, list[str]]:
    """(its Python, what is installed in it)."""
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    python = venv / "bin" / "python"
    pip = [python, "-m", "pip"]
    named = [package for package in packages if package != "."]
    subprocess.run([*pip, "install", "-q", *named], check=True)
    if "." in packages:
        wheels = venv / "wheels"
        options = ["--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", wheels]
        subprocess.run([sys.executable, "-m", "pip", "wheel", *options, ROOT], check=True)
        (wheel,) = wheels.glob("*.whl")
        subprocess.run([*pip, "install", "-q", "--no-deps", wheel], check=True)
    listed = subprocess.run([*pip, "freeze"], check=True, capture_output=True, text=True)
    # A wheel's own line ends with where it was.
    return python, [line.partition(" @ ")[0] for line in listed.stdout.splitlines()]


def _earlier() -> dict[str, dict[str, Any]]:
    """Format -> its row in the table as it stands."""
    path = FOLDER / "loaders.json"
    if not path.exists():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    return {
        row["format"]: {"format": row["format"], "date": found["date"], **row}
        for row in found["rows"]
    }


def main() -> None:
    import datetime

    asked = chosen("ONLY", tuple(PLACES))
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    rows = _earlier()
    for name in asked:
        rows[name] = {"format": name, "date": today, **row_of(name)}
    write_results(
        "loaders",
        "Loader snippets in environments with only the runtime",
        "python -m bench.loaders",
        [rows[name] for name in PLACES if name in rows],
        (
            f"cnn-mnist, 8-bit weights; the first {SAMPLES} validation images.",
            (
                "packed: the tensors decoded in it are the worker's, every bit; their outputs are "
                "torch's here. compression-search is installed there without its dependencies."
            ),
            (
                "mlpackage: Core ML predicts on macOS only; on Linux a snippet loads its package "
                "and ends where coremltools refuses to predict, which is what this run asserts."
            ),
        ),
    )


if __name__ == "__main__":
    main()
