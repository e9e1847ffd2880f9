"""TFMOT's collaborative-optimisation recipe and what the search finds: `python -m bench.pcqat`.

The tutorial's network (`cnn-mnist-keras`), its fixed recipe (half the weights, 8 clusters, 8 bits:
the study's own reference policy) and the smallest finalist that is as accurate on VALIDATION by
the median of three seeds, both with the same fine-tuning. Sizes by three measures: our packed file,
the `.tflite` of the same weights, and that gzipped, which is how the tutorial counts. Everything
resumes.
"""

import gzip
import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.parts import search
from bench.results import write_results
from bench.winners import measured, winner
from evaluators.artifacts.files import read_content
from evaluators.worker import Worker
from search.location import StudyLocation
from search.record import RecordReader
from search.session import worker_context
from spaces import Measurement, Policy, Trial, format_order

__all__ = ["main"]

FOLDER = Path("search-runs") / "bench-pcqat"
NAME = "pcqat"
REFERENCE = "reference: TFMOT tutorial PCQAT"
#: The recipe as it was run by hand before, gzipped `.tflite`; the budget of our packed file.
BUDGET_KB = 8.076
TRIALS, FINALISTS, SEEDS, MAX_DROP_POINTS = 48, 6, 3, 1.0
PARAMETERS = 20_410
REQUEST = (
    "cnn-mnist-keras", "--target", "pixel", "--format", "packed",
    "--budget-kb", str(BUDGET_KB), "--max-drop", str(MAX_DROP_POINTS),
    "--trials", str(TRIALS), "--finalists", str(FINALISTS), "--workers", "2",
)  # fmt: skip


def seeds_of(record: RecordReader, workers: dict[str, Worker], policy: Policy) -> list[Any]:
    """A policy at full fidelity with each seed; kept in a file, so that none is trained twice."""
    path = FOLDER / "seeds.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    for repeat in range(SEEDS):
        identity = record.spec.identity(policy, record.spec.full_fidelity, repeat)
        if identity.key in known:
            continue
        found: dict[str, Any] = {}
        for artifact_format, worker in workers.items():
            outcome = worker.evaluate(replace(identity, artifact_format=artifact_format), policy)
            if not isinstance(outcome, Measurement):
                raise SystemExit(f"bench.pcqat: seed {repeat} failed: {outcome}")
            file = Path(worker.context.artifacts_dir) / f"{outcome.sha256}.{artifact_format}"
            (data,) = read_content(file).values()
            score = worker.score_test(outcome.sha256)
            assert score is not None
            found[artifact_format] = {
                "bytes": outcome.size_bytes,
                "gzip": len(gzip.compress(data, 9)),
                "validation": 100 * outcome.metric,
                "test": 100 * score.metric,
            }
        known[identity.key] = found
        path.write_text(json.dumps(known, indent=1))
    keys = [
        record.spec.identity(policy, record.spec.full_fidelity, repeat).key
        for repeat in range(SEEDS)
    ]
    return [known[key] for key in keys]


def winner_by_median(
    record: RecordReader, workers: dict[str, Worker], least_pct: float
) -> tuple[Trial, list[Any]]:
    """The smallest finalist of which the median seed keeps the accuracy, and its seeds.

    The first seed alone would favour a lucky one: of many files near the edge the smallest that
    passes once.
    """
    # Finalists are repeated with new seeds: one of each policy.
    left = {trial.policy.digest: trial for trial in record.finalists() if trial.measurement}
    while True:
        best = winner(list(left.values()), lambda trial: 100 * measured(trial).metric >= least_pct)
        seeds = seeds_of(record, workers, best.policy)
        if _median(seeds)["packed"]["validation"] >= least_pct or len(left) == 1:
            return best, seeds
        del left[best.policy.digest]


def _row(recipe: str, found: dict[str, Any]) -> dict[str, Any]:
    packed, tflite = found["packed"], found["tflite"]
    return {
        "recipe": recipe,
        "packed_bytes": round(packed["bytes"]),
        "tflite_bytes": round(tflite["bytes"]),
        "tflite_gzip_bytes": round(tflite["gzip"]),
        "ratio_packed": round(4 * PARAMETERS / packed["bytes"], 1),
        "validation_pct": f"{packed['validation']:.2f}",
        "test_pct": f"{packed['test']:.2f}",
        "litert_test_pct": f"{tflite['test']:.2f}",
    }


def _median(seeds: list[Any]) -> dict[str, Any]:
    return {
        form: {key: statistics.median(seed[form][key] for seed in seeds) for key in seeds[0][form]}
        for form in seeds[0]
    }


def main() -> None:
    search(FOLDER, NAME, REQUEST)
    record = RecordReader.open(StudyLocation(str(FOLDER), NAME))
    context = worker_context(record.spec, record.location, record.profile)
    files = FOLDER / "tflite-files"
    files.mkdir(exist_ok=True)
    workers = {
        "packed": Worker(context),
        "tflite": Worker(replace(context, artifact_format="tflite", artifacts_dir=str(files))),
    }
    (reference,) = (t for t in record.trials() if t.origin == REFERENCE)
    recipe = seeds_of(record, workers, reference.policy)
    fixed = _median(recipe)
    best, ours = winner_by_median(record, workers, fixed["packed"]["validation"])
    rows = [
        *(_row(f"TFMOT PCQAT, seed {n}", seed) for n, seed in enumerate(recipe)),
        _row(f"TFMOT PCQAT, median of {SEEDS}", fixed),
        *(_row(f"search, seed {n}", seed) for n, seed in enumerate(ours)),
        _row(f"search, median of {SEEDS}", _median(ours)),
    ]
    found = _median(ours)
    verdicts = [
        f"{what}: {found[form][key]:,.0f} bytes for {fixed[form][key]:,.0f}, "
        f"{'smaller' if found[form][key] < fixed[form][key] else 'NOT smaller'}"
        for what, form, key in (
            ("packed", "packed", "bytes"),
            (".tflite", "tflite", "bytes"),
            (".tflite, gzipped", "tflite", "gzip"),
        )
    ]
    gain = found["packed"]["test"] - fixed["packed"]["test"]
    trials = [*record.trials(), *record.finalists()]
    core_s = sum(sum(t.measurement.seconds.values()) for t in trials if t.measurement)
    write_results(
        "pcqat",
        "The TFMOT tutorial's CNN: its fixed PCQAT recipe and the search",
        "make bench-pcqat",
        rows,
        [
            f"Medians, equal fine-tuning: {'; '.join(verdicts)}; {gain:+.2f} points on test.",
            (
                f"The winner is the smallest finalist whose VALIDATION accuracy, by the median "
                f"of {SEEDS} seeds, is at least the recipe's: order "
                f"{format_order(best.policy.order)}. Every row was fine-tuned with "
                f"{record.spec.full_fidelity:,} samples."
            ),
            (
                "The recipe by hand, 3 + 3 + 1 epochs without augmentation: 8,076 bytes of gzipped "
                ".tflite at 97.96 % on test; its 8 clusters count zero, ours do not. Published "
                "pipeline: 35x at -0.03 points over "
                f"a file of 235 KB that counts optimizer slots; ratio here: {4 * PARAMETERS:,} "
                "bytes of fp32 weights."
            ),
            f"{len(trials)} trials, {core_s:.0f} core seconds of training, scoring and coding.",
        ],
    )


if __name__ == "__main__":
    main()
