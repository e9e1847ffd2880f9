"""A Keras network as the stages and files see it: layers by name, tensors with channels first.

An LSTM is two of these layers, "NAME.input" and "NAME.recurrent", one for each of its matrices.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tf_keras as keras

from evaluators.backends.keras.recurrent import PlainLSTM, as_given, as_plain
from spaces import InvalidRequest, tensor_name

__all__ = ["COMPRESSIBLE", "KerasLayer", "Network", "fold_norms", "load_model"]

#: Class of layer -> the kind that profiles and capabilities know it by.
COMPRESSIBLE = {
    keras.layers.Dense: "Linear",
    keras.layers.Conv1D: "Conv1d",
    keras.layers.Conv2D: "Conv2d",
    keras.layers.Embedding: "Embedding",
    PlainLSTM: "LSTM",
}
#: Kind -> kernel axes in channels-first order: Keras has the output channels last.
_AXES = {
    "Linear": (1, 0),
    "Conv1d": (2, 1, 0),
    "Conv2d": (3, 2, 0, 1),
    "Embedding": (0, 1),
    "LSTM": (1, 0),
}
_FOLDING = (keras.layers.Dense, keras.layers.Conv1D, keras.layers.Conv2D)
_NORMS = (keras.layers.BatchNormalization, keras.layers.LayerNormalization)


@dataclass(frozen=True, slots=True)
class KerasLayer:
    """One compressible layer, or one of the two weights of a recurrent one.

    Attributes:
        name: the layer's own; of an LSTM with ".input" or ".recurrent" behind it.
        owner: the Keras layer's name.
        kind: see `spaces.LayerProfile.kind`.
        shape: of the weight, output channels first; of an LSTM its four gates' rows, i f c o.
        has_bias: whether there is one.
        macs, input_elements, output_elements: of one inference.
    """

    name: str
    owner: str
    kind: str
    shape: tuple[int, ...]
    has_bias: bool
    macs: int
    input_elements: int
    output_elements: int

    def first(self, kernel: np.ndarray) -> np.ndarray:
        """Keras' kernel -> output channels first."""
        return np.ascontiguousarray(kernel.transpose(_AXES[self.kind]))

    def last(self, weight: np.ndarray) -> np.ndarray:
        """The inverse of `first`."""
        return np.ascontiguousarray(weight.transpose(np.argsort(_AXES[self.kind])))


def load_model(model: object) -> keras.Model:
    """A workload's network, from its file where it is given as one.

    Raises:
        InvalidRequest: a file that tf_keras cannot read, or no Sequential or Functional network.
    """
    if isinstance(model, str | Path):
        try:
            model = keras.models.load_model(str(model), compile=False)
        except Exception as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else ""
            raise InvalidRequest(
                f"workload model: tf_keras cannot read {model}: {type(error).__name__}: {first}; "
                "one of Keras 3 must be built in tf_keras and be given its weights by set_weights"
            ) from None
    if not isinstance(model, keras.Model):
        kind = f"{type(model).__module__}.{type(model).__name__}"
        raise InvalidRequest(
            f"workload model must be a tf_keras.Model or the path of one, but got {kind}"
        )
    # A bare `Model` made by __call__ alone cannot be cloned layer by layer, which TFMOT needs.
    if not (isinstance(model, keras.Sequential) or model._is_graph_network) or not model.built:
        raise InvalidRequest(
            "workload model must be a built Sequential or Functional network: "
            "TFMOT cannot wrap the layers of a subclassed one"
        )
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            raise InvalidRequest(
                f"workload model: {layer.name} is a network inside the network; "
                "TFMOT wraps layers only, so call its layers directly"
            )
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise InvalidRequest(
            f"workload model must have one input and one output, but has {len(model.inputs)} "
            f"and {len(model.outputs)}"
        )
    for variable in model.weights:
        if variable.dtype.is_floating and variable.dtype != "float32":
            raise InvalidRequest(
                f"workload model must have float32 weights, but {variable.name} is "
                f"{variable.dtype.name}"
            )
    return model


def fold_norms(model: keras.Model) -> tuple[keras.Model, dict[str, str]]:
    """A copy in which a layer does the work of the batch-norm behind it, and which norms are gone.

    TFLite's converter folds them in any case, per channel, and then zeros stay but shared values
    multiply. Folded before, what the stages establish is what the file holds. Fine-tuning then has
    no batch-norm, as on a network deployed long ago.
    """
    folded = {
        layer.name: before.name
        for layer in model.layers
        if (before := _foldable_into(layer)) is not None
    }
    hosts = set(folded.values())

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        if layer.name in folded:
            return keras.layers.Activation("linear", name=layer.name)
        if layer.name not in hosts:
            return as_plain(layer)
        return type(layer).from_config(layer.get_config() | {"use_bias": True})

    copy = keras.models.clone_model(model, clone_function=clone)
    norms = {host: norm for norm, host in folded.items()}
    for layer in copy.layers:
        if layer.name in folded or not layer.weights:
            continue
        original = model.get_layer(layer.name)
        if layer.name in norms:
            layer.set_weights(_folded_weights(original, model.get_layer(norms[layer.name])))
        else:
            layer.set_weights(original.get_weights())
    return copy, folded


