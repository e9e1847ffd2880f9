"""The packed coder beside others on the same networks, and its speed and memory at 15 million.

`python -m bench.coder`. The networks are compressed by the product (minutes, once) and kept in
the folder CODER_NETWORKS. nncodec joins in where NNCODEC_PYTHON names a Python that has it.
"""

import argparse
import bz2
import gzip
import json
import lzma
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.coder_networks import NETWORKS, artifact_of
from bench.memory import peak_mb
from bench.results import write_results
from evaluators.artifacts.packed import (
    Artifact,
    CodebookTensor,
    GridCodebook,
    GridTensor,
    decode,
    encode,
)
from evaluators.artifacts.packed.mixing import signed_ranks

__all__ = ["main"]

FOLDER_VARIABLE = "CODER_NETWORKS"
NNCODEC_VARIABLE = "NNCODEC_PYTHON"
#: Output channels of VGG-16's 3x3 convolutions: 14.7 million weights.
VGG16 = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)


def integers_of(artifact: Artifact) -> dict[str, np.ndarray]:
    """Every tensor as the integers a general coder would be given: levels, or signed ranks."""
    found = {}
    for tensor in artifact.tensors:
        match tensor:
            case GridTensor():
                found[tensor.name] = tensor.levels
            case CodebookTensor():
                found[tensor.name] = signed_ranks(tensor.codebook.decode())[tensor.indices]
            case _:
                raise SystemExit(f"{tensor.name}: the bench's networks are all integers")
    return found


def order0_bytes(artifact: Artifact, integers: Mapping[str, np.ndarray]) -> float:
    """An ideal coder that knows each tensor's frequencies, whose table takes 2 bytes a symbol.

    Header, codebooks and scales are as in the file, so that whole files are compared.
    """
    bits = 0.0
    for values in integers.values():
        counts = np.unique(values, return_counts=True)[1]
        bits += float(-(counts * np.log2(counts / values.size)).sum()) + 16 * counts.size
    coded = {"positions", "indices", "levels"}
    rest = sum(x.size_bytes for x in encode(artifact).ledger if x.section not in coded)
    return bits / 8 + rest


def nncodec_bytes(arrays: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, int]:
    """Bytes by network; none where nncodec is not to be had."""
    python = os.environ.get(NNCODEC_VARIABLE)
    if not python:
        return {}
    script = Path(__file__).with_name("nncodec_sizes.py")
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for number, (name, tensors) in enumerate(arrays.items()):
            path = Path(folder) / f"{number}.npz"
            np.savez(path, **{key: value.astype(np.int32) for key, value in tensors.items()})
            paths[str(path)] = name
        command = [python, str(script), *paths]
        found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    sizes = json.loads(found.stdout.splitlines()[-1])
    return {paths[path]: size_bytes for path, size_bytes in sizes.items()}


def network_rows(folder: Path) -> list[dict[str, Any]]:
    """One row a network."""
    encode(Artifact((GridTensor("w", np.eye(4, dtype=np.int32), np.ones(1, np.float32)),)))
    artifacts = {network.name: artifact_of(network, folder) for network in NETWORKS}
    integers = {name: integers_of(artifact) for name, artifact in artifacts.items()}
    by_nncodec = nncodec_bytes(integers)
    rows = []
    for network in NETWORKS:
        artifact, arrays = artifacts[network.name], integers[network.name]
        start_s = time.process_time()
        data = encode(artifact).data
        encoded_s = time.process_time()
        assert decode(data) == artifact
        decoded_s = time.process_time()
        widest = max(int(np.abs(values).max()) for values in arrays.values())
        dense = np.concatenate([values.ravel() for values in arrays.values()])
        dense_bytes = dense.astype(np.int8 if widest < 128 else np.int16).tobytes()
        nncodec = by_nncodec.get(network.name)
        order0 = order0_bytes(artifact, arrays)
        rows.append({
            "network": network.name,
            "tuned on": "yes" if network.tuned else "",
            "non-zeros": int(np.count_nonzero(dense)),
            "order-0 bytes": round(order0),
            "coder 1 bytes": len(encode(artifact, coder_id=1).data),
            "coder 2 bytes": len(data),
            "xz bytes": len(lzma.compress(dense_bytes, preset=9 | lzma.PRESET_EXTREME)),
            "bz2 bytes": len(bz2.compress(dense_bytes)),
            "gzip bytes": len(gzip.compress(dense_bytes, 9)),
            "nncodec bytes": nncodec,
            "to order-0 %": round(100 * len(data) / order0 - 100, 1),
            "to nncodec %": None if nncodec is None else round(100 * len(data) / nncodec - 100, 1),
            "encode s": round(encoded_s - start_s, 2),
            "decode s": round(decoded_s - encoded_s, 2),
        })  # fmt: skip
    return rows


