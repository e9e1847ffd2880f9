"""A manifest says what the record says; `search export` and `verify` are tested with the CLI."""

import json
from pathlib import Path

import pytest

from search.manifest import manifest_of
from spaces import Identity, Latency, LedgerLine, Policy
from tests.search.simulated import create
from tests.simulator import BASELINE_ACCURACY, FULL_FIDELITY, simulate

SIM = simulate(2)


def _manifest(record, trial):
    test = record.test_scores().get(trial.identity.key)
    return manifest_of(record.spec, record.profile, trial, test)


def test_it_tells_the_trial_whole_also_after_json(tmp_path: Path) -> None:
    with create(SIM, tmp_path) as record:
        searched = record.append(SIM.random_trials(1)[0])
        final = record.append(SIM.trial(0, searched.policy, fidelity=FULL_FIDELITY))
        record.write_test_scores(final.identity.key, {"metric": 0.9, "samples": 7})
        manifests = [_manifest(record, trial) for trial in (searched, final)]
    for trial, manifest in zip((searched, final), manifests, strict=True):
        said = json.loads(json.dumps(manifest))
        values = trial.measurement
        assert values is not None
        assert (said["sha256"], said["size_bytes"]) == (values.sha256, values.size_bytes)
        assert Identity(**said["identity"]) == trial.identity
        assert Policy.from_dict(said["policy"]) == trial.policy
        assert Latency(**said["latency"]) == values.latency
        assert tuple(LedgerLine(**line) for line in said["ledger"]) == values.ledger
        metric = said["metric"]
        assert (metric["name"], metric["unit"]) == ("accuracy", "share")
        assert (metric["validation"], metric["samples"]) == (values.metric, values.metric_samples)
        assert (metric["standard_error"], metric["baseline"]) == (
            values.metric_se,
            BASELINE_ACCURACY,
        )
        assert said["product"].startswith("compression-search ")
        assert (said["study"], said["workload"], said["target"]) == ("sim", "simulated", "m1")
        assert set(said["versions"]) == {"python", "torch", "numpy", "optuna"}
    assert [m["trial"] for m in manifests] == ["0", "0@full"]
    assert [m["metric"]["test"] for m in manifests] == [None, {"metric": 0.9, "samples": 7}]


def test_a_failed_trial_has_none(tmp_path: Path) -> None:
    with create(SIM, tmp_path) as record:
        failed = record.append(SIM.trial(0, SIM.random_trials(1)[0].policy, failure="no memory"))
        with pytest.raises(ValueError, match="trial 0 failed"):
            _manifest(record, failed)
