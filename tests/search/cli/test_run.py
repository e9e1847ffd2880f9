"""`search run` and `search resume`, from the command to the files."""

import hashlib
import html
import json
from importlib.resources import files as files_of
from pathlib import Path
from typing import Any

import optuna
import pytest

from evaluators import tasks
from search import _storage
from search.location import StudyLocation
from search.record import RecordReader
from spaces import Failure
from tests.search.cli.conftest import Search, write_net

FAST = ("--target", "m1", "--format", "packed", "--engine", "in-process", "--finalists", "0")


def record(study: str, storage: str = "search-runs") -> RecordReader:
    return RecordReader.open(StudyLocation(storage, study))


def facts(reader: RecordReader) -> list[str]:
    """Trials and finalists without what a clock measured."""
    rows = [trial.to_dict() for trial in [*reader.trials(), *reader.finalists()]]
    for row in rows:
        row["finished_at"] = 0.0
        measured: dict[str, Any] = row.get("measurement", {})
        measured.pop("seconds", None)
        for stage in measured.get("audit", ()):
            stage["seconds"] = 0.0
    return [json.dumps(row, sort_keys=True) for row in rows]


def files(reader: RecordReader) -> dict[str, str]:
    found = sorted(reader.location.artifacts_dir.iterdir())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def test_json_is_all_of_stdout(net: Path, search: Search) -> None:
    """Also where the user's own network prints."""
    said = search("run", "net.py:workload", *FAST, "--trials", "6", "--json", "--finalists", "2")
    answer = said.json
    assert "a user's own print" in said.err
    assert answer["study"] == "net-m1-1"
    assert answer["trials"] == 6
    assert {"front", "pick", "baseline", "spec", "hypervolume"} <= set(answer)
    file = Path(answer["file"])
    assert hashlib.sha256(file.read_bytes()).hexdigest() == answer["pick"]["sha256"]
    assert file.stat().st_size == answer["pick"]["size_bytes"]
    assert answer["pick"]["test"]["samples"] == 500
    assert abs(answer["pick_optimism"]) < 0.1
    assert "<html" in Path(answer["report"]).read_text(encoding="utf-8").lower()
    for row in answer["front"]:
        kept = record("net-m1-1").location.artifacts_dir / f"{row['sha256']}.packed"
        assert kept.stat().st_size == row["size_bytes"]


def test_what_a_person_reads(net: Path, search: Search) -> None:
    said = search("run", "net.py:workload", *FAST, "--trials", "5", "--budget-kb", "0.3")
    assert said.code == 0
    for line in ("study     net-m1-1", "baseline  accuracy 8", "budget    at most 300 B"):
        assert line in said.err
    assert "sizes are those of the packed file" in said.err
    assert said.err.count("\n#") == 5
    assert "Front (accuracy, bytes, latency)" in said.out
    assert "Pick #" in said.out
    assert "search verify search-runs/net-m1-1/best.packed" in said.out


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_a_dry_run_writes_nothing(arguments: tuple[str, ...], net: Path, search: Search) -> None:
    said = search("run", "net.py:workload", *FAST, "--dry-run", *arguments)
    assert said.code == 0, said.err
    assert [path.name for path in net.parent.iterdir() if path.suffix != ".pyc"] == ["net.py"]
    if arguments:
        first = said.json["first"]
        assert first[0]["origin"] == "reference: fp16"
        assert all(row["predicted_bytes"] > 0 for row in first)
    else:
        assert "nothing is trained" in said.out


def test_an_unreachable_budget_ends_with_a_certificate(net: Path, search: Search) -> None:
    asked = ("--budget-kb", "0.02", "--max-drop", "0.1", "--trials", "6")
    said = search("run", "net.py:workload", *FAST, *asked, "--json")
    assert said.code == 3
    assert "warning" in said.err, "said before anything was trained"
    assert "Budget not met: at most 20 B, accuracy at least" in said.err
    certificate = said.json["certificate"]
    assert said.json["pick"] is None
    assert certificate["closest"]["size_bytes"] > 20
    assert certificate["excess"]["size_bytes"] > 0
    assert certificate["smallest"]
    assert certificate["bottleneck"]
    assert len(record("net-m1-1").trials()) == 6
    front = search("front")
    assert front.code == 0
    assert "Budget not met" in front.out
    refused = search("export")
    assert refused.code == 2
    assert "--pick best: nothing in net-m1-1 is within the budget" in refused.err


