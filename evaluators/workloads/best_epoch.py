"""What the scripts that train shipped networks share: accuracy, and the best epoch kept."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from evaluators.workloads.base import Split

__all__ = ["BestEpoch", "accuracy"]


class BestEpoch:
    """The weights a network had when its validation accuracy was highest; of equals the first.

    Attributes:
        accuracy: the highest so far.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._state = model.state_dict()
        self.accuracy = 0.0

    def offer(self, value: float) -> None:
        """Say what the network is worth now."""
        if value > self.accuracy:
            self.accuracy = value
            self._state = {k: v.clone() for k, v in self._model.state_dict().items()}

    def restore(self) -> None:
        """Give the network the weights of its best epoch."""
        self._model.load_state_dict(self._state)


@torch.no_grad()
def accuracy(
    model: nn.Module, split: Split, prepare: Callable[[Tensor], Tensor] = lambda x: x
) -> float:
    """Share of a split's samples whose class is found; leaves the network in eval mode."""
    model.eval()
    hits = sum(
        int((model(prepare(x)).argmax(1) == y).sum())
        for x, y in zip(split.inputs.split(500), split.targets.split(500), strict=True)
    )
    return hits / len(split)
