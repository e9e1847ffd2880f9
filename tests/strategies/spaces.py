"""Hypothesis strategies for every value in `spaces`.

Sizes are kept small on purpose: three layers and a handful of trials already reach every branch,
and small examples are drawn and shrunk quickly.
"""

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from search.spec import StudySpec
from spaces import (
    ACCURACY,
    Budget,
    Capabilities,
    Distillation,
    Failure,
    Figure,
    Identity,
    InvalidRequest,
    Judge,
    Latency,
    LayerAudit,
    LayerCapabilities,
    LayerPolicy,
    LayerProfile,
    LedgerLine,
    Measurement,
    Metric,
    ModelProfile,
    Policy,
    Reading,
    SearchSpace,
    Sensitivity,
    Stage,
    StageAudit,
    Target,
    Trial,
    build_space,
)
from spaces.policy import (
    ALL_ORDERS,
    CLUSTER_INITS,
    CRITERIA,
    DISTILLATION_KINDS,
    GRANULARITIES,
    PATTERNS,
    SCHEMES,
)
from spaces.search_space import BITS, CLUSTERS

LAYER_NAMES = ("a", "b.0", "c")
KINDS = ("Conv2d", "Linear")


def numbers(low: float, high: float) -> st.SearchStrategy[float]:
    """Finite floats of ordinary size: what JSON and a record hold without loss."""
    return st.floats(low, high, allow_nan=False, allow_infinity=False, allow_subnormal=False)


names = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=8)
orders = st.sampled_from(ALL_ORDERS)
stages = st.sampled_from(Stage)

# Policies ----------------------------------------------------------------------------------------

layer_policies = st.builds(
    LayerPolicy,
    sparsity=st.sampled_from((0.0, 0.0, 0.5, 0.9)) | numbers(0.0, 0.999),
    pattern=st.sampled_from(PATTERNS),
    clusters=st.none() | st.integers(1, 300),
    bits=st.sampled_from(BITS),
    bias_bits=st.sampled_from(BITS),
)
distillations = st.builds(
    Distillation,
    kind=st.sampled_from(DISTILLATION_KINDS),
    temperature=numbers(0.5, 100.0),
    weight=st.just(0.0) | numbers(0.0, 1.0),
)


def policies(layer_names: tuple[str, ...] = LAYER_NAMES) -> st.SearchStrategy[Policy]:
    """Any policy, in no particular space; often with stages or knobs that do nothing."""
    return st.builds(Policy, **raw_policies(layer_names))


def raw_policies(
    layer_names: tuple[str, ...] = LAYER_NAMES,
) -> dict[str, st.SearchStrategy[Any]]:
    """The arguments of `Policy`, before it normalises them."""
    layers = st.dictionaries(st.sampled_from(layer_names), layer_policies)
    return {
        "order": orders,
        "layers": layers.map(lambda x: tuple(x.items())),
        "distillation": distillations,
        "activation_bits": st.sampled_from((8, 32)),
        "cluster_init": st.sampled_from(CLUSTER_INITS),
        "scheme": st.sampled_from(SCHEMES),
        "granularity": st.sampled_from(GRANULARITIES),
        "criterion": st.sampled_from(CRITERIA),
    }


def raw_policies_drawn() -> st.SearchStrategy[dict[str, Any]]:
    """`raw_policies`, drawn: for a test that changes an argument and compares."""
    return st.fixed_dictionaries(raw_policies())


# Capabilities, profiles and spaces ---------------------------------------------------------------


def _subset(values: tuple[Any, ...]) -> st.SearchStrategy[frozenset[Any]]:
    """Usually all, never none."""
    return st.just(frozenset(values)) | st.frozensets(st.sampled_from(values), min_size=1)


layer_capabilities = st.builds(
    LayerCapabilities,
    bits=_subset(BITS),
    clusters=_subset(CLUSTERS),
    patterns=_subset(PATTERNS) | st.just(frozenset()),
    bias_bits=_subset((32, 16, 8)),
)


@st.composite
def capabilities(draw: st.DrawFn) -> Capabilities:
    """One side's capabilities; a kind of layer may be missing."""
    kinds = draw(st.just(KINDS) | st.just(KINDS[:1]))
    return Capabilities(
        name=draw(st.sampled_from(("torch", "packed"))),
        layers={kind: draw(layer_capabilities) for kind in kinds},
        activation_bits=draw(_subset((8, 32))),
        orders=draw(st.just(frozenset(ALL_ORDERS)) | st.frozensets(orders, min_size=1, max_size=6)),
        distillation_kinds=draw(_subset(DISTILLATION_KINDS)),
        criteria=draw(_subset(CRITERIA)),
    )


