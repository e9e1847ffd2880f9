"""Hypervolume against evaluations and core-seconds, for each proposer and greybox without parts.

`python -m bench.proposers`; ONLY=simulator, simulator-nonadditive, lenet300 or lenet5 runs a part,
METHODS=greybox,warm and SEEDS=1 less of it. Each run (part, method, seed) goes on where it was in
search-runs/bench-proposers; the curves of complete runs are kept in
bench/results/proposers-runs.json, from which the table is made, so that sessions and machines add
to it. Rows of parts that have no run there stay as they are.
"""

import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.parts import chosen
from bench.results import FOLDER as RESULTS
from bench.results import write_results
from evaluators import tasks
from evaluators.cost.targets import load_target
from evaluators.messages import WorkerContext
from search.engines import InProcessEngine
from search.proposers.base import Proposer
from search.proposers.filter import BudgetFilter
from search.proposers.greybox import GreyboxParts, GreyboxProposer
from search.proposers.registry import make_proposer
from search.proposers.warm import WarmProposer
from search.session import capabilities_of
from spaces import (
    Budget,
    Capabilities,
    Identity,
    Judge,
    Measurement,
    Policy,
    SearchSpace,
    Target,
    Trial,
    build_space,
)
from tests.simulator import CAPABILITIES, Simulator, simulate

__all__ = ["main"]

#: "hypervolume" and "core_s", of all trials so far, after each.
Curves = dict[str, list[float]]
Runs = dict[str, dict[str, dict[str, Curves]]]

FOLDER = Path("search-runs") / "bench-proposers"
METHODS = (
    "greybox",
    "warm",
    "tpe",
    "nsga2",
    "random",
    "gp",
    "greybox without warm start",
    "greybox without filter",
    "greybox without linear",
    "greybox without smooth",
    "greybox without floor",
    "greybox without exploring",
)
OPTUNA = ("tpe", "nsga2", "random", "gp")
RUNS = RESULTS / "proposers-runs.json"
EPOCH = 50_000
MARKS = (25, 50, 75, 100)

NOTES = (
    "Means over seeds; in the simulators each seed is another network.",
    "Every method begins with the references; warm and greybox go on with the warm start.",
    "trials_, core_s_to_best_sampler: seed by seed, to where Optuna's best of that seed ends.",
    "greybox_trials_to_match: evaluations of greybox to a row's final hypervolume, if it has any.",
    "core_s: processor time of scan, opening, proposals and evaluations (a simulator's take none).",
    "simulator: 100 KB and 3 points.",
    "simulator-nonadditive: neighbours' losses multiply, orders interact; 100 KB and 10 points.",
    "Real networks: one epoch a trial, 250 KB, target m1.",
    "Only complete runs are shown.",
    "Optuna's gp sampler takes seconds an answer and may have fewer seeds.",
)


@dataclass(frozen=True)
class Part:
    """What is searched, how often and how long."""

    methods: tuple[str, ...]
    seeds: int
    trials: int
    #: Of greybox without a part, which has nothing to overtake and needs no more.
    without_trials: int
    workload: str = ""
    interaction: float = 0.0

    def trials_of(self, method: str) -> int:
        """How many trials a run of this method has."""
        return self.without_trials if " without " in method else self.trials


PARTS = {
    "simulator": Part(METHODS, 3, 100, 100),
    "simulator-nonadditive": Part(METHODS, 3, 100, 100, interaction=1.0),
    "lenet300": Part(METHODS, 3, 100, 50, workload="lenet300-mnist"),
    "lenet5": Part(("greybox", "warm", "tpe"), 3, 40, 40, workload="lenet5-mnist"),
}


@dataclass(frozen=True)
class Problem:
    """Everything a proposer is made from, and the evaluation."""

    space: SearchSpace
    judge: Judge
    target: Target
    capabilities: Capabilities
    scan_s: float
    evaluate: Callable[[int, Policy, int], Trial]


def simulated(seed: int, interaction: float) -> Problem:
    # With products of harms hardly a random policy stays within 3 points: nothing to compare with.
    budget = Budget(size_bytes=100_000, max_drop=0.1 if interaction else 0.03)
    sim: Simulator = simulate(6, seed=seed, budget=budget, interaction=interaction)

    def evaluate(number: int, policy: Policy, _: int) -> Trial:
        return sim.trial(number, policy)

    return Problem(
        sim.space,
        sim.judge,
        replace(load_target("m1"), artifact_format="packed"),
        CAPABILITIES,
        0.0,
        evaluate,
    )


