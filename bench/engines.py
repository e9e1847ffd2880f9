"""What each engine costs, and how many workers one driver can keep busy.

`python -m bench.engines [noop overhead efficiency sweep]`; without a name all four; `--engines ray
tune` measures only these rows of noop, the others stay as they were measured:

    noop        1,000 trials that do nothing, with loop and record, through each engine
    overhead    milliseconds a trial of loop and record from 100 to 5,000 trials, and a plot
    efficiency  real lenet300-mnist trials with 2 workers, ray and local taking turns
    sweep       256 workers in virtual time: the driver's own work is run and timed, trials are not
"""

import argparse
import heapq
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.noop import noop, process_id, use_template
from bench.overhead import DROP, Silent, make
from bench.results import FOLDER, write_results
from evaluators import tasks
from evaluators.messages import WorkerContext
from search.engines import Engine, InProcessEngine, LocalEngine
from search.kept import KeptFiles
from search.location import StudyLocation
from search.proposers.base import Proposal, Proposer
from search.record import Record
from search.study import Job, SearchPhase, run_search, trial_of
from spaces import Identity, Measurement, Policy, Trial
from tests.simulator import Simulator, simulate

__all__ = ["main"]

PARTS = ("noop", "overhead", "efficiency", "sweep")
NOOP = ("in-process", "local", "ray", "ray-8", "tune")
NOOP_TRIALS = 1000
OVERHEAD_AT = (100, 500, 1000, 2000, 5000)
EFFICIENCY_TRIALS, EFFICIENCY_ROUNDS, EFFICIENCY_SAMPLES = 6, 4, 10_000
SWEEP_WORKERS, SWEEP_TRIALS = 256, 1_500
#: Seconds a trial: lenet300-mnist's, a small convolutional network's, an hour's fine-tuning.
SWEEP_SECONDS = (3.0, 60.0, 3600.0)


# Trials that do nothing --------------------------------------------------------------------------


class NoOp(Engine):
    """An engine whose evaluations do nothing; all else is the engine's own."""

    def __init__(self, inner: Engine) -> None:
        self._inner = inner

    @property
    def workers(self) -> int:  # type: ignore[override]
        return self._inner.workers

    def configure(self, setup: Callable[..., None], context: Any) -> None:
        """Nothing to set up."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        assert fn is tasks.evaluate
        assert not kwargs
        return self._inner.submit(noop, args[1])

    def kill(self) -> None:
        self._inner.kill()


class NoOpEvaluation:
    """The same for Tune's trials."""

    def __init__(self, context: WorkerContext, metric_name: str) -> None:
        from search.tune import Evaluation

        self._ours = Evaluation(context, metric_name)
        self._template = simulator().measure(Policy())

    def __call__(self, config: dict[str, Any]) -> dict[str, Any]:
        use_template(self._template)  # in Tune's process, which no engine has set up
        return self._ours.report(noop(Policy.from_dict(config["policy"])))


class Listed:
    """A proposer that costs nothing: distinct policies drawn before the clock starts."""

    def __init__(self, simulator: Simulator, count: int) -> None:
        rng, found = np.random.default_rng(0), {}
        while len(found) < count:
            policy = simulator.space.sample(rng)
            found[policy.digest] = policy
        self._policies = list(found.values())

    def propose(
        self, history: Sequence[Trial], running: Sequence[Policy], count: int
    ) -> list[Proposal]:
        at = len(history) + len(running)
        return [Proposal(policy, "listed") for policy in self._policies[at : at + count]]


class Ticks(Silent):
    """When each trial was in the record."""

    def __init__(self) -> None:
        self.at_s: list[float] = []

    def trial_finished(self, *_: object) -> None:
        self.at_s.append(time.perf_counter())


@contextmanager
def study(simulator: Simulator, trials: int) -> Iterator[tuple[Record, KeptFiles]]:
    """A study with a journal on disk that was not begun yet."""
    spec = replace(simulator.spec, trials=trials, finalists=0)
    with tempfile.TemporaryDirectory(prefix="engines-") as folder:
        location = StudyLocation(folder, spec.name)
        with Record.create(location, spec, simulator.profile, simulator.space) as record:
            yield record, KeptFiles(simulator.judge, location.artifacts_dir, "packed")


def simulator() -> Simulator:
    return simulate(layers=5, seed=0, restrictions=DROP)