sensitivities = st.builds(
    Sensitivity,
    knob=st.sampled_from(("sparsity", "clusters", "bits")),
    value=numbers(0.0, 256.0),
    loss_increase=numbers(-0.1, 5.0),
)


def layer_profiles(name: str) -> st.SearchStrategy[LayerProfile]:
    """One layer; a third has no bias."""
    return st.builds(
        LayerProfile,
        name=st.just(name),
        kind=st.sampled_from(KINDS),
        weight_shape=st.lists(st.integers(1, 64), min_size=2, max_size=4).map(tuple),
        bias_size=st.sampled_from((0, 4, 64)),
        macs=st.integers(0, 10**6),
        input_elements=st.integers(1, 10**4),
        output_elements=st.integers(1, 10**4),
        weight_quantiles=st.lists(numbers(-1, 1), min_size=3, max_size=3).map(
            lambda x: tuple(sorted(x))
        ),
        can_prune_channels=st.booleans(),
        sensitivity=st.lists(sensitivities, max_size=2).map(tuple),
        input_group=st.sampled_from(("", LAYER_NAMES[0])),
    )


@st.composite
def profiles(draw: st.DrawFn) -> ModelProfile:
    """One to three layers; often some of them coupled."""
    count = draw(st.integers(1, len(LAYER_NAMES)))
    layer_names = LAYER_NAMES[:count]
    groups = [(), (layer_names,), (layer_names[::-1][:2],)] if count > 1 else [()]
    return ModelProfile(
        layers=tuple(draw(layer_profiles(name)) for name in layer_names),
        channel_groups=draw(st.sampled_from(groups)),
        excluded=draw(st.sampled_from(((), (("bn", "a norm is not compressed"),)))),
        other_bytes=draw(st.integers(0, 1000)),
        baseline_metric=draw(numbers(0.1, 1.0)),
        baseline_metric_se=draw(numbers(0.0, 0.05)),
        baseline_size_bytes=draw(st.integers(1, 10**6)),
        baseline_latency_ms=draw(numbers(0.01, 100.0)),
        latency_source=draw(st.sampled_from(("measured", "modelled"))),
        scan_passes=draw(st.integers(0, 50)),
        scan_seconds=draw(numbers(0.0, 60.0)),
    )


@st.composite
def layer_rules(draw: st.DrawFn) -> dict[str, Any]:
    """Restrictions of one layer's knobs; some clash with the capabilities."""
    rules = {
        "sparsity": st.sampled_from(
            ["drop", 0.55, [0.9, 0.3], [0.0, 0.5], {"min": 0.5}, {"min": 0.5, "max": 0.9}]
        ),
        "pattern": st.sampled_from(["drop", "channel", "element", ["element", "channel"]]),
        "clusters": st.sampled_from(["drop", 16, ["none", 8, 64], {"max": 64}]),
        "bits": st.sampled_from(["drop", 8, [4, 32], {"max": 16}, {"min": 4, "max": 8}]),
        "bias_bits": st.sampled_from(["drop", 8, [16, 32]]),
    }
    chosen = draw(st.sets(st.sampled_from(sorted(rules)), max_size=3))
    return {knob: draw(rules[knob]) for knob in sorted(chosen)}


@st.composite
def restrictions(draw: st.DrawFn) -> dict[str, Any]:
    """A parsed `--space` file over the layers of `profiles`; many are refused by some profile."""
    top: dict[str, list[Any]] = {
        "order": [
            "prune",
            "prune>quantize",
            ["none", "prune > cluster > quantize", "quantize>distill>prune"],
            ["prune>distill>cluster>quantize", "quantize"],
            "drop",
        ],
        "activation_bits": [8, 32, "drop"],
        "cluster_init": ["density", ["linear", "random", "k-means++"]],
        "scheme": ["asymmetric", "drop"],
        "granularity": ["channel", ["tensor"]],
        "criterion": ["regrow-rate", ["magnitude", "rate"], "drop"],
    }
    distillation: dict[str, list[Any]] = {
        "kind": ["logits", "drop", ["none", "attention"]],
        "temperature": [4.0, 4, {"min": 2}, [2, 8.0]],
        "weight": [0.5, 1, {"max": 0.5}],
    }
    pick = st.sets(st.sampled_from(sorted(top)), max_size=2)
    result: dict[str, Any] = {k: draw(st.sampled_from(top[k])) for k in sorted(draw(pick))}
    if draw(st.booleans()):
        knob = draw(st.sampled_from(sorted(distillation)))
        result["distillation"] = {knob: draw(st.sampled_from(distillation[knob]))}
    if draw(st.booleans()):
        patterns = draw(st.lists(st.sampled_from(("*", "a", "b.*")), max_size=2, unique=True))
        result["layers"] = {pattern: draw(layer_rules()) for pattern in patterns}
    return result


