"""From a request to an answer: what every door (command line, later a service) calls.

prepare(request, engine)      a worker makes the profile -> spec, space
check_network(record, engine) before any more of an old study: is it still the same network?
proposer_of(record, target)   who proposes in a study
drive(record, ...)            search, finalists, test scores -> Answer
"""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from evaluators import tasks
from evaluators.capabilities import backend_capabilities
from evaluators.cost import CalibratedSize, size_model
from evaluators.cost.targets import load_target
from evaluators.formats import choose_format, format_capabilities
from evaluators.messages import Profiled, WorkerContext
from evaluators.workloads.registry import backend_of, check_name, name_clashes
from search.engines import Engine
from search.finalists import answer_certificate, answer_front
from search.kept import KeptFiles
from search.location import StudyLocation
from search.proposers import make_proposer
from search.proposers.base import Proposer
from search.proposers.warm import WarmProposer
from search.record import Record, RecordReader
from search.spec import StudySpec
from search.study import Observer, correct_pick, run_finalists, run_search, score_on_test
from spaces import (
    Budget,
    Capabilities,
    Certificate,
    Front,
    InvalidRequest,
    Judge,
    Metric,
    ModelProfile,
    SearchSpace,
    Stage,
    StudyBroken,
    Target,
    build_space,
)

__all__ = [
    "Answer",
    "Prepared",
    "Request",
    "SearchRunner",
    "answer_of",
    "capabilities_of",
    "check_network",
    "check_target",
    "drive",
    "prepare",
    "proposer_of",
    "store_of",
    "study_target",
    "worker_context",
]


class SearchRunner(Protocol):
    """Evaluates proposals until the record holds the asked trials; see `run_search`."""

    def __call__(
        self,
        record: Record,
        engine: Engine,
        proposer: Proposer,
        kept: KeptFiles,
        observer: Observer,
        deadline_s: float | None,
    ) -> None:
        """Run the search phase."""
        ...


@dataclass(frozen=True)
class Request:
    """What a user asks for, in the units of the command line.

    Attributes:
        budget_kb, budget_download_kb: 1 KB = 1000 bytes.
        max_latency_ms: of one inference.
        min_accuracy_percent, max_drop_points: of a metric that is a share; in the metric's own
            unit otherwise.
        fidelity, full_fidelity: None = the workload's.
        restrictions: the parsed `--space` file.
        artifact_format: of the files; None = the target's own where its libraries are installed.
        artifacts: s3://BUCKET/PREFIX that keeps the files; "" = the study's folder does.
    """

    workload: str
    target: str
    budget_kb: float | None
    budget_download_kb: float | None
    max_latency_ms: float | None
    min_accuracy_percent: float | None
    max_drop_points: float | None
    proposer: str
    seed: int
    trials: int
    fidelity: int | None
    full_fidelity: int | None
    finalists: int
    device: str
    restrictions: Mapping[str, Any]
    artifact_format: str | None = None
    artifacts: str = ""

    def budget(self, metric: Metric) -> Budget:
        """The limits in the product's units, converted once, here.

        Raises:
            InvalidRequest: an accuracy of at most 1 or over 100 per cent.
        """
        share = metric.unit == "share"
        least = self.min_accuracy_percent
        is_percent = share and metric.higher_is_better
        if is_percent and least is not None and not 1 < least <= 100:
            hint = f"; did you mean {100 * least:g}?" if least <= 1 else ""
            raise InvalidRequest(
                f"--min-accuracy is in per cent, above 1 and at most 100, but got {least:g}{hint}"
            )
        if least is not None and not (share and metric.higher_is_better):
            raise InvalidRequest(
                f"--min-accuracy is for accuracies, but this workload's metric is {metric.name}; "
                "use --max-drop, in its unit"
            )
        unit = 0.01 if share else 1.0

        def size_bytes(kilobytes: float | None) -> int | None:
            return None if kilobytes is None else max(1, round(1000 * kilobytes))

        return Budget(
            size_bytes=size_bytes(self.budget_kb),
            download_bytes=size_bytes(self.budget_download_kb),
            latency_ms=self.max_latency_ms,
            min_metric=None if least is None else unit * least,
            max_drop=None if self.max_drop_points is None else unit * self.max_drop_points,
        )


