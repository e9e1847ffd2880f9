"""kill -9 of the driver and of workers, then resume: no finished trial is lost, none is twice.

`python -m bench.kills [--instants 20]`. Each instant is a study of its own: `search run` in a
process, two workers, a tiny network. An instant is a phase, waited for after a random number of
finished trials:

    train    at random while the workers train
    export   as soon as a file appears among the artifacts: half written, or not yet recorded
    append   as soon as the journal is locked or grows
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.results import write_results
from evaluators import tasks
from search._storage import FORMAT_ATTRIBUTE
from search.engines import Engine, LocalEngine
from search.kept import KeptFiles
from search.location import StudyLocation
from search.record import RecordReader
from search.session import answer_of, worker_context

__all__ = ["PHASES", "VICTIMS", "Killed", "Study", "kill_once", "main", "write_workload"]

PHASES = ("train", "export", "append")
VICTIMS = ("driver", "worker")
TRIALS, FINALISTS = 8, 2
STUDY = "victim"

NOTES = (
    f"Each row is a study of {TRIALS} trials and up to {FINALISTS} finalists with two workers.",
    """passed: after `search resume` every journal line from before is there bit for bit, the number
of trials is the asked one, no identity is twice, the files are exactly those the record asks for,
every file of the front decodes to the network that was scored, to the last digit, no worker
outlives a killed driver, and no traceback was printed.""".replace("\n", " "),
    "Killed before the record's head is whole: nothing to resume, the same `search run` goes on.",
    "left_behind: what the disk held at the instant, for the resume to deal with.",
)

#: The sleeps make training the longest phase, as it is for a real network.
WORKLOAD = """\
import time

import torch
from torch import nn

from evaluators.backends.pytorch.adam import Adam
from evaluators.workloads.base import Recipe, Workload


def clouds(samples, seed):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(samples) % 3
    return 2.0 * torch.eye(4)[targets] + torch.randn(samples, 4, generator=generator), targets


def slow_loss(outputs, targets):
    time.sleep(0.01)
    return nn.functional.cross_entropy(outputs, targets)


def workload():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 3))
    inputs, targets = clouds(600, 1)
    optimiser = Adam(list(model.parameters()), 0.02, (0.9, 0.999))
    for _ in range(40):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimiser.step()
    recipe = Recipe(batch_size=50, search_epochs=1.0, full_epochs=2.0)
    return Workload("clouds", model, (inputs, targets), clouds(400, 2), clouds(400, 3),
                    loss=slow_loss, recipe=recipe)
"""


@dataclass(frozen=True)
class Killed:
    """What one instant showed.

    Attributes:
        victim, phase: who was killed when.
        trials_before: in the journal at the instant.
        left_behind: half-written files and lines, files without a trial, a lock.
        trials, finalists: in the record at the end.
        wrong: sentences; none = it passed.
    """

    victim: str
    phase: str
    trials_before: int
    left_behind: str
    trials: int
    finalists: int
    wrong: Sequence[str]
    seconds: float


@dataclass
class Study:
    """A study in a folder, driven by the real command."""

    root: Path
    known_files: set[str] = field(default_factory=set)

    @property
    def location(self) -> StudyLocation:
        return StudyLocation(str(self.root / "runs"), STUDY)

    @property
    def journal(self) -> Path:
        return self.location.journal_path

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """`search ...` in a process group of its own; what it prints goes to the log."""
        with (self.root / "log.txt").open("a", encoding="utf-8") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "search.cli", *arguments],
                cwd=self.root,
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
            )

    def run(self, seed: int) -> "subprocess.Popen[str]":
        asked = f"--trials {TRIALS} --finalists {FINALISTS} --workers 2 --seed {seed}"
        where = ("--study", STUDY, "--storage", str(self.root / "runs"))
        return self.start(
            "run", "net.py:workload", "--target", "m1", "--format", "packed", *asked.split(), *where
        )

    def resume(self) -> int:
        process = self.start(
            "resume", STUDY, "--storage", str(self.root / "runs"), "--workers", "1"
        )
        return process.wait(timeout=180)

    def log(self) -> str:
        return (self.root / "log.txt").read_text(encoding="utf-8")

    def journal_bytes(self) -> bytes:
        return self.journal.read_bytes() if self.journal.exists() else b""

    def files(self) -> set[str]:
        with contextlib.suppress(FileNotFoundError):
            return {path.name for path in self.location.artifacts_dir.iterdir()}
        return set()

    def is_locked(self) -> bool:
        return os.path.lexists(f"{self.journal}.lock")


def write_workload(folder: Path) -> Path:
    """The tiny network as a user's file."""
    path = folder / "net.py"
    path.write_text(WORKLOAD, encoding="utf-8")
    return path


