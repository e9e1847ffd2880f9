"""What runs in a worker: one workload, loaded once, and the evaluation of policies on it.

Everything that crosses a process boundary here is a small plain value. No framework is imported
before a worker is made: which one, the workload says (`evaluators.backends.registry`).
"""

import hashlib
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

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
from evaluators.artifacts.packed import DamagedArtifact, decode, dense, encode
from evaluators.artifacts.store import open_store
from evaluators.backends.base import (
    Backend,
    Compressed,
    FileFormat,
    Removal,
    Restored,
    Score,
    Seeds,
    SplitName,
    mean_score,
)
from evaluators.backends.registry import open_backend
from evaluators.checker import broken_constraints, unrounded_activations
from evaluators.cost.latency import macs, modelled_latency
from evaluators.cost.targets import load_target
from evaluators.formats import check_installed
from evaluators.latency import Call, device_name, measure_ms, measure_relative
from evaluators.messages import Profiled, Scored, Verified, WorkerContext
from spaces import (
    Failure,
    Identity,
    InvalidRequest,
    Latency,
    Measurement,
    ModelProfile,
    Policy,
    Reading,
    StudyBroken,
)

__all__ = ["Worker"]

T = TypeVar("T")


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
        self.backend: Backend = open_backend(context)

    def with_context(self, context: WorkerContext) -> "Worker":
        """This worker where only the profile became known; else a new one."""
        both = (replace(each, profile=None, token="") for each in (context, self.context))
        if next(both) == next(both):
            self.context = context
            return self
        return Worker(context)

    @cached_property
    def format(self) -> FileFormat[Any]:
        """What writes and reads the study's files."""
        return self.backend.file_format(self.context.artifact_format)

    @cached_property
    def baseline_file(self) -> Content:
        """The uncompressed network's file in the study's format.

        Raises:
            InvalidRequest: the format cannot hold this network.
        """
        try:
            artifact = self.format.stored(self.backend.baseline_artifact())
            return self.format.write(artifact, self.backend.whole())
        except CannotHold as error:
            raise InvalidRequest(
                f"workload {self.backend.workload.name} cannot be written as {self.format.name}: "
                f"{error}; --format packed holds any network"
            ) from None

    @cached_property
    def _baseline_call(self) -> Callable[[], object]:
        """One inference of the uncompressed network in the format's runtime."""
        restored = self.format.read(self.baseline_file)
        return self.format.timed(restored, self.backend.whole())

    @property
    def profile(self) -> ModelProfile:
        """The profile made at the start of the study."""
        assert self.context.profile is not None, "configure workers with the profile first"
        return self.context.profile

    def make_profile(self) -> Profiled:
        """Score the baseline, measure it, scan the sensitivity of its layers."""
        started = time.perf_counter()
        workload, backend = self.backend.workload, self.backend
        score = _forward(backend.baseline_score)
        scan = _forward(backend.scan)
        profile = ModelProfile(
            layers=scan.layers,
            channel_groups=scan.channel_groups,
            excluded=scan.excluded,
            other_bytes=scan.other_bytes,
            baseline_metric=score[0],
            baseline_metric_se=score[1],
            baseline_size_bytes=size_bytes(self.baseline_file),
            baseline_latency_ms=1.0,
            latency_source="modelled",
            scan_passes=scan.passes,
            baseline_sha256=self.baseline_sha256(),
            gives_logits=scan.gives_logits,
            has_attention=scan.has_attention,
            backend=backend.name,
            baseline_secondary=_forward(self._baseline_secondary),
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
        recipe, train_samples = workload.recipe, len(workload.train)
        return Profiled(
            profile=profile,
            metric=workload.metric,
            backend=backend.name,
            device=backend.device,
            train_samples=train_samples,
            search_fidelity=round(recipe.search_epochs * train_samples),
            full_fidelity=round(recipe.full_epochs * train_samples),
            batch_size=min(recipe.batch_size, train_samples),
            has_test=workload.test is not None,
            secondary=backend.secondary,
        )

    def _baseline_secondary(self) -> dict[str, Reading]:
        if not self.backend.secondary:
            return {}  # spares reading the file once more
        return self._secondary(self.format.read(self.baseline_file).run)

    def baseline_sha256(self) -> str:
        """Of the uncompressed network's packed file, as in the profile; without any scan."""
        return hashlib.sha256(encode(self.backend.baseline_artifact()).data).hexdigest()

    def evaluate(self, identity: Identity, policy: Policy) -> Measurement | Failure:
        """Compress, write, decode, score, time.

        Raises:
            StudyBroken: the file cannot be written.
        """
        seconds: dict[str, float] = {}
        clock = _Clock(seconds)
        seeds = Seeds(identity.seed, identity.repeat, identity.fidelity)
        if (refused := self._not_on_target(policy)) is not None:
            return refused
        try:
            with clock("train"):
                compressed = self.backend.compress(policy, seeds)
            if isinstance(compressed, Failure):
                return compressed
            with clock("encode"):
                written = self._write(compressed)
            broken = broken_constraints(policy, written.weights)
            broken += unrounded_activations(
                policy, compressed.layers, written.restored.rounded_layers
            )
            if broken:
                if written.is_new:
                    remove(written.path)
                return Failure("", "check", f"asked is not applied: {'; '.join(broken)}")
            with clock("score"):
                score = self._score(written.restored.run)
                secondary = self._secondary(written.restored.run)
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
            device=self.backend.device,
            secondary=secondary,
        )

    def _not_on_target(self, policy: Policy) -> Failure | None:
        """Why the target could not run a policy's file, where that is known before training."""
        if not self.target.integer_only or self.format.name != "tflite":
            return None
        hybrid = next((name for name, asked in policy.layers if asked.bits < 16), None)
        if hybrid is None or policy.activation_bits == 8:
            return None
        reason = f"{self.target.name} has no kernel for 8-bit weights with float activations"
        return Failure(hybrid, "write", f"{reason}: activation_bits must be 8, but is 32")

    def _score(self, run: Callable[[Any], Any], split: SplitName = "validation") -> Score:
        """The metric of a network on a split."""
        workload = self.backend.workload
        return mean_score(self.backend.sample_scores(run, split), workload.name)

    def _secondary(
        self, run: Callable[[Any], Any], split: SplitName = "validation"
    ) -> dict[str, Reading]:
        """What else a network is worth on a split."""
        name = self.backend.workload.name
        found = {}
        for metric, scores in self.backend.secondary_scores(run, split).items():
            value, error, _ = mean_score(scores, name)
            found[metric] = Reading(value, error)
        return found

    def probe(self, policy: Policy, content: Content) -> Latency:
        """Time a file on this machine, whatever the study's target is called.

        Args:
            policy: of the trial; tells which channels are gone.
            content: the trial's file.

        Returns:
            Labelled with this machine and what ran the file: the format's own runtime, or
            the framework where that is not here.

        Raises:
            DamagedArtifact: the bytes are no such file.
        """
        restored = self.format.read(content)
        removal = self.backend.whole()
        if self.format.name == "packed":
            removal = self.backend.removal(policy, restored.weights)
        call, baseline, runtime = self._probed(restored, removal)
        latency = measure_relative(
            call, baseline, self.profile.baseline_latency_ms, device_name(runtime)
        )
        return self._as_ratio(latency)

    def probe_baseline(self) -> Latency:
        """Time the uncompressed network's file on this machine; see `probe`."""
        restored = self.format.read(self.baseline_file)
        call, _, runtime = self._probed(restored, self.backend.whole())
        return measure_ms(call, device_name(runtime))

    def _probed(self, restored: Restored, removal: Removal) -> tuple[Call, Call, str]:
        """(the network, the baseline, what runs both here)."""
        try:
            return self.format.timed(restored, removal), self._baseline_call, self.format.runtime
        except CannotHold:
            baseline = self.format.read(self.baseline_file)
            runtime = self.backend.file_format("packed").runtime
            return self.backend.call(restored.run), self.backend.call(baseline.run), runtime

    def score_test(self, sha256: str) -> Scored | None:
        """What a kept file is worth on the test split; None without one.

        Raises:
            InvalidRequest: no such file, or a damaged one.
        """
        if self.backend.workload.test is None:
            return None
        run = self.format.read(self._kept(sha256)).run
        return Scored(*self._score(run, "test"), self._secondary(run, "test"))

    def score_samples(self, sha256: str) -> np.ndarray:
        """(validation samples,) float32 scores of a kept file.

        Raises:
            InvalidRequest: no such file, or a damaged one.
        """
        run = self.format.read(self._kept(sha256)).run
        scores = self.backend.sample_scores(run, "validation")
        return scores.astype(np.float32)

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
            workload = self.backend.workload.name
            raise InvalidRequest(
                f"{path}: its tensors are not those of workload {workload}: {error}"
            ) from None
        metric, error_bar, samples = self._score(run)
        secondary = self._secondary(run)
        return Verified(size_bytes(content), digest(content), metric, error_bar, samples, secondary)

    def _write(self, compressed: Compressed) -> Written:
        """Encode, write, read back from the disk, load, compare bit for bit.

        Raises:
            CannotHold: the format cannot store what the policy asks.
        """
        trained = dense(compressed.artifact)
        _same_values(compressed.effective, trained)
        artifact = self.format.stored(compressed.artifact)
        packed = encode(artifact).data
        _same_values(dense(artifact), dense(decode(packed)))
        removal = compressed.removal(artifact)
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


def _same_values(expected: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> None:
    """Every tensor of a file, bit for bit, against what was to be stored."""
    for name, values in expected.items():
        if name.endswith("num_batches_tracked") and name not in found:
            continue  # counts training steps; not every format has a place for it
        if not np.array_equal(found[name], values):
            raise DamagedArtifact(f"{name}: the file's values are not the network's")


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
