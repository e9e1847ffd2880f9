"""Memory of a driver with 5,000 trials and of workers, in PyTorch and in Keras.

`python -m bench.memory`. Each runs in a process of its own, so that its peak is its own.
`resident_mb` says whether a worker grows with the trials it has evaluated.
"""

import argparse
import gc
import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.results import write_results

__all__ = ["main"]

TRIALS = 5000
EVALUATIONS = 50
#: Evaluations after which a worker's resident memory is noted.
NOTED = (10, 30, 50)
SAMPLES = {"lenet300-mnist": 5000, "cnn-mnist-keras": 1000}


def peak_mb() -> float:
    """Peak resident set of this process, 10^6 bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def resident_mb() -> float:
    """What this process holds now, 10^6 bytes; Linux."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def driver() -> dict[str, Any]:
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
    return {"peak_mb": peak_mb()}


def worker(workload: str) -> dict[str, Any]:
    """Evaluate policies of a network, drawn at random."""
    import numpy as np

    from evaluators import tasks
    from evaluators.cost.targets import load_target
    from evaluators.messages import WorkerContext
    from search.session import capabilities_of
    from spaces import Identity, build_space

    resident = []
    with tempfile.TemporaryDirectory() as folder:
        context = WorkerContext(workload, "m1", "packed", folder, "cpu")
        tasks.setup(context)
        profile = tasks.make_profile().profile
        tasks.setup(replace(context, profile=profile))
        capabilities, _ = capabilities_of(
            profile, replace(load_target("m1"), artifact_format="packed"), SAMPLES[workload]
        )
        space = build_space(profile, capabilities)
        rng = np.random.default_rng(0)
        for number in range(1, EVALUATIONS + 1):
            policy = space.sample(rng)
            identity = Identity(workload, "packed", policy.digest, SAMPLES[workload], 0, 0)
            tasks.evaluate(identity, policy)
            if number in NOTED:
                resident.append(f"{resident_mb():.0f} after {number}")
    return {"peak_mb": peak_mb(), "resident_mb": ", ".join(resident)}


def main() -> None:
    """Measure and write bench/results/memory.*"""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("driver", *SAMPLES), help="in this process; print JSON")
    only = parser.parse_args().only
    if only is not None:
        print(json.dumps(driver() if only == "driver" else worker(only)))
        return
    rows = []
    for what, limit_mb, doing in (
        ("driver", 500, f"{TRIALS} trials, a proposal and the report at the end"),
        ("lenet300-mnist", 900, f"a worker, {EVALUATIONS} evaluations"),
        ("cnn-mnist-keras", None, f"a worker, {EVALUATIONS} evaluations"),
    ):
        command = [sys.executable, "-m", "bench.memory", "--only", what]
        found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        figures = json.loads(found.stdout.splitlines()[-1])
        rows.append(
            {"what": what, "doing": doing, "peak_mb": figures["peak_mb"], "limit_mb": limit_mb,
             "resident_mb": figures.get("resident_mb", "")}
        )  # fmt: skip
        print(rows[-1], flush=True)
    notes = ["1 MB = 10^6 bytes. resident_mb: what the process holds then, garbage collected."]
    write_results("memory", "Peak memory", "make bench-memory", rows, notes)


if __name__ == "__main__":
    main()
