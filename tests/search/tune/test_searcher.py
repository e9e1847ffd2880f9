"""The searcher as Tune calls it, on the simulator: no cluster."""

import json
import pickle
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from evaluators.messages import Profiled, WorkerContext
from search.session import Prepared, proposer_of, study_target
from spaces import Failure, InvalidRequest, Policy, StudyBroken, Trial
from tests.clusters import HAS_TUNE
from tests.simulator import Simulator

if not HAS_TUNE:
    pytest.skip("the extra `tune` is not installed", allow_module_level=True)

from ray import tune

from search.tune.evaluation import OUTCOME, Evaluation, config_of, outcome_of
from search.tune.searcher import PolicySearcher, _memory

SIM = Simulator(layer_count=3, proposer="greybox")
EVALUATION = Evaluation(WorkerContext("simulated", "m1", "packed", "nowhere"), "accuracy")


def prepared() -> Prepared:
    profiled = Profiled(SIM.profile, SIM.spec.metric, "torch", "cpu", 1000, 2000, 20000, 50, True)
    return Prepared(SIM.spec, profiled, study_target(SIM.spec), SIM.space)


def searcher() -> PolicySearcher:
    return PolicySearcher(_memory(prepared()), EVALUATION)


def result_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a trial reports; the numbers beside it are for people."""
    return EVALUATION.report(SIM.measure(Policy.from_dict(config["policy"])))


def driven(ours: PolicySearcher, count: int, first: int = 0) -> list[dict[str, Any]]:
    configs = []
    for number in range(first, first + count):
        config = ours.suggest(f"t{number}")
        configs.append(config)
        ours.on_trial_complete(f"t{number}", result_of(config))
    return configs


def test_it_proposes_what_the_proposer_would_and_learns() -> None:
    ours, history = searcher(), []
    spec, profile = SIM.spec, SIM.profile
    proposer = proposer_of(spec, profile, SIM.space, study_target(spec))
    for config in driven(ours, 30):
        (proposal,) = proposer.propose(history, [], 1)
        policy = Policy.from_dict(config["policy"])
        assert (policy, config["origin"]) == (proposal.policy, proposal.origin)
        assert config["identity"] == asdict(spec.identity(policy, spec.fidelity))
        history.append(SIM.trial(len(history), policy))
    front = ours.front()
    assert front.members
    assert {m.policy.digest for m in front.members} <= {t.policy.digest for t in history}


def test_two_at_a_time_are_never_the_same() -> None:
    ours = searcher()
    configs = [ours.suggest(f"t{number}") for number in range(12)]
    assert len({config["identity"]["policy_digest"] for config in configs}) == 12
    assert [job.policy.to_dict() for job in ours.running] == [c["policy"] for c in configs]


def test_a_snapshot_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    """As `Tuner.restore` does: the searcher pickled whole, then its state from a file."""
    straight, broken = searcher(), searcher()
    for ours in (straight, broken):
        driven(ours, 5)
        ours.suggest("running")
    broken.save_to_dir(str(tmp_path))
    again = pickle.loads(pickle.dumps(searcher()))
    again.restore_from_dir(str(tmp_path))
    assert again.running == broken.running
    assert driven(again, 4, first=5) == driven(straight, 4, first=5)
    members = [[(m.number, m.outcome) for m in ours.front().members] for ours in (again, straight)]
    assert members[0] == members[1]


def test_the_front_of_tune_s_results_is_what_was_learned() -> None:
    ours = searcher()
    results = [
        tune.Result(metrics=result_of(config), checkpoint=None, error=None, path="")
        for config in driven(ours, 20)
    ]
    for result, trial in zip(results, ours._memory().history, strict=True):
        result.metrics["config"] = config_of(trial.identity, trial.policy, trial.origin)
    failed = tune.Result(
        metrics=dict(results[0].metrics), checkpoint=None, error=ValueError("no"), path=""
    )
    fronts = ours.front(), searcher().front([*results, failed])
    members = [[(m.number, m.outcome) for m in front.members] for front in fronts]
    assert members[0] == members[1]
    odd = tune.Result(metrics={"config": {"lr": 1}}, checkpoint=None, error=None, path="")
    with pytest.raises(InvalidRequest, match="config must be one that a PolicySearcher suggested"):
        ours.front([odd])


def test_what_tune_may_say_of_a_trial() -> None:
    ours = searcher()
    kinds: list[tuple[dict[str, Any] | None, bool]] = [
        (None, True),
        ({"accuracy": 0.5}, False),
        (EVALUATION.report(Failure("fc1", "prune", "no")), False),
    ]
    for number, (result, is_error) in enumerate(kinds):
        ours.suggest(f"t{number}")
        ours.on_trial_complete(f"t{number}", result, error=is_error)
    reasons = [str(trial.outcome) for trial in ours._memory().history]
    assert "raised, or its process died" in reasons[0]
    assert "without reporting `outcome`" in reasons[1]
    assert reasons[2] == "prune fc1: no"
    ours.on_trial_complete("never suggested", {})
    assert len(ours._memory().history) == 3


def test_a_measurement_crosses_whole() -> None:
    measured = SIM.measure(Policy())
    row = json.loads(json.dumps(EVALUATION.report(measured)))
    assert outcome_of(row) == measured
    assert (row["accuracy"], row["size_bytes"], row["failure"]) == (
        measured.metric,
        measured.size_bytes,
        "",
    )
    assert OUTCOME in row


def test_refusals() -> None:
    ours = searcher()
    with pytest.raises(InvalidRequest, match=r"param_space must be empty .* but has lr"):
        ours.set_search_properties(None, None, {"lr": 0.1})
    with pytest.raises(InvalidRequest, match="config must be one that a PolicySearcher suggested"):
        EVALUATION({"lr": 0.1})
    with pytest.raises(InvalidRequest, match=r"workload must be one of .*, but got 'nothing'"):
        PolicySearcher.of("nothing")


class BrokenSource:
    """A record whose disk is full."""

    def propose(self, running: object, count: int) -> list[Any]:
        memory = _memory(prepared())
        return memory.propose([], count)

    def finished(self, trial: Trial) -> None:
        raise StudyBroken(f"cannot write {trial.identity.key}")


def test_a_broken_record_ends_the_run_instead_of_one_trial() -> None:
    """Tune logs what a searcher raises and goes on; so nothing is raised into it."""
    ours = PolicySearcher(BrokenSource(), EVALUATION)
    config = ours.suggest("t0")
    ours.on_trial_complete("t0", result_of(config))
    assert isinstance(ours.error, StudyBroken)
    assert ours.suggest("t1") == "FINISHED"
    stored = pickle.dumps(ours)
    with pytest.raises(InvalidRequest, match="use `search resume --engine tune`"):
        pickle.loads(stored)
