"""kill -9 in a Ray cluster of three emulated nodes: a worker, a node's raylet, the driver.

`python -m bench.ray_kills [--times 10]`. Each row is a study of its own, as in `bench.kills`:
`search run --engine ray`, a kill after a random number of trials, `search resume`, then every check
of `bench.kills`. A killed node is replaced before the next study.
"""

import argparse
import contextlib
import importlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.kills import (
    FINALISTS,
    STUDY,
    TRIALS,
    Study,
    differences,
    orphans,
    trials_in,
    write_workload,
)
from bench.results import write_results
from search.engines import Engine, LocalEngine
from search.record import RecordReader

__all__ = ["VICTIMS", "kill_once", "main", "nodes_of", "three_nodes"]

VICTIMS = ("worker", "raylet", "driver")
NOTES = (
    f"Each row is a study of {TRIALS} trials and up to {FINALISTS} finalists with two workers.",
    "Three emulated nodes on one machine, the head without CPUs; a killed one is replaced after.",
    "passed: as in kills.md; after a killed worker or raylet the same `search run` finishes.",
)


@contextlib.contextmanager
def three_nodes() -> Iterator[Any]:
    """A head without CPUs and two nodes of one CPU each; not joined by this process."""
    importlib.import_module("search.engines.ray")  # first: it decides how Ray is imported
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "dashboard_port": None})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        yield cluster
    finally:
        cluster.shutdown()


def nodes_of(cluster: Any) -> list[Any]:
    """The nodes that hold workers."""
    return sorted(cluster.worker_nodes, key=lambda node: str(node.unique_id))


def workers_of_cluster(cluster: Any) -> list[int]:
    """Ray names the process of an actor after its class; its parent is the node's raylet."""
    raylets = {node.all_processes["raylet"][0].process.pid for node in nodes_of(cluster)}
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent in raylets and b"WorkerProcess" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def kill_once(
    root: Path,
    cluster: Any,
    victim: str,
    rng: random.Random,
    engine: Engine,
    flags: Sequence[str] = (),
) -> Any:
    """One study, one kill, one resume; a row of the table.

    Args:
        root: of the study, empty.
        cluster: its `worker_nodes` are those that may be killed.
        victim: one of VICTIMS.
        rng: of the instant.
        engine: decodes the files afterwards.
        flags: more of them, for both commands.
    """
    started = time.monotonic()
    write_workload(root)
    study, after = Study(root), rng.randrange(TRIALS - 1)
    ray = ("--engine", "ray", "--ray-address", cluster.address, *flags)
    where = ("--storage", str(root / "runs"), *ray)
    asked = f"--trials {TRIALS} --finalists {FINALISTS} --workers 2 --seed {rng.randrange(1000)}"
    driver = study.start(
        "run", "net.py:workload", "--target", "m1", *asked.split(), *where, "--study", STUDY
    )
    deadline = time.monotonic() + 120
    while trials_in(study.journal_bytes()) < after or not study.journal.exists():
        if time.monotonic() > deadline or driver.poll() is not None:
            raise TimeoutError(f"no {after} trials in time:\n{study.log()}")
        time.sleep(0.005)
    time.sleep(rng.uniform(0.02, 0.4))
    workers, wrong = workers_of_cluster(cluster), []
    if victim == "worker":
        os.kill(rng.choice(workers), signal.SIGKILL)
    elif victim == "raylet":
        cluster.remove_node(rng.choice(nodes_of(cluster)), allow_graceful=False)
    else:
        driver.kill()
    before = study.journal_bytes()
    if driver.wait(timeout=180) != 0 and victim != "driver":
        wrong.append(f"the driver ended with {driver.returncode}")
    wrong += orphans(workers)
    if victim == "raylet":
        cluster.add_node(num_cpus=1)
    code = study.start("resume", STUDY, "--workers", "2", *where).wait(timeout=180)
    wrong += [f"search resume ended with {code}"] if code else []
    wrong += ["a traceback was printed"] if "Traceback" in study.log() else []
    wrong += differences(study, before, engine)
    reader = RecordReader.open(study.location)
    return {
        "killed": victim,
        "trials_before": trials_in(before),
        "trials_after": len(reader.trials()),
        "failures_after": sum(trial.measurement is None for trial in reader.trials()),
        "finalists_after": len(reader.finalists()),
        "reasons": "; ".join(
            sorted({str(t.outcome) for t in reader.trials() if not t.measurement})
        ),
        "passed": "; ".join(wrong) or "yes",
        "seconds": round(time.monotonic() - started, 1),
        "log": study.log() if wrong else "",
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=10, help="for each victim")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=VICTIMS, action="append", help="may be repeated")
    parser.add_argument("--quick", action="store_true", help="write no table")
    parsed = parser.parse_args(arguments)
    rng, rows = random.Random(parsed.seed), []
    with three_nodes() as cluster, LocalEngine(1) as engine:
        for victim in parsed.only or VICTIMS:
            for _ in range(parsed.times):
                with tempfile.TemporaryDirectory(prefix="ray-kills-") as folder:
                    row = kill_once(Path(folder), cluster, victim, rng, engine)
                print(row.pop("log"), end="")
                rows.append(row)
                print(json.dumps(row), flush=True)
    failed = [row for row in rows if row["passed"] != "yes"]
    if not parsed.quick:
        write_results(
            "ray_kills",
            f"kill -9 in a Ray cluster, {len(rows)} times: {len(rows) - len(failed)} passed",
            f"python -m bench.ray_kills --times {parsed.times} --seed {parsed.seed}",
            rows,
            notes=NOTES,
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
