"""Between networks and artifacts: a student's effective weights to a file, a file to a network."""

import copy
import json
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from evaluators.artifacts.packed import (
    Artifact,
    Codebook,
    CodebookTensor,
    DamagedArtifact,
    FloatCodebook,
    FloatTensor,
    GridCodebook,
    GridTensor,
    dense,
)
from evaluators.artifacts.packed import Tensor as Stored
from evaluators.backends.pytorch.activations import ActivationGrid, add_activation_grid
from evaluators.backends.pytorch.constraint import BiasConstraint, Grid, WeightConstraint
from evaluators.backends.pytorch.student import Student, StudentLayer
from spaces import InvalidRequest, tensor_name

__all__ = [
    "activation_grids",
    "artifact_of",
    "artifact_of_model",
    "load_artifact",
    "plain_state",
    "rounded_layers",
]

ACTIVATIONS = "activations"


def artifact_of(student: Student) -> Artifact:
    """What a student's file holds: every tensor of the network's state, by its original name."""
    tensors: list[Stored] = []
    constrained = set()
    for layer in student.layers.values():
        tensors.append(_weight(layer))
        constrained.add(tensor_name(layer.name, "weight"))
        if layer.bias is not None:
            tensors.append(_bias(layer, layer.bias))
            constrained.add(tensor_name(layer.name, "bias"))
    for name, values in plain_state(student.model).items():
        if name not in constrained:
            tensors.append(FloatTensor(name, _floats(values), bits=32))
    attributes = {}
    if student.activations:
        grids = {n: [g.scale, g.zero_point] for n, g in student.activations.items()}
        attributes[ACTIVATIONS] = json.dumps(grids, separators=(",", ":"))
    return Artifact(tuple(tensors), attributes)


def artifact_of_model(model: nn.Module) -> Artifact:
    """The uncompressed fp32 network."""
    state = plain_state(model)
    return Artifact(tuple(FloatTensor(n, _floats(v), bits=32) for n, v in state.items()), {})


def load_artifact(model: nn.Module, artifact: Artifact) -> nn.Module:
    """A copy of the network with the artifact's weights and activation grids.

    Args:
        model: any network of the architecture; never changed.
        artifact: decoded from a file.

    Raises:
        InvalidRequest: the artifact belongs to another architecture, or its activation grids
            cannot be read.
    """
    loaded = copy.deepcopy(model).cpu().eval()
    state = plain_state(loaded)
    weights: Mapping[str, np.ndarray] = dense(artifact)
    for name in [*state, *weights]:
        if name not in weights or name not in state:
            where = "file" if name not in weights else "network"
            raise InvalidRequest(f"the {where} has no tensor {name}")
        ours, theirs = tuple(state[name].shape), weights[name].shape
        if ours != theirs:
            raise InvalidRequest(f"{name} has shape {theirs} in the file, {ours} in the network")
    with torch.no_grad():
        for name, values in state.items():
            values.copy_(torch.from_numpy(weights[name]))
    modules = dict(loaded.named_modules())
    for name, grid in activation_grids(artifact).items():
        if name not in modules:
            raise InvalidRequest(f"the network has no layer {name} to round the inputs of")
        add_activation_grid(modules[name], grid)
    return loaded


def rounded_layers(artifact: Artifact) -> frozenset[str]:
    """The layers whose inputs the artifact says to round."""
    return frozenset(activation_grids(artifact))


def activation_grids(artifact: Artifact) -> dict[str, ActivationGrid]:
    """Layer -> grid of its inputs. Of a file from anywhere: nothing in it is taken for granted.

    Raises:
        DamagedArtifact: the attribute cannot be read.
    """
    text = artifact.attributes.get(ACTIVATIONS, "{}")
    try:
        return {
            name: ActivationGrid(float(scale), int(zero_point))
            for name, (scale, zero_point) in json.loads(text).items()
        }
    except (AttributeError, OverflowError, RecursionError, TypeError, ValueError) as error:
        raise DamagedArtifact(f"attribute {ACTIVATIONS}: cannot be read: {error}") from None


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """The state by its original names and without the constraints' own tensors.

    A parametrized batch-norm's effective value stands under its original name; a parameter that
    several modules share stands once, under its first name.
    """
    state: dict[str, Tensor] = {}
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        if "parametrizations" in prefix.split("."):
            continue
        dot = f"{prefix}." if prefix else ""
        names = [*module._parameters, *module._buffers, *getattr(module, "parametrizations", {})]
        for name in names:
            value = getattr(module, name)
            if not isinstance(value, Tensor) or name in module._non_persistent_buffers_set:
                continue
            if id(value) not in seen:
                state[dot + name] = value.detach()
            if name in module._parameters:
                seen.add(id(value))
    return state


def _floats(values: Tensor) -> np.ndarray:
    array: np.ndarray = values.detach().cpu().float().numpy()
    return array


def _weight(layer: StudentLayer) -> Stored:
    name, constraint = tensor_name(layer.name, "weight"), layer.constraint
    if constraint.centroids is None:
        return _stored(name, layer.effective(), layer.latent.detach(), constraint)
    assert constraint.indices is not None
    values = constraint.codebook().detach().cpu().numpy()
    indices = constraint.indices.cpu().numpy()
    used = np.unique(indices)
    # Entries that nothing uses, that are 0 or equal to another after rounding, would cost bytes
    # and say nothing.
    entries = np.unique([values[k - 1] for k in used if k > 0 and values[k - 1] != 0])
    if len(entries) == 0:
        return GridTensor(name, np.zeros(indices.shape, np.int32), np.ones(1, np.float32))
    table = np.zeros(len(values) + 1, dtype=np.int32)
    table[1:] = np.where(values == 0, 0, np.searchsorted(entries, values) + 1)
    codebook = _codebook(entries.astype(np.float32), constraint)
    return CodebookTensor(name, table[indices], codebook)


def _codebook(entries: np.ndarray, constraint: WeightConstraint) -> Codebook:
    if constraint.grid is None:
        return FloatCodebook(entries, bits=16 if constraint.bits == 16 else 32)
    grid = constraint.grid
    levels = grid.levels(torch.from_numpy(entries)[None].to(grid.scale.device))[0]
    return GridCodebook(levels.cpu().numpy().astype(np.int32), _floats(grid.scale))


def _bias(layer: StudentLayer, constraint: BiasConstraint) -> Stored:
    latent = layer.latent_bias.detach()
    return _stored(tensor_name(layer.name, "bias"), layer.effective_bias(), latent, constraint)


def _stored(
    name: str, effective: Tensor, latent: Tensor, constraint: WeightConstraint | BiasConstraint
) -> FloatTensor | GridTensor:
    if constraint.grid is None:
        return FloatTensor(name, _floats(effective), bits=16 if constraint.bits == 16 else 32)
    grid: Grid = constraint.grid
    levels = grid.levels(latent)
    levels = torch.where(effective == 0, torch.zeros_like(levels), levels)
    return GridTensor(name, levels.cpu().numpy().astype(np.int32), _floats(grid.scale))