def whole_lines(journal: bytes) -> bytes:
    return journal[: journal.rfind(b"\n") + 1]


def trials_in(journal: bytes) -> int:
    """Trials in whole lines: a kill can cut the last one, which is then not in the record."""
    return journal[: journal.rfind(b"\n") + 1].count(b'{"op_code":4,')


def workers_of(driver: int) -> list[int]:
    """The spawned evaluation processes of a driver, not multiprocessing's own tracker."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            stat = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            is_child = int(stat[1]) == driver and stat[0] != "Z"
            if is_child and b"spawn_main" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def wait_for(study: Study, phase: str, after_trials: int, rng: random.Random) -> list[str]:
    """Return at the instant; the names of new files, where that was what was waited for."""
    deadline = time.monotonic() + 120
    while trials_in(study.journal_bytes()) < after_trials or not study.journal.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {after_trials} trials in time:\n{study.log()}")
        time.sleep(0.002)
    if phase == "train":
        time.sleep(rng.uniform(0.02, 0.4))
        return []
    files, size_bytes = study.files(), study.journal.stat().st_size
    while time.monotonic() < deadline:
        if phase == "export" and (new := study.files() - files):
            return sorted(new)
        if phase == "append" and (study.is_locked() or study.journal.stat().st_size != size_bytes):
            return []
    raise TimeoutError(f"{phase} never came:\n{study.log()}")


def victim_of(victim: str, driver: int, new_files: Sequence[str], rng: random.Random) -> int:
    if victim == "driver":
        return driver
    workers = workers_of(driver)
    writing = [pid for pid in workers if any(f".{pid}.partial" in name for name in new_files)]
    return rng.choice(writing or workers)


def left_behind(study: Study, journal: bytes) -> str:
    """What the kill interrupted, as the disk shows it."""
    torn = len(journal) - len(whole_lines(journal))
    parts = [f"{torn} bytes of a line"] if torn else []
    files = study.files()
    half = [name for name in files if name.endswith(".partial")]
    unrecorded = [n for n in files if n.endswith(".packed") and n[:64].encode() not in journal]
    parts += [f"{len(half)} half-written file"] if half else []
    parts += [f"{len(unrecorded)} unrecorded file"] if unrecorded else []
    parts += ["lock"] if study.is_locked() else []
    return ", ".join(parts)


def kill_once(root: Path, victim: str, phase: str, rng: random.Random, engine: Engine) -> Killed:
    """One study, one kill, one resume.

    Args:
        root: an empty folder.
        victim, phase: of VICTIMS and PHASES.
        rng: of the instant.
        engine: decodes and scores the files again afterwards.
    """
    started = time.monotonic()
    write_workload(root)
    study = Study(root)
    seed = rng.randrange(1000)
    driver = study.run(seed)
    new_files = wait_for(study, phase, rng.randrange(0, TRIALS - 1), rng)
    workers = workers_of(driver.pid)
    os.kill(victim_of(victim, driver.pid, new_files, rng), signal.SIGKILL)
    before = study.journal_bytes()
    wrong = []
    if victim == "driver":
        driver.wait()
        before = study.journal_bytes()
        wrong += orphans(workers)
    left = left_behind(study, before)
    # Killed while it made the study: there is nothing to resume, and the same command runs again.
    # A driver that lost a worker goes on by itself, so the study is made in any case.
    is_made = victim == "worker" or f'"{FORMAT_ATTRIBUTE}"'.encode() in whole_lines(before)
    if victim == "worker" and driver.wait(timeout=180) != 0:
        wrong.append(f"the driver ended with {driver.returncode}")
    code = study.resume() if is_made else study.run(seed).wait(timeout=180)
    if code != 0:
        wrong.append(f"what went on after the kill ended with {code}")
    if "Traceback" in study.log():
        wrong.append("a traceback was printed")
    wrong += differences(study, before, engine)
    reader = RecordReader.open(study.location)
    return Killed(
        victim,
        phase,
        trials_in(before),
        left,
        len(reader.trials()),
        len(reader.finalists()),
        [*wrong, *([study.log()] if wrong else [])],
        round(time.monotonic() - started, 1),
    )


def orphans(workers: Sequence[int]) -> list[str]:
    deadline = time.monotonic() + 5
    left = list(workers)
    while left and time.monotonic() < deadline:
        left = [pid for pid in left if _is_alive(pid)]
        time.sleep(0.01)
    return [f"worker {pid} outlived its driver" for pid in left]


def _is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


def differences(study: Study, before: bytes, engine: Engine) -> list[str]:
    """How the study after the resume falls short of one that was never disturbed."""
    wrong = []
    if not study.journal_bytes().startswith(whole_lines(before)):
        wrong.append("a line that was in the journal is not there bit for bit")
    reader = RecordReader.open(study.location)
    trials, finalists, spec = reader.trials(), reader.finalists(), reader.spec
    if len(trials) != TRIALS:
        wrong.append(f"{len(trials)} trials instead of {TRIALS}")
    keys = [trial.identity.key for trial in [*trials, *finalists]]
    if len(set(keys)) != len(keys):
        wrong.append("an identity is there twice")
    if reader.driver_state().state != "finished":
        wrong.append(f"the study is {reader.driver_state().state}")
    folder = study.location.artifacts_dir
    kept = KeptFiles.replay(reader.judge, folder, spec.artifact_format, trials, finalists)
    expected = {kept.path(sha256).name for sha256 in kept.hashes}
    if study.files() != expected:
        wrong.append(f"files: {len(study.files())} instead of {len(expected)}")
    engine.configure(tasks.setup, worker_context(spec, study.location, reader.profile))
    for trial in answer_of(reader).front.members:
        assert trial.measurement is not None
        asked = trial.measurement
        found = engine.submit(tasks.verify, str(kept.path(asked.sha256))).result()
        said = (asked.size_bytes, asked.sha256, asked.metric, asked.metric_se)
        if (found.size_bytes, found.sha256, found.metric, found.metric_se) != said:
            wrong.append(f"the file of trial {trial.number} is not what was measured")
    return wrong


def row_of(killed: Killed) -> Mapping[str, Any]:
    return {
        "killed": killed.victim,
        "phase": killed.phase,
        "trials_before": killed.trials_before,
        "left_behind": killed.left_behind,
        "trials_after": killed.trials,
        "finalists_after": killed.finalists,
        "passed": "; ".join(killed.wrong[:1]) or "yes",
        "seconds": killed.seconds,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instants", type=int, default=20, help="for each of driver and worker")
    parser.add_argument("--seed", type=int, default=0)
    parsed = parser.parse_args(arguments)
    rng = random.Random(parsed.seed)
    rows = []
    with LocalEngine(1) as engine:
        for victim in VICTIMS:
            for number in range(parsed.instants):
                with tempfile.TemporaryDirectory(prefix="kills-") as folder:
                    phase = PHASES[number % len(PHASES)]
                    killed = kill_once(Path(folder), victim, phase, rng, engine)
                rows.append(row_of(killed))
                print(json.dumps(rows[-1]), flush=True)
                for sentence in killed.wrong:
                    print(f"  {sentence}", flush=True)
    failed = [row for row in rows if row["passed"] != "yes"]
    write_results(
        "kills",
        f"kill -9 at {len(rows)} instants: {len(rows) - len(failed)} passed",
        f"python -m bench.kills --instants {parsed.instants} --seed {parsed.seed}",
        rows,
        notes=NOTES,
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