#: Everything the product knows how to do, to every kind of layer.
EVERYTHING = Capabilities(
    name="everything",
    layers={
        kind: LayerCapabilities(
            frozenset(BITS), frozenset(CLUSTERS), frozenset(PATTERNS), frozenset(BITS)
        )
        for kind in KINDS
    },
    activation_bits=frozenset({8, 32}),
    criteria=frozenset(CRITERIA),
)


@st.composite
def restricted_spaces(
    draw: st.DrawFn,
) -> tuple[ModelProfile, Capabilities, Mapping[str, Any], SearchSpace]:
    """Profile, capabilities, restrictions and their space; no restrictions if refused."""
    profile = draw(profiles())
    can = draw(st.just(EVERYTHING) | capabilities())
    for rules in (draw(restrictions()), {}):
        space = try_build(profile, can, rules)
        if space is not None:
            return profile, can, rules, space
    raise AssertionError("a space without restrictions can always be built")


def try_build(
    profile: ModelProfile, can: Capabilities, rules: Mapping[str, Any]
) -> SearchSpace | None:
    """The space, or None where it is refused."""
    try:
        return build_space(profile, can, rules)
    except InvalidRequest:
        return None


search_spaces = restricted_spaces().map(lambda parts: parts[3])


def vectors(space: SearchSpace) -> st.SearchStrategy[list[int]]:
    """Any vector of a space."""
    entries = [st.integers(0, len(knob.choices) - 1) for knob in space.knobs]
    return st.tuples(*entries).map(list)


@st.composite
def spaces_and_policies(draw: st.DrawFn) -> tuple[SearchSpace, Policy]:
    """A space and a policy of it."""
    space = draw(search_spaces)
    return space, space.decode(draw(vectors(space)))


# Measurements ------------------------------------------------------------------------------------

metrics = st.sampled_from(
    (
        ACCURACY,
        Metric("mae", "s", higher_is_better=False),
        Metric("delay", "s", higher_is_better=False, shown_unit="min"),
        Metric("r2", "", higher_is_better=True),
    )
)
identities = st.builds(
    Identity,
    workload=names,
    artifact_format=st.sampled_from(("packed", "onnx")),
    policy_digest=st.text("0123456789abcdef", min_size=16, max_size=16),
    fidelity=st.integers(0, 10**6),
    repeat=st.integers(0, 9),
    seed=st.integers(0, 2**63 - 1),
)
ledger_lines = st.builds(
    LedgerLine,
    layer=st.sampled_from(("", *LAYER_NAMES)),
    section=st.sampled_from(("positions", "codebook", "header")),
    size_bytes=st.integers(0, 10**6),
)
layer_audits = st.builds(
    LayerAudit, sparsity=numbers(0.0, 1.0), distinct_nonzero=st.integers(0, 10**6)
)
stage_audits = st.builds(
    StageAudit,
    stage=stages.map(lambda s: s.value),
    samples=st.integers(0, 10**6),
    seconds=numbers(0.0, 1e4),
    metric=numbers(0.0, 1.0),
    layers=st.dictionaries(st.sampled_from(LAYER_NAMES), layer_audits, max_size=2),
    destroyed=st.lists(names, max_size=2).map(tuple),
)
latencies = st.builds(
    Latency,
    median_ms=numbers(0.01, 100.0) | st.sampled_from((1.0, 1.001, 2.0)),
    p95_ms=numbers(0.01, 200.0),
    source=st.sampled_from(("measured", "calibrated", "modelled")),
    device=names,
    layers_ms=st.dictionaries(st.sampled_from(LAYER_NAMES), numbers(0.0, 10.0), max_size=2),
)
readings = st.builds(Reading, numbers(-1e6, 1e6), numbers(0.0, 1e3))
# Few distinct values, so that ties and duplicates are common.
measurements = st.builds(
    Measurement,
    metric=st.sampled_from((0.0, 0.7, 0.8, 0.9, 1.0)) | numbers(0.0, 1.0),
    metric_se=st.sampled_from((0.0, 0.05)) | numbers(0.0, 0.1),
    metric_samples=st.integers(1, 10**5),
    size_bytes=st.sampled_from((100, 200, 1000)) | st.integers(1, 10**6),
    download_bytes=st.integers(1, 10**6),
    sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
    ledger=st.lists(ledger_lines, max_size=3).map(tuple),
    macs=st.integers(0, 10**9),
    latency=latencies,
    seconds=st.dictionaries(st.sampled_from(("train", "encode")), numbers(0.0, 1e3), max_size=2),
    audit=st.lists(stage_audits, max_size=2).map(tuple),
    device=st.sampled_from(("cpu", "cuda")),
    secondary=st.dictionaries(names, readings, max_size=2),
)
failures = st.builds(
    Failure, layer=st.sampled_from(("", *LAYER_NAMES)), stage=stages.map(str), reason=names
)
trials = st.builds(
    Trial,
    number=st.integers(0, 10**4),
    identity=identities,
    policy=policies(),
    outcome=measurements | failures,
    origin=names,
    seen=st.integers(0, 10**4),
    running=st.lists(names, max_size=2).map(tuple),
    sampler_attrs=st.dictionaries(
        names, st.integers() | names | st.lists(st.integers()), max_size=2
    ),
    finished_at=numbers(0.0, 4e9),
)


