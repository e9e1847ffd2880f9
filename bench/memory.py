"""Peak memory of a driver with 5,000 trials and of a worker on LeNet-300-100.

`python -m bench.memory`. Each runs in a process of its own, so that its peak is its own.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from bench.results import write_results

__all__ = ["main"]

TRIALS = 5000
EVALUATIONS = 30


def peak_mb() -> float:
    """Peak resident set of this process, 10^6 bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def driver() -> float:
    """Drive a simulated study of 5,000 trials, the dashboards' report included."""
    from bench.overhead import Silent, SimulatedEngine, make
    from search.cli.readers import write_study_report
    from search.kept import KeptFiles
    from search.location import StudyLocation
    from search.record import Record
    from search.study import run_search
    from tests.simulator import simulate

    simulator = simulate(layers=5, trials=TRIALS)
    spec = replace(simulator.spec, trials=TRIALS, finalists=0)
    with tempfile.TemporaryDirectory() as folder:
        location = StudyLocation(folder, spec.name)
        with Record.create(location, spec, simulator.profile, simulator.space) as record:
            proposer = make("random", simulator)
            # One proposal of the default proposer with the whole history: its memory counts.
            kept = KeptFiles(simulator.judge, location.artifacts_dir, "packed")
            run_search(record, SimulatedEngine(simulator), proposer, kept, Silent())
            warm = make("warm", simulator)
            warm.propose(record.trials(), [], 1)
            searching_mb = peak_mb()
            write_study_report(record, Path(folder) / "report.html")
    print(f"before the report: {searching_mb:.0f} MB", file=sys.stderr)
    return peak_mb()


def worker() -> float:
    """Evaluate 30 policies of LeNet-300-100."""
    import numpy as np

    from evaluators import tasks
    from evaluators.cost.targets import load_target
    from evaluators.messages import WorkerContext
    from search.session import capabilities_of
    from spaces import Identity, build_space

    with tempfile.TemporaryDirectory() as folder:
        context = WorkerContext("lenet300-mnist", "m1", "packed", folder, "cpu")
        tasks.setup(context)
        profile = tasks.make_profile().profile
        tasks.setup(replace(context, profile=profile))
        capabilities, _ = capabilities_of(
            profile, replace(load_target("m1"), artifact_format="packed"), 5000
        )
        space = build_space(profile, capabilities)
        rng = np.random.default_rng(0)
        for _ in range(EVALUATIONS):
            policy = space.sample(rng)
            identity = Identity("lenet300-mnist", "packed", policy.digest, 5000, 0, 0)
            tasks.evaluate(identity, policy)
    return peak_mb()


def main() -> None:
    """Measure and write bench/results/memory.*"""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("driver", "worker"), help="in this process; print MB")
    only = parser.parse_args().only
    if only is not None:
        print({"driver": driver, "worker": worker}[only]())
        return
    rows = []
    for what, limit_mb, doing in (
        ("driver", 500, f"{TRIALS} trials, a proposal and the report at the end"),
        ("worker", 900, f"{EVALUATIONS} evaluations of lenet300-mnist"),
    ):
        command = [sys.executable, "-m", "bench.memory", "--only", what]
        found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rows.append({"what": what, "doing": doing, "peak_mb": float(found.stdout.split()[-1]),
                     "limit_mb": limit_mb})  # fmt: skip
    write_results("memory", "Peak memory", "make bench-memory", rows, ["1 MB = 10^6 bytes."])


if __name__ == "__main__":
    main()