@dataclass(frozen=True)
class Prepared:
    """Everything known before the first trial.

    Attributes:
        spec: of the study to be made.
        profiled: what a worker found out about the workload.
        target: the hardware profile.
        space: what is searched.
    """

    spec: StudySpec
    profiled: Profiled
    target: Target
    space: SearchSpace

    @property
    def judge(self) -> Judge:
        """What makes the study's trials comparable."""
        spec = self.spec
        return Judge(spec.metric, spec.budget, self.profiled.profile, spec.secondary)


def worker_context(
    spec: StudySpec, location: StudyLocation, profile: ModelProfile | None, token: str = ""
) -> WorkerContext:
    """What a worker of a study must know."""
    return WorkerContext(
        workload=spec.workload,
        target=spec.target,
        artifact_format=spec.artifact_format,
        artifacts_dir=str(location.artifacts_dir.resolve()),
        device=spec.device,
        profile=profile,
        store=store_of(spec),
        token="" if spec.artifacts else token,
    )


def store_of(spec: StudySpec) -> str:
    """Where a study's files are in its bucket; "" without one."""
    return f"{spec.artifacts.rstrip('/')}/{spec.name}" if spec.artifacts else ""


def capabilities_of(
    profile: ModelProfile, target: Target, fidelity: int
) -> tuple[Capabilities, tuple[str, ...]]:
    """What backend and format can both do for a network, and what each side removed."""
    kinds, backend = {layer.kind for layer in profile.layers}, profile.backend
    ours, theirs = (
        # Of kinds the network does not have, nothing needs to be said.
        replace(side, layers={k: can for k, can in side.layers.items() if k in kinds})
        for side in (
            backend_capabilities(backend),
            format_capabilities(target.artifact_format, integer_only=target.integer_only),
        )
    )
    both, removed = ours.intersect(theirs)
    # A record of before `has_attention` was kept still has its layers.
    if not profile.has_attention or not any(x.kind.startswith("Conv") for x in profile.layers):
        both = replace(both, distillation_kinds=both.distillation_kinds - {"attention"})
        removed += (
            "no attention transfer: network and teacher have no feature maps of the same shapes",
        )
    if not profile.gives_logits:
        both = replace(both, distillation_kinds=both.distillation_kinds - {"logits"})
        removed += ("the network's outputs are not class scores: no logits to soften",)
    if 8 in both.activation_bits and (states := kinds & {"LSTM", "GRU"}):
        both = replace(both, activation_bits=both.activation_bits - {8})
        removed += (f"the state of {', '.join(sorted(states))} layers stays in floats",)
    rounds_in_python = target.is_this_machine and target.artifact_format == "packed"
    if rounds_in_python and 8 in both.activation_bits:
        # Rounding activations here is our own emulation in Python; timing it would tell nothing.
        both = replace(both, activation_bits=both.activation_bits - {8})
        removed += (f"{backend} on this machine has no 8-bit activations to measure",)
    if fidelity == 0:
        # Without training neither a distillation loss nor a pruning criterion changes anything
        # (see `Policy.post_training`): such policies would be duplicates.
        both = replace(both, distillation_kinds=frozenset({"none"}))
        both = replace(both, criteria=both.criteria & {"magnitude"})
    if both.distillation_kinds == {"none"}:
        without = frozenset(order for order in both.orders if Stage.DISTILL not in order)
        both = replace(both, orders=without)
    return both, removed


