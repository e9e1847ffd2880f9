"""Runs a policy's stages in its order on a copy of the network, with an audit after each."""

import time
from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor, nn

from evaluators.backends.base import Seeds, destroyed, stage_knobs, stage_samples
from evaluators.backends.pytorch import stages
from evaluators.backends.pytorch.activations import calibrate
from evaluators.backends.pytorch.channels import ChannelGroup
from evaluators.backends.pytorch.compact import compacted
from evaluators.backends.pytorch.device import Precision
from evaluators.backends.pytorch.distill import (
    AttentionMaps,
    CannotDistill,
    Loss,
    Teacher,
    distilled_loss,
)
from evaluators.backends.pytorch.randomness import seeded
from evaluators.backends.pytorch.student import Student, policy_failure
from evaluators.backends.pytorch.train import Diverged, TrainingData, fine_tune
from evaluators.workloads.base import Workload
from spaces import Failure, Policy, Stage, StageAudit

__all__ = ["CALIBRATION_SAMPLES", "compress"]

CALIBRATION_SAMPLES = 1000


def compress(
    workload: Workload,
    groups: tuple[ChannelGroup, ...],
    policy: Policy,
    seeds: Seeds,
    teacher: Teacher,
    data: TrainingData,
    precision: Precision,
    score: Callable[[nn.Module], float],
) -> tuple[Student, tuple[StageAudit, ...]] | Failure:
    """Apply a policy.

    Args:
        workload: the trained network and its recipe.
        groups: of its output channels.
        policy: what to do. With no stage the network is returned as it is.
        seeds: fidelity (training samples in all) and seeds.
        teacher: for the distill stage.
        data: the training split on the training device.
        precision: of fine-tuning.
        score: effective network -> metric on the validation split, for the audit.

    Returns:
        The student and one audit a stage, or the Failure which names layer and stage.
    """
    student = Student(workload.model, groups)
    student.model.to(data.split.inputs.device)
    failure = policy_failure(policy, student)
    if failure is not None:
        return failure
    shapes = {name: tuple(layer.latent.shape) for name, layer in student.layers.items()}
    audits: list[StageAudit] = []
    prefix: list[object] = []
    batch_size = min(workload.recipe.batch_size, len(data.split))
    samples = stage_samples(seeds.fidelity, len(policy.order), batch_size)
    distilled = (
        samples[policy.order.index(Stage.DISTILL) :] if Stage.DISTILL in policy.order else []
    )
    is_short = sum(distilled) < len(data.split)
    run = _Run(workload, policy, student, teacher, data, precision, is_short=is_short)
    try:
        for stage, budget in zip(policy.order, samples, strict=True):
            started = time.perf_counter()
            prefix.append([stage.value, budget, stage_knobs(policy, stage)])
            try:
                run.stage(stage, budget, seeds.of_stage(prefix))
            except (CannotDistill, Diverged) as error:
                return Failure("", stage, str(error))
            layers = student.audit()
            audits.append(
                StageAudit(
                    stage=stage.value,
                    samples=budget,
                    seconds=round(time.perf_counter() - started, 3),
                    metric=score(student.model),
                    layers=layers,
                    destroyed=tuple(
                        f"{name}: {what}"
                        for name, what in destroyed(policy, run.done, shapes, layers).items()
                    ),
                )
            )
    finally:
        run.close()
    return student, tuple(audits)


class _Run:
    """The state that goes from stage to stage besides the student: the losses and what is done."""

    def __init__(
        self,
        workload: Workload,
        policy: Policy,
        student: Student,
        teacher: Teacher,
        data: TrainingData,
        precision: Precision,
        *,
        is_short: bool,
    ) -> None:
        self.workload, self.policy, self.student = workload, policy, student
        self.teacher, self.data, self.precision = teacher, data, precision
        self.is_short = is_short
        self.done: list[Stage] = []
        self._maps: tuple[AttentionMaps, AttentionMaps] | None = None

    def stage(self, stage: Stage, samples: int, seed: int) -> None:
        """Establish what the stage asks, then fine-tune with everything in force."""
        student, policy = self.student, self.policy
        move: Callable[[int, int], None] | None = None
        # Dropout and the like draw from torch's global generator; the caller's is left alone.
        with seeded(seed):
            match stage:
                case Stage.PRUNE:
                    move = stages.prune_schedule(student, policy, self._some_inputs())
                case Stage.CLUSTER:
                    stages.cluster(student, policy, np.random.default_rng(seed))
                case Stage.QUANTIZE:
                    stages.quantize(student, policy)
                    self._quantize_activations()
                case Stage.DISTILL:
                    self._start_distillation()
            self.done.append(stage)

            def before_step(step: int, steps: int) -> None:
                if move is not None:
                    move(step, steps)
                stages.reassign(student, step)

            # While the masks move every weight takes part; afterwards only those that are left.
            with nullcontext() if move else compacted(student):
                fine_tune(
                    model=student.model,
                    data=self.data,
                    recipe=self.workload.recipe,
                    samples=samples,
                    loss=self._loss(),
                    before_step=before_step,
                    generator=torch.Generator().manual_seed(seed),
                    precision=self.precision,
                )
            student.model.eval()
            if move is not None:
                move(1, 0)  # too few steps may not have reached the end of the ramp
            stages.settle(student)

    def _quantize_activations(self) -> None:
        if self.policy.activation_bits == 8:
            batch = self._some_inputs()
            readers = self.student.readers.items()
            modules = {n: layer.module for n, layer in readers if self.policy.rounds_input(n)}
            self.student.quantize_activations(calibrate(self.student.model, modules, batch))

    def _some_inputs(self) -> Tensor:
        """(samples, ...) prepared training inputs."""
        # A copy: a user's `prepare` may work in place, and this slice is the data itself.
        return self.data.prepare(self.data.split.inputs[:CALIBRATION_SAMPLES].clone())

    def _start_distillation(self) -> None:
        if self.policy.distillation.kind != "attention":
            return
        network = self.teacher.network
        maps = AttentionMaps(self.student.model, training=True)
        if not isinstance(network, nn.Module) or maps.is_empty:
            raise CannotDistill("attention transfer needs convolutions in network and teacher")
        self._maps = (maps, AttentionMaps(network, training=False))

    def _loss(self) -> Loss:
        task = self.workload.loss
        if Stage.DISTILL in self.done:
            return distilled_loss(
                task,
                self.policy.distillation,
                self.teacher,
                self._maps,
                self.workload.imitation,
                is_short=self.is_short,
            )
        return lambda _, outputs, targets, __: task(outputs, targets)

    def close(self) -> None:
        """Remove the hooks of attention transfer."""
        for maps in self._maps or ():
            maps.close()
