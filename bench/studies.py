"""Large records of simulated trials, for whatever must stay quick when a study has grown.

`python -m bench.studies PLACE [--trials 10000] [--knobs 60]` writes one and says what reading it
costs. The record is real, made and written as a driver does; only its evaluations are simulated.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.memory import peak_mb
from bench.overhead import make
from search.finalists import choose_finalists
from search.location import StudyLocation
from search.record import Record, RecordReader
from search.running_front import RunningFront
from spaces import Budget, Failure, Policy, SearchSpace, Trial
from tests.simulator import Simulator, simulate

__all__ = ["main", "write_big_study"]

FINALISTS = 8
WORKERS = 8
KNOBS_A_LAYER = 5
FAILED_SHARE = 0.05
#: Of the policies; the others vary a member of the front, as samplers come to do.
RANDOM_SHARE = 0.2
#: Reasons as the worker gives them, and how often each is met.
REASONS = {
    "the training loss is not finite": 0.6,
    "the worker died, 2 times": 0.3,
    "no memory": 0.1,
}
#: The driver says what runs every so many trials; in a real study every 5 s.
BEAT_TRIALS = 500


def write_big_study(
    place: Path, trials: int = 10_000, knobs: int = 60, name: str = "big", seed: int = 0
) -> StudyLocation:
    """Write a finished study with finalists and their test scores.

    Args:
        place: the storage, a folder; it may hold other studies.
        trials: searched ones; about one in twenty failed.
        knobs: of all layers together, five a layer, 60 at most; the policy's own 8 come on top.
        name: of the study, which must not exist yet.
        seed: of everything random.
    """
    layers = round(knobs / KNOBS_A_LAYER)
    budget = Budget(size_bytes=120_000, max_drop=0.03)
    sim = simulate(layers, seed, budget=budget, study=name, trials=trials, proposer="warm")
    spec = replace(sim.spec, finalists=FINALISTS)
    location = StudyLocation(str(place), name)
    with Record.create(location, spec, sim.profile, sim.space) as record:
        history = []
        for trial in _searched(sim, trials):
            if trial.number % BEAT_TRIALS == 0:
                record.write_driver(_payload("search", trial.number, trials, trial), force=True)
            history.append(record.append(trial))
        for number, trial in enumerate(choose_finalists(history, sim.judge, FINALISTS)):
            final = sim.trial(
                number,
                trial.policy,
                fidelity=spec.full_fidelity,
                origin=f"finalist of {trial.number}",
            )
            final = replace(final, finished_at=history[-1].finished_at + 50.0 * (number + 1))
            record.write_driver(_payload("finalists", number, FINALISTS, final), force=True)
            _score(record, record.append(final))
        record.close(is_finished=True)
    return location


def _searched(sim: Simulator, count: int) -> Iterator[Trial]:
    """The opening of a real study, then distinct policies that come ever closer to the front."""
    rng = np.random.default_rng(sim.seed)
    front = RunningFront(sim.judge)
    vectors: dict[str, list[int]] = {}
    opening = [(p.policy, p.origin) for p in make("warm", sim).opening]
    known: set[str] = set()
    while len(known) < count:
        if len(known) < len(opening):
            policy, origin = opening[len(known)]
            vector = list(sim.space.encode(policy)) if sim.space.contains(policy) else []
        else:
            vector, origin = _proposed(sim.space, front, vectors, rng)
            policy = sim.space.decode(vector)
        if policy.digest in known:
            continue
        trial = sim.trial(len(known), policy, origin=origin, seen=len(known))
        known.add(policy.digest)
        if origin in ("random", "tpe") and rng.random() < FAILED_SHARE:
            trial = replace(trial, outcome=_failure(sim, policy, rng))
        elif sim.judge.is_feasible(trial) and front.add(trial):
            vectors[policy.digest] = vector
        yield trial


def _proposed(
    space: SearchSpace,
    front: RunningFront,
    vectors: dict[str, list[int]],
    rng: np.random.Generator,
) -> tuple[list[int], str]:
    """(vector, origin): any policy, or a member of the front with one to four knobs changed."""
    parents = [v for t in front.members if (v := vectors[t.policy.digest])]
    if not parents or rng.random() < RANDOM_SHARE:
        return rng.integers(0, space.sizes).tolist(), "random"
    vector = list(parents[rng.integers(len(parents))])
    for at in rng.integers(0, len(vector), rng.integers(1, 5)):
        knob = space.knobs[at]
        if knob.ordered:
            step = vector[at] + int(rng.choice((-1, 1)))
            vector[at] = min(max(step, 0), len(knob.choices) - 1)
        else:
            vector[at] = int(rng.integers(len(knob.choices)))
    return vector, "tpe"


def _failure(sim: Simulator, policy: Policy, rng: np.random.Generator) -> Failure:
    reason = str(rng.choice(list(REASONS), p=list(REASONS.values())))
    layers = [layer.name for layer in sim.profile.layers]
    stage = policy.order[rng.integers(len(policy.order))].value if policy.order else "encode"
    return Failure(layer=str(rng.choice(layers)), stage=stage, reason=reason)


def _payload(phase: str, finished: int, asked: int, running: Trial) -> dict[str, Any]:
    """As `search.study` writes it."""
    return {
        "phase": phase,
        "finished": finished,
        "asked": asked,
        "eta_s": 5.0 * (asked - finished),
        "workers": WORKERS,
        "running": [
            {
                "identity": running.identity.key,
                "origin": running.origin,
                "policy": running.policy.digest,
            }
        ],
    }


def _score(record: Record, trial: Trial) -> None:
    values = trial.measurement
    assert values is not None
    scores = {
        "metric": values.metric - 0.002,
        "metric_se": values.metric_se,
        "samples": values.metric_samples,
        "scored_at": trial.finished_at,
    }
    record.write_test_scores(trial.identity.key, scores)


def read(location: StudyLocation) -> dict[str, float]:
    """What opening a record and reading its trials costs in this process."""
    times = [time.perf_counter()]
    reader = RecordReader.open(location)
    times.append(time.perf_counter())
    trials = reader.trials()
    times.append(time.perf_counter())
    finalists = reader.finalists()
    times.append(time.perf_counter())
    reader.trials()
    times.append(time.perf_counter())
    open_s, trials_s, finalists_s, again_s = np.diff(times)
    return {
        "trials": len(trials),
        "finalists": len(finalists),
        "open_s": open_s,
        "trials_s": trials_s,
        "finalists_s": finalists_s,
        "trials_again_s": again_s,
        "peak_mb": peak_mb(),
    }


def main() -> None:
    """Write a study, then read it in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("place", type=Path)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--knobs", type=int, default=60)
    parser.add_argument("--name", default="big")
    parser.add_argument("--only-read", action="store_true", help="a study that is there")
    arguments = parser.parse_args()
    location = StudyLocation(str(arguments.place), arguments.name)
    if arguments.only_read:
        for what, value in read(location).items():
            print(f"{what:>16} {value:10.3f}")
        return
    started = time.perf_counter()
    write_big_study(arguments.place, arguments.trials, arguments.knobs, arguments.name)
    size_mb = location.journal_path.stat().st_size / 1e6
    print(f"written in {time.perf_counter() - started:.1f} s, {size_mb:.0f} MB")
    command = [sys.executable, "-m", "bench.studies", str(arguments.place)]
    subprocess.run([*command, "--name", arguments.name, "--only-read"], check=True)


if __name__ == "__main__":
    main()
