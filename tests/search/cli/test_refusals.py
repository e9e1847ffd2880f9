"""Bad input: one message that names the rule, exit code 2, nothing written."""

import re
from pathlib import Path

import pytest

from tests.search.cli.conftest import Search, write_net

#: Arguments after `run net.py:workload` -> what the message says.
RUN = {
    "--target m9": r"target must be one of .*m1.*, but got 'm9'",
    "--target none.toml": r"none\.toml",
    "--budget-kb -3": r"--budget-kb: must be above 0, but got -3",
    "--budget-kb 0": r"--budget-kb: must be above 0, but got 0",
    "--budget-kb nan": r"--budget-kb: must be above 0, but got nan",
    "--budget-kb inf": r"--budget-kb: must be above 0, but got inf",
    "--budget-kb lots": r"--budget-kb: must be a number, but got 'lots'",
    "--budget-download-kb 0": r"--budget-download-kb: must be above 0",
    "--max-latency-ms nan": r"--max-latency-ms: must be above 0, but got nan",
    "--max-drop -1": r"--max-drop: must be at least 0, but got -1",
    "--min-accuracy 0.97": r"--min-accuracy is in per cent.*got 0\.97; did you mean 97\?",
    "--min-accuracy 101": r"--min-accuracy is in per cent.*at most 100, but got 101",
    "--trials 0": r"--trials: must be at least 1, but got 0",
    "--trials 2.5": r"--trials: must be a whole number, but got '2\.5'",
    "--finalists -1": r"--finalists: must be at least 0, but got -1",
    "--seed -1": r"--seed: must be at least 0, but got -1",
    "--timeout 0": r"--timeout: must be above 0, but got 0",
    "--workers 0": r"--workers: must be at least 1, but got 0",
    "--workers 2": r"--workers must be 1 with --engine in-process, but got 2",
    "--fidelity -5": r"--fidelity: must be at least 0, but got -5",
    "--fidelity 49": r"--fidelity must be 0 or at least 200, a batch of 50 samples.*got 49",
    "--full-fidelity 100": r"--full-fidelity must be at least --fidelity, here 300.*got 100",
    "--fidelity 0 --full-fidelity 300": r"--full-fidelity must be .* 0 with it, but got 300",
    "--proposer magic": r"--proposer: invalid choice: 'magic' \(choose from",
    "--engine cloud": r"--engine: invalid choice: 'cloud'",
    "--device tpu": r"--device: invalid choice: 'tpu'",
    "--study a/b": r"--study must be 1 to 100 letters, digits.*but got 'a/b'",
    "--storage=": r"--storage must be a folder or a database URL, but got ''",
    "--storage nosuchdb://x/y": r"--storage nosuchdb://x/y: ",
    "--space none.toml": r"--space: cannot read none\.toml",
    "--space bad.toml": r"--space bad\.toml: not a TOML file",
    "--space nothing.toml": r"'conv\*'",
    "--space knob.toml": r"colour",
    "--space value.toml": r"sparsity",
}
SPACES = {
    "bad.toml": "order = [",
    "nothing.toml": '[layers."conv*"]\nbits = 8\n',
    "knob.toml": '[layers."*"]\ncolour = 8\n',
    "value.toml": '[layers."*"]\nsparsity = 1.5\n',
}


def refused(said: object, message: str) -> None:
    assert said.code == 2, said.err  # type: ignore[attr-defined]
    assert said.out == ""  # type: ignore[attr-defined]
    err = said.err.replace("a user's own print\n", "")  # type: ignore[attr-defined]
    lines = [x for x in err.splitlines() if re.match(r"search( \w+)?: error: ", x)]
    assert len(lines) == 1, err
    assert err.startswith(("usage: search ", "search: error: ")), err
    assert re.search(message, lines[0]), lines[0]
    assert "Traceback" not in err


def written(folder: Path) -> list[str]:
    return sorted(
        str(p.relative_to(folder)) for p in folder.rglob("*") if "__pycache__" not in str(p)
    )


@pytest.mark.parametrize("arguments", sorted(RUN))
def test_run_refuses(arguments: str, net: Path, search: Search) -> None:
    for name, text in SPACES.items():
        Path(name).write_text(text, encoding="utf-8")
    before = written(net.parent)
    said = search("run", "net.py:workload", "--engine", "in-process", *arguments.split())
    refused(said, RUN[arguments])
    assert written(net.parent) == before, "a refused request leaves nothing behind"


