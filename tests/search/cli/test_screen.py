"""What is drawn, whatever a record's texts hold and however narrow the terminal is."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from search.cli.screen import Screen, front_table, print_answer, trial_details
from search.finalists import answer_certificate
from search.progress import ProgressTracker
from search.session import Answer
from spaces import Budget, Front, Judge, Metric
from tests.simulator import Simulator, simulate

HOSTILE = "[/s] [bold] :smile: [link=x]"


def console(width: int, *, is_terminal: bool) -> Console:
    return Console(
        file=io.StringIO(), width=width, force_terminal=is_terminal, emoji=False, color_system=None
    )


def text_of(made: Console) -> str:
    assert isinstance(made.file, io.StringIO)
    return made.file.getvalue()


@pytest.fixture
def sim() -> Simulator:
    return simulate(3)


def hostile(sim: Simulator, budget: Budget | None = None) -> Judge:
    metric = Metric(f"m{HOSTILE}", HOSTILE, higher_is_better=True)
    return Judge(metric, budget or Budget(), sim.profile)


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_unit_that_looks_like_markup(width: int, is_terminal: bool, sim: Simulator) -> None:
    judge, made = hostile(sim), console(width, is_terminal=is_terminal)
    trials = sim.random_trials(4)
    tracker = ProgressTracker("search", 4, judge, ())
    with Screen(made, judge, replace(sim.spec, metric=judge.metric)) as screen:
        for trial in trials:
            screen.trial_finished(trial, tracker.add(trial))
            screen.waiting(tracker.now(), ())
        screen.notice(HOSTILE)
    assert text_of(made).count(HOSTILE) >= 5


@pytest.mark.parametrize("budget", [Budget(), Budget(size_bytes=1)])
def test_answers_and_details_are_escaped(budget: Budget, sim: Simulator) -> None:
    judge, made = hostile(sim, budget), console(500, is_terminal=False)
    trials = sim.random_trials(6)
    fidelities = (sim.spec.fidelity, sim.spec.full_fidelity)
    front = Front.of(trials, judge, sim.spec.fidelity)
    certificate = None if front.members else answer_certificate(trials, [], judge, fidelities)
    scores = {trial.identity.key: {"metric": 0.5} for trial in trials}
    print_answer(made, Answer(front, judge, scores, certificate), sim.spec)
    made.print(front_table(front, judge, sim.spec, scores))
    trial_details(made, trials[0], judge, HOSTILE)
    assert text_of(made).count(HOSTILE) >= 10


@pytest.mark.parametrize(
    ("width", "shown"), [(80, "HV 0."), (119, "HV 0."), (130, "hypervolume 0.")]
)
def test_the_hypervolume_is_always_there(width: int, shown: str, sim: Simulator) -> None:
    made = console(width, is_terminal=True)
    tracker = ProgressTracker("search", 1000, sim.judge, ())
    trials = sim.random_trials(20)
    with Screen(made, sim.judge, sim.spec) as screen:
        for trial in trials:
            progress = replace(tracker.add(trial), eta_s=3900.0)
        assert progress.best is not None
        screen.trial_finished(trials[-1], progress)
    last = next(line for line in text_of(made).splitlines()[::-1] if " left" in line)
    assert "1 h 05 min left, pick " in last
    assert f"{shown}{f'{progress.hypervolume:.4f}'[2:]}" in last
