"""Loader snippets in clean environments that have only the runtime, installed by plain pip.

`python -m bench.loaders`; ONLY=tflite for one format. Each format gets a venv of its own; a member
of cnn-mnist (8-bit weights) is exported beside its snippet, the snippet runs there as it is, then
its runtime's outputs on 1,000 validation images are compared with what the study's worker computes.
Core ML predicts on macOS only, so an mlpackage's snippet is not run here and its row says so.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from bench.results import write_results

__all__ = ["main"]

#: Format -> (packages, target).
RUNTIMES = {"onnx": (["onnxruntime", "numpy"], "x86"), "tflite": (["ai-edge-litert"], "rpi4")}
SAMPLES = 1000
#: Appended to a snippet: the same session on real inputs, one at a time as the snippet does.
COMPARE = {
    "onnx": "found = [session.run(None, {given.name: x[None]})[0][0] for x in inputs]\n",
    "tflite": (
        "found_ = []\nfor x in inputs:\n"
        "    interpreter.set_tensor(given['index'], x[None])\n    interpreter.invoke()\n"
        "    found_.append(interpreter.get_tensor(found['index'])[0])\nfound = found_\n"
    ),
}


def row_of(name: str) -> dict[str, Any]:
    import torch

    from evaluators.messages import WorkerContext
    from evaluators.worker import Worker
    from search.loaders import loader_of
    from spaces import Identity, LayerPolicy, Measurement, Policy, Stage

    packages, target = RUNTIMES[name]
    layers = tuple((layer, LayerPolicy(bits=8)) for layer in ("conv", "fc"))
    policy = Policy((Stage.QUANTIZE,), layers)
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        context = WorkerContext("cnn-mnist", target, name, text, "cpu")
        worker = Worker(context)
        from dataclasses import replace

        from evaluators.backends.pytorch import profile as scan

        scan.SCAN = ()  # no sensitivity is needed here
        worker = worker.with_context(replace(context, profile=worker.make_profile().profile))
        measured = worker.evaluate(Identity("cnn-mnist", name, policy.digest, 0, 0, 0), policy)
        assert isinstance(measured, Measurement), str(measured)
        file = folder / f"{measured.sha256}.{name}"
        split = worker.backend.workload.validation
        inputs = worker.backend.workload.prepare(split.inputs[:SAMPLES].clone())
        restored = worker.format.read({"": file.read_bytes()})
        expected = torch.cat([restored.run(x[None]) for x in inputs]).numpy()
        np.save(folder / "inputs.npy", inputs.numpy())
        snippet = folder / "load.py"
        snippet.write_text(loader_of(name, file.name))
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        python = folder / "venv" / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
        clean = {"PATH": os.environ["PATH"]}
        ran = subprocess.run(
            [python, snippet], check=True, capture_output=True, text=True, env=clean
        )
        longer = folder / "compare.py"
        longer.write_text(
            snippet.read_text()
            + "inputs = np.load(Path(__file__).with_name('inputs.npy'))\n"
            + COMPARE[name]
            + "np.save(Path(__file__).with_name('found.npy'), np.stack(found))\n"
        )
        subprocess.run([python, longer], check=True, capture_output=True, env=clean)
        found = np.load(folder / "found.npy")
        listed = subprocess.run(
            [python, "-m", "pip", "freeze"], check=True, capture_output=True, text=True
        ).stdout.split()
    labels = split.targets[:SAMPLES].numpy()
    return {
        "format": name,
        "installed": ", ".join(listed),
        "snippet prints": ran.stdout.strip().splitlines()[-1],
        "accuracy in it %": 100 * float((found.argmax(1) == labels).mean()),
        "in the worker %": 100 * float((expected.argmax(1) == labels).mean()),
        "largest difference of logits": float(np.abs(found - expected).max()),
    }


def main() -> None:
    only = os.environ.get("ONLY")
    rows = [row_of(name) for name in RUNTIMES if only in (None, name)]
    if only is None:
        rows.append(
            {"format": "mlpackage", "snippet prints": "not run: Core ML predicts on macOS only"}
        )
    print(rows)
    write_results(
        "loaders",
        "Loader snippets in environments with only the runtime",
        "python -m bench.loaders",
        rows,
        (f"cnn-mnist, 8-bit weights; the first {SAMPLES} validation images.",),
    )


if __name__ == "__main__":
    main()
