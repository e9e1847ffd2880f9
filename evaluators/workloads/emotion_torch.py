"""The emotion workload in PyTorch: Embedding, LSTM, dropout, dense. See `emotion` for its data.

Its baseline serves the Keras workload too: both frameworks order an LSTM's gates i, f, g, o.
"""

from importlib.resources import as_file, files

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from evaluators.workloads.base import Recipe, Split, Workload
from evaluators.workloads.emotion import (
    CLASSES,
    EMBEDDING,
    UNITS,
    VOCABULARY,
    encoded_splits,
)

__all__ = ["BASELINE", "EmotionLSTM", "emotion_lstm_torch", "splits"]

BASELINE = "emotion-lstm"


class EmotionLSTM(nn.Module):
    """Token ids -> logits of six emotions."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, EMBEDDING)
        self.lstm = nn.LSTM(EMBEDDING, UNITS, batch_first=True)
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(UNITS, len(CLASSES))

    def forward(self, ids: Tensor) -> Tensor:
        """(batch, LENGTH) ids -> (batch, 6) logits."""
        states, _ = self.lstm(self.embed(ids))
        logits: Tensor = self.fc(self.dropout(states[:, -1]))
        return logits


def splits() -> tuple[Split, Split, Split]:
    """Training, validation and test split: ids (n, LENGTH) int64, classes (n,)."""
    train, validation, test = (
        Split(torch.from_numpy(ids).long(), torch.from_numpy(classes))
        for ids, classes in encoded_splits()
    )
    return train, validation, test


def emotion_lstm_torch() -> Workload:
    """The workload with its shipped baseline."""
    model = EmotionLSTM()
    path = files("evaluators.workloads") / "baselines" / f"{BASELINE}.safetensors"
    with as_file(path) as file:
        model.load_state_dict(load_file(file))
    train, validation, test = splits()
    return Workload(
        name="emotion-lstm-torch",
        model=model.eval(),
        train=train,
        validation=validation,
        test=test,
        recipe=Recipe(batch_size=64, learning_rate=1e-3, search_epochs=1.0, full_epochs=6.0),
    )