def prepare(request: Request, engine: Engine, location: StudyLocation) -> Prepared:
    """Let a worker make the profile; build spec and space.

    Raises:
        InvalidRequest: workload, target, budget or restrictions are wrong.
    """
    check_name(request.workload)
    target = load_target(request.target)
    chosen, why = choose_format(request.artifact_format, target, backend_of(request.workload))
    format_notes = [why] if why else []
    target = replace(target, artifact_format=chosen)
    workload, target_name = _absolute(request.workload), _absolute_target(request.target)
    first = WorkerContext(
        workload=workload,
        target=target_name,
        artifact_format=target.artifact_format,
        artifacts_dir=str(location.artifacts_dir.resolve()),
        device=request.device,
    )
    engine.configure(tasks.setup, first)
    profiled = engine.submit(tasks.make_profile).result()
    profile = profiled.profile
    fidelity = profiled.search_fidelity if request.fidelity is None else request.fidelity
    least = len(Stage) * profiled.batch_size
    if request.fidelity is None:
        fidelity = max(fidelity, least)
    elif 0 < fidelity < least:
        raise InvalidRequest(
            f"--fidelity must be 0 or at least {least}, a batch of {profiled.batch_size} samples "
            f"for each of {len(Stage)} stages, but got {fidelity}"
        )
    capabilities, removed = capabilities_of(profile, target, fidelity)
    spec = StudySpec(
        name=location.study,
        workload=workload,
        target=target_name,
        artifact_format=target.artifact_format,
        budget=request.budget(profiled.metric),
        metric=profiled.metric,
        proposer=request.proposer,
        seed=request.seed,
        trials=request.trials,
        fidelity=fidelity,
        full_fidelity=_full_fidelity(request, profiled.full_fidelity, fidelity),
        finalists=request.finalists,
        device=request.device,
        restrictions=request.restrictions,
        target_sha256=_digest(target),
        artifacts=request.artifacts,
        notes=(
            *name_clashes(workload),
            *removed,
            *format_notes,
            *_notes(target, profile, profiled),
        ),
        secondary=profiled.secondary,
    )
    space = build_space(profile, capabilities, request.restrictions)
    return Prepared(spec, profiled, target, space)


def _full_fidelity(request: Request, default: int, fidelity: int) -> int:
    """Training samples of a finalist: never fewer than those of a searched trial."""
    asked = request.full_fidelity
    if asked is None:
        return max(default, fidelity) if fidelity else 0
    if asked < fidelity or (asked > 0) != (fidelity > 0):
        raise InvalidRequest(
            f"--full-fidelity must be at least --fidelity, here {fidelity}, and 0 with it, "
            f"but got {asked}"
        )
    return asked


def _absolute(workload: str) -> str:
    """A user's file by its full path, so that resume and verify find it from anywhere."""
    if ":" not in workload:
        return workload
    path, _, function = workload.rpartition(":")
    return f"{Path(path).resolve()}:{function}"


def _absolute_target(target: str) -> str:
    return str(Path(target).resolve()) if target.endswith(".toml") else target


def study_target(spec: StudySpec) -> Target:
    """The target of a study, with the format that the study's files have."""
    return replace(load_target(spec.target), artifact_format=spec.artifact_format)


def _digest(target: Target) -> str:
    content: dict[str, Any] = asdict(target)
    if not target.machines:
        del content["machines"]  # records of before it existed keep their digest
    if not target.integer_only:
        del content["integer_only"]
    if target.int8_weight_bits == 8:
        del content["int8_weight_bits"]
    if target.int8_shallow_ratio is None:
        del content["int8_shallow_ratio"]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def check_target(record: RecordReader, target: Target) -> None:
    """Refuse to go on with a study whose target has other figures now.

    Raises:
        StudyBroken: it has.
    """
    if record.spec.target_sha256 not in ("", _digest(target)):
        raise StudyBroken(
            f"study {record.location}: the target {record.spec.target} is not as it was when the "
            "study began, so new trials would not compare with the recorded ones; put it back, or "
            "start another study"
        )


def check_network(record: RecordReader, engine: Engine) -> None:
    """Refuse to go on with a study whose workload gives another network now.

    Args:
        record: of the study.
        engine: configured with the study's context.

    Raises:
        StudyBroken: it does.
    """
    began_with = record.profile.baseline_sha256
    if began_with and engine.submit(tasks.baseline_sha256).result() != began_with:
        raise StudyBroken(
            f"study {record.location}: the workload's network is not the one the study began with "
            "(its packed baseline is another file); put that one back, or start another study"
        )