def real(part: Part, folder: str) -> Problem:
    """One epoch a trial, which `bench` never goes below; the budget is the README's."""
    engine, target = InProcessEngine(), replace(load_target("m1"), artifact_format="packed")
    context = WorkerContext(part.workload, "m1", "packed", folder)
    engine.configure(tasks.setup, context)
    profiled = engine.submit(tasks.make_profile).result()
    profile = profiled.profile
    engine.configure(
        tasks.setup, WorkerContext(part.workload, "m1", "packed", folder, profile=profile)
    )
    capabilities, _ = capabilities_of(profile, target, EPOCH)
    judge = Judge(profiled.metric, Budget(size_bytes=250_000), profile)

    def evaluate(number: int, policy: Policy, seed: int) -> Trial:
        identity = Identity(part.workload, "packed", policy.digest, EPOCH, 0, seed)
        outcome = engine.submit(tasks.evaluate, identity, policy).result()
        for file in Path(folder).glob("*.packed"):
            file.unlink()
        return Trial(number, identity, policy, outcome, origin="bench")

    space = build_space(profile, capabilities, {})
    return Problem(space, judge, target, capabilities, profile.scan_seconds, evaluate)


def proposer(method: str, problem: Problem, seed: int) -> Proposer:
    parts = {
        "greybox without linear": GreyboxParts(linear=False),
        "greybox without smooth": GreyboxParts(smooth=False),
        "greybox without floor": GreyboxParts(floor=False),
        "greybox without exploring": GreyboxParts(explores=False),
        "greybox without warm start": GreyboxParts(),
        "greybox without filter": GreyboxParts(),
    }
    p = problem
    if method not in parts:
        return make_proposer(method, p.space, p.judge, p.target, p.capabilities, seed)
    filtered = p.judge
    if method == "greybox without filter":
        filtered = replace(p.judge, budget=Budget())  # accepts everything, still predicts sizes
    budget_filter = BudgetFilter(filtered, p.target)
    inner = GreyboxProposer(p.space, p.judge, p.target, seed, budget_filter, parts[method])
    return WarmProposer(
        p.space,
        p.judge,
        p.target,
        p.capabilities,
        inner=inner,
        budget_filter=budget_filter,
        warm_start=method != "greybox without warm start",
    )


def run(key: str, method: str, seed: int, part: Part, problem: Problem) -> list[dict[str, Any]]:
    """One line a trial: hypervolume and core-seconds so far. Goes on after the lines there are."""
    path = FOLDER / f"{key}-{method.replace(' ', '-')}-{seed}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = path.read_text() if path.exists() else ""
    lines = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
    history = [Trial.from_dict(line["trial"]) for line in lines]
    started = time.process_time()
    asked = proposer(method, problem, seed)
    opening_s = time.process_time() - started
    core_s = lines[-1]["core_s"] if lines else problem.scan_s + opening_s
    with path.open("a") as file:
        while len(history) < part.trials_of(method):
            started = time.process_time()
            proposals = asked.propose(history, [], 1)
            if not proposals:
                break
            trial = problem.evaluate(len(history), proposals[0].policy, seed)
            trial = Trial.from_dict(
                {**trial.to_dict(), "sampler_attrs": dict(proposals[0].sampler_attrs)}
            )
            core_s += time.process_time() - started
            history.append(trial)
            line = {
                "hypervolume": problem.judge.hypervolume(history),
                "core_s": core_s,
                "failed": not isinstance(trial.outcome, Measurement),
                "trial": trial.to_dict(),
            }
            lines.append(line)
            file.write(json.dumps(line) + "\n")
            file.flush()
    return lines


def keep(key: str, method: str, seed: int, lines: list[dict[str, Any]]) -> None:
    """Put a complete run's curves among the results: no machine has to make all runs."""
    runs = kept_runs()
    curves = {
        "hypervolume": [round(line["hypervolume"], 5) for line in lines],
        "core_s": [round(line["core_s"], 1) for line in lines],
    }
    runs.setdefault(key, {}).setdefault(method, {})[str(seed)] = curves
    parts = []
    for part, methods in runs.items():
        found = [
            f"{json.dumps(f'{name} {n}')}: {json.dumps(curves)}"
            for name, seeds in methods.items()
            for n, curves in sorted(seeds.items())
        ]
        parts.append(f"{json.dumps(part)}: {{\n" + ",\n".join(found) + "}")
    RUNS.write_text("{" + ",\n".join(parts) + "}\n", encoding="utf-8")


