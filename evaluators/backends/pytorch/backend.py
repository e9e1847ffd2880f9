"""PyTorch behind a worker: a workload whose network is a `torch.nn.Module`."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from evaluators.artifacts.packed import Artifact, dense
from evaluators.backends.base import AnyWorkload, Compressed, Scan, Score, Seeds, SplitName
from evaluators.backends.pytorch.channels import ChannelGroup, channel_groups
from evaluators.backends.pytorch.device import choose_device, choose_precision
from evaluators.backends.pytorch.distill import Teacher, have_same_maps
from evaluators.backends.pytorch.export import artifact_of, artifact_of_model, load_artifact
from evaluators.backends.pytorch.formats import Removal, TorchFormat, make_format
from evaluators.backends.pytorch.layers import check_model, compressible_layers, trace_shapes
from evaluators.backends.pytorch.pipeline import CALIBRATION_SAMPLES, compress
from evaluators.backends.pytorch.profile import layer_profiles
from evaluators.backends.pytorch.recurrent import parted
from evaluators.backends.pytorch.score import evaluate, sample_scores
from evaluators.backends.pytorch.student import Student
from evaluators.backends.pytorch.train import TrainingData
from evaluators.workloads.base import Split, Workload, as_split
from spaces import Failure, InvalidRequest, Metric, Policy, tensor_name

__all__ = ["TorchBackend"]

#: The audit after each stage scores this many validation samples; the file is scored on all.
AUDIT_SAMPLES = 2000


class TorchBackend:
    """See `evaluators.backends.base.Backend`."""

    name = "torch"

    def __init__(self, workload: AnyWorkload, device: str) -> None:
        """Take a loaded workload.

        Args:
            workload: a `Workload`.
            device: "auto", "cpu" or "cuda".

        Raises:
            InvalidRequest: a network that cannot be held, or no such device.
        """
        assert isinstance(workload, Workload)
        check_model(workload.model)
        # From here on everything sees the same network, its recurrent layers in parts.
        self.workload = replace(workload, model=parted(workload.model))
        cuda = torch.cuda.is_available()
        self.device = choose_device(device, cuda)
        self.precision = choose_precision(self.device, cuda and torch.cuda.is_bf16_supported())

    @cached_property
    def baseline(self) -> nn.Module:
        """The uncompressed network on the CPU."""
        model = load_artifact(self.workload.model, artifact_of_model(self.workload.model))
        return model.eval()

    def baseline_artifact(self) -> Artifact:
        """See `Backend.baseline_artifact`."""
        return artifact_of_model(self.workload.model)

    def whole(self) -> Removal:
        """See `Backend.whole`."""
        return Removal(self.baseline, self._sample())

    def file_format(self, name: str) -> TorchFormat:
        """See `Backend.file_format`."""
        return make_format(name, self.workload.model, self._sample(), self._calibration_inputs)

    def _calibration_inputs(self) -> torch.Tensor:
        """The first training inputs, prepared: what a grid of activations is fitted to."""
        inputs = self.workload.train.inputs[:CALIBRATION_SAMPLES].clone()
        return self.workload.prepare(inputs).cpu()

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

    @property
    def _teacher_network(self) -> Callable[[torch.Tensor], torch.Tensor]:
        return self.workload.teacher or self.workload.model

    @cached_property
    def teacher(self) -> Teacher:
        """The workload's teacher, or the uncompressed network."""
        network = self._teacher_network
        if isinstance(network, nn.Module):
            # A copy: the workload's own network stays as it is, on the CPU.
            network = copy.deepcopy(network).to(self.device).eval().requires_grad_(False)
        return Teacher(network, self.data, self.workload.soft_targets)

    @cached_property
    def _audit_split(self) -> Split:
        split = self.workload.validation
        subset = Split(split.inputs[:AUDIT_SAMPLES], split.targets[:AUDIT_SAMPLES])
        return subset.to(self.device)

    def scan(self) -> Scan:
        """See `Backend.scan`."""
        layers, excluded, passes = layer_profiles(self.workload, self.groups)
        return Scan(
            layers=layers,
            excluded=excluded,
            passes=passes,
            channel_groups=tuple(
                g.layers for g in self.groups if g.removable and len(g.layers) > 1
            ),
            other_bytes=_other_bytes(self.workload.model, {layer.name for layer in layers}),
            gives_logits=self._gives_logits(),
            has_attention=self._has_attention(),
        )

    @torch.no_grad()
    def _gives_logits(self) -> bool:
        """Outputs (batch, classes >= 2) for class numbers, or a loss for what they are instead."""
        if self.workload.imitation is not None:
            return True
        split = self.workload.validation
        outputs = self.baseline(self._two_inputs())
        if not isinstance(outputs, torch.Tensor) or split.targets.is_floating_point():
            return False
        return outputs.dim() == 2 and outputs.shape[1] >= 2 and split.targets.dim() == 1

    def _has_attention(self) -> bool:
        teacher = self._teacher_network
        if not isinstance(teacher, nn.Module):
            return False
        return have_same_maps(self.workload.model, teacher, self._two_inputs())

    def _two_inputs(self) -> torch.Tensor:
        """(2, ...) prepared samples."""
        return self.workload.prepare(self.workload.validation.inputs[:2].clone())

    def compress(self, policy: Policy, seeds: Seeds) -> Compressed | Failure:
        """See `Backend.compress`."""
        done = compress(
            self.workload,
            self.groups,
            policy,
            seeds,
            self.teacher,
            self.data,
            self.precision,
            lambda model: evaluate(model, self.workload, self._audit_split)[0],
        )
        if isinstance(done, Failure):
            return done
        student, audit = done

        def removal(artifact: Artifact) -> Removal:
            return self.removal(policy, dense(artifact))

        layers = tuple(student.readers)
        return Compressed(artifact_of(student), _effective(student), layers, removal, audit)

    def removal(self, policy: Policy, weights: Mapping[str, np.ndarray]) -> Removal:
        """See `Backend.removal`."""
        dead = _dead_channels(policy, self.groups, weights)
        return Removal(self.baseline, self._sample(), dead)

    def call(self, run: Callable[[Any], Any]) -> Callable[[], object]:
        """See `Backend.call`."""
        sample = self._sample()

        def once() -> object:
            with torch.inference_mode():
                return run(sample)

        return once

    def baseline_score(self) -> Score:
        """See `Backend.baseline_score`."""
        return evaluate(self.baseline, self.workload, self.workload.validation)

    def sample_scores(self, run: Callable[[Any], Any], split: SplitName) -> np.ndarray:
        """See `Backend.sample_scores`."""
        samples = self.workload.validation if split == "validation" else self.workload.test
        assert samples is not None
        values: np.ndarray = sample_scores(run, self.workload, samples).cpu().numpy()
        return values

    @property
    def secondary(self) -> tuple[Metric, ...]:
        """See `Backend.secondary`."""
        return tuple(each.metric for each in self.workload.secondary)

    def secondary_scores(
        self, run: Callable[[Any], Any], split: SplitName
    ) -> dict[str, np.ndarray]:
        """See `Backend.secondary_scores`."""
        samples = self.workload.validation if split == "validation" else self.workload.test
        assert samples is not None
        return {
            each.metric.name: sample_scores(run, self.workload, samples, each.score).cpu().numpy()
            for each in self.workload.secondary
        }

    def _sample(self) -> torch.Tensor:
        return self.workload.prepare(self.workload.validation.inputs[:1].clone())


def _effective(student: Student) -> dict[str, np.ndarray]:
    """Every weight and bias the network was trained to compute with."""
    effective = {}
    for layer in student.layers.values():
        effective[tensor_name(layer.name, "weight")] = layer.effective().cpu().numpy()
        if layer.bias is not None:
            effective[tensor_name(layer.name, "bias")] = layer.effective_bias().cpu().numpy()
    return effective


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


def _other_bytes(model: nn.Module, compressible: set[str]) -> int:
    """fp32 bytes of parameters and buffers outside the compressible layers."""
    layers = compressible_layers(model)
    owned = {id(p) for name in compressible for p in layers[name].parameters()}
    tensors = [*model.parameters(), *model.buffers()]
    return sum(4 * t.numel() for t in tensors if id(t) not in owned)