def _notes(target: Target, profile: ModelProfile, profiled: Profiled) -> list[str]:
    notes = []
    if target.native_format != target.artifact_format:
        notes.append(
            f"target {target.name}: its own format is {target.native_format}; sizes are those of "
            f"the {target.artifact_format} file"
        )
    if not target.is_this_machine:
        assumed = [
            name
            for name, figure in (
                *target.throughput_gmacs.items(),
                ("bandwidth", target.bandwidth_gbps),
                ("overhead", target.overhead_us),
            )
            if figure.is_assumed
        ]
        what = f"; assumed figures: {', '.join(assumed)}" if assumed else ""
        if profile.latency_source == "modelled":
            notes.append(f"latency is modelled for {target.name}, not measured on one{what}")
        else:
            notes.append(
                f"latency is measured for {target.name}: {profile.latency_device}; a trial whose "
                "file could not be timed there says modelled"
            )
    if not profiled.has_test:
        notes.append("the workload has no test split: nothing will be reported on one")
    notes += [f"{name or 'the model'}: {reason}" for name, reason in profile.excluded]
    return notes


def proposer_of(
    spec: StudySpec, profile: ModelProfile, space: SearchSpace, target: Target
) -> WarmProposer:
    """Who proposes in a study: references first, then what the spec names."""
    capabilities, _ = capabilities_of(profile, target, spec.fidelity)
    judge = Judge(spec.metric, spec.budget, profile, spec.secondary)
    return make_proposer(spec.proposer, space, judge, target, capabilities, spec.seed)


def smallest_possible_bytes(prepared: Prepared) -> float:
    """The low end of what the strongest choices of every knob could weigh, in the best order."""
    space = prepared.space
    calibrated = CalibratedSize(
        size_model(prepared.profiled.profile, prepared.spec.artifact_format), ()
    )
    at = [knob.name for knob in space.knobs].index("order")
    vector = [len(knob.choices) - 1 for knob in space.knobs]
    sizes = []
    for order in range(len(space.knobs[at].choices)):
        vector[at] = order
        sizes.append(calibrated.predict(space.decode(vector)).low_bytes)
    return min(sizes)


@dataclass(frozen=True)
class Answer:
    """What a study found.

    Attributes:
        front: the finalists' where it has a member, else the search's.
        judge: what was fair.
        test_scores: identity key -> scores of the trials scored on the test split.
        certificate: set when nothing is within the budget.
        optimism: what having been chosen flatters the pick's validation metric by, in its unit;
            None before it was looked at.
    """

    front: Front
    judge: Judge
    test_scores: Mapping[str, Mapping[str, Any]]
    certificate: Certificate | None
    optimism: float | None = None

    @property
    def is_met(self) -> bool:
        """Whether anything is within the budget."""
        return self.certificate is None


def answer_of(record: RecordReader) -> Answer:
    """What a study has found so far, from its record alone."""
    spec, judge = record.spec, record.judge
    trials, finalists = record.trials(), record.finalists()
    front = answer_front(trials, finalists, judge, (spec.fidelity, spec.full_fidelity))
    certificate = None
    if not front.members:
        fidelities = (spec.fidelity, spec.full_fidelity)
        certificate = answer_certificate(trials, finalists, judge, fidelities)
    optimism = record.optimism().get(front.pick.identity.key) if front.pick else None
    return Answer(front, judge, record.test_scores(), certificate, optimism)


def drive(
    record: Record,
    engine: Engine,
    observer: Observer,
    target: Target,
    timeout_s: float | None = None,
    search: SearchRunner = run_search,
) -> Answer:
    """Go on with a study from wherever its record is to the end.

    Args:
        record: open for writing.
        engine: configured with the study's context and profile.
        observer: is told.
        target: of the study.
        timeout_s: no search trial starts after this long.
        search: what runs the search phase, e.g. `search.tune.study.TuneSearch`.

    Raises:
        StudyBroken: disk or record failed; nothing recorded is lost.
    """
    spec, judge = record.spec, record.judge
    kept = KeptFiles.replay(
        judge,
        record.location.artifacts_dir,
        spec.artifact_format,
        record.trials(),
        record.finalists(),
        store_of(spec),
    )
    kept.fetch_missing()
    kept.sweep()
    proposer = proposer_of(spec, record.profile, record.space, target)
    for name, reason in proposer.left_out:
        observer.notice(f"reference {name} is left out: {reason}")
    deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
    search(record, engine, proposer, kept, observer, deadline_s)
    run_finalists(record, engine, kept, observer)
    front = answer_of(record).front
    correct_pick(record, engine, kept, observer, front.fidelity)
    score_on_test(record, engine, kept, observer, front.members)
    return answer_of(record)