#: A workload file's end -> what the message says.
FILES = {
    "raise OSError('no data')": r"importing user\.py raised OSError: no data \(user\.py, line 1",
    "import sys; sys.exit(4)": r"importing user\.py raised SystemExit: 4",
    "def workload(): raise ValueError('no weights')": r"raised ValueError: no weights \(user\.py",
    "def workload(): return 5": r"must return an? .*Workload, but got int",
    "workload = 5": r"has no function 'workload'",
    "def workload(:": r"importing user\.py raised SyntaxError",
    "def workload(x): pass": r"raised TypeError",
    "from missing_package import x": r"raised ModuleNotFoundError: No module named 'missing_pack",
}


@pytest.mark.parametrize("end", sorted(FILES))
def test_run_refuses_a_workload_file(
    end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, search: Search
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("user.py").write_text(end + "\n", encoding="utf-8")
    refused(search("run", "user.py:workload", "--engine", "in-process"), FILES[end])
    assert written(tmp_path) == ["user.py"]


#: What a Workload is given -> what the message says.
WORKLOADS = {
    "test=(torch.zeros(3), torch.zeros(2))": r"test must have as many inputs as targets",
    "score=lambda o, t: o": r"score must give one number a sample, shape \(\d+,\), but gave",
    "score=lambda o, t: o[:, 0] / 0 - o[:, 0] / 0": r"the metric is nan, not a finite number",
    "score=lambda o, t: 1 / 0": r"ZeroDivisionError",
    "prepare=lambda x: x[:, :3]": r"the network, loss or score fails on the data",
    "prepare=lambda x: {}['x']": r"KeyError",
    "colour=1": r"raised TypeError.*colour",
}


@pytest.mark.parametrize("extra", sorted(WORKLOADS))
def test_run_refuses_a_wrong_workload(
    extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, search: Search
) -> None:
    monkeypatch.chdir(tmp_path)
    write_net(tmp_path, extra=extra)
    refused(search("run", "net.py:workload", "--engine", "in-process"), WORKLOADS[extra])
    assert written(tmp_path) == ["net.py"]


@pytest.mark.parametrize(
    ("workload", "message"),
    [
        ("lenet999", r"workload must be one of lenet300-mnist.*but got 'lenet999'"),
        ("none.py:workload", r"there is no file none\.py"),
        ("net.py:other", r"net\.py has no function 'other'"),
        ("net.py", r"workload must be one of .*path/to/file\.py:function, but got 'net\.py'"),
    ],
)
def test_run_refuses_a_name(workload: str, message: str, net: Path, search: Search) -> None:
    refused(search("run", workload, "--engine", "in-process"), message)
    refused(search("space", workload), message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run net.py:workload --study done", r"--study done: exists already in search-runs"),
        ("resume lost", r"--study lost: not in search-runs; known: done"),
        ("front lost", r"--study lost: not in search-runs; known: done"),
        ("resume done --trials 3", r"--trials must be at least the 12 that are finished"),
        ("resume done --engine in-process --workers 3", r"--workers must be 1 with"),
        ("show 99", r"trial 99: done has trials 0 to 11"),
        ("show 99@full", r"trial 99@full: done has finalists 0 to \d"),
        ("show best", r"trial must be a number as 17, or 3@full, but got 'best'"),
        ("show -- -1", r"trial must be a number.*got '-1'"),
        ("export --pick nicest", r"--pick must be best, smallest, fastest, .*got 'nicest'"),
        ("export --pick 99", r"--pick 99: done has trials 0 to 11"),
        ("export --out net.py/x", r"--out net\.py/x: cannot be written"),
        ("report --out net.py/x", r"--out net\.py/x: cannot be written"),
        ("verify none.packed", r"verify: there is no file none\.packed"),
        ("verify net.py", r"net\.py\.json is missing; name the network with --workload"),
        ("targets m9", r"target must be one of"),
        ("front --storage elsewhere", r"--storage elsewhere: holds no study; `search run` makes"),
    ],
)
def test_readers_refuse(arguments: str, message: str, done: Path, search: Search) -> None:
    before = written(done)
    refused(search(*arguments.split()), message)
    assert written(done) == before
    assert search("front", "--json").json["trials"] == 12


def test_a_place_that_cannot_be_written(net: Path, search: Search) -> None:
    """Not a chmod: root may write anywhere."""
    Path("file").write_text("not a folder", encoding="utf-8")
    said = search("run", "net.py:workload", "--engine", "in-process", "--storage", "file/runs")
    lines = said.err.strip().splitlines()
    assert said.code == 2
    assert lines[-1] == "search: error: --storage file/runs: cannot be written: Not a directory"
    assert "Traceback" not in said.err
