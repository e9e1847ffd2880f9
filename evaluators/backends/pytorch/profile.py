"""Makes the ModelProfile: shapes, weight quantiles, channel groups and the sensitivity scan."""

import copy
from collections import defaultdict
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from evaluators.backends.pytorch import stages
from evaluators.backends.pytorch.channels import ChannelGroup
from evaluators.backends.pytorch.layers import (
    COMPRESSIBLE,
    LayerShape,
    compressible_layers,
    excluded_modules,
    trace_shapes,
)
from evaluators.backends.pytorch.score import task_loss
from evaluators.backends.pytorch.student import Student
from evaluators.backends.scan import QUANTILES, SCAN, passes_of, scan_samples
from evaluators.workloads.base import Split, Workload
from spaces import LayerProfile, Policy, Sensitivity, Stage

__all__ = ["layer_profiles"]

_STAGE = {"sparsity": Stage.PRUNE, "clusters": Stage.CLUSTER, "bits": Stage.QUANTIZE}


def layer_profiles(
    workload: Workload, groups: tuple[ChannelGroup, ...]
) -> tuple[tuple[LayerProfile, ...], tuple[tuple[str, str], ...], int]:
    """(layers in order of execution, excluded modules, passes of the sensitivity scan).

    The scan sees TRAINING samples: the validation split is kept for judging trials.
    """
    model = copy.deepcopy(workload.model).eval()
    layers = compressible_layers(model)
    sample = workload.prepare(workload.train.inputs[:1].clone())
    shapes = trace_shapes(model, layers, sample)
    removable = {name for group in groups if group.removable for name in group.layers}
    inputs = _input_groups(groups)
    excluded = excluded_modules(model, layers) + tuple(
        (name, "forward() never uses it, kept as it is") for name in layers if name not in shapes
    )
    profiles = []
    count = scan_samples(sum(shape.macs for shape in shapes.values()), len(shapes))
    split = Split(workload.train.inputs[:count], workload.train.targets[:count])
    base = task_loss(model, workload, split)
    for name in shapes:
        profile = _shape_profile(name, layers[name], shapes[name], name in removable)
        scanned = _scan(workload, groups, name, split, base)
        profiles.append(replace(profile, sensitivity=scanned, input_group=inputs.get(name, "")))
    return tuple(profiles), excluded, passes_of(len(profiles))


def _input_groups(groups: tuple[ChannelGroup, ...]) -> dict[str, str]:
    """Layer -> first layer of the ONE group it reads."""
    found: dict[str, list[str]] = defaultdict(list)
    for group in groups:
        for name in group.consumers:
            found[name].append(group.layers[0])
    return {name: sources[0] for name, sources in found.items() if len(sources) == 1}


def _shape_profile(
    name: str, module: torch.nn.Module, shape: LayerShape, can_prune_channels: bool
) -> LayerProfile:
    weight, bias = module.weight, getattr(module, "bias", None)
    assert isinstance(weight, Tensor)
    values = weight.detach().float().cpu().numpy().ravel()
    return LayerProfile(
        name=name,
        kind=COMPRESSIBLE[type(module)],
        weight_shape=tuple(weight.shape),
        bias_size=bias.numel() if isinstance(bias, Tensor) else 0,
        macs=shape.macs,
        input_elements=shape.input_elements,
        output_elements=shape.output_elements,
        weight_quantiles=tuple(
            round(float(q), 7) for q in np.quantile(values, np.linspace(0, 1, QUANTILES))
        ),
        can_prune_channels=can_prune_channels,
    )


def _scan(
    workload: Workload,
    groups: tuple[ChannelGroup, ...],
    name: str,
    split: Split,
    base: float,
) -> tuple[Sensitivity, ...]:
    found = []
    for knob, layer in SCAN:
        policy = Policy(order=(_STAGE[knob],), layers=((name, layer),))
        student = Student(workload.model, groups)
        match knob:
            case "sparsity":
                stages.prune_schedule(student, policy)(1, 0)
            case "clusters":
                stages.cluster(student, policy, np.random.default_rng(0))
                stages.settle(student)
            case "bits":
                stages.quantize(student, policy)
        increase = task_loss(student.model.eval(), workload, split) - base
        found.append(Sensitivity(knob, float(getattr(layer, knob)), round(increase, 6)))
    return tuple(found)