def megabytes(pid: int | str, line: str, file: str = "status") -> float:
    """A figure of Linux's about a process."""
    for text in Path(f"/proc/{pid}/{file}").read_text().splitlines():
        if text.startswith(line):
            return int(text.split()[1]) / 1024
    return float("nan")


def private_megabytes(pids: Sequence[int]) -> float | None:
    """Memory that only these have, on average."""
    lines = ("Private_Clean:", "Private_Dirty:")
    sums = [sum(megabytes(pid, line, "smaps_rollup") for line in lines) for pid in pids]
    return float(np.mean(sums)) if sums else None


@contextmanager
def engine_named(name: str) -> Iterator[Engine]:
    if name == "in-process":
        engine: Engine = InProcessEngine()
    elif name == "local":
        engine = LocalEngine(2)
    else:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        from search.engines.ray import RayEngine  # isort: skip -- it decides how Ray is imported
        import ray

        workers = 8 if name == "ray-8" else 2
        ray.init("local", num_cpus=workers, log_to_driver=False, include_dashboard=False)
        engine = RayEngine(workers)
    try:
        engine.configure(use_template, simulator().measure(Policy()))
        # All worker processes are there before the clock starts: with eight of them the last ones
        # were still importing, on the same cores, while the first did the trials.
        met: set[int] = set()
        while len(met) < engine.workers:
            asked = [engine.submit(process_id) for _ in range(engine.workers)]
            met |= {future.result() for future in asked}
        for _ in range(3):
            wait([engine.submit(noop, Policy()) for _ in range(4 * engine.workers)])
        yield engine
    finally:
        engine.kill()


def run_noop(name: str, trials: int) -> dict[str, Any]:
    """One engine in this process, which nothing else has been done in."""
    sim, ticks = simulator(), Ticks()
    proposer = Listed(sim, trials)
    with study(sim, trials) as (record, kept), engine_named(name) as engine:
        pids = getattr(engine, "pids", [])
        worker_mb = private_megabytes(pids)
        started, cpu_s = time.perf_counter(), time.process_time()
        if name == "tune":
            from search.tune.study import TuneSearch

            search = TuneSearch(evaluation=NoOpEvaluation)
            search(record, engine, proposer, kept, ticks)
        else:
            run_search(record, NoOp(engine), proposer, kept, ticks)
        seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu_s
        assert len(record.trials()) == trials
    return {
        "engine": name.removesuffix("-8"),
        "workers": 1 if name == "in-process" else 8 if name == "ray-8" else 2,
        "trials": trials,
        "trials_per_s": trials / seconds,
        "driver_cpu_ms_per_trial": 1000 * cpu_s / trials,
        "driver_peak_mb": megabytes("self", "VmHWM:"),
        "worker_private_mb": worker_mb if name != "tune" else None,
    }


def paragraphs(text: str) -> list[str]:
    """Notes from indented text, one a paragraph."""
    return [" ".join(part.split()) for part in text.strip().split("\n\n")]


def flushes_per_s(count: int = 100) -> float:
    """How many appended lines this disk makes durable in a second, one at a time."""
    with tempfile.NamedTemporaryFile() as file:
        started = time.perf_counter()
        for _ in range(count):
            file.write(b"x" * 10_000)
            file.flush()
            os.fsync(file.fileno())
        return count / (time.perf_counter() - started)