def _foldable_into(norm: keras.layers.Layer) -> keras.layers.Layer | None:
    """The layer a batch-norm can be folded into: linear, and read by nothing else."""
    if type(norm) is not keras.layers.BatchNormalization or len(norm.inbound_nodes) != 1:
        return None
    before = norm.inbound_nodes[0].inbound_layers
    alone = not isinstance(before, list) and type(before) in _FOLDING
    if not alone or len(before.outbound_nodes) != 1 or len(before.inbound_nodes) != 1:
        return None
    on_channels = tuple(norm.axis) == (len(before.output_shape) - 1,)
    is_linear = before.activation is keras.activations.linear
    return before if on_channels and is_linear else None


def _folded_weights(layer: keras.layers.Layer, norm: keras.layers.Layer) -> list[np.ndarray]:
    """(kernel, bias) with y = gamma * (x - mean) / sqrt(variance + epsilon) + beta inside."""
    kernel = layer.kernel.numpy()
    bias = layer.bias.numpy() if layer.use_bias else np.zeros(kernel.shape[-1], np.float32)
    gain = 1.0 / np.sqrt(norm.moving_variance.numpy() + norm.epsilon)
    if norm.scale:
        gain = gain * norm.gamma.numpy()
    beta = norm.beta.numpy() if norm.center else 0.0
    # Kernels have the output channels last.
    return [kernel * gain, (bias - norm.moving_mean.numpy()) * gain + beta]


class Network:
    """An architecture with its trained weights; `model` is a copy and is never trained.

    Attributes:
        model: without the batch-norms that stood right behind a layer, see `fold_norms`, and with
            LSTMs that are quick to trace, see `recurrent`.
        folded: batch-norm -> the layer that now does its work.
    """

    def __init__(self, model: keras.Model) -> None:
        """Copy a loaded network.

        Raises:
            InvalidRequest: it has no layer that can be compressed.
        """
        self.model, self.folded = fold_norms(model)
        self.layers = {
            described.name: described
            for layer in self.model.layers
            if _is_compressible(layer)
            for described in _describe(layer)
        }
        if not self.layers:
            reasons = "; ".join(f"{name}: {why}" for name, why in self.excluded)
            raise InvalidRequest(
                f"workload model has no layer that can be compressed "
                f"({', '.join(COMPRESSIBLE.values())}); {reasons or 'it has no weights'}"
            )

    @cached_property
    def excluded(self) -> tuple[tuple[str, str], ...]:
        """(layer, reason) of every layer with weights that no stage touches."""
        found = [(norm, f"folded into {layer}") for norm, layer in self.folded.items()]
        owners = {described.owner for described in self.layers.values()}
        for layer in self.model.layers:
            if layer.name in owners or not layer.weights:
                continue
            kind = type(layer).__name__
            if isinstance(layer, _NORMS):
                reason = "normalisation, kept as it is"
            elif type(layer) is PlainLSTM:
                reason = "an LSTM that is given a state is not supported yet, kept as it is"
            elif type(layer) in COMPRESSIBLE:
                reason = "grouped convolutions are not supported yet, kept as they are"
            else:
                reason = f"{kind} layers are not supported yet, kept as they are"
            found.append((layer.name, reason))
        return tuple(found)

    @property
    def gives_probabilities(self) -> bool:
        """Whether the last layer is a softmax, so that outputs are no logits."""
        last = self.model.layers[-1]
        activation = getattr(last, "activation", None)
        return isinstance(last, keras.layers.Softmax) or activation is keras.activations.softmax

    @cached_property
    def weights(self) -> dict[str, np.ndarray]:
        """The trained weights."""
        return self.read(self.model)

    def read(self, model: keras.Model) -> dict[str, np.ndarray]:
        """Tensor -> float32 values, of a plain network of this architecture."""
        tensors: dict[str, np.ndarray] = {}
        for layer in model.layers:
            tensors |= self.read_layer(layer)
        return tensors

    def read_layer(self, layer: keras.layers.Layer) -> dict[str, np.ndarray]:
        """As `read`, of one layer without a wrapper."""
        tensors = {}
        for name, variable in _variables(layer).items():
            full = tensor_name(layer.name, name)
            values, ours = variable.numpy().astype(np.float32), self.weight_of(full)
            tensors[full] = values if ours is None else ours.first(values)
        return tensors

    def weight_of(self, tensor: str) -> KerasLayer | None:
        """The compressible layer whose weight a tensor is."""
        owner, _, part = tensor.rpartition(".")
        return self.layers.get(owner) if part == "weight" else None

    def write(self, model: keras.Model, tensors: Mapping[str, np.ndarray]) -> None:
        """The inverse of `read`.

        Raises:
            InvalidRequest: a tensor too many, too few, or of another shape.
        """
        wanted = {}
        for layer in model.layers:
            for name, variable in _variables(layer).items():
                wanted[tensor_name(layer.name, name)] = variable
        for name in [*wanted, *tensors]:
            if name not in tensors or name not in wanted:
                where = "file" if name not in tensors else "network"
                raise InvalidRequest(f"the {where} has no tensor {name}")
        for full, variable in wanted.items():
            values, ours = tensors[full], self.weight_of(full)
            if ours is not None:
                if values.shape != ours.shape:
                    raise InvalidRequest(
                        f"{full} has shape {values.shape} in the file, {ours.shape} in the network"
                    )
                values = ours.last(values)
            if values.shape != tuple(variable.shape):
                theirs = tuple(variable.shape)
                raise InvalidRequest(
                    f"{full} has shape {values.shape} in the file, {theirs} in the network"
                )
            variable.assign(values.astype(variable.dtype.as_numpy_dtype))

    def with_weights(self, tensors: Mapping[str, np.ndarray]) -> keras.Model:
        """A new plain network of this architecture.

        Raises:
            InvalidRequest: see `write`.
        """
        model = keras.models.clone_model(self.model)
        self.write(model, tensors)
        return model

    def for_converter(self, tensors: Mapping[str, np.ndarray]) -> keras.Model:
        """As `with_weights`, of Keras' own layers alone.

        Raises:
            InvalidRequest: see `write`.
        """
        model = keras.models.clone_model(self.model, clone_function=as_given)
        self.write(model, tensors)
        return model


