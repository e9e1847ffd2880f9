"""An LSTM that TensorFlow traces once.

Keras' own traces every call twice, with its gradient: for the CPU and, under the same name, for
cuDNN, of which the runtime takes one. Keras networks are trained on the CPU here, and tracing is
most of a short trial. The numbers are the same: Keras' steps for the CPU.
"""

from typing import Any

import tf_keras as keras

__all__ = ["PlainLSTM", "as_given", "as_plain"]


class PlainLSTM(keras.layers.LSTM):  # type: ignore[misc]
    """Built, called and read as the layer it stands for."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As `keras.layers.LSTM`."""
        super().__init__(*args, **kwargs)
        self._could_use_gpu_kernel = False


def as_plain(layer: keras.layers.Layer) -> keras.layers.Layer:
    """A new layer of the same configuration that is quick to trace."""
    kind = PlainLSTM if type(layer) is keras.layers.LSTM else type(layer)
    return kind.from_config(layer.get_config())


def as_given(layer: keras.layers.Layer) -> keras.layers.Layer:
    """A new layer as the user's network has it: the converter knows Keras' own by its functions."""
    kind = keras.layers.LSTM if type(layer) is PlainLSTM else type(layer)
    return kind.from_config(layer.get_config())
