"""Runs a policy's stages in its order, with an audit after each."""

import time
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from evaluators.backends.base import Seeds, destroyed, stage_knobs, stage_samples
from evaluators.backends.keras.distill import CannotDistill, Teacher, distilled_loss, task_only
from evaluators.backends.keras.network import Network
from evaluators.backends.keras.process import seeded
from evaluators.backends.keras.student import Student, policy_failure
from evaluators.backends.keras.train import Diverged, TrainingData, fine_tune
from evaluators.backends.schedule import steps_of
from evaluators.workloads.recipe import Recipe
from spaces import Failure, Policy, Stage, StageAudit

__all__ = ["compress"]


def compress(
    network: Network,
    recipe: Recipe,
    task: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    policy: Policy,
    seeds: Seeds,
    teacher: Callable[[], Teacher],
    data: TrainingData,
    score: Callable[[Mapping[str, np.ndarray]], float],
) -> tuple[Student, tuple[StageAudit, ...]] | Failure:
    """Apply a policy.

    Args:
        network: the trained one.
        recipe: of fine-tuning.
        task: the workload's loss.
        policy: what to do. With no stage the network is returned as it is.
        seeds: fidelity (training samples in all) and seeds.
        teacher: of the distill stage, at first need.
        data: the training split.
        score: weights -> metric on the validation split, for the audit.

    Returns:
        The student and one audit a stage, or the Failure which names layer and stage: also where a
        stage broke what an earlier one had established, as TFMOT's do on some layers.
    """
    failure = policy_failure(policy, network)
    if failure is not None:
        return failure
    student = Student(network, policy)
    shapes = {name: layer.shape for name, layer in network.layers.items()}
    batch_size = min(recipe.batch_size, data.set_size)
    samples = stage_samples(seeds.fidelity, len(policy.order), batch_size)
    audits: list[StageAudit] = []
    prefix: list[object] = []
    for stage, budget in zip(policy.order, samples, strict=True):
        started = time.perf_counter()
        prefix.append([stage.value, budget, stage_knobs(policy, stage)])
        seed = seeds.of_stage(prefix)
        steps = steps_of(budget, batch_size)
        try:
            with seeded(seed):
                if steps == 0:
                    student.skip(stage)
                else:
                    model = student.start(stage, steps)
                    loss, soft = task_only(task), None
                    if Stage.DISTILL in student.done:
                        soft = teacher().logits()
                        loss = distilled_loss(
                            task,
                            policy.distillation,
                            are_probabilities=network.gives_probabilities,
                        )
                    rng = np.random.default_rng(seed)
                    fine_tune(model, data, recipe, budget, loss, soft, rng)
                    student.settle()
        except (CannotDistill, Diverged) as error:
            return Failure("", stage, str(error))
        layers = student.audit()
        broken = destroyed(policy, student.done, shapes, layers)
        if broken:
            name, what = next(iter(broken.items()))
            return Failure(name, stage, f"TFMOT lost what was established: {what}")
        audits.append(
            StageAudit(
                stage=stage.value,
                samples=budget,
                seconds=round(time.perf_counter() - started, 3),
                metric=score(student.weights),
                layers=layers,
            )
        )
    return student, tuple(audits)