NAN = "loss=lambda o, t: nn.functional.cross_entropy(o, t) * {when}"


def test_a_loss_of_nan_is_a_failure_of_its_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, search: Search
) -> None:
    """Every policy that trains fails; the study says so, and what the failures were."""
    monkeypatch.chdir(tmp_path)
    when = "(float('nan') if torch.is_grad_enabled() and o.requires_grad else 1.0)"
    write_net(tmp_path, extra=NAN.replace("{when}", when))
    said = search("run", "net.py:workload", *FAST, "--trials", "5")
    assert said.code == 1, said.err
    last = said.err.strip().splitlines()[-1]
    assert last.startswith("search: error: every one of the 5 trials failed; ")
    assert "loss" in last
    assert "Traceback" not in said.err
    trials = record("net-m1-1").trials()
    assert len(trials) == 5
    assert all(isinstance(trial.outcome, Failure) for trial in trials)
    assert "No trial has given a network yet" in search("front").out
    shown = search("show", "0")
    assert shown.code == 0
    assert "failed" in shown.out
    assert search("report").code == 0


EMBEDDING = '''\
class Words(torch.nn.Module):
    """Integers in; such an embedding cannot be compressed."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(8, 4, max_norm=2.0)
        self.out = nn.Linear(4, 3)

    def forward(self, x):
        return self.out(self.words(x.clamp(0, 7).long()).mean(dim=1))
'''


def test_an_unsupported_layer_is_left_out_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, search: Search
) -> None:
    monkeypatch.chdir(tmp_path)
    text = write_net(tmp_path).read_text(encoding="utf-8")
    text = text.replace("def workload():", f"{EMBEDDING}\n\ndef workload():")
    text = text.replace("nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 3))", "Words()")
    Path("net.py").write_text(text, encoding="utf-8")
    said = search("run", "net.py:workload", *FAST, "--trials", "4")
    assert said.code == 0, said.err
    assert "note      words: " in said.err
    reader = record("net-m1-1")
    assert [name for name, _ in reader.profile.excluded] == ["words"]
    assert [layer.name for layer in reader.profile.layers] == ["out"]
    assert all(trial.measurement for trial in reader.trials())


def test_without_any_training(net: Path, search: Search) -> None:
    """Fidelity 0: no finalists, no distillation, nothing twice."""
    asked = ("--fidelity", "0", "--trials", "25", "--finalists", "3")
    assert search("run", "net.py:workload", *FAST, *asked, "--proposer", "random").code == 0
    reader = record("net-m1-1")
    trials = reader.trials()
    assert len({trial.identity.key for trial in trials}) == len(trials) == 25
    assert {trial.identity.fidelity for trial in trials} == {0}
    assert all(trial.policy.post_training() == trial.policy for trial in trials)
    assert all(trial.measurement for trial in trials)
    assert reader.finalists() == []


def test_a_search_at_full_fidelity_has_no_finalists(net: Path, search: Search) -> None:
    asked = ("--fidelity", "600", "--trials", "4", "--finalists", "3")
    assert search("run", "net.py:workload", *FAST, *asked).code == 0
    assert record("net-m1-1").finalists() == []
    refused = search("front", "--at", "full")
    assert (refused.code, refused.out) == (2, "")
    assert "--at full: net-m1-1 has no finalists" in refused.err


def test_the_same_request_gives_the_same_bytes_on_every_engine(net: Path, search: Search) -> None:
    """Show 6: one worker, the same seed: trials, order, policies and files."""
    asked = (
        "--target",
        "m1",
        "--format",
        "packed",
        "--trials",
        "14",
        "--finalists",
        "2",
        "--seed",
        "5",
    )
    for study, engine in (("a", "in-process"), ("b", "in-process"), ("c", "local")):
        how = ("--engine", engine, "--workers", "1", "--study", study)
        assert search("run", "net.py:workload", *asked, *how).code == 0
    first, *others = (record(study) for study in "abc")
    assert len(first.trials()) == 14
    for other in others:
        assert facts(other) == facts(first)
        assert files(other) == files(first)
    assert {name.partition(".")[0] for name in files(first)} == set(files(first).values())


