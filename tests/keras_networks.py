"""The tiny task of `tests.networks` for Keras: the same pictures, tiny trained networks.

Used by name, as a user's own file would be: `keras_networks.name("mlp")`.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from evaluators.workloads.keras import KerasWorkload
from evaluators.workloads.recipe import Recipe

CLASSES = 4
TRAIN, VALIDATION, TEST = 320, 200, 80
BATCH = 20


def name(function: str) -> str:
    """What `--workload` would be given."""
    return f"{__file__}:{function}"


@lru_cache
def images() -> list[tuple[np.ndarray, np.ndarray]]:
    """Noisy (8, 8, 1) pictures of four prototypes; learnable, but not to the last sample."""
    rng = np.random.default_rng(0)
    count = TRAIN + VALIDATION + TEST
    prototypes = rng.random((CLASSES, 8, 8, 1))
    targets = rng.integers(CLASSES, size=count)
    inputs = (prototypes[targets] + 0.5 * rng.normal(size=(count, 8, 8, 1))).astype(np.float32)
    cuts = [TRAIN, TRAIN + VALIDATION]
    return list(zip(np.split(inputs, cuts), np.split(targets, cuts), strict=True))


def trained(layers: Callable[[Any], list[Any]]) -> Any:
    """The network after 8 passes; the same weights every time."""
    import tf_keras as keras

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.InputLayer((8, 8, 1)), *layers(keras.layers)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.legacy.Adam(5e-3), loss)
    model.fit(*images()[0], batch_size=40, epochs=8, verbose=0, shuffle=False)
    return model


def workload(model: Any, **changes: Any) -> KerasWorkload:
    train, validation, test = images()
    given: dict[str, Any] = {
        "name": "tiny",
        "model": model,
        "train": train,
        "validation": validation,
        "test": test,
        "recipe": Recipe(batch_size=BATCH, learning_rate=2e-3),
    }
    return KerasWorkload(**(given | changes))


@lru_cache
def mlp() -> KerasWorkload:
    return workload(
        trained(
            lambda layers: [
                layers.Flatten(),
                layers.Dense(24, activation="relu", name="1"),
                layers.Dense(12, activation="relu", name="3"),
                layers.Dense(4, name="5"),
            ]
        )
    )


@lru_cache
def conv() -> KerasWorkload:
    return workload(
        trained(
            lambda layers: [
                layers.Conv2D(8, 3, activation="relu", name="0"),
                layers.MaxPool2D(),
                layers.Flatten(),
                layers.Dense(4, name="4"),
            ]
        )
    )


WORDS, STEPS = 40, 12


@lru_cache
def texts() -> list[tuple[np.ndarray, np.ndarray]]:
    """(n, 12) ids of words, some of which are likelier in texts of one of four classes."""
    rng = np.random.default_rng(1)
    count = TRAIN + VALIDATION + TEST
    targets = rng.integers(CLASSES, size=count)
    hints = 1 + 3 * targets[:, None] + rng.integers(3, size=(count, STEPS))
    others = rng.integers(1 + 3 * CLASSES, WORDS, size=(count, STEPS))
    inputs = np.where(rng.random((count, STEPS)) < 0.3, hints, others).astype(np.int32)
    cuts = [TRAIN, TRAIN + VALIDATION]
    return list(zip(np.split(inputs, cuts), np.split(targets, cuts), strict=True))


@lru_cache
def lstm() -> KerasWorkload:
    """Embedding, LSTM, dense softmax."""
    import tf_keras as keras

    layers = keras.layers
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            layers.InputLayer((STEPS,), dtype="int32"),
            layers.Embedding(WORDS, 8, name="embed"),
            layers.LSTM(12, name="lstm"),
            layers.Dense(CLASSES, activation="softmax", name="fc"),
        ]
    )
    model.compile(keras.optimizers.legacy.Adam(1e-2), "sparse_categorical_crossentropy")
    train, validation, test = texts()
    model.fit(*train, batch_size=40, epochs=20, verbose=0, shuffle=False)
    return workload(model, train=train, validation=validation, test=test)


def diverging() -> KerasWorkload:
    """Its loss is not a number."""
    return workload(conv().model, loss=lambda outputs, targets: outputs[0, 0] * float("nan"))