def large_net(kind: str) -> Artifact:
    """VGG-16's convolutions: weights of uneven scale, 90 % pruned to 16 clusters, or 8 bits."""
    random = np.random.default_rng(0)
    tensors = []
    channels = 3
    book = GridCodebook(np.r_[-15:0:2, 1:16:2], np.ones(1, np.float32))
    for number, outputs in enumerate(VGG16):
        scales = random.normal(size=(outputs, 1, 1, 1)) + random.normal(size=(1, channels, 1, 1))
        weights = random.standard_normal((outputs, channels, 3, 3), np.float32)
        weights *= np.exp(0.4 * scales).astype(np.float32)
        name = f"features.{number}.weight"
        channels = outputs
        if kind == "dense":
            levels = np.rint(np.clip(weights * 40, -127, 127)).astype(np.int32)
            tensors.append(GridTensor(name, levels, np.ones(1, np.float32)))
            continue
        least = np.quantile(np.abs(weights), 0.9)
        step = np.clip((np.abs(weights) / least - 1) * 6, 0, 7).astype(np.int32)
        indices = np.where(weights > 0, 9 + step, 8 - step) * (np.abs(weights) > least)
        tensors.append(CodebookTensor(name, indices, book))
    return Artifact(tuple(tensors))


def large(kind: str) -> dict[str, Any]:
    """Times and peak memory of one large network, in this process."""
    encode(Artifact((GridTensor("w", np.eye(4, dtype=np.int32), np.ones(1, np.float32)),)))
    artifact = large_net(kind)
    before_mb = peak_mb()
    start_s = time.process_time()
    data = encode(artifact).data
    encoded_s = time.process_time()
    assert decode(data) == artifact
    return {
        "coder 2 bytes": len(data),
        "encode s": round(encoded_s - start_s, 1),
        "decode s": round(time.process_time() - encoded_s, 1),
        "peak MB": round(peak_mb()),
        "peak MB before": round(before_mb),
    }


def main() -> None:
    """Measure and write bench/results/coder.*"""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", choices=("sparse", "dense"), help="in this process; print JSON")
    kind = parser.parse_args().large
    if kind is not None:
        print(json.dumps(large(kind)))
        return
    folder = Path(os.environ.get(FOLDER_VARIABLE, Path(tempfile.gettempdir()) / "coder-networks"))
    rows = network_rows(folder)
    notes = [
        "Whole files; coders other than ours and order-0 hold the integers only, no codebooks.",
        "order-0: entropy of each tensor's integers, 2 bytes a symbol for the table, our header.",
        "nncodec 2.1.3: the best of its scan orders, with and without row skipping.",
    ]
    if os.environ.get(NNCODEC_VARIABLE) is None:
        notes[-1] = f"nncodec skipped: {NNCODEC_VARIABLE} names no Python that has it."
    for kind, what in (("sparse", "90 % pruned, 16 clusters"), ("dense", "8 bits")):
        command = [sys.executable, "-m", "bench.coder", "--large", kind]
        found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        about = json.loads(found.stdout.splitlines()[-1])
        described = ", ".join(f"{key} {value:,}" for key, value in about.items())
        notes.append(f"14.7 million weights, {what}: {described}.")
    write_results("coder", "The packed coder beside others", "make bench-coder", rows, notes)


if __name__ == "__main__":
    main()
