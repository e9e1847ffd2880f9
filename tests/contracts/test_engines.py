"""What every engine promises. A new one is one more line in `ENGINES`."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, wait
from pathlib import Path

import pytest

from search.engines import Engine, InProcessEngine, LocalEngine
from spaces import InvalidRequest, WorkerLost
from tests.clusters import HAS_RAY, ready_ray_engine

#: Name -> how it is made; those which have worker processes are named in HAS_PROCESSES too.
ENGINES: dict[str, Callable[[], Engine]] = {
    "in-process": InProcessEngine,
    "local": lambda: LocalEngine(2),
    "ray": lambda: ready_ray_engine(2),
}
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="the extra `ray` is not installed")
RAY = pytest.param("ray", marks=needs_ray)
HAS_PROCESSES = ("local", RAY)

each_engine = pytest.mark.parametrize("name", ["in-process", "local", RAY])
each_engine_of_processes = pytest.mark.parametrize("name", HAS_PROCESSES)


@pytest.fixture
def engine(name: str) -> Iterator[Engine]:
    made = ENGINES[name]()
    yield made
    made.kill()


# Tasks: an engine sends them by name -------------------------------------------------------------

_setups: list[object] = []


def set_up(context: object) -> None:
    _setups.append(context)


def set_up_wrongly(_: object) -> None:
    raise InvalidRequest("workload must be known, but got 'x'")


def setups_here(delay_s: float = 0.0) -> tuple[int, list[object]]:
    time.sleep(delay_s)
    return os.getpid(), list(_setups)


def divide(dividend: float, divisor: float) -> float:
    return dividend / divisor


class OneWay(Exception):
    """Cannot be made again from its pickle."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


def one_way() -> OneWay:
    return OneWay("one", "way")


def not_to_be_sent() -> Callable[[], None]:
    return lambda: None


def die() -> None:
    os._exit(9)


def nap(seconds: float, started: str = "") -> int:
    if started:
        Path(started).write_text(str(os.getpid()), encoding="ascii")
    time.sleep(seconds)
    return os.getpid()


