"""What the search itself costs: milliseconds a proposal, a loop turn and a record line.

`python -m bench.overhead [--trials 100 1000 5000]`. The evaluations are a simulator's and cost
nothing to speak of, so what is left is the product's own overhead.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.results import write_results
from evaluators.cost.targets import load_target
from search.engines import InProcessEngine
from search.kept import KeptFiles
from search.location import StudyLocation
from search.proposers import PROPOSERS, make_proposer
from search.proposers.warm import WarmProposer
from search.record import Record
from search.study import run_search
from spaces import Measurement, Policy, Trial
from tests.simulator import CAPABILITIES, Simulator, simulate

__all__ = ["main"]

#: Optuna's GP sampler takes minutes an ask beyond this many trials (measured before; see notes).
GP_LIMIT = 100
ASKS = {"gp": 2}
DROP = {"cluster_init": "drop", "scheme": "drop", "granularity": "drop", "criterion": "drop"}


class SimulatedEngine(InProcessEngine):
    """Answers evaluations from the simulator."""

    def __init__(self, simulator: Simulator) -> None:
        super().__init__()
        self._simulator = simulator

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:  # noqa: ARG002
        """Whatever is asked, the policy among the arguments is measured."""
        policy = next(a for a in args if isinstance(a, Policy))
        future: Future[Measurement] = Future()
        future.set_result(self._simulator.measure(policy))
        return future


class Silent:
    """Observes nothing."""

    def trial_finished(self, *_: object) -> None: ...
    def waiting(self, *_: object) -> None: ...
    def notice(self, text: str) -> None: ...


def make(name: str, simulator: Simulator) -> WarmProposer:
    """A proposer for the simulated study."""
    return make_proposer(
        name,
        simulator.space,
        simulator.judge,
        replace(load_target("m1"), artifact_format="packed"),
        CAPABILITIES,
        0,
    )


def history(simulator: Simulator, count: int) -> list[Trial]:
    """The opening and distinct random policies, measured: what is asked next needs a sampler."""
    rng = np.random.default_rng(0)
    policies = {p.policy.digest: p.policy for p in make("warm", simulator).opening}
    while len(policies) < count:
        policy = simulator.space.sample(rng)
        policies[policy.digest] = policy
    return [simulator.trial(i, policy) for i, policy in enumerate(policies.values())]


def proposal_rows(simulator: Simulator, counts: Sequence[int]) -> list[dict[str, Any]]:
    """Median milliseconds of one proposal for each proposer and history."""
    rows = []
    trials = history(simulator, max(counts) + 10)
    for name in PROPOSERS:
        for count in counts:
            row = {"what": f"propose: {name}", "trials": count}
            if name == "gp" and count > GP_LIMIT:
                rows.append({**row, "median_ms": None, "worst_ms": None})
                continue
            proposer = make(name, simulator)
            proposer.propose(trials[:count], [], 1)  # the first call reads the whole history
            times = []
            for extra in range(1, 1 + ASKS.get(name, 9)):
                started = time.perf_counter()
                proposer.propose(trials[: count + extra], [], 1)
                times.append((time.perf_counter() - started) * 1000)
            rows.append({**row, "median_ms": float(np.median(times)), "worst_ms": max(times)})
            print(rows[-1], flush=True)
    return rows


def loop_rows(simulator: Simulator, counts: Sequence[int]) -> list[dict[str, Any]]:
    """Milliseconds a trial of the whole loop (random proposer) near each count, record included."""
    spec = simulator.spec
    spec = type(spec)(**{**spec.__dict__, "trials": max(counts), "finalists": 0})
    finished_at: list[float] = []

    class Clock(Silent):
        def trial_finished(self, *_: object) -> None:
            finished_at.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        location = StudyLocation(folder, spec.name)
        record = Record.create(location, spec, simulator.profile, simulator.space)
        proposer = make("random", simulator)
        kept = KeptFiles(simulator.judge, location.artifacts_dir, "packed")
        with record:
            run_search(record, SimulatedEngine(simulator), proposer, kept, Clock())
        size_bytes = location.journal_path.stat().st_size
        started = time.perf_counter()
        Record.open(location).close()
        opened_s = time.perf_counter() - started
    steps_ms = np.diff(finished_at) * 1000
    rows = [
        {
            "what": "loop and record, one trial",
            "trials": count,
            "median_ms": float(np.median(steps_ms[max(0, count - 100) : count])),
            "worst_ms": float(steps_ms[max(0, count - 100) : count].max()),
        }
        for count in counts
    ]
    rows.append({"what": "open the record", "trials": max(counts), "median_ms": opened_s * 1000,
                 "worst_ms": None})  # fmt: skip
    print(f"journal: {size_bytes / max(counts):.0f} bytes a trial in {Path(folder).name}")
    return rows


def main() -> None:
    """Measure and write bench/results/overhead.*"""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1000, 5000])
    counts = sorted(parser.parse_args().trials)
    simulator = simulate(layers=5, seed=0, restrictions=DROP)
    knobs = sum(len(knob.choices) > 1 for knob in simulator.space.knobs)
    rows = [*loop_rows(simulator, counts), *proposal_rows(simulator, counts)]
    write_results(
        "overhead",
        f"Overhead of the search, {knobs} knobs",
        "make bench-overhead",
        rows,
        [
            "`propose`: one proposal with that many finished trials.",
            "`loop and record`: a turn of the loop with a random proposal and the record's write.",
            f"`gp` is not run beyond {GP_LIMIT} trials: Optuna's GPSampler then needs minutes.",
            "An evaluation on LeNet-300-100 takes 2 to 3 seconds, so 1 % of it is 25 ms.",
        ],
    )


if __name__ == "__main__":
    main()
