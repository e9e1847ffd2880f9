"""The emotion workload in Keras: the weights, texts and tokens of `emotion_torch`.

Both frameworks order an LSTM's gates i, f, g, o, so the trained baseline only changes its axes.
"""

from importlib.resources import as_file, files
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from evaluators.workloads.emotion import (
    CLASSES,
    EMBEDDING,
    LENGTH,
    UNITS,
    VOCABULARY,
    encoded_splits,
)
from evaluators.workloads.keras import KerasWorkload
from evaluators.workloads.recipe import Recipe

__all__ = ["emotion_lstm"]


def network(weights: dict[str, np.ndarray]) -> Any:
    """Embedding, LSTM, dropout, dense softmax; 339,922 parameters.

    Args:
        weights: of the PyTorch network, whose second bias is added to the first.
    """
    import tf_keras as keras  # noqa: PLC0415 -- in worker processes only

    layers = keras.layers
    model = keras.Sequential(
        [
            layers.InputLayer((LENGTH,), dtype="int32"),
            layers.Embedding(VOCABULARY, EMBEDDING, name="embed"),
            layers.LSTM(UNITS, name="lstm"),
            layers.Dropout(0.5),
            layers.Dense(len(CLASSES), activation="softmax", name="fc"),
        ]
    )
    model.get_layer("embed").set_weights([weights["embed.weight"]])
    kernels = [weights[f"lstm.weight_{part}_l0"].T for part in ("ih", "hh")]
    bias = weights["lstm.bias_ih_l0"] + weights["lstm.bias_hh_l0"]
    model.get_layer("lstm").set_weights([*kernels, bias])
    model.get_layer("fc").set_weights([weights["fc.weight"].T, weights["fc.bias"]])
    return model


def emotion_lstm() -> KerasWorkload:
    """The workload with its shipped baseline."""
    train, validation, test = encoded_splits()
    path = files("evaluators.workloads") / "baselines" / "emotion-lstm.safetensors"
    with as_file(path) as file:
        model = network(load_file(file))
    return KerasWorkload(
        name="emotion-lstm",
        model=model,
        train=train,
        validation=validation,
        test=test,
        recipe=Recipe(batch_size=64, learning_rate=1e-3, search_epochs=1.0, full_epochs=6.0),
    )
