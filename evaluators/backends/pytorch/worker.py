"""What runs in a worker: one workload, loaded once, and the evaluation of policies on it.

Everything that crosses a process boundary here is a small plain value. Importing this module
imports torch, so the driver only ever names its functions through `evaluators.tasks`.
"""

import copy
import hashlib
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from evaluators.artifacts.base import CannotHold, expanded, sliced
from evaluators.artifacts.files import (
    Content,
    digest,
    exists,
    read_content,
    remove,
    size_bytes,
    write_content,
)
from evaluators.artifacts.packed import Artifact, DamagedArtifact, decode, dense, encode
from evaluators.artifacts.store import open_store
from evaluators.backends.pytorch.channels import ChannelGroup, channel_groups
from evaluators.backends.pytorch.device import choose_device, choose_precision
from evaluators.backends.pytorch.distill import Teacher
from evaluators.backends.pytorch.export import artifact_of, artifact_of_model, load_artifact
from evaluators.backends.pytorch.formats import FileFormat, Removal, Restored, make_format
from evaluators.backends.pytorch.latency import Call, device_name, measure_ms, measure_relative
from evaluators.backends.pytorch.layers import check_model, compressible_layers, trace_shapes
from evaluators.backends.pytorch.pipeline import CALIBRATION_SAMPLES, Seeds, compress
from evaluators.backends.pytorch.profile import layer_profiles
from evaluators.backends.pytorch.randomness import seeded
from evaluators.backends.pytorch.score import Score, evaluate, sample_scores
from evaluators.backends.pytorch.student import Student
from evaluators.backends.pytorch.train import TrainingData
from evaluators.checker import broken_constraints, unrounded_activations
from evaluators.cost.latency import macs, modelled_latency
from evaluators.cost.targets import load_target
from evaluators.formats import check_installed
from evaluators.messages import Profiled, Verified, WorkerContext
from evaluators.workloads.base import Split, as_split
from evaluators.workloads.registry import load_workload
from spaces import (
    Failure,
    Identity,
    InvalidRequest,
    Latency,
    Measurement,
    ModelProfile,
    Policy,
    StudyBroken,
    tensor_name,
)

__all__ = ["Worker"]

T = TypeVar("T")

#: What runs a file whose own runtime is not on the machine.
TORCH = "torch-cpu"
#: The audit after each stage scores this many validation samples; the file is scored on all.
AUDIT_SAMPLES = 2000


@dataclass(frozen=True)
class Written:
    """A file on disk, and what it gave back.

    Attributes:
        download_bytes: of the packed form.
        weights: in the whole network's shapes.
        removal: of the channels that are not in the file, or are zeros there.
    """

    path: Path
    is_new: bool
    sha256: str
    size_bytes: int
    download_bytes: int
    weights: dict[str, np.ndarray]
    restored: Restored
    removal: Removal


