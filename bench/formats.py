"""What each file format makes of the same policies: bytes, accuracy, latency.

`python -m bench.formats`; ONLY=lenet5-mnist for one workload. Policies are uniform and applied
without training, so that one row takes seconds; a search does better. resnet20-cifar10, battery
and the emotion networks need $SEARCH_DATA.
"""

import importlib
import json
import multiprocessing
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.parts import chosen
from bench.results import write_results
from evaluators.cost.targets import load_target
from evaluators.formats import choose_format
from evaluators.workloads.registry import backend_of
from spaces import InvalidRequest

__all__ = ["main"]

RESULTS = Path(__file__).parent / "results" / "formats.json"
PLACES = (
    ("host", "packed"),
    ("x86", "onnx"),
    ("m1", "mlpackage"),
    ("host", "tflite"),
    ("rpi4", "tflite"),
    ("cortex-m7", "tflite"),
)
WORKLOADS = (
    "lenet300-mnist",
    "lenet5-mnist",
    "cnn-mnist",
    "lenet300-mnist-keras",
    "cnn-mnist-keras",
    "battery",
    "resnet20-cifar10",
    "emotion-lstm",
    "emotion-lstm-torch",
)
#: Their data is read from $SEARCH_DATA.
FROM_SEARCH_DATA = ("battery", "resnet20-cifar10", "emotion-lstm", "emotion-lstm-torch")


_FIGURES = (
    "bytes",
    "by formula",
    "packed bytes",
    "accuracy %",
    "read again %",
    "latency ms",
    "times faster",
)


def policies(profile: Any) -> dict[str, Any]:
    from spaces import LayerPolicy, Policy, Stage

    def uniform(*order: Stage, activation_bits: int = 32, **knobs: Any) -> Policy:
        layers = tuple((layer.name, LayerPolicy(**knobs)) for layer in profile.layers)
        return Policy(order, layers, activation_bits=activation_bits)

    channels = tuple(
        (x.name, LayerPolicy(sparsity=0.25, pattern="channel"))
        for x in profile.layers
        if x.can_prune_channels
    )
    prune, cluster, quantize = Stage.PRUNE, Stage.CLUSTER, Stage.QUANTIZE
    return {
        "uncompressed": Policy(),
        "int8": uniform(quantize, bits=8),
        "int8, 8-bit activations": uniform(quantize, bits=8, activation_bits=8),
        "int4": uniform(quantize, bits=4),
        "15 clusters": uniform(cluster, clusters=15),
        "15 clusters, int8, 8-bit activations": uniform(
            cluster, quantize, clusters=15, bits=8, activation_bits=8
        ),
        "half the weights, 15 clusters": uniform(prune, cluster, sparsity=0.5, clusters=15),
        "a quarter of the channels": Policy((prune,), channels),
    }


def rows_of(workload: str, target: str, artifact_format: str) -> list[dict[str, Any]]:
    from evaluators.cost import size_model
    from evaluators.formats import format_capabilities
    from evaluators.messages import WorkerContext
    from evaluators.worker import Worker
    from spaces import Failure, Identity, Policy

    package = {"torch": "pytorch", "keras": "keras"}[backend_of(workload)]
    scan: Any = importlib.import_module(f"evaluators.backends.{package}.profile")
    scan.SCAN = ()  # no sensitivity is needed here
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        context = WorkerContext(workload, target, artifact_format, folder, "cpu")
        worker = Worker(context)
        profile = worker.make_profile().profile
        worker = worker.with_context(replace(context, profile=profile))
        sizes = size_model(profile, artifact_format)
        integer_only = worker.target.integer_only
        can = format_capabilities(artifact_format, integer_only=integer_only).activation_bits
        for name, policy in policies(profile).items():
            if policy.order and not policy.layers:
                continue  # no layer of this network can do it
            # Nothing runs the packed form's rounded activations, so their time would tell nothing.
            is_untold = policy.activation_bits == 8 and artifact_format == "packed"
            if policy != Policy() and (policy.activation_bits not in can or is_untold):
                continue
            identity = Identity(workload, artifact_format, policy.digest, 0, 0, 0)
            found = worker.evaluate(identity, policy)
            row: dict[str, Any] = {"workload": workload, "target": target}
            row |= {"format": artifact_format, "policy": name}
            if isinstance(found, Failure):
                rows.append({**row, **dict.fromkeys(_FIGURES), "source": f"refused: {found}"})
                continue
            again = worker.verify(Path(folder) / f"{found.sha256}.{artifact_format}")
            latency = found.latency
            rows.append(
                {
                    **row,
                    "bytes": found.size_bytes,
                    "by formula": round(sizes.predict_bytes(policy)),
                    "packed bytes": found.download_bytes,
                    "accuracy %": f"{100 * found.metric:.2f}",
                    "read again %": f"{100 * again.metric:.2f}",
                    "latency ms": latency.median_ms,
                    "times faster": profile.baseline_latency_ms / latency.median_ms,
                    "source": f"{latency.source}: {latency.device}",
                }
            )
            print(rows[-1], flush=True)
    return rows


def _is_written(artifact_format: str, target: str, backend: str) -> bool:
    """Whether a target's files of a format are made of networks of a backend."""
    try:
        choose_format(artifact_format, load_target(target), backend)
    except InvalidRequest as refusal:
        print(f"left out: {refusal}")
        return False
    return True


def rows_apart(workload: str, target: str, artifact_format: str) -> list[dict[str, Any]]:
    """`rows_of` in a process of its own: torch and TensorFlow do not share one.

    A network that the format cannot hold at all is one row that says why.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(rows_of, workload, target, artifact_format).result()
        except InvalidRequest as refusal:
            row = {"workload": workload, "target": target, "format": artifact_format}
            policy = {"policy": "uncompressed", **dict.fromkeys(_FIGURES)}
            return [row | policy | {"source": f"refused: {refusal}"}]


def _write(rows: dict[str, list[dict[str, Any]]]) -> None:
    missing = [name for name in WORKLOADS if not rows[name]]
    write_results(
        "formats",
        "File formats: the same uniform policies, applied without training",
        "make bench-formats",
        [row for name in WORKLOADS for row in rows[name]],
        (
            "Measured: interleaved with the uncompressed network in the same runtime, one thread.",
            "`m1` is modelled: Core ML does not run on Linux, and nothing here was run on a Mac.",
            (
                "`rpi4` and `cortex-m7` are modelled too; their files ran in LiteRT on this "
                "machine. Those of cortex-m7 are integers throughout, but for the uncompressed one."
            ),
            "Accuracy of an mlpackage: of its read-back half-precision weights, in torch.",
            "By formula: the size model without any finished trial of the study.",
            f"Not run: {', '.join(missing) or 'nothing'}.",
        ),
    )


def main() -> None:
    asked = chosen("ONLY", WORKLOADS)
    before = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    rows = {name: [row for row in before if row["workload"] == name] for name in WORKLOADS}
    for name in asked:
        if name in FROM_SEARCH_DATA and not os.environ.get("SEARCH_DATA"):
            print(f"{name} is left as it was: SEARCH_DATA is not set")
            continue
        backend = backend_of(name)
        rows[name] = [
            row
            for target, artifact_format in PLACES
            if _is_written(artifact_format, target, backend)
            for row in rows_apart(name, target, artifact_format)
        ]
        _write(rows)


if __name__ == "__main__":
    main()
