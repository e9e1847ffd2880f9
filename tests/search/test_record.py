"""The record: what is in it, that Optuna reads it, and that nothing in it is ever lost."""

import dataclasses
import datetime
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from search import record as record_module
from search._journal import trim_torn_tail
from search.location import StudyLocation
from search.record import Record, RecordReader, refuse_taken
from search.spec import StudySpec
from spaces import InvalidRequest, ModelProfile, Policy, SearchError, StudyBroken
from spaces.search_space import MILD_SPARSITIES, SPARSITIES
from tests.postgres import postgres_server
from tests.simulator import Simulator, simulate


@pytest.fixture
def sim() -> Simulator:
    return simulate(3)


@pytest.fixture(params=["journal", "sqlite"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> StudyLocation:
    storage = str(tmp_path) if request.param == "journal" else f"sqlite:///{tmp_path}/runs.db"
    return StudyLocation(storage, "sim")


@pytest.fixture
def journal(tmp_path: Path) -> StudyLocation:
    return StudyLocation(str(tmp_path), "sim")


def create(location: StudyLocation, sim: Simulator) -> Record:
    return Record.create(location, sim.spec, sim.profile, sim.space)


def load_study(location: StudyLocation, name: str = "sim") -> optuna.Study:
    """As somebody does who has never heard of this product."""
    if location.is_database:
        return optuna.load_study(study_name=name, storage=location.storage)
    storage = JournalStorage(JournalFileBackend(str(location.journal_path)))
    return optuna.load_study(study_name=name, storage=storage)


# What is in it -----------------------------------------------------------------------------------


def test_everything_comes_back(location: StudyLocation, sim: Simulator) -> None:
    trials = sim.random_trials(6)
    trials[3] = sim.trial(3, trials[3].policy, failure="out of memory", sampler_attrs={"a:b": [1]})
    full = sim.spec.full_fidelity
    with create(location, sim) as record:
        assert [record.append(t) for t in trials] == trials
        finalist = record.append(sim.trial(99, trials[0].policy, fidelity=full))
        assert finalist.number == 0  # a position among the finalists
        record.write_test_scores(finalist.identity.key, {"metric": 0.97, "by": "test"})
        reader = RecordReader.open(location)
    for each in (record, reader, RecordReader.open(location)):
        assert each.trials() == trials
        assert each.finalists() == [finalist]
        assert each.test_scores() == {finalist.identity.key: {"metric": 0.97, "by": "test"}}
        assert each.spec == sim.spec
        assert each.profile == sim.profile
        assert each.space.knobs == sim.space.knobs
        assert each.judge == sim.judge


def test_readers_see_what_is_appended_later(location: StudyLocation, sim: Simulator) -> None:
    first, second = sim.random_trials(2)
    with create(location, sim) as record:
        reader = RecordReader.open(location)
        assert reader.trials() == []
        record.append(first)
        assert reader.trials() == [first]
        record.append(second)
        assert reader.trials() == [first, second]


def test_a_reader_catches_up_with_several_at_once(location: StudyLocation, sim: Simulator) -> None:
    """Trials and finalists among each other, as they stand in one journal."""
    trials = sim.random_trials(7)
    finals = [
        sim.trial(n, t.policy, fidelity=sim.spec.full_fidelity) for n, t in enumerate(trials[:3])
    ]
    with create(location, sim) as record:
        reader = RecordReader.open(location)
        for upto, finals_upto in ((1, 0), (2, 2), (6, 2), (7, 3), (7, 3)):
            for trial in trials[len(record.trials()) : upto]:
                record.append(trial)
            for trial in finals[len(record.finalists()) : finals_upto]:
                record.append(trial)
            assert reader.trials() == record.trials() == trials[:upto]
            assert reader.finalists() == record.finalists() == finals[:finals_upto]


def test_counts_follow_without_reading_trials(location: StudyLocation, sim: Simulator) -> None:
    trials = sim.random_trials(3)
    with create(location, sim) as record:
        reader = RecordReader.open(location)
        assert reader.counts() == (0, 0)
        for trial in trials:
            record.append(trial)
        assert reader.counts() == (3, 0)
        record.append(sim.trial(0, trials[0].policy, fidelity=sim.spec.full_fidelity))
        assert reader.counts() == (3, 1)
        assert (len(reader.trials()), len(reader.finalists())) == (3, 1)
        assert reader.counts() == (3, 1)


@pytest.mark.parametrize("is_on", [True, False])
def test_the_garbage_collector_is_left_as_it_was(
    is_on: bool, journal: StudyLocation, sim: Simulator
) -> None:
    with create(journal, sim) as record:
        record.append(sim.random_trials(1)[0])
    (gc.enable if is_on else gc.disable)()
    try:
        RecordReader.open(journal).trials()
        assert gc.isenabled() == is_on
        load_study(journal).add_trial(optuna.trial.create_trial(values=[0.9, 1, 1.0]))
        with pytest.raises(StudyBroken):
            RecordReader.open(journal).trials()
        assert gc.isenabled() == is_on
    finally:
        gc.enable()


def test_optuna_loads_it(location: StudyLocation, sim: Simulator) -> None:
    outside = sim.trial(
        1, Policy.from_dict({"order": ["prune"], "layers": {"x": {"sparsity": 0.3}}})
    )
    failed = sim.trial(2, sim.random_trials(3)[2].policy, failure="killed")
    trials = [sim.random_trials(1)[0], outside, failed]
    with create(location, sim) as record:
        for trial in trials:
            record.append(trial)
    study = load_study(location)
    assert [d.name for d in study.directions] == ["MAXIMIZE", "MINIMIZE", "MINIMIZE"]
    assert study.metric_names == ["accuracy", "size_bytes", "latency_ms"]
    assert [t.state.name for t in study.trials] == ["COMPLETE", "COMPLETE", "FAIL"]
    good, reference, bad = study.trials
    measurement = trials[0].measurement
    assert measurement
    assert good.values == [
        measurement.metric,
        measurement.size_bytes,
        measurement.latency.median_ms,
    ]
    violations = sim.judge.violations(measurement)
    assert {k: good.constraints[k] for k in violations} == pytest.approx(violations)
    # Those of optuna-dashboard have no names, only positions.
    positions = {str(i): excess for i, excess in enumerate(violations.values())}
    assert {k: good.constraints[k] for k in positions} == pytest.approx(positions)
    assert {frozenset(t.constraints) for t in study.trials} == {
        frozenset(violations) | frozenset(positions)
    }
    assert good.params["order"] in sim.space.knob("order").choices
    assert isinstance(good.params["fc2:sparsity"], int)
    last = len(SPARSITIES) + len(MILD_SPARSITIES) - 1
    assert good.distributions["fc2:sparsity"] == optuna.distributions.IntDistribution(0, last)
    assert reference.params == {}
    assert bad.user_attrs["failure"] == "cluster fc2: killed"
    assert good.user_attrs["policy"] == trials[0].policy.digest
    assert good.user_attrs["feasible"] == sim.judge.is_feasible(trials[0])
    finished = datetime.datetime.fromtimestamp(trials[0].finished_at)  # noqa: DTZ006  Optuna's way
    assert good.datetime_complete == finished
    assert good.duration == datetime.timedelta(seconds=sum(measurement.seconds.values()))
    assert {t.number for t in study.best_trials} <= {0, 1}
    assert load_study(location, "sim@full").trials == []


def test_the_dashboard_opens_it(journal: StudyLocation, sim: Simulator) -> None:
    """Its own API, in process: the same routes its pages call."""
    pytest.importorskip("optuna_dashboard")
    with create(journal, sim) as record:
        for trial in sim.random_trials(3):
            record.append(trial)
    opened_by_dashboard(journal, trials=3)


def opened_by_dashboard(journal: StudyLocation, trials: int) -> None:
    """optuna-dashboard answers what its pages ask for; in a process, as it warns when imported."""
    program = f"""
import json, warnings
warnings.simplefilter("ignore")
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna_dashboard import wsgi
app = wsgi(JournalStorage(JournalFileBackend({str(journal.journal_path)!r})))
def get(path):
    out = []
    environ = {{"REQUEST_METHOD": "GET", "PATH_INFO": path, "QUERY_STRING": "after=0",
        "SERVER_NAME": "x", "SERVER_PORT": "80", "wsgi.url_scheme": "http"}}
    body = b"".join(app(environ, lambda status, headers, *a: out.append(status)))
    assert out[0].startswith("200"), out
    return json.loads(body)
names = [s["study_name"] for s in get("/api/studies")["study_summaries"]]
assert names == ["{journal.study}", "{journal.full_study}"], names
study = get("/api/studies/0")
assert len(study["trials"]) == {trials}
assert study["objective_names"] == ["accuracy", "size_bytes", "latency_ms"]
assert len(study["trials"][0]["constraints"]) == 4, study["trials"][0].keys()
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_trial_is_one_line(journal: StudyLocation, sim: Simulator) -> None:
    with create(journal, sim) as record:
        before = journal.journal_path.read_bytes()
        record.append(sim.random_trials(1)[0])
        added = journal.journal_path.read_bytes()[len(before) :]
    assert added.count(b"\n") == 1


def test_no_identity_twice(location: StudyLocation, sim: Simulator) -> None:
    (trial,) = sim.random_trials(1)
    with create(location, sim) as record:
        record.append(trial)
        with pytest.raises(ValueError, match="recorded already"):
            record.append(trial)
        record.append(dataclasses.replace(sim.trial(1, trial.policy, repeat=1)))
    with Record.open(location) as record, pytest.raises(ValueError, match="recorded already"):
        record.append(trial)


def test_a_study_that_somebody_deletes_is_missed_at_once(
    location: StudyLocation, sim: Simulator
) -> None:
    first, second = sim.random_trials(2)
    record = create(location, sim)
    record.append(first)
    optuna.delete_study(study_name=location.study, storage=record._storage)
    with pytest.raises(StudyBroken, match="somebody has deleted it"):
        record.append(second)
    with pytest.raises(StudyBroken, match="somebody has deleted it"):
        record.close()


def test_only_the_two_fidelities(journal: StudyLocation, sim: Simulator) -> None:
    with create(journal, sim) as record, pytest.raises(ValueError, match="fidelity must be"):
        record.append(sim.trial(0, Policy(), fidelity=17))


def test_test_scores_belong_to_a_trial(journal: StudyLocation, sim: Simulator) -> None:
    with create(journal, sim) as record, pytest.raises(ValueError, match="not recorded"):
        record.write_test_scores("nobody", {})


# Who drives --------------------------------------------------------------------------------------


def test_the_driver_is_seen(
    location: StudyLocation, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = create(location, sim)
    reader = RecordReader.open(location)
    assert reader.driver_state().state == "resumable"
    record.write_driver({"running": ["a"]})
    record.write_driver({"running": ["b"]})  # too soon
    state = reader.driver_state()
    assert (state.state, state.payload["running"]) == ("running", ["a"])
    assert state.payload["pid"] == os.getpid()
    record.write_driver({"running": ["c"]}, force=True)
    assert reader.driver_state().payload["running"] == ["c"]
    monkeypatch.setattr(record_module, "DEAD_AFTER_S", -1.0)
    assert reader.driver_state().state == "resumable"
    record.close(is_finished=True)
    record.close()
    assert reader.driver_state().state == "finished"
    with Record.open(location):
        pass
    assert reader.driver_state().state == "resumable"


def test_one_driver(location: StudyLocation, sim: Simulator) -> None:
    with create(location, sim), pytest.raises(StudyBroken, match=rf"process {os.getpid()} on "):
        Record.open(location)
    Record.open(location).close()


def test_one_driver_of_several_processes(location: StudyLocation, sim: Simulator) -> None:
    """The lock ends with its process, however that ends, and although a child lives on."""
    create(location, sim).close()
    program = (
        "import os, sys, time; from search.record import *; from search.location import *;"
        f"record = Record.open(StudyLocation({location.storage!r}, 'sim'));"
        "child = os.fork();"
        # The child says so itself, when it has let go of what it inherited.
        "child or print(os.getpid(), flush=True); time.sleep(60)"
    )
    driver = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert driver.stdout
    child = int(driver.stdout.readline())
    try:
        with pytest.raises(StudyBroken, match=f"process {driver.pid} on "):
            Record.open(location)
        assert RecordReader.open(location).trials() == []
        driver.kill()
        driver.wait()
        Record.open(location).close()
    finally:
        os.kill(child, 9)
        driver.stdout.close()


def test_another_request_is_refused(location: StudyLocation, sim: Simulator) -> None:
    create(location, sim).close()
    other = dataclasses.replace(sim.spec, seed=7, proposer="nsga2")
    with pytest.raises(StudyBroken, match=r"proposer, seed changed \(proposer was 'tpe'"):
        Record.open(location, other)
    more = dataclasses.replace(sim.spec, trials=500)
    with Record.open(location, more) as record:
        assert record.spec == more
    assert RecordReader.open(location).spec == more


def test_a_study_is_made_once(location: StudyLocation, sim: Simulator) -> None:
    create(location, sim).close()
    with pytest.raises(InvalidRequest, match="exists already"):
        create(location, sim)


def test_a_missing_study_names_the_known_ones(location: StudyLocation, sim: Simulator) -> None:
    create(location, sim).close()
    other = StudyLocation(location.storage, "other")
    for opening in (Record.open, RecordReader.open):
        with pytest.raises(InvalidRequest, match=r"--study other: not in .*; known: sim"):
            opening(other)
    assert not other.folder.exists()


def test_a_study_half_made_is_no_study_and_can_be_made(
    location: StudyLocation, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if killed after each write of its making."""
    set_attribute = optuna.Study.set_user_attr
    left = 0

    def dies(study: optuna.Study, key: str, value: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        set_attribute(study, key, value)

    for attributes in range(5):  # finalists_of, spec, profile, space, format_version
        left = attributes
        place = StudyLocation(location.storage, f"sim{attributes}")
        part = simulate(3, study=place.study)
        with monkeypatch.context() as patch:
            patch.setattr(optuna.Study, "set_user_attr", dies)
            with pytest.raises(KeyboardInterrupt):
                create(place, part)
        for opening in (Record.open, RecordReader.open):
            with pytest.raises(InvalidRequest, match="not in"):
                opening(place)
        create(place, part).close()
        assert RecordReader.open(place).spec == part.spec


def test_a_record_of_another_format_is_refused(journal: StudyLocation, sim: Simulator) -> None:
    create(journal, sim).close()
    load_study(journal).set_user_attr("format_version", 99)
    with pytest.raises(StudyBroken, match="format 99"):
        RecordReader.open(journal)


def test_trials_from_elsewhere_are_refused(journal: StudyLocation, sim: Simulator) -> None:
    create(journal, sim).close()
    load_study(journal).add_trial(optuna.trial.create_trial(values=[1.0, 2.0, 3.0]))
    with pytest.raises(StudyBroken, match="trial 0 of sim was not written by this product"):
        RecordReader.open(journal).trials()


def test_a_trial_from_elsewhere_is_the_one_refused_at_every_call(
    location: StudyLocation, sim: Simulator
) -> None:
    with create(location, sim) as record:
        for trial in sim.random_trials(2):
            record.append(trial)
    load_study(location).add_trial(optuna.trial.create_trial(values=[1.0, 2.0, 3.0]))
    reader = RecordReader.open(location)
    for _ in range(2):
        with pytest.raises(StudyBroken, match="trial 2 of sim was not written by this product"):
            reader.trials()


# Nothing lost ------------------------------------------------------------------------------------


def test_cut_at_every_byte_of_the_last_record(
    journal: StudyLocation, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash may leave any prefix of the last line; the line before is never touched."""
    first, second, third = sim.random_trials(3)
    with create(journal, sim) as record:
        record.append(first)
        whole = journal.journal_path.stat().st_size
        record.append(second)
        content = journal.journal_path.read_bytes()
        end = len(content)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # 10,000 times would take a minute
    in_memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=in_memory if in_memory.is_dir() else None) as folder:
        copy = Path(folder) / "record.journal"
        torn = Path(folder) / "record.journal.torn"
        for cut in range(whole, end):
            copy.write_bytes(content[:cut])
            torn.unlink(missing_ok=True)
            assert bool(trim_torn_tail(copy)) == (cut > whole)
            assert copy.read_bytes() == content[:whole]
            assert not torn.exists() or torn.read_bytes() == content[whole:cut] + b"\n"
    # Every cut ends in the same bytes, so a few of them are opened.
    for cut in (*range(whole, end, 997), whole + 1, end - 1):
        journal.journal_path.write_bytes(content[:cut])
        assert RecordReader.open(journal).trials() == [first]
        with Record.open(journal) as record:
            assert len(record.notices) == (cut > whole)
            record.append(dataclasses.replace(third, number=1))
        study = load_study(journal)
        assert [t.user_attrs["policy"] for t in study.trials] == [
            first.policy.digest,
            third.policy.digest,
        ]


def test_a_line_torn_by_someone_else_while_driving(journal: StudyLocation, sim: Simulator) -> None:
    first, second = sim.random_trials(2)
    with create(journal, sim) as record:
        record.append(first)
        with journal.journal_path.open("ab") as file:
            file.write(b'{"op_code": 2, "user_at')
        record.append(second)
    assert RecordReader.open(journal).trials() == [first, second]


def test_an_empty_journal_is_no_study(journal: StudyLocation, sim: Simulator) -> None:
    journal.folder.mkdir()
    for content in (b"", b'{"op_co'):
        journal.journal_path.write_bytes(content)
        with pytest.raises(InvalidRequest, match="not in"):
            Record.open(journal)
        with pytest.raises(InvalidRequest, match="not in"):
            RecordReader.open(journal)
    create(journal, sim).close()


def test_a_journal_damaged_in_the_middle_is_reported(
    journal: StudyLocation, sim: Simulator
) -> None:
    with create(journal, sim) as record:
        record.append(sim.random_trials(1)[0])
    lines = journal.journal_path.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1][:20] + b"\n"
    journal.journal_path.write_bytes(b"".join(lines))
    for opening in (Record.open, RecordReader.open):
        with pytest.raises(StudyBroken, match="damaged"):
            opening(journal)
    assert journal.journal_path.read_bytes() == b"".join(lines)


def test_a_stale_lock_is_removed(journal: StudyLocation, sim: Simulator) -> None:
    create(journal, sim).close()
    lock = journal.folder / "record.journal.lock"
    lock.symlink_to(journal.journal_path)
    os.utime(lock, (1, 1), follow_symlinks=False)
    start_s = time.monotonic()
    with Record.open(journal) as record:
        assert "lock file" in record.notices[0]
        record.append(sim.random_trials(1)[0])
    assert time.monotonic() - start_s < 2
    assert not os.path.lexists(lock)


FULL_DISK = """
import json, resource, sys
from search.location import StudyLocation
from search.record import Record
from spaces import StudyBroken
from tests.simulator import simulate
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
location = StudyLocation(sys.argv[1], "sim")
sim = simulate(3)
trials = sim.random_trials(20)
record = Record.open(location)
limit = (location.journal_path.stat().st_size if not location.is_database else 0) + 40_000
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
done = 0
try:
    for trial in trials:
        record.append(trial)
        done += 1
except StudyBroken as error:
    assert "cannot write trial" in str(error) and "File too large" in str(error), error
    assert "intact" in str(error)
print(done)
"""


def test_a_full_disk(journal: StudyLocation, sim: Simulator) -> None:
    """RLIMIT_FSIZE takes a part of a line and refuses the rest, as a disk that fills up does."""
    create(journal, sim).close()
    command = [sys.executable, "-c", FULL_DISK, journal.storage]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    done = int(answer.stdout)
    assert 0 < done < 20
    content = journal.journal_path.read_bytes()
    assert content.endswith(b"\n")
    assert all(json.loads(line) for line in content.splitlines())
    with Record.open(journal) as record:
        assert record.notices == ()
        assert record.trials() == sim.random_trials(20)[:done]
        record.append(sim.random_trials(20)[done])


def test_a_folder_that_cannot_be_made(tmp_path: Path, sim: Simulator) -> None:
    (tmp_path / "file").write_text("")
    location = StudyLocation(str(tmp_path / "file" / "runs"), "sim")
    with pytest.raises(InvalidRequest, match=rf"{tmp_path}/file/runs: cannot be written"):
        create(location, sim)


READ_ONLY = """
import os, sys
from search.location import StudyLocation
from search.record import Record, RecordReader
from spaces import SearchError
from tests.simulator import simulate
if os.getuid() == 0:
    os.setuid(65534)  # root may write anywhere
location = StudyLocation(sys.argv[1], "sim")
assert len(RecordReader.open(location).trials()) == 1
for study, action in (("sim", Record.open), ("new", None)):
    sim = simulate(3, study=study)
    place = StudyLocation(sys.argv[1], study)
    try:
        action(place) if action else Record.create(place, sim.spec, sim.profile, sim.space)
    except SearchError as error:
        print(type(error).__name__, error)
"""


def test_a_folder_that_cannot_be_written(sim: Simulator) -> None:
    """Readers can still read."""
    # Not tmp_path: that is closed to everyone but its owner, and the child is someone else.
    root = Path(f"/tmp/record-test-{os.getpid()}")
    try:
        location = StudyLocation(str(root), "sim")
        with create(location, sim) as record:
            record.append(sim.random_trials(1)[0])
        for path in (root, location.folder):
            path.chmod(0o555)
        command = [sys.executable, "-c", READ_ONLY, str(root)]
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    finally:
        root.chmod(0o755)
        (root / "sim").chmod(0o755)
        shutil.rmtree(root)
    opened, made = lines.splitlines()
    assert opened.startswith(f"StudyBroken study sim in {root}: cannot open it: Permission denied")
    assert made.startswith(f"InvalidRequest --storage {root}: cannot be written: Permission denied")


WRITER = """
import sys
from search.location import StudyLocation
from search.record import Record
from tests.simulator import simulate
sim = simulate(3)
with Record.open(StudyLocation(sys.argv[1], "sim")) as record:
    done = len(record.trials())
    for trial in sim.random_trials(300)[done:]:
        record.append(trial)
        print(trial.number, flush=True)
"""


@pytest.mark.kill
def test_killed_at_random_instants(journal: StudyLocation, sim: Simulator) -> None:
    """Whatever `append` had returned is there, and nothing else is."""
    create(journal, sim).close()
    expected = sim.random_trials(300)
    for wait_s in (0.0, 0.013, 0.05):
        command = [sys.executable, "-c", WRITER, journal.storage]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout
            writer.stdout.readline()
            time.sleep(wait_s)
            writer.kill()
            said = [int(line) for line in writer.stdout.read().splitlines() if line]
        trials = RecordReader.open(journal).trials()
        assert trials == expected[: len(trials)]
        assert len(trials) >= 1 + (said[-1] if said else 0)
        assert len(trials) < 300


# Databases ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sim", "sim@full"])
@pytest.mark.parametrize("directions", [["minimize"], ["maximize", "minimize", "minimize"]])
def test_somebody_elses_study_is_left_alone(
    name: str, directions: list[str], tmp_path: Path, sim: Simulator
) -> None:
    location = StudyLocation(f"sqlite:///{tmp_path}/runs.db", "sim")
    theirs = optuna.create_study(study_name=name, storage=location.storage, directions=directions)
    theirs.set_user_attr("mine", True)
    theirs.tell(theirs.ask(), [1.0] * len(directions))
    for attempt in (lambda: refuse_taken(location), lambda: create(location, sim).close()):
        with pytest.raises(InvalidRequest, match=f"Optuna study '{name}' that is not of this"):
            attempt()
    after = load_study(location, name)
    assert after.user_attrs == {"mine": True}
    assert len(after.trials) == 1
    assert optuna.get_all_study_names(location.storage) == [name]


def test_a_name_is_free_or_taken(location: StudyLocation, sim: Simulator) -> None:
    refuse_taken(location)
    create(location, sim).close()
    with pytest.raises(InvalidRequest, match="exists already"):
        refuse_taken(location)


def test_two_databases_with_one_study_name_share_no_file(
    tmp_path: Path, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor with a study in the default folder: a sweep would delete the others' files."""
    monkeypatch.chdir(tmp_path)
    storages = ("sqlite:///a.db", "sqlite:///b.db", "search-runs")
    locations = [StudyLocation(storage, "sim") for storage in storages]
    assert len({location.artifacts_dir for location in locations}) == 3
    for location in locations:
        create(location, sim).close()
    assert StudyLocation.list_studies("search-runs") == ["sim"]


def test_records_of_before_some_fields(sim: Simulator) -> None:
    spec, profile = sim.spec.to_dict(), sim.profile.to_dict()
    for key in ("notes", "target_sha256"):
        del spec[key]
    for key in ("baseline_sha256", "latency_device"):
        del profile[key]
    assert StudySpec.from_dict(spec) == sim.spec
    assert ModelProfile.from_dict(profile) == sim.profile


def test_notes_come_back_and_decide_nothing(location: StudyLocation, sim: Simulator) -> None:
    spec = dataclasses.replace(sim.spec, notes=("no test split",), target_sha256="ab")
    Record.create(location, spec, sim.profile, sim.space).close()
    assert RecordReader.open(location).spec == spec
    Record.open(location, dataclasses.replace(spec, notes=("other", "words"))).close()
    assert RecordReader.open(location).spec.notes == ("other", "words")
    with pytest.raises(StudyBroken, match="target_sha256 changed"):
        Record.open(location, dataclasses.replace(spec, target_sha256="cd"))


def test_a_database_without_protection_says_so(
    tmp_path: Path, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with MySQL, for which no server is at hand: SQLite with its file unknown."""
    monkeypatch.setattr(record_module, "sqlite_path", lambda url: None)
    location = StudyLocation(f"sqlite:///{tmp_path}/runs.db", "sim")
    with create(location, sim) as record:
        assert "not protected against two drivers" in record.notices[0]


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The URL of an empty database: $TEST_POSTGRES_URL, or a server of our own."""
    if url := os.environ.get("TEST_POSTGRES_URL"):
        yield url
        return
    with tempfile.TemporaryDirectory(prefix="pg-") as folder, postgres_server(Path(folder)) as url:
        yield url


def test_postgres(postgres: str, sim: Simulator) -> None:
    location = StudyLocation(postgres, f"sim{os.getpid()}")
    part = simulate(3, study=location.study)
    trials = part.random_trials(3)
    with create(location, part) as record:
        for trial in trials:
            record.append(trial)
        with pytest.raises(StudyBroken, match="another session of this database"):
            Record.open(location)
        assert RecordReader.open(location).trials() == trials
    with Record.open(location) as record:
        assert record.trials() == trials
        assert record.notices == ()
    with pytest.raises(SearchError, match="known: "):
        Record.open(StudyLocation(postgres, "other"))


def test_a_killed_driver_lets_go_of_a_postgres_study(postgres: str) -> None:
    """The advisory lock ends with the session, and what was appended is there."""
    study = f"killed{os.getpid()}"
    script = (
        "import os, sys\n"
        "from tests.search.test_record import StudyLocation, create, simulate\n"
        "location = StudyLocation(sys.argv[1], sys.argv[2])\n"
        "part = simulate(3, study=location.study)\n"
        "create(location, part).append(part.random_trials(1)[0])\n"
        "os.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", script, postgres, study],
        cwd=Path(__file__).parents[2],
        check=False,
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -9, killed.stderr
    (trial,) = simulate(3, study=study).random_trials(1)
    with Record.open(StudyLocation(postgres, study)) as record:
        assert [t.identity for t in record.trials()] == [trial.identity]


def test_an_unreachable_postgres_is_one_clear_message(tmp_path: Path) -> None:
    pytest.importorskip("psycopg2", reason="the extra `postgres` is not installed")
    url = f"postgresql+psycopg2://tester:secret@/postgres?host={tmp_path}"
    with pytest.raises(InvalidRequest) as refused:
        StudyLocation.list_studies(url)
    text = str(refused.value)
    assert text.startswith("--storage postgresql+psycopg2://tester:***@/postgres")
    assert "No such file or directory" in text
    assert "secret" not in text
    assert "\n" not in text