class Worker:
    """One process's view of a study."""

    def __init__(self, context: WorkerContext) -> None:
        """Load the workload and the target.

        Raises:
            InvalidRequest: either cannot be had.
        """
        self.context = context
        # With a store this machine need not see the driver's folder: files are made aside.
        self._aside: Path | None = None
        if context.store:
            self._aside = Path(tempfile.mkdtemp(prefix="search-files-"))
            weakref.finalize(self, shutil.rmtree, self._aside, ignore_errors=True)
        check_installed(context.artifact_format)
        target = load_target(context.target)
        self.target = replace(target, artifact_format=context.artifact_format)
        # One thread: results do not depend on how a sum was split, and workers do not compete.
        # Before the user's code, which may train, and after it: it may have set the threads too.
        torch.set_num_threads(1)
        with seeded(0):
            self.workload = load_workload(context.workload)
        torch.set_num_threads(1)
        check_model(self.workload.model)
        cuda = torch.cuda.is_available()
        self.device = choose_device(context.device, cuda)
        self.precision = choose_precision(self.device, cuda and torch.cuda.is_bf16_supported())

    def with_context(self, context: WorkerContext) -> "Worker":
        """This worker where only the profile became known; else a new one."""
        both = (replace(each, profile=None, token="") for each in (context, self.context))
        if next(both) == next(both):
            self.context = context
            return self
        return Worker(context)

    @cached_property
    def baseline(self) -> nn.Module:
        """The uncompressed network on the CPU."""
        model = load_artifact(self.workload.model, artifact_of_model(self.workload.model))
        return model.eval()

    @cached_property
    def format(self) -> FileFormat:
        """What writes and reads the study's files."""
        return make_format(
            self.context.artifact_format,
            self.workload.model,
            self._sample(),
            self._calibration_inputs,
        )

    def _calibration_inputs(self) -> torch.Tensor:
        """The first training inputs, prepared: what a grid of activations is fitted to."""
        inputs = self.workload.train.inputs[:CALIBRATION_SAMPLES].clone()
        return self.workload.prepare(inputs).cpu()

    @cached_property
    def baseline_file(self) -> Content:
        """The uncompressed network's file in the study's format.

        Raises:
            InvalidRequest: the format cannot hold this network.
        """
        removal = Removal(self.baseline, self._sample())
        try:
            artifact = self.format.stored(artifact_of_model(self.workload.model))
            return self.format.write(artifact, removal)
        except CannotHold as error:
            raise InvalidRequest(
                f"workload {self.workload.name} cannot be written as {self.format.name}: {error}; "
                "--format packed holds any network"
            ) from None

    @cached_property
    def _baseline_call(self) -> Callable[[], object]:
        """One inference of the uncompressed network in the format's runtime."""
        restored = self.format.read(self.baseline_file)
        return self.format.timed(restored, Removal(self.baseline, self._sample()))

    @cached_property
    def groups(self) -> tuple[ChannelGroup, ...]:
        """Which output channels are coupled."""
        model, sample = self.baseline, self._sample()
        used = trace_shapes(model, compressible_layers(model), sample)
        return channel_groups(model, used, sample)

    @cached_property
    def data(self) -> TrainingData:
        """What is fine-tuned on, where fine-tuning runs.

        Raises:
            InvalidRequest: `fine_tuning` does not give whole sets of the training split.
        """
        train, give = self.workload.train, self.workload.fine_tuning
        split = train if give is None else as_split("fine_tuning", give())
        if len(split) % len(train):
            raise InvalidRequest(
                f"workload {self.workload.name}: fine_tuning must give whole sets of the "
                f"{len(train)} training samples, but gave {len(split)}"
            )
        return TrainingData(split.to(self.device), self.workload.prepare, len(train))

    @cached_property
    def teacher(self) -> Teacher:
        """The workload's teacher, or the uncompressed network."""
        network = self.workload.teacher or self.workload.model
        if isinstance(network, nn.Module):
            # A copy: the workload's own network stays as it is, on the CPU.
            network = copy.deepcopy(network).to(self.device).eval().requires_grad_(False)
        return Teacher(network, self.data, self.workload.soft_targets)

    @cached_property
    def _audit_split(self) -> Split:
        split = self.workload.validation
        subset = Split(split.inputs[:AUDIT_SAMPLES], split.targets[:AUDIT_SAMPLES])
        return subset.to(self.device)

    @property
    def profile(self) -> ModelProfile:
        """The profile made at the start of the study."""
        assert self.context.profile is not None, "configure workers with the profile first"
        return self.context.profile

    def make_profile(self) -> Profiled:
        """Score the baseline, measure it, scan the sensitivity of its layers."""
        started = time.perf_counter()
        workload = self.workload
        score = _forward(lambda: evaluate(self.baseline, workload, workload.validation))
        layers, excluded, passes = _forward(lambda: layer_profiles(workload, self.groups))
        compressible = {layer.name for layer in layers}
        profile = ModelProfile(
            layers=layers,
            channel_groups=tuple(
                g.layers for g in self.groups if g.removable and len(g.layers) > 1
            ),
            excluded=excluded,
            other_bytes=_other_bytes(workload.model, compressible),
            baseline_metric=score[0],
            baseline_metric_se=score[1],
            baseline_size_bytes=size_bytes(self.baseline_file),
            baseline_latency_ms=1.0,
            latency_source="modelled",
            scan_passes=passes,
            baseline_sha256=self.baseline_sha256(),
            gives_logits=self._gives_logits(),
        )
        if self.target.is_this_machine:
            latency = measure_ms(self._baseline_call, device_name(self.format.runtime))
        else:
            latency = modelled_latency(Policy(), profile, self.target)
        profile = replace(
            profile,
            baseline_latency_ms=latency.median_ms,
            latency_source=latency.source,
            latency_device=latency.device,
            scan_seconds=round(time.perf_counter() - started, 3),
        )
        return Profiled(
            profile=profile,
            metric=workload.metric,
            backend="torch",
            device=self.device,
            train_samples=len(workload.train),
            search_fidelity=workload.fidelity(workload.recipe.search_epochs),
            full_fidelity=workload.fidelity(workload.recipe.full_epochs),
            batch_size=min(workload.recipe.batch_size, len(workload.train)),
            has_test=workload.test is not None,
        )

    @torch.no_grad()
    def _gives_logits(self) -> bool:
        """Outputs (batch, classes >= 2) for targets that are class numbers."""
        split = self.workload.validation
        outputs = self.baseline(self.workload.prepare(split.inputs[:2].clone()))
        if not isinstance(outputs, torch.Tensor) or split.targets.is_floating_point():
            return False
        return outputs.dim() == 2 and outputs.shape[1] >= 2 and split.targets.dim() == 1

    def baseline_sha256(self) -> str:
        """Of the uncompressed network's packed file, as in the profile; without any scan."""
        return hashlib.sha256(encode(artifact_of_model(self.workload.model)).data).hexdigest()

    def evaluate(self, identity: Identity, policy: Policy) -> Measurement | Failure:
        """Compress, write, decode, score, time.

        Raises:
            StudyBroken: the file cannot be written.
        """
        seconds: dict[str, float] = {}
        clock = _Clock(seconds)
        seeds = Seeds(identity.seed, identity.repeat, identity.fidelity)
        try:
            with clock("train"):
                compressed = compress(
                    self.workload,
                    self.groups,
                    policy,
                    seeds,
                    self.teacher,
                    self.data,
                    self.precision,
                    lambda model: evaluate(model, self.workload, self._audit_split)[0],
                )
            if isinstance(compressed, Failure):
                return compressed
            with clock("encode"):
                written = self._write(policy, compressed.student)
            broken = broken_constraints(policy, written.weights)
            broken += unrounded_activations(
                policy, compressed.student.layers, written.restored.rounded_layers
            )
            if broken:
                if written.is_new:
                    remove(written.path)
                return Failure("", "check", f"asked is not applied: {'; '.join(broken)}")
            with clock("score"):
                score = evaluate(written.restored.run, self.workload, self.workload.validation)
            with clock("latency"):
                latency = self._latency(policy, written)
            if self.context.store:
                with clock("store"):
                    content = read_content(written.path)
                    open_store(self.context.store).put(written.path.name, content)
                    remove(written.path)
        except StudyBroken:
            raise
        except CannotHold as error:
            return Failure(error.layer, "write", error.reason)
        except Exception as error:
            return Failure("", "evaluate", f"{type(error).__name__}: {error}")
        return Measurement(
            metric=score[0],
            metric_se=score[1],
            metric_samples=score[2],
            size_bytes=written.size_bytes,
            download_bytes=written.download_bytes,
            sha256=written.sha256,
            ledger=written.restored.ledger,
            macs=macs(policy, self.profile),
            latency=latency,
            seconds=seconds,
            audit=compressed.audit,
            device=self.device,
        )

    def probe(self, policy: Policy, content: Content) -> Latency:
        """Time a file on this machine, whatever the study's target is called.

        Args:
            policy: of the trial; tells which channels are gone.
            content: the trial's file.

        Returns:
            Labelled with this machine and what ran the file: the format's own runtime, or
            torch where that is not here.

        Raises:
            DamagedArtifact: the bytes are no such file.
        """
        restored = self.format.read(content)
        removal = Removal(self.baseline, self._sample())
        if self.format.name == "packed":
            dead = _dead_channels(policy, self.groups, restored.weights)
            removal = Removal(self.baseline, self._sample(), dead)
        call, baseline, runtime = self._probed(restored, removal)
        latency = measure_relative(
            call, baseline, self.profile.baseline_latency_ms, device_name(runtime)
        )
        return self._as_ratio(latency)

    def probe_baseline(self) -> Latency:
        """Time the uncompressed network's file on this machine; see `probe`."""
        removal = Removal(self.baseline, self._sample())
        call, _, runtime = self._probed(self.format.read(self.baseline_file), removal)
        return measure_ms(call, device_name(runtime))

    def _probed(self, restored: Restored, removal: Removal) -> tuple[Call, Call, str]:
        """(the network, the baseline, what runs both here)."""
        try:
            return self.format.timed(restored, removal), self._baseline_call, self.format.runtime
        except CannotHold:
            network, sample = restored.run, self._sample()
            return _in_torch(network, sample), _in_torch(self.baseline, sample), TORCH

    def score_test(self, sha256: str) -> Score | None:
        """The test metric of a kept file; None without a test split.

        Raises:
            InvalidRequest: no such file, or a damaged one.
        """
        if self.workload.test is None:
            return None
        content = self._kept(sha256)
        return evaluate(self.format.read(content).run, self.workload, self.workload.test)

    def score_samples(self, sha256: str) -> np.ndarray:
        """(validation samples,) float32 scores of a kept file.

        Raises:
            InvalidRequest: no such file, or a damaged one.
        """
        run = self.format.read(self._kept(sha256)).run
        scores = sample_scores(run, self.workload, self.workload.validation)
        values: np.ndarray = scores.float().cpu().numpy()
        return values

    def verify(self, path: Path) -> Verified:
        """Decode any file and score it again on the validation split.

        Raises:
            InvalidRequest: a damaged file, or one of another architecture.
        """
        content = self._read(path)
        try:
            run = self.format.read(content).run
        except DamagedArtifact as error:
            raise InvalidRequest(f"{path}: {error}") from None
        except InvalidRequest as error:
            raise InvalidRequest(
                f"{path}: its tensors are not those of workload {self.workload.name}: {error}"
            ) from None
        metric, error_bar, samples = evaluate(run, self.workload, self.workload.validation)
        return Verified(size_bytes(content), digest(content), metric, error_bar, samples)

    def _write(self, policy: Policy, student: Student) -> Written:
        """Encode, write, read back from the disk, load, compare bit for bit.

        Raises:
            CannotHold: the format cannot store what the policy asks.
        """
        trained = artifact_of(student)
        self._compare(student, dense(trained))
        artifact = self.format.stored(trained)
        packed = encode(artifact).data
        _same_values(dense(artifact), dense(decode(packed)))
        removal = self._removal(policy, student, artifact)
        content: Content = {"": packed}
        if self.format.name != "packed":
            content = self.format.write(artifact, removal)
        sha256 = digest(content)
        path = self._path(sha256)
        is_new = not exists(path)
        restored = self.format.read(self._store(path, content))
        weights = dict(restored.weights)
        if self.format.name != "packed":
            _same_values(dense(sliced(artifact, removal.slices)), weights)
            shapes = {tensor.name: tensor.shape for tensor in artifact.tensors}
            weights = expanded(weights, shapes, removal.slices)
        return Written(
            path=path,
            is_new=is_new,
            sha256=sha256,
            size_bytes=size_bytes(content),
            download_bytes=len(packed),
            weights=weights,
            restored=restored,
            removal=removal,
        )

    @staticmethod
    def _compare(student: Student, weights: Mapping[str, np.ndarray]) -> None:
        """Every weight and bias of an artifact against the network that was trained."""
        for layer in student.layers.values():
            effective = {tensor_name(layer.name, "weight"): layer.effective()}
            if layer.bias is not None:
                effective[tensor_name(layer.name, "bias")] = layer.effective_bias()
            for name, values in effective.items():
                if not np.array_equal(weights[name], values.cpu().numpy()):
                    raise DamagedArtifact(f"{name}: the file's values are not the network's")

    def _removal(self, policy: Policy, student: Student, artifact: Artifact) -> Removal:
        dead = _dead_channels(policy, student.groups, dense(artifact))
        return Removal(self.baseline, self._sample(), dead)

    def _store(self, path: Path, content: Content) -> Content:
        """Write so that the final name appears only with whole bytes, whenever this process dies.

        Returns:
            What the disk gave back. Read before the rename: afterwards the driver may delete the
            file, if another trial had the same one and was beaten.

        Raises:
            StudyBroken: the folder cannot be written to.
        """
        partial = path.with_suffix(f".{os.getpid()}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            remove(partial)
            write_content(partial, content)
            stored = read_content(partial)
            if path.is_dir():
                remove(partial)  # the same package under the same hash; a folder is not replaced
            else:
                partial.replace(path)
        except OSError as error:
            with suppress(OSError):
                remove(partial)
            raise StudyBroken(f"cannot write to {self.context.artifacts_dir}: {error}") from error
        return stored

    def _path(self, sha256: str) -> Path:
        folder = self._aside or Path(self.context.artifacts_dir)
        return folder / f"{sha256}.{self.context.artifact_format}"

    def _kept(self, sha256: str) -> Content:
        """A kept file, from wherever the study keeps them."""
        path = self._path(sha256)
        if self.context.store:
            return open_store(self.context.store).get(path.name)
        return self._read(path)

    @staticmethod
    def _read(path: Path) -> Content:
        try:
            return read_content(path)
        except OSError as error:
            raise InvalidRequest(f"cannot read {path}: {error.strerror}") from None

    def _sample(self) -> torch.Tensor:
        return self.workload.prepare(self.workload.validation.inputs[:1].clone())

    def _latency(self, policy: Policy, written: Written) -> Latency:
        if not self.target.is_this_machine:
            return self._modelled(policy)
        latency = measure_relative(
            self.format.timed(written.restored, written.removal),
            self._baseline_call,
            self.profile.baseline_latency_ms,
            device_name(self.format.runtime),
        )
        return self._as_ratio(latency)

    def _modelled(self, policy: Policy) -> Latency:
        """The target's model; in a study whose baseline was measured, scaled to that."""
        latency = modelled_latency(policy, self.profile, self.target)
        if self.profile.latency_source == "modelled":
            return latency
        untouched_ms = modelled_latency(Policy(), self.profile, self.target).median_ms
        median_ms = latency.median_ms * self.profile.baseline_latency_ms / untouched_ms
        label = (
            f"{latency.device}, scaled to the baseline measured on {self.profile.latency_device}"
        )
        return replace(latency, median_ms=median_ms, p95_ms=median_ms, device=label)

    def _as_ratio(self, latency: Latency) -> Latency:
        """Say so where candidate and study's baseline were not measured on the same machine."""
        here, there = latency.device, self.profile.latency_device
        if there in ("", here):
            return latency
        # Resumed on another machine: the ratio is of this one, the milliseconds are of that one.
        label = f"{here}, as a ratio to the baseline measured on {there}"
        return replace(latency, device=label)


def _in_torch(network: Callable[[torch.Tensor], object], sample: torch.Tensor) -> Call:
    def call() -> object:
        with torch.inference_mode():
            return network(sample)

    return call


class _Clock:
    """`with clock("train"):` adds the block's wall seconds to a dict."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds, self._phase, self._started = seconds, "", 0.0

    def __call__(self, phase: str) -> "_Clock":
        self._phase = phase
        return self

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._seconds[self._phase] = round(time.perf_counter() - self._started, 4)


def _dead_channels(
    policy: Policy, groups: Sequence[ChannelGroup], weights: Mapping[str, np.ndarray]
) -> dict[str, list[int]]:
    """First layer of each channel-pruned group -> its all-zero output channels."""
    dead: dict[str, list[int]] = {}
    for group in groups:
        if any(policy.layer(name).pattern == "channel" for name in group.layers):
            # Every layer of a group lost the same channels, with its bias and the norms behind
            # it; rounding may have emptied more of one of them, which changes nothing elsewhere.
            names = [f"{m}.{p}" for m in (*group.layers, *group.norms) for p in ("weight", "bias")]
            tensors = [weights[name] for name in names if name in weights]
            rows = [(tensor.reshape(len(tensor), -1) == 0).all(axis=1) for tensor in tensors]
            zero = np.logical_and.reduce(rows)
            zero[-1] &= not zero.all()  # a layer without any channel cannot run
            dead[group.layers[0]] = np.flatnonzero(zero).tolist()
    return dead


def _same_values(expected: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> None:
    """Every tensor of a file, bit for bit, against what was to be stored."""
    for name, values in expected.items():
        if name.endswith("num_batches_tracked") and name not in found:
            continue  # counts training steps; not every format has a place for it
        if not np.array_equal(found[name], values):
            raise DamagedArtifact(f"{name}: the file's values are not the network's")


def _other_bytes(model: nn.Module, compressible: set[str]) -> int:
    """fp32 bytes of parameters and buffers outside the compressible layers."""
    layers = compressible_layers(model)
    owned = {id(p) for name in compressible for p in layers[name].parameters()}
    tensors = [*model.parameters(), *model.buffers()]
    return sum(4 * t.numel() for t in tensors if id(t) not in owned)


def _forward(run: Callable[[], T]) -> T:
    """Errors of the user's own forward pass, loss or score, without our frames."""
    try:
        return run()
    except InvalidRequest:
        raise
    except Exception as error:
        raise InvalidRequest(
            "workload: the network, loss or score fails on the data: "
            f"{type(error).__name__}: {error}"
        ) from error