def is_alive(pid: int) -> bool:
    """A zombie that nobody has waited for is dead."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


def gone(pids: list[int], within_s: float = 10.0) -> bool:
    deadline = time.monotonic() + within_s
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(is_alive, pids))


def read_when_there(path: Path, within_s: float = 20.0) -> str:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if path.exists() and (text := path.read_text()):
            return text
        time.sleep(0.02)
    raise AssertionError(f"{path} never came")


# Every engine ------------------------------------------------------------------------------------


@each_engine
def test_it_is_a_standard_executor(engine: Engine) -> None:
    assert isinstance(engine, Executor)
    assert engine.workers >= 1
    future = engine.submit(divide, 6, divisor=3)
    assert isinstance(future, Future)
    assert future.result() == 2
    # More tasks than workers: results come in the order asked for.
    assert list(engine.map(divide, range(7), [2] * 7)) == [n / 2 for n in range(7)]
    with pytest.raises(ZeroDivisionError):
        engine.submit(divide, 1, 0).result()
    assert engine.submit(divide, 1, 1).result() == 1, "an exception costs no worker"


@each_engine
def test_results_are_the_same_everywhere(engine: Engine) -> None:
    here = [divide(n, 7.3) for n in range(4)]
    assert list(engine.map(divide, range(4), [7.3] * 4)) == here


@each_engine
def test_setup_runs_before_the_first_task_and_once_a_worker(engine: Engine) -> None:
    _setups.clear()
    engine.configure(set_up, {"study": "a"})
    futures = [engine.submit(setups_here, 0.1) for _ in range(2 * engine.workers)]
    seen = dict(future.result() for future in futures)
    assert len(seen) == engine.workers
    assert list(seen.values()) == [[{"study": "a"}]] * engine.workers


@each_engine
def test_a_new_configuration_reaches_every_worker(engine: Engine) -> None:
    _setups.clear()
    for context in ("first", "second"):
        engine.configure(set_up, context)
        wait([engine.submit(setups_here, 0.1) for _ in range(2 * engine.workers)])
    futures = [engine.submit(setups_here, 0.1) for _ in range(2 * engine.workers)]
    assert all(future.result()[1] == ["first", "second"] for future in futures)


@each_engine
def test_what_setup_raises_is_raised_by_the_task(engine: Engine) -> None:
    engine.configure(set_up_wrongly, None)
    for _ in range(2):
        with pytest.raises(InvalidRequest, match="workload must be known, but got 'x'"):
            engine.submit(divide, 1, 1).result()
    engine.configure(set_up, "right")
    assert engine.submit(divide, 1, 1).result() == 1


@each_engine
def test_it_closes_as_a_context(name: str) -> None:
    with ENGINES[name]() as engine:
        futures = [engine.submit(divide, n, 2) for n in range(3)]
    assert [future.result(timeout=0) for future in futures] == [0, 0.5, 1]


def test_in_process_has_one_worker() -> None:
    with pytest.raises(ValueError, match="has 1 worker, but got 2"):
        InProcessEngine(2)


# Engines with worker processes -------------------------------------------------------------------


@each_engine_of_processes
def test_a_death_is_charged_to_one_task(engine: Engine) -> None:
    """Those that run beside it and those that wait behind it do not notice."""
    engine.configure(set_up, "study")
    beside = engine.submit(nap, 0.5)
    dying = engine.submit(die)
    behind = [engine.submit(setups_here) for _ in range(4)]
    with pytest.raises(WorkerLost, match=r"the worker process \d+ died"):
        dying.result()
    assert beside.result() > 0
    assert all(future.result()[1] == ["study"] for future in behind), "fresh workers are set up"


@each_engine_of_processes
def test_a_result_that_cannot_cross_is_an_error_of_its_task(engine: Engine) -> None:
    with pytest.raises(Exception, match=r"lambda|pickle"):
        engine.submit(not_to_be_sent).result(timeout=20)
    assert engine.submit(divide, 4, 2).result(timeout=20) == 2
    if isinstance(engine, LocalEngine):
        return  # concurrent.futures takes the process for broken
    with pytest.raises(TypeError, match="second"):
        engine.submit(one_way).result(timeout=20)
    assert engine.submit(divide, 6, 2).result(timeout=20) == 3


@each_engine_of_processes
def test_a_worker_killed_from_outside(engine: Engine, tmp_path: Path) -> None:
    engine.configure(set_up, "study")
    killed = engine.submit(nap, 30, str(tmp_path / "pid"))
    os.kill(int(read_when_there(tmp_path / "pid")), signal.SIGKILL)
    with pytest.raises(WorkerLost):
        killed.result(timeout=10)
    assert engine.submit(setups_here).result()[1] == ["study"]


@each_engine_of_processes
def test_a_worker_that_died_while_idle_costs_no_task(engine: Engine) -> None:
    idle = {engine.submit(nap, 0.2) for _ in range(engine.workers)}
    pids = [future.result() for future in idle]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert gone(pids)
    time.sleep(0.2)  # the executor reads of its process's end a moment later
    assert list(engine.map(divide, [4, 6], [2, 2])) == [2, 3]


@each_engine_of_processes
def test_kill_ends_everything_at_once(engine: Engine, tmp_path: Path) -> None:
    running = engine.submit(nap, 60, str(tmp_path / "pid"))
    pid = int(read_when_there(tmp_path / "pid"))
    others = [engine.submit(nap, 60) for _ in range(3)]
    started = time.monotonic()
    engine.kill()
    done, _ = wait([running, *others], timeout=10)
    assert len(done) == 4
    assert time.monotonic() - started < 5
    assert gone([pid])
    with pytest.raises(WorkerLost):
        running.result()
    with pytest.raises(RuntimeError, match="shut down"):
        engine.submit(divide, 1, 1)


@each_engine_of_processes
def test_kill_leaves_other_engines_alone(engine: Engine, name: str) -> None:
    with ENGINES[name]() as other:
        pids = {f.result() for f in [other.submit(nap, 0.2) for _ in range(2 * other.workers)]}
        engine.submit(nap, 0).result()
        engine.kill()
        after = {f.result() for f in [other.submit(nap, 0.2) for _ in range(2 * other.workers)]}
        assert after == pids


@each_engine_of_processes
def test_a_waiting_task_can_be_cancelled(engine: Engine) -> None:
    wait([engine.submit(nap, 0.2) for _ in range(engine.workers)])  # every worker is there
    running = [engine.submit(nap, 0.3) for _ in range(engine.workers)]
    waiting = engine.submit(nap, 60)
    assert waiting.cancel()
    assert not running[0].cancel()
    assert all(future.result() for future in running)
    assert wait([waiting], timeout=10).done == {waiting}
    assert engine.submit(divide, 1, 1).result() == 1


#: A driver of its own: it starts workers, says their pids, and waits to be told how to go on.
DRIVER = """
import sys, time
from search.engines import LocalEngine
from tests.contracts.test_engines import nap

if __name__ == "__main__":
    engine = LocalEngine(2)
    folder = sys.argv[1]
    futures = [engine.submit(nap, float(sys.argv[2]), f"{folder}/{n}") for n in range(2)]
    try:
        print(sorted(future.result() for future in futures), flush=True)
    except KeyboardInterrupt:
        print(sorted(future.result() for future in futures), flush=True)
    engine.shutdown()
"""


def start_driver(tmp_path: Path, nap_s: float) -> "tuple[subprocess.Popen[str], list[int]]":
    script = tmp_path / "driver.py"
    script.write_text(DRIVER, encoding="utf-8")
    root = str(Path(__file__).parents[2])
    driver = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path), str(nap_s)],
        env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    return driver, [int(read_when_there(tmp_path / str(n))) for n in range(2)]


@pytest.mark.kill
def test_a_killed_driver_leaves_no_orphans(tmp_path: Path) -> None:
    driver, pids = start_driver(tmp_path, nap_s=60)
    with driver:
        assert all(map(is_alive, pids))
        driver.kill()
    assert gone(pids)


@pytest.mark.kill
def test_ctrl_c_does_not_reach_the_workers(tmp_path: Path) -> None:
    """A terminal sends it to the whole process group; the driver decides what it means."""
    driver, pids = start_driver(tmp_path, nap_s=1.0)
    with driver:
        os.killpg(driver.pid, signal.SIGINT)
        out, err = driver.communicate(timeout=20)
    assert out.strip() == str(sorted(pids))
    assert err == ""
