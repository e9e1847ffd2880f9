"""The emotion workload in PyTorch: Embedding, LSTM, dropout, dense. See `emotion` for its data.

`python -m evaluators.workloads.emotion_torch` trains the shipped baseline again, three minutes on
one core. It serves the Keras workload too: both frameworks order an LSTM's gates i, f, g, o.
"""

import argparse
import sys
from importlib.resources import as_file, files
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from evaluators.workloads.base import Recipe, Split, Workload
from evaluators.workloads.emotion import (
    CLASSES,
    EMBEDDING,
    PADDING,
    UNITS,
    UNKNOWN,
    VOCABULARY,
    encoded_splits,
)

__all__ = ["EmotionLSTM", "emotion_lstm_torch", "main", "train"]

BASELINE = "emotion-lstm"
EPOCHS, BATCH, LEARNING_RATE = 16, 64, 2e-3
#: Share of the training words that are made unknown, against learning 16,000 texts by heart. Not
#: tuned, and never compared with 0.
WORD_DROPOUT = 0.15
#: Norm that gradients are clipped to; a recurrent network's can explode.
CLIP_NORM = 1.0


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


def _splits() -> tuple[Split, Split, Split]:
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
    train, validation, test = _splits()
    return Workload(
        name="emotion-lstm-torch",
        model=model.eval(),
        train=train,
        validation=validation,
        test=test,
        recipe=Recipe(batch_size=64, learning_rate=1e-3, search_epochs=1.0, full_epochs=6.0),
    )


def train(seed: int = 0, epochs: int = EPOCHS) -> tuple[nn.Module, float, float]:
    """The trained network with its validation and test accuracy.

    Adam, cosine to zero, unknown-word dropout; the epoch with the best validation accuracy is kept.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    model, (seen, validation, test) = EmotionLSTM(), _splits()
    biases = dict(model.lstm.named_parameters())
    # One bias is enough for a gate; Keras has one only.
    nn.init.zeros_(biases["bias_hh_l0"])
    biases["bias_hh_l0"].requires_grad = False
    with torch.no_grad():
        biases["bias_ih_l0"][UNITS : 2 * UNITS] = 1.0  # forget gates start open
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(trained, lr=LEARNING_RATE)
    steps = epochs * (len(seen) // BATCH + 1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    best, best_state = 0.0, model.state_dict()
    for epoch in range(epochs):
        model.train()
        for batch in torch.randperm(len(seen)).split(BATCH):
            ids = seen.inputs[batch]
            dropped = (torch.rand(ids.shape) < WORD_DROPOUT) & (ids != PADDING)
            logits = model(ids.masked_fill(dropped, UNKNOWN))
            loss = F.cross_entropy(logits, seen.targets[batch])
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(trained, CLIP_NORM)
            optimiser.step()
            schedule.step()
        accuracy = _accuracy(model, validation)
        sys.stdout.write(f"epoch {epoch + 1}: validation {accuracy:.4f}\n")
        sys.stdout.flush()
        if accuracy > best:
            best = accuracy
            best_state = {k: v.clone() for k, v in model.state_dict().items()}
    model.load_state_dict(best_state)
    return model, best, _accuracy(model, test)


@torch.no_grad()
def _accuracy(model: nn.Module, split: Split) -> float:
    model.eval()
    hits = sum(
        int((model(x).argmax(1) == y).sum())
        for x, y in zip(split.inputs.split(500), split.targets.split(500), strict=True)
    )
    return hits / len(split)


def main() -> None:
    """Write the baseline into a folder and print its accuracies."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).parent / "baselines"
    parser.add_argument("--out", type=Path, default=default, help="folder to write into")
    arguments = parser.parse_args()
    model, validation, test = train()
    save_file(model.state_dict(), arguments.out / f"{BASELINE}.safetensors")
    sys.stdout.write(f"{BASELINE}: validation {validation:.4f}, test {test:.4f}\n")


if __name__ == "__main__":
    main()