def _variables(layer: keras.layers.Layer) -> dict[str, Any]:
    """The layer's own name of each variable -> variable; a kernel is called "weight"."""
    if type(layer) is keras.layers.Embedding:
        return {"weight": layer.embeddings}
    if isinstance(layer, keras.layers.LSTM):
        cell = layer.cell
        return {
            "input.weight": cell.kernel,
            **({"input.bias": cell.bias} if cell.use_bias else {}),
            "recurrent.weight": cell.recurrent_kernel,
        }
    if type(layer) in COMPRESSIBLE:
        return {
            "weight": layer.kernel,
            **({"bias": layer.bias} if layer.use_bias else {}),
        }
    found: dict[str, Any] = {}
    for variable in layer.weights:
        name = variable.name.split(":")[0].rpartition("/")[2]
        found[name if name not in found else f"{name}_{len(found)}"] = variable
    return found


def _is_compressible(layer: keras.layers.Layer) -> bool:
    if type(layer) is PlainLSTM:
        # An initial state is a second input, and then the shape is a list of shapes.
        return not layer.stateful and isinstance(layer.input_shape, tuple)
    return type(layer) in COMPRESSIBLE and getattr(layer, "groups", 1) == 1


def _describe(layer: keras.layers.Layer) -> tuple[KerasLayer, ...]:
    kind = COMPRESSIBLE[type(layer)]
    if isinstance(layer, PlainLSTM):
        return _describe_lstm(layer)
    is_embedding = isinstance(layer, keras.layers.Embedding)
    weight = layer.embeddings if is_embedding else layer.kernel
    kernel = tuple(int(size) for size in weight.shape)
    shape = tuple(kernel[axis] for axis in _AXES[kind])
    outputs = _elements(layer.output_shape)
    return (
        KerasLayer(
            name=layer.name,
            owner=layer.name,
            kind=kind,
            shape=shape,
            has_bias=not is_embedding and bool(layer.use_bias),
            # Each output element costs one MAC for every weight that feeds its channel; a looked
            # up one costs none.
            macs=0 if is_embedding else outputs * (int(np.prod(shape)) // shape[0]),
            input_elements=_elements(layer.input_shape),
            output_elements=outputs,
        ),
    )


def _describe_lstm(layer: PlainLSTM) -> tuple[KerasLayer, ...]:
    """Its two matrices; each works once a step for all four gates."""
    steps, features = (int(size or 1) for size in layer.input_shape[1:])
    units = int(layer.units)
    parts = (("input", features, bool(layer.use_bias)), ("recurrent", units, False))
    return tuple(
        KerasLayer(
            name=f"{layer.name}.{part}",
            owner=layer.name,
            kind="LSTM",
            shape=(4 * units, width),
            has_bias=has_bias,
            macs=steps * 4 * units * width,
            input_elements=steps * width,
            output_elements=steps * 4 * units,
        )
        for part, width, has_bias in parts
    )


def _elements(shape: tuple[int | None, ...]) -> int:
    """Of one sample; a dimension that is not known counts once."""
    return int(np.prod([size or 1 for size in shape[1:]]))