def test_the_time_is_up_and_resume_goes_on(net: Path, search: Search) -> None:
    said = search("run", "net.py:workload", *FAST, "--trials", "5", "--timeout", "0.000001")
    assert "the time is up: 0 of 5 trials" in said.err
    assert (said.code, said.out) == (1, "")
    assert said.err.strip().splitlines()[-1] == (
        "search: error: study net-m1-1 in search-runs: no trial finished within the --timeout of "
        "1e-06 s; go on with more time: search resume net-m1-1"
    )
    assert "Budget not met" not in said.err
    assert record("net-m1-1").driver_state().state == "resumable"
    assert search("resume", "--engine", "in-process").code == 0
    reader = record("net-m1-1")
    assert len(reader.trials()) == 5
    assert reader.driver_state().state == "finished"
    again = search("resume", "net-m1-1", "--engine", "in-process", "--json")
    assert again.json["trials"] == 5
    more = search("resume", "net-m1-1", "--engine", "in-process", "--trials", "7")
    assert more.code == 0
    assert "net-m1-1: 5 of 7 trials" in more.err
    assert len(reader.trials()) == 7


def test_names_beyond_ascii_and_with_spaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, search: Search
) -> None:
    monkeypatch.chdir(tmp_path)
    net = write_net(tmp_path / "réseau [1] ☂", "grün & klein.py", extra="test=None")
    asked = ("--storage", "mes études", "--trials", "4")
    said = search("run", f"{net}:workload", *FAST, *asked)
    assert said.code == 0, said.err
    assert "réseau [1] ☂/grün & klein.py" in said.err
    assert "no test split" in said.err
    command = next(x for x in said.out.splitlines() if "search front" in x).strip()
    assert command == "search front gr-n-klein-m1-1 --storage 'mes études'"
    assert search("front", "--storage", "mes études", "--json").json["pick"]["test"] is None
    out = Path("sortie é") / "fichier [x].packed"
    assert search("export", "--storage", "mes études", "-o", out).code == 0
    assert search("verify", out).code == 0
    assert search("resume", "--storage", "mes études", "--engine", "in-process").code == 0


def test_studies_are_numbered(net: Path, search: Search) -> None:
    for _ in range(2):
        assert search("run", "net.py:workload", *FAST, "--trials", "1").code in (0, 3)
    assert StudyLocation.list_studies("search-runs") == ["net-m1-1", "net-m1-2"]


def test_a_study_in_a_database(net: Path, search: Search) -> None:
    asked = ("--storage", "sqlite:///studies.db", "--study", "mine", "--trials", "4")
    assert search("run", "net.py:workload", *FAST, *asked).code == 0
    assert search("front", "--storage", "sqlite:///studies.db", "--json").json["trials"] == 4
    said = search("resume", "--storage", "sqlite:///studies.db", *FAST[4:6], "--trials", "5")
    assert said.code == 0, said.err


def test_a_database_with_other_peoples_studies(net: Path, search: Search) -> None:
    storage = "sqlite:///studies.db"
    optuna.create_study(study_name="theirs", storage=storage).set_user_attr("mine", True)
    said = search("run", "net.py:workload", *FAST, "--storage", storage, "--study", "theirs")
    assert said.code == 2
    assert said.err == (
        "search: error: --study theirs: sqlite:///studies.db holds an Optuna study 'theirs' that "
        "is not of this product; choose another name\n"
    )
    said = search("front", "--storage", storage)
    assert (said.code, "holds no study" in said.err) == (2, True)
    optuna.create_study(study_name="net-m1-1", storage=storage)
    said = search("run", "net.py:workload", *FAST, "--storage", storage, "--trials", "1")
    assert (said.code, StudyLocation.list_studies(storage)) == (0, ["net-m1-2"])
    study = optuna.load_study(study_name="theirs", storage=storage)
    assert (study.user_attrs, study.trials) == ({"mine": True}, [])


def test_two_databases_keep_their_files_apart(net: Path, search: Search) -> None:
    """One study name; the second run and the first one's resume sweep only their own folder."""
    asked = ("--study", "mine", "--trials", "4")
    for storage in ("sqlite:///a.db", "sqlite:///b.db", "search-runs"):
        said = search("run", "net.py:workload", *FAST, *asked, "--storage", storage)
        assert said.code == 0, said.err
    first = files(record("mine", "sqlite:///a.db"))
    assert first
    how = ("--engine", "in-process", "--trials", "6")
    assert search("resume", "--storage", "sqlite:///b.db", *how).code == 0
    assert search("resume", "--storage", "search-runs", *how).code == 0
    assert files(record("mine", "sqlite:///a.db")) == first