def noop_part(repeats: int, names: Sequence[str]) -> None:
    known = {_row_name(row): row for row in _rows_before()}
    for name in names:
        runs = []
        for _ in range(1 if name == "tune" else repeats):
            command = [sys.executable, "-m", "bench.engines", "--one", name, str(NOOP_TRIALS)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(done.stderr)
            runs.append(json.loads(done.stdout.splitlines()[-1]))
            print(runs[-1], flush=True)
        runs.sort(key=lambda run: run["trials_per_s"])
        known[name] = {
            **runs[len(runs) // 2],
            "best_per_s": runs[-1]["trials_per_s"],
            "runs": len(runs),
            "load": round(os.getloadavg()[0], 1),
        }
    write_results(
        "engines",
        "Trials that do nothing, with loop and record",
        f"make bench-engines PARTS='noop --engines {' '.join(names)}'",
        [known[name] for name in NOOP if name in known],
        paragraphs(
            f"""
            Measured now: {", ".join(names)}; any other row is as an earlier run of the bench left
            it. load: the machine's, 1-minute average, when the row was done.

            Median of `runs` runs by trials_per_s, each in a fresh process; worker processes were
            there before the clock started (tune starts its own).

            A trial's journal line is about 10 KB and is flushed to the disk; trials that finish
            together share a flush. This disk alone: {flushes_per_s():.0f} such flushes a second at
            the end of the bench.

            driver_cpu_ms_per_trial: of the driver process, all its threads; proposals are listed
            before. worker_private_mb: of a worker that has loaded no network.

            tune's rate is Ray Tune's: for each trial it resets an actor, steps its controller and
            writes three logs. Of a sampled profile of 28 November loop and record were 8 %.
            """
        ),
    )


def _rows_before() -> list[dict[str, Any]]:
    """What the last run of the bench measured."""
    file = FOLDER / "engines.json"
    rows: list[dict[str, Any]] = json.loads(file.read_text())["rows"] if file.exists() else []
    return [{**row, "runs": row.get("runs"), "load": row.get("load")} for row in rows]


def _row_name(row: dict[str, Any]) -> str:
    return "ray-8" if (row["engine"], row["workers"]) == ("ray", 8) else str(row["engine"])


# Loop and record as a study grows -----------------------------------------------------------------


def overhead_part() -> None:
    sim, ticks, most = simulator(), Ticks(), max(OVERHEAD_AT)
    cpu_s: list[float] = []

    class Both(Ticks):
        def trial_finished(self, *_: object) -> None:
            ticks.trial_finished()
            cpu_s.append(time.process_time())

    engine = NoOp(InProcessEngine())
    use_template(sim.measure(Policy()))
    proposer = Listed(sim, most)
    with study(sim, most) as (record, kept):
        run_search(record, engine, proposer, kept, Both())
    wall_ms, cpu_ms = 1000 * np.diff(ticks.at_s), 1000 * np.diff(cpu_s)
    rows = [
        {
            "trials": at,
            "wall_ms": float(np.median(wall_ms[at - 100 : at])),
            "cpu_ms": float(np.median(cpu_ms[at - 100 : at])),
        }
        for at in OVERHEAD_AT
    ]
    write_results(
        "engines-overhead",
        "Loop and record, milliseconds a trial (in-process, trials that do nothing)",
        "make bench-engines",
        rows,
        paragraphs(
            """
            Medians of the 100 trials before; cpu_ms is the driver's, without waiting for the disk.
            The plot is engines-overhead.svg; proposals are in overhead.md.
            """
        ),
    )
    picture = svg(cpu_ms, "driver CPU a trial, loop and record", "ms")
    (FOLDER / "engines-overhead.svg").write_text(picture, encoding="utf-8")


def svg(values: np.ndarray, title: str, unit: str, block: int = 50) -> str:
    """A line of medians of `block` values, drawn with nothing but text."""
    usable = len(values) // block * block
    medians = np.median(values[:usable].reshape(-1, block), axis=1)
    top = float(1.25 * medians.max())
    width, height, left, base = 640, 240, 50, 210
    xs = left + (np.arange(len(medians)) + 0.5) * (width - left - 10) / len(medians)
    ys = base - medians / top * (base - 30)
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
    ticks = "".join(
        f'<text x="{left - 6}" y="{base - share * (base - 30) + 4:.0f}" text-anchor="end">'
        f"{share * top:.2g}</text>"
        for share in (0.0, 0.5, 1.0)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
        f'<text x="{left}" y="18">{title} ({unit}), medians of {block}, against trials</text>'
        f'<path d="M{left} 30V{base}H{width - 10}" stroke="#888" fill="none"/>{ticks}'
        f'<text x="{left}" y="{base + 18}">0</text>'
        f'<text x="{width - 10}" y="{base + 18}" text-anchor="end">{usable}</text>'
        f'<polyline points="{points}" fill="none" stroke="#06c" stroke-width="1.5"/></svg>\n'
    )


# Real trials, two engines taking turns ------------------------------------------------------------


def efficiency_part() -> None:
    # Ray runs its workers at the lowest priority (nice 15): beside other work on the same cores
    # that alone decides who is slower.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 -- Ray's own spelling
    from search.engines.ray import RayEngine  # isort: skip -- it decides how Ray is imported
    import ray

    ray.init("local", num_cpus=2, log_to_driver=False, include_dashboard=False)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="engines-") as folder:
        engines = {"local": LocalEngine(2), "ray": RayEngine(2)}
        try:
            policies = _prepare(engines, folder)
            for number in range(EFFICIENCY_ROUNDS):
                turn = list(engines.items())[:: 1 if number % 2 else -1]
                seconds = {name: _evaluate(engine, policies, number) for name, engine in turn}
                rows.append(
                    {
                        "round": number + 1,
                        "first": turn[0][0],
                        **{f"{name}_s": seconds[name] for name in engines},
                        "ray_efficiency": seconds["local"] / seconds["ray"],
                    }
                )
                print(rows[-1], flush=True)
        finally:
            for engine in engines.values():
                engine.kill()
            ray.shutdown()
    local, on_ray = (sum(row[f"{name}_s"] for row in rows) for name in ("local", "ray"))
    rows.append({"round": "all", "first": "", "local_s": local, "ray_s": on_ray,
                 "ray_efficiency": local / on_ray})  # fmt: skip
    write_results(
        "engines-efficiency",
        f"lenet300-mnist, 2 workers: ray beside local, ray at {local / on_ray:.1%} of its pace",
        "make bench-engines",
        rows,
        paragraphs(
            f"""
            {EFFICIENCY_TRIALS} trials of {EFFICIENCY_SAMPLES:,} samples a round, the same policies
            on both; who comes first alternates; both sets of workers stay alive.

            RAY_worker_niceness is 0: by default Ray's workers run at nice 15, and on a busy machine
            they got 74 % of the local engine's pace (the same bench, one run, load 4.3).

            One run, on a machine with other work: read the ratio, not the seconds.
            """
        ),
    )


def _prepare(engines: dict[str, Any], folder: str) -> list[Policy]:
    """Both engines' workers have the workload, the profile and a first trial behind them."""
    from search.session import Request, prepare, proposer_of, worker_context

    none = dict.fromkeys(
        ("budget_kb", "budget_download_kb", "max_latency_ms", "min_accuracy_percent",
         "max_drop_points", "full_fidelity", "artifact_format")
    )  # fmt: skip
    request = Request(
        **{**none, "artifact_format": "packed"}, workload="lenet300-mnist", target="m1",
        proposer="warm", seed=0, trials=100, fidelity=EFFICIENCY_SAMPLES, finalists=0,
        device="cpu", restrictions={},
    )  # fmt: skip
    location = StudyLocation(folder, "efficiency")
    prepared = prepare(request, engines["local"], location)
    profile = prepared.profiled.profile
    context = worker_context(prepared.spec, location, profile)
    proposer = proposer_of(prepared.spec, profile, prepared.space, prepared.target)
    policies = [p.policy for p in proposer.propose([], [], 20)]
    trained = [p for p in policies if len(p.order) > 1][:EFFICIENCY_TRIALS]
    for engine in engines.values():
        engine.configure(tasks.setup, context)
        _evaluate(engine, trained[:2], repeat=-1)
    return trained


def _evaluate(engine: Engine, policies: Sequence[Policy], repeat: int) -> float:
    """Wall seconds for all of them."""
    started = time.perf_counter()
    futures = [
        engine.submit(
            tasks.evaluate,
            Identity("lenet300-mnist", "packed", p.digest, EFFICIENCY_SAMPLES, repeat + 1, 0),
            p,
        )
        for p in policies
    ]
    for future in futures:
        assert isinstance(future.result(), Measurement)
    return time.perf_counter() - started


# A sweep in virtual time --------------------------------------------------------------------------


@dataclass
class Sweep:
    """What a driver with many workers did with its time.

    Attributes:
        now_s: virtual seconds since the start.
        proposing_s, recording_s: of them, the driver's own work, as measured.
        busy_s: sum over trials.
        batches: proposals asked for at once.
    """

    now_s: float = 0.0
    proposing_s: float = 0.0
    recording_s: float = 0.0
    busy_s: float = 0.0
    batches: list[int] | None = None


def sweep(proposer: Proposer, sim: Simulator, seconds: float) -> Sweep:
    """`search.study`'s loop with a clock of its own: it waits for nobody, and nothing sleeps."""
    rng, state = np.random.default_rng(0), Sweep(batches=[])
    running: dict[int, Job] = {}
    ends: list[tuple[float, int]] = []
    number = 0
    with study(sim, SWEEP_TRIALS) as (record, kept):
        phase = SearchPhase(record, proposer, kept, Silent())
        while True:
            started = time.perf_counter()
            jobs = phase.propose(list(running.values()), SWEEP_WORKERS - len(running))
            state.proposing_s += (took_s := time.perf_counter() - started)
            state.now_s += took_s
            assert state.batches is not None
            state.batches += [len(jobs)] if jobs else []
            for job in jobs:
                # Stages differ in length, and machines too: half to double, mostly.
                duration_s = seconds * float(rng.lognormal(0.0, 0.35))
                state.busy_s += duration_s
                running[number] = job
                heapq.heappush(ends, (state.now_s + duration_s, number))
                number += 1
            if not ends:
                return state
            state.now_s = max(state.now_s, ends[0][0])
            done = []
            while ends and ends[0][0] <= state.now_s:
                done.append(running.pop(heapq.heappop(ends)[1]))
            trials = [trial_of(job, sim.measure(job.policy)) for job in done]
            started = time.perf_counter()
            with record.together():
                for trial in trials:
                    phase.finished(trial)
            state.recording_s += (took_s := time.perf_counter() - started)
            state.now_s += took_s


def sweep_part(proposers: Sequence[str] = ("greybox", "random")) -> None:
    rows = []
    sim = simulator()
    for name in proposers:
        for seconds in SWEEP_SECONDS:
            state = sweep(make(name, sim), sim, seconds)
            assert state.batches is not None
            ideal = _ideal_busy(seconds)
            driver_s = state.proposing_s + state.recording_s
            rows.append(
                {
                    "proposer": name,
                    "trial_s": seconds,
                    "workers_busy": state.busy_s / (SWEEP_WORKERS * state.now_s),
                    "ideal_busy": ideal,
                    "driver_busy": driver_s / state.now_s,
                    "propose_ms_per_trial": 1000 * state.proposing_s / SWEEP_TRIALS,
                    "record_ms_per_trial": 1000 * state.recording_s / SWEEP_TRIALS,
                    "mean_batch": float(np.mean(state.batches)),
                    "bottleneck": _bottleneck(state, ideal),
                }
            )
            print(rows[-1], flush=True)
    write_results(
        "engines-sweep",
        f"A sweep of {SWEEP_TRIALS:,} trials on {SWEEP_WORKERS} workers, in virtual time",
        "make bench-engines",
        rows,
        paragraphs(
            """
            Simulated: trials take a lognormal time (sigma 0.35) on a virtual clock. The driver's
            work (proposals, record with its flushes) is really done, timed and put on that clock.

            Not in it: the network and Ray's own dispatch; engines.md has what Ray's takes.

            ideal_busy: the same trials with a driver that takes no time; the end of a sweep, when
            fewer trials are left than workers, costs the rest.
            """
        ),
    )


def _ideal_busy(seconds: float) -> float:
    rng, ends, busy_s, end_s = np.random.default_rng(0), [0.0] * SWEEP_WORKERS, 0.0, 0.0
    for _ in range(SWEEP_TRIALS):
        duration_s = seconds * float(rng.lognormal(0.0, 0.35))
        busy_s += duration_s
        heapq.heapreplace(ends, ends[0] + duration_s)
    end_s = max(ends)
    return busy_s / (SWEEP_WORKERS * end_s)


def _bottleneck(state: Sweep, ideal: float) -> str:
    """What would have to be faster for the sweep to end sooner."""
    if state.busy_s / (SWEEP_WORKERS * state.now_s) > 0.95 * ideal:
        return "the trials"
    return "proposals" if state.proposing_s > state.recording_s else "the record"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--engines", nargs="+", choices=NOOP, default=NOOP, help="rows of noop")
    parser.add_argument("--one", nargs=2, metavar=("ENGINE", "TRIALS"), help="print one run")
    parsed = parser.parse_args(arguments)
    if parsed.one:
        print(json.dumps(run_noop(parsed.one[0], int(parsed.one[1]))))
        return
    for part in parsed.parts or PARTS:
        if part == "noop":
            noop_part(parsed.repeats, parsed.engines)
        else:
            {"overhead": overhead_part, "efficiency": efficiency_part, "sweep": sweep_part}[part]()


if __name__ == "__main__":
    main()
