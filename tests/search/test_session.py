"""What a study remembers of its target."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from search.location import StudyLocation
from search.record import Record, RecordReader
from search.session import check_target
from spaces import Figure, StudyBroken, Target
from tests.simulator import simulate

GUESS = Figure(2.0, "assumed: a guess")
BOARD = Target(
    name="board",
    description="as of version 0.1.0",
    artifact_format="packed",
    native_format="onnx",
    throughput_gmacs={"fp32": GUESS},
    bandwidth_gbps=GUESS,
    overhead_us=GUESS,
    compute_dtype="fp32",
    int8_needs_activation_bits=True,
    kernel_truth=("zeros are no faster",),
)
#: Of the board, when a target had no machines, integer_only, int8_shallow_ratio, int8_weight_bits.
SHA256 = "02b8d01e93d66c43290155eebde7bc597e5c1cb1ff8be6a60a7831db964f25e6"


@pytest.fixture
def record(tmp_path: Path) -> RecordReader:
    sim = simulate()
    location = StudyLocation(str(tmp_path), "sim")
    spec = replace(sim.spec, target_sha256=SHA256)
    Record.create(location, spec, sim.profile, sim.space).close()
    return RecordReader.open(location)


def test_a_study_of_before_some_figures_goes_on(record: RecordReader) -> None:
    check_target(record, BOARD)


@pytest.mark.parametrize(
    "changes",
    [
        {"overhead_us": Figure(3.0, "assumed: a guess")},
        {"machines": ("x86_64",)},
        {"integer_only": True},
        {"int8_shallow_ratio": GUESS},
        {"int8_weight_bits": 7},
    ],
    ids=str,
)
def test_one_whose_target_has_other_figures_now_does_not(
    record: RecordReader, changes: dict[str, Any]
) -> None:
    with pytest.raises(StudyBroken, match="is not as it was when the study began"):
        check_target(record, replace(BOARD, **changes))
