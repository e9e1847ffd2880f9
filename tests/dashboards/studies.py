"""Studies of the simulator as a report takes them."""

import json
from collections.abc import Mapping
from typing import Any

from dashboards.report import ReportInput
from spaces import (
    Budget,
    Distillation,
    Front,
    Judge,
    LayerPolicy,
    ModelProfile,
    Policy,
    Trial,
    parse_order,
)
from tests.simulator import FULL_FIDELITY, Simulator, simulate

ROOMY = Budget(size_bytes=250_000, max_drop=0.1)
IMPOSSIBLE = Budget(size_bytes=900, max_drop=0.0001, latency_ms=0.001)
#: Breaks out of an element, an attribute, a script, a plotly label and a hover template.
EVIL = '</script><script>window.pwned=1</script><img src=x onerror="window.pwned=1">%{x}\u202e'


def references(sim: Simulator) -> list[Trial]:
    names = [layer.name for layer in sim.profile.layers]

    def uniform(order: str, layer: LayerPolicy) -> Policy:
        layers = tuple((name, layer) for name in names)
        return Policy(parse_order(order), layers, Distillation("logits", 4.0, 0.5))

    asked = {
        "fp16": uniform("quantize", LayerPolicy(bits=16)),
        "uniform int8": uniform("quantize", LayerPolicy(bits=8)),
        "classic": uniform(
            "prune>distill>cluster>quantize", LayerPolicy(sparsity=0.6, clusters=32, bits=8)
        ),
    }
    return [
        sim.trial(number, policy, origin=f"reference: {name}")
        for number, (name, policy) in enumerate(asked.items())
    ]


def study(count: int = 100, *, budget: Budget = ROOMY, finalists: int = 3) -> ReportInput:
    """`count` trials, every eleventh failed, the best of the front run again as finalists."""
    sim = simulate(4, study="sim study", budget=budget, trials=count)
    trials = references(sim)
    for drawn in sim.random_trials(count - len(trials)):
        number = len(trials)
        failure = "loss became NaN" if number % 11 == 5 else ""
        trials.append(sim.trial(number, drawn.policy, failure=failure))
    front = Front.of(trials, sim.judge, sim.spec.fidelity)
    again = [
        sim.trial(number, member.policy, fidelity=FULL_FIDELITY, origin="finalist")
        for number, member in enumerate(front.members[-finalists:] if finalists else ())
    ]
    scores = {t.identity.key: {"metric": 0.9712, "metric_se": 0.0017} for t in again}
    return ReportInput(
        spec=sim.spec,
        profile=sim.profile,
        judge=sim.judge,
        trials=trials,
        finalists=again,
        test_scores=scores,
        optimism={t.identity.key: 0.0007 for t in again},
        notes=("`packed` stands in for m1's own format.",),
        commands=(("Run it again", "search run simulated --budget-kb 250 --seed 0"),),
    )


def hostile_study(count: int = 40) -> ReportInput:
    """Every text a record holds says EVIL: study, layer, failure, origin, note, device."""
    given = study(count)

    def poison(data: Mapping[str, Any]) -> Any:
        text = json.dumps(data)
        for innocent in ("fc1", "loss became NaN", "m1 (simulated)", "sim study", "header"):
            text = text.replace(json.dumps(innocent), json.dumps(EVIL))
        text = text.replace('"reference: classic"', json.dumps(f"reference: {EVIL}"))
        return json.loads(text)

    profile = ModelProfile.from_dict(poison(given.profile.to_dict()))
    spec = type(given.spec).from_dict(poison(given.spec.to_dict()))
    return ReportInput(
        spec=spec,
        profile=profile,
        judge=Judge(spec.metric, spec.budget, profile),
        trials=[Trial.from_dict(poison(trial.to_dict())) for trial in given.trials],
        finalists=[Trial.from_dict(poison(trial.to_dict())) for trial in given.finalists],
        test_scores=given.test_scores,
        optimism=given.optimism,
        notes=(EVIL,),
        commands=((EVIL, EVIL),),
    )
