"""What each file format makes of the same policies: bytes, accuracy, latency.

`python -m bench.formats`; ONLY=lenet5-mnist for one workload, TARGETS=rpi4,cortex-m7 for some
targets: their rows then replace the earlier ones. Policies are uniform and applied without
training, so that one row takes seconds; a search does better. resnet20-cifar10 needs $SEARCH_DATA.
"""

import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.results import FOLDER, write_results

__all__ = ["main"]

PLACES = (
    ("host", "packed"),
    ("x86", "onnx"),
    ("m1", "mlpackage"),
    ("rpi4", "tflite"),
    ("cortex-m7", "tflite"),
)
WORKLOADS = ("lenet300-mnist", "lenet5-mnist", "resnet20-cifar10")


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
    from evaluators.backends.pytorch import profile as scan
    from evaluators.cost import size_model
    from evaluators.formats import format_capabilities
    from evaluators.messages import WorkerContext
    from evaluators.worker import Worker
    from spaces import Failure, Identity, Policy

    scan.SCAN = ()  # no sensitivity is needed here
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        context = WorkerContext(workload, target, artifact_format, folder, "cpu")
        worker = Worker(context)
        profile = worker.make_profile().profile
        worker = worker.with_context(replace(context, profile=profile))
        sizes = size_model(profile, artifact_format)
        integer_only = worker.target.integer_only
        capabilities = format_capabilities(artifact_format, integer_only=integer_only)
        can = capabilities.activation_bits if not integer_only else {8, 32}
        for name, policy in policies(profile).items():
            # Such a target has no kernel for integers with floats, and none for few bits.
            if integer_only and policy.activation_bits == 32 and policy != Policy():
                continue
            # Nothing runs the packed form's rounded activations, so their time would tell nothing.
            if policy.activation_bits not in can or (
                policy.activation_bits == 8 and artifact_format == "packed"
            ):
                continue
            identity = Identity(workload, artifact_format, policy.digest, 0, 0, 0)
            found = worker.evaluate(identity, policy)
            row: dict[str, Any] = {"workload": workload, "target": target}
            row |= {"format": artifact_format, "policy": name}
            if isinstance(found, Failure):
                rows.append({**row, "bytes": None, "failure": str(found)})
                continue
            again = worker.verify(Path(folder) / f"{found.sha256}.{artifact_format}")
            latency = found.latency
            rows.append(
                {
                    **row,
                    "bytes": found.size_bytes,
                    "by formula": round(sizes.predict_bytes(policy)),
                    "packed bytes": found.download_bytes,
                    "accuracy %": round(100 * found.metric, 2),
                    "read again %": round(100 * again.metric, 2),
                    "latency ms": latency.median_ms,
                    "times faster": profile.baseline_latency_ms / latency.median_ms,
                    "source": f"{latency.source}: {latency.device}",
                }
            )
            print(rows[-1], flush=True)
    return rows


def _earlier() -> dict[tuple[str, str], list[dict[str, Any]]]:
    """(workload, target) -> its rows in the table as it stands."""
    path, rows = FOLDER / "formats.json", {}
    if path.exists():
        for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
            rows.setdefault((row["workload"], row["target"]), []).append(row)
    return rows


def main() -> None:
    only = os.environ.get("ONLY")
    names = [only] if only else list(WORKLOADS)
    if not os.environ.get("SEARCH_DATA") and "resnet20-cifar10" in names:
        names.remove("resnet20-cifar10")
    targets = os.environ.get("TARGETS", "").split(",") if os.environ.get("TARGETS") else None
    places = [place for place in PLACES if targets is None or place[0] in targets]
    if not places:
        known = ", ".join(target for target, _ in PLACES)
        raise SystemExit(f"TARGETS must be of {known}, but got {os.environ['TARGETS']!r}")
    rows = _earlier() if only or targets else {}
    for name in names:
        for place in places:
            rows[name, place[0]] = rows_of(name, *place)
    order = [(name, target) for name in WORKLOADS for target, _ in PLACES]
    write_results(
        "formats",
        "File formats: the same uniform policies, applied without training",
        "python -m bench.formats",
        [row for key in order for row in rows.get(key, ())],
        (
            "Measured: interleaved with the uncompressed network in the same runtime, one thread.",
            "`m1` is modelled: Core ML does not run on Linux, and nothing here was run on a Mac.",
            (
                "`rpi4` and `cortex-m7` are modelled too; their files ran in LiteRT on this "
                "machine. Those of cortex-m7 are integers throughout, but for the uncompressed one."
            ),
            "Accuracy of an mlpackage: of its read-back half-precision weights, in torch.",
            "By formula: the size model without any finished trial of the study.",
        ),
    )


if __name__ == "__main__":
    main()