# What must not have changed before a resume ------------------------------------------------------


def test_another_network_is_not_mixed_into_a_study(
    net: Path, search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert search("run", "net.py:workload", *FAST, "--trials", "4").code == 0
    before, text = facts(record("net-m1-1")), net.read_text(encoding="utf-8")
    assert len(record("net-m1-1").profile.baseline_sha256) == 64
    net.write_text(text.replace("range(40)", "range(141)"), encoding="utf-8")
    monkeypatch.setattr(tasks, "_worker", None)  # as in a new process
    said = search("resume", "--engine", "in-process", "--trials", "6")
    assert said.code == 1
    assert "the workload's network is not the one the study began with" in said.err
    assert "Traceback" not in said.err
    assert facts(record("net-m1-1")) == before
    for path in record("net-m1-1").location.artifacts_dir.iterdir():
        path.unlink()
    said = search("export", "--out", "out.packed")
    assert (said.code, Path("out.packed").exists()) == (1, False)
    assert "the workload's network is not the one the study began with" in said.err
    net.write_text(text, encoding="utf-8")
    monkeypatch.setattr(tasks, "_worker", None)
    assert search("resume", "--engine", "in-process", "--trials", "6").code == 0
    assert facts(record("net-m1-1"))[:4] == before


def test_an_edited_target_is_not_mixed_into_a_study(
    net: Path, search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's own target, found again from another folder."""
    text = (files_of("evaluators") / "targets" / "m1.toml").read_text(encoding="utf-8")
    target = net.with_name("my.toml")
    target.write_text(text, encoding="utf-8")
    asked = ("--target", "my.toml", "--trials", "3", "--storage", net.with_name("runs"))
    assert search("run", "net.py:workload", *FAST[2:], *asked).code in (0, 3)
    resume = ("resume", "--engine", "in-process", "--storage", net.with_name("runs"), "--trials")
    elsewhere = net.with_name("elsewhere")
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert search(*resume, "4").code in (0, 3)
    reader = record("net-my-1", str(net.with_name("runs")))
    assert (reader.spec.target, len(reader.trials())) == (str(target), 4)
    edited = text.replace("[overhead_us]\nvalue = 5.0", "[overhead_us]\nvalue = 77.0")
    assert edited != text
    target.write_text(edited, encoding="utf-8")
    said = search(*resume, "5")
    assert said.code == 1
    assert f"the target {target} is not as it was when the study began" in said.err
    assert len(reader.trials()) == 4


def test_the_notes_of_a_study_are_kept(net: Path, search: Search) -> None:
    assert search("run", "net.py:workload", *FAST, "--trials", "2").code in (0, 3)
    notes = record("net-m1-1").spec.notes
    assert any("sizes are those of the packed file" in note for note in notes)
    said = search("resume", "--engine", "in-process")
    assert all(f"note      {note}" in said.err for note in notes)
    page = Path("search-runs/net-m1-1/report.html").read_text(encoding="utf-8")
    assert all(html.escape(note, quote=False) in page for note in notes)


def test_no_password_is_shown_or_written(
    net: Path, search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite takes no password in its URL, so the driver's doors are led to a file."""
    url = "postgresql://me:secret@db/runs"

    def file_of(storage: str) -> str:
        return storage.replace(url, "sqlite:///studies.db")

    for module, name in (
        (_storage, "_database"),
        (_storage, "_has_tables"),
        (_storage, "create_engine"),
    ):
        before = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda x, *a, before=before, **k: before(file_of(x), *a, **k)
        )
    asked = ("--storage", url, "--study", "mine", "--trials", "3", "--json")
    said = search("run", "net.py:workload", *FAST, *asked)
    assert said.json["storage"] == "postgresql://me:***@db/runs"
    assert "--storage 'postgresql://me:***@db/runs'" in said.err
    said_all = [said, search("resume", "--storage", url, *FAST[4:6], "--timeout", "0.00001")]
    said_all.append(search("front", "--storage", url, "--json"))
    said_all.append(search("front", "lost", "--storage", url))
    for each in said_all:
        assert "secret" not in each.out + each.err
    written = [path for path in net.parent.rglob("*") if path.is_file()]
    assert any(path.name == "report.html" for path in written)
    assert not [path for path in written if b"secret" in path.read_bytes()]
