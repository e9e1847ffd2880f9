"""What goes beside an exported file: what it is, what it was worth and how to make it again."""

import importlib.metadata
import platform
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from search.naming import trial_name
from search.spec import StudySpec
from spaces import ModelProfile, Trial

__all__ = ["manifest_of"]

PRODUCT = "compression-search"


def manifest_of(
    spec: StudySpec, profile: ModelProfile, trial: Trial, test: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The manifest of a trial's file, JSON-ready.

    Args:
        spec, profile: of the study.
        trial: what was measured.
        test: its test scores, where they were computed.

    Raises:
        ValueError: the trial failed, so there is no file.
    """
    values = trial.measurement
    if values is None:
        raise ValueError(f"trial {trial.number} failed: it has no file and no manifest")
    return {
        "product": f"{PRODUCT} {_version(PRODUCT)}",
        "format": spec.artifact_format,
        "sha256": values.sha256,
        "size_bytes": values.size_bytes,
        "workload": spec.workload,
        "target": spec.target,
        "metric": {
            "name": spec.metric.name,
            "unit": spec.metric.unit,
            "validation": values.metric,
            "standard_error": values.metric_se,
            "samples": values.metric_samples,
            "test": dict(test) if test else None,
            "baseline": profile.baseline_metric,
        },
        "secondary": [
            {
                "name": metric.name,
                "unit": metric.unit,
                "validation": reading.value,
                "standard_error": reading.standard_error,
            }
            for metric in spec.secondary
            if (reading := values.secondary.get(metric.name)) is not None
        ],
        "latency": asdict(values.latency),
        "policy": trial.policy.to_dict(),
        "study": spec.name,
        "trial": trial_name(trial, spec.full_fidelity, spec.fidelity),
        "identity": asdict(trial.identity),
        "ledger": [asdict(line) for line in values.ledger],
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in ("torch", "numpy", "optuna")},
        },
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
