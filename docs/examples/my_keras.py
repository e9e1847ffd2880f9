from pathlib import Path

import numpy as np

from evaluators.workloads.keras import KerasWorkload


def workload() -> KerasWorkload:
    here = Path(__file__).parent
    data = np.load(here / "data.npz")  # x float (1000, 16), y int (1000,)
    x, y = data["x"], data["y"]
    train, validation = (x[:800], y[:800]), (x[800:], y[800:])
    return KerasWorkload("my-keras", here / "net.keras", train, validation)