@st.composite
def histories(draw: st.DrawFn, max_size: int = 8) -> list[Trial]:
    """Trials numbered from 0, of the fidelities 0 and 1, some of them failed."""
    outcomes = draw(st.lists(_cheap_measurements | _cheap_failures, max_size=max_size))
    return [
        Trial(
            number=number,
            identity=Identity(
                "w", "packed", f"{number:016x}", draw(st.sampled_from((0, 0, 1))), 0, 0
            ),
            policy=Policy(),
            outcome=outcome,
        )
        for number, outcome in enumerate(outcomes)
    ]


def measurement(
    metric: float = 0.9,
    size_bytes: int = 1000,
    median_ms: float = 1.0,
    *,
    metric_se: float = 0.01,
    download_bytes: int | None = None,
    source: str = "modelled",
    ledger: tuple[LedgerLine, ...] = (),
) -> Measurement:
    """A measurement by hand: what a judge looks at, the rest filled in."""
    return Measurement(
        metric=metric,
        metric_se=metric_se,
        metric_samples=100,
        size_bytes=size_bytes,
        download_bytes=size_bytes if download_bytes is None else download_bytes,
        sha256="0" * 64,
        ledger=ledger,
        macs=1,
        latency=Latency(median_ms, median_ms, source, "device"),
        seconds={},
        audit=(),
    )


def trial(number: int, outcome: Measurement | Failure, fidelity: int = 0) -> Trial:
    """A trial by hand."""
    identity = Identity("w", "packed", f"{number:016x}", fidelity, 0, 0)
    return Trial(number, identity, Policy(), outcome)


_cheap_measurements = st.builds(
    measurement,
    metric=st.sampled_from((0.7, 0.8, 0.9)) | numbers(0.0, 1.0),
    size_bytes=st.sampled_from((100, 200)) | st.integers(1, 2000),
    median_ms=st.sampled_from((1.0, 1.001, 2.0)) | numbers(0.01, 10.0),
    metric_se=st.sampled_from((0.0, 0.05)),
    download_bytes=st.integers(1, 2000),
    source=st.sampled_from(("measured", "modelled")),
    ledger=st.lists(ledger_lines, max_size=2).map(tuple),
)
_cheap_failures = st.just(Failure("a", "prune", "the layer is too small"))

# What a user asks for ----------------------------------------------------------------------------

budgets = st.builds(
    Budget,
    size_bytes=st.none() | st.integers(1, 2000),
    download_bytes=st.none() | st.integers(1, 2000),
    latency_ms=st.none() | numbers(0.01, 10.0),
    min_metric=st.none() | numbers(0.0, 1.0),
    max_drop=st.none() | numbers(0.0, 0.5),
)
judges = st.builds(Judge, metric=metrics, budget=budgets, profile=profiles())
figures = st.builds(Figure, value=numbers(0.0, 1e6), source=names | st.just("assumed: a guess"))
targets = st.builds(
    Target,
    name=names,
    description=names,
    artifact_format=st.sampled_from(("packed", "onnx")),
    native_format=names,
    throughput_gmacs=st.dictionaries(st.sampled_from(("fp32", "int8")), figures),
    bandwidth_gbps=figures,
    overhead_us=figures,
    compute_dtype=st.sampled_from(("fp32", "fp16")),
    int8_needs_activation_bits=st.booleans(),
    kernel_truth=st.lists(names, max_size=2).map(tuple),
    is_this_machine=st.booleans(),
)
specs = st.builds(
    StudySpec,
    name=names,
    workload=names,
    target=names,
    artifact_format=st.sampled_from(("packed", "onnx")),
    budget=budgets,
    metric=metrics,
    proposer=st.sampled_from(("greybox", "warm", "tpe")),
    seed=st.integers(0, 2**31),
    trials=st.integers(1, 500),
    fidelity=st.integers(0, 10**6),
    full_fidelity=st.integers(0, 10**6),
    finalists=st.integers(0, 9),
    device=st.sampled_from(("auto", "cpu", "cuda")),
    restrictions=restrictions(),
    secondary=st.lists(metrics, max_size=2).map(tuple),
)
