"""The MNIST workloads with their networks in Keras: the same weights, data and teacher.

The trained baselines are those that ship for PyTorch, with Keras' order of axes, so that both
backends start from one network and their results compare. The distorted training images and the
teacher's logits on them come from the same cache, which PyTorch fills: it is imported at the first
fine-tuning, not before.
"""

from collections.abc import Callable
from importlib.resources import as_file, files
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from evaluators.workloads.keras import KerasWorkload
from evaluators.workloads.recipe import Recipe

__all__ = ["cnn_mnist_keras", "lenet300_mnist_keras"]

VALIDATION_SAMPLES = 10_000


def _lenet300(weights: dict[str, np.ndarray]) -> Any:
    """784-300-100-10, 266,610 parameters."""
    import tf_keras as keras  # noqa: PLC0415 -- in worker processes only

    layers = keras.layers
    model = keras.Sequential(
        [
            layers.InputLayer((28, 28, 1)),
            layers.Flatten(),
            layers.Dense(300, activation="relu", name="fc1"),
            layers.Dense(100, activation="relu", name="fc2"),
            layers.Dense(10, name="fc3"),
        ]
    )
    for name in ("fc1", "fc2", "fc3"):
        kernel = weights[f"{name}.weight"].T
        model.get_layer(name).set_weights([kernel, weights[f"{name}.bias"]])
    return model


def _cnn(weights: dict[str, np.ndarray]) -> Any:
    """Conv 12 3x3, max-pool, dense 10; 20,410 parameters (the TFMOT tutorials' net)."""
    import tf_keras as keras  # noqa: PLC0415 -- in worker processes only

    layers = keras.layers
    model = keras.Sequential(
        [
            layers.InputLayer((28, 28, 1)),
            layers.Conv2D(12, 3, activation="relu", name="conv"),
            layers.MaxPool2D(),
            layers.Flatten(),
            layers.Dense(10, name="fc"),
        ]
    )
    kernel = weights["conv.weight"].transpose(2, 3, 1, 0)
    model.get_layer("conv").set_weights([kernel, weights["conv.bias"]])
    # PyTorch flattens channel by channel, Keras position by position.
    dense = weights["fc.weight"].reshape(10, 12, 13, 13).transpose(2, 3, 1, 0).reshape(2028, 10)
    model.get_layer("fc").set_weights([dense, weights["fc.bias"]])
    return model


def _to_unit_floats(batch: Any) -> Any:
    """uint8 (batch, 28, 28) -> float (batch, 28, 28, 1) in [0, 1]."""
    import tensorflow as tf  # noqa: PLC0415 -- in worker processes only

    return tf.cast(batch, tf.float32)[..., None] / 255.0


def _distorted_train() -> tuple[np.ndarray, np.ndarray]:
    from evaluators.workloads.mnist import distorted_train  # noqa: PLC0415 -- torch

    split = distorted_train()
    return split.inputs.numpy(), split.targets.numpy()


def _teacher_logits() -> np.ndarray:
    from evaluators.workloads.mnist import _teacher_logits as teacher_logits  # noqa: PLC0415

    logits: np.ndarray = teacher_logits().numpy()
    return logits


def _workload(
    name: str, baseline: str, network: Callable[[dict[str, np.ndarray]], Any], recipe: Recipe
) -> KerasWorkload:
    folder = files("evaluators.workloads")
    with as_file(folder / "baselines" / f"{baseline}.safetensors") as path:
        model = network(load_file(path))
    with as_file(folder / "data" / "mnist.npz") as path, np.load(path) as data:
        images, labels = data["x_train"], data["y_train"].astype(np.int64)
        test = (data["x_test"], data["y_test"].astype(np.int64))
    cut = len(images) - VALIDATION_SAMPLES
    return KerasWorkload(
        name=name,
        model=model,
        train=(images[:cut], labels[:cut]),
        validation=(images[cut:], labels[cut:]),
        test=test,
        prepare=_to_unit_floats,
        recipe=recipe,
        fine_tuning=_distorted_train,
        soft_targets=_teacher_logits,
    )


def lenet300_mnist_keras() -> KerasWorkload:
    """LeNet-300-100 in Keras."""
    recipe = Recipe(learning_rate=3e-3, full_epochs=15)
    return _workload("lenet300-mnist-keras", "lenet300-mnist", _lenet300, recipe)


def cnn_mnist_keras() -> KerasWorkload:
    """The TensorFlow tutorial's CNN in Keras."""
    recipe = Recipe(learning_rate=3e-3, search_epochs=1, full_epochs=5)
    return _workload("cnn-mnist-keras", "cnn-mnist", _cnn, recipe)
