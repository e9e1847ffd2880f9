from pathlib import Path

import torch
from torch import nn

from evaluators.workloads.base import Workload


def workload() -> Workload:
    here = Path(__file__).parent
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))
    model.load_state_dict(torch.load(here / "net.pt", weights_only=True))
    x, y = torch.load(here / "data.pt", weights_only=True)  # float (1000, 16), int64 (1000,)
    return Workload("my-net", model, train=(x[:800], y[:800]), validation=(x[800:], y[800:]))
