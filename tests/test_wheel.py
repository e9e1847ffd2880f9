"""What `pip install` would put on a machine: the four rooms with their data, and nothing else."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = {"search", "spaces", "evaluators", "dashboards"}
#: Files without which the first run on a fresh machine fails.
NEEDED = (
    "evaluators/workloads/data/mnist.npz",
    "evaluators/workloads/baselines/lenet300-mnist.safetensors",
    "evaluators/workloads/baselines/lenet5-mnist.safetensors",
    "evaluators/workloads/baselines/cnn-mnist.safetensors",
    "evaluators/workloads/baselines/battery.safetensors",
    "evaluators/workloads/baselines/battery-teacher.safetensors",
    "dashboards/assets/report.css",
    "dashboards/assets/report.js",
)
#: pip compresses; MNIST is 11 MB and the baselines 3.
MOST_BYTES = 20_000_000


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="the build backend is not installed here")
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", str(ROOT), "--wheel-dir", str(out)]
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    build = subprocess.run([*command, *offline], capture_output=True, text=True, check=False)
    assert build.returncode == 0, build.stderr
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        return set(archive.namelist())


def sources() -> set[str]:
    """Every file of the four rooms, as git would see them."""
    return {
        path.relative_to(ROOT).as_posix()
        for room in ROOMS
        for path in (ROOT / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_four_rooms_and_nothing_else(names: set[str]) -> None:
    tops = {name.partition("/")[0] for name in names}
    metadata = {top for top in tops if top.endswith(".dist-info")}
    assert len(metadata) == 1
    assert tops - metadata == ROOMS


def test_every_source_is_in_it(names: set[str]) -> None:
    shipped = {name for name in names if ".dist-info/" not in name}
    assert shipped == sources()


@pytest.mark.parametrize("name", NEEDED)
def test_data_is_in_it(name: str, names: set[str]) -> None:
    assert name in names


def test_targets_are_in_it(names: set[str]) -> None:
    targets = {path for path in sources() if path.startswith("evaluators/cost/")}
    assert len(targets) > 1
    assert targets <= names


def test_it_is_small_and_has_its_command(wheel: Path, names: set[str]) -> None:
    assert wheel.stat().st_size < MOST_BYTES
    with zipfile.ZipFile(wheel) as archive:
        entry_points = next(name for name in names if name.endswith("entry_points.txt"))
        assert "search = search.cli.main:run" in archive.read(entry_points).decode()
        licence = [name for name in names if "LICENSE" in name]
        assert licence


def test_it_runs_from_elsewhere(wheel: Path, tmp_path: Path) -> None:
    """Unpacked beside nothing of this repository: the names, the targets, the data load."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "import search, evaluators.cost.targets as t, evaluators.workloads.registry as r;"
        "assert search.__file__.startswith(sys.argv[1]), search.__file__;"
        "print(len(t.list_targets()), [t.load_target(n).name for n in t.list_targets()][:1]);"
        "print(r.load_workload('cnn-mnist').name)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "site")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "cnn-mnist"