def kept_runs() -> Runs:
    """Part -> method -> seed -> curves of every complete run, of this and of other machines."""
    runs: Runs = {}
    if RUNS.exists():
        for key, found in json.loads(RUNS.read_text(encoding="utf-8")).items():
            for name, curves in found.items():
                method, _, seed = name.rpartition(" ")
                runs.setdefault(key, {}).setdefault(method, {})[seed] = curves
    return runs


def rows_of(key: str, part: Part, found: dict[str, dict[str, Curves]]) -> list[dict[str, Any]]:
    """The table of one part: method -> seed -> curves."""
    # Seed by seed, whichever of Optuna's samplers came farthest.
    best: dict[str, Curves] = {}
    for method in OPTUNA:
        for seed, curves in found.get(method, {}).items():
            if seed not in best or curves["hypervolume"][-1] > best[seed]["hypervolume"][-1]:
                best[seed] = curves
    rows = []
    for method in (m for m in part.methods if m in found):
        runs, trials = found[method], part.trials_of(method)
        row: dict[str, Any] = {"part": key, "method": method, "seeds": len(runs), "trials": trials}
        for mark in MARKS:
            values = [curves["hypervolume"][mark - 1] for curves in runs.values() if mark <= trials]
            row[f"hypervolume_{mark}"] = round(statistics.mean(values), 4) if values else None
        ends = [curves["hypervolume"][-1] for curves in runs.values()]
        row["hypervolume_end"] = round(statistics.mean(ends), 4)
        row["core_s"] = round(statistics.mean(curves["core_s"][-1] for curves in runs.values()), 1)
        reached = _to_reach(runs, best)
        row["trials_to_best_sampler"] = _joined(reached)
        row["core_s_to_best_sampler"] = _joined(
            {
                seed: round(runs[seed]["core_s"][n - 1]) if isinstance(n, int) else n
                for seed, n in reached.items()
            }
        )
        row["greybox_trials_to_match"] = _joined(_to_reach(found.get("greybox", {}), runs))
        rows.append(row)
    return rows


def _to_reach(runs: dict[str, Curves], yardstick: dict[str, Curves]) -> dict[str, int | str]:
    """Seed -> trials until the end of that seed's `yardstick` is reached, or why not."""
    found: dict[str, int | str] = {}
    for seed in sorted(runs.keys() & yardstick.keys()):
        goal, values = yardstick[seed]["hypervolume"][-1], runs[seed]["hypervolume"]
        reached = (i + 1 for i, value in enumerate(values) if value >= goal)
        found[seed] = next(reached, f">{len(values)}") if goal > 0 else "none"
    return found


def _joined(by_seed: dict[str, int | str]) -> str:
    return ", ".join(str(value) for value in by_seed.values()) or "-"


def kept_rows(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the last table for parts of which no run is kept."""
    path = RESULTS / "proposers.json"
    last = json.loads(path.read_text())["rows"] if path.exists() else []
    parts = {row["part"] for row in found}
    return [row for row in last if row["part"] in PARTS and row["part"] not in parts]


def main() -> None:
    warnings.simplefilter("ignore")  # Optuna's notes on experimental samplers
    asked = chosen("ONLY", tuple(PARTS))
    methods = chosen("METHODS", METHODS)
    for key in asked:
        part = PARTS[key]
        seeds = min(part.seeds, int(os.environ.get("SEEDS", part.seeds)))
        with tempfile.TemporaryDirectory() as folder:
            problem = real(part, folder) if part.workload else None
            for seed in range(seeds):
                made = problem or simulated(seed, part.interaction)
                for method in part.methods:
                    if method in methods:
                        lines = run(key, method, seed, part, made)
                        if len(lines) >= part.trials_of(method):
                            keep(key, method, seed, lines)
                        sys.stdout.write(f"{key} {method} {seed}: {lines[-1]['hypervolume']:.4f}\n")
                        sys.stdout.flush()
    runs = kept_runs()
    rows = [row for key in runs for row in rows_of(key, PARTS[key], runs[key])]
    rows += kept_rows(rows)
    write_results(
        "proposers",
        "Proposers: hypervolume after so many evaluations",
        "make bench-proposers",
        rows,
        NOTES,
    )


if __name__ == "__main__":
    main()
