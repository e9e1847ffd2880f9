"""Coder 2: exact, the same bytes compiled and plain, never worse than what it replaces."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from evaluators.artifacts.packed import (
    Artifact,
    CodebookTensor,
    DamagedArtifact,
    FloatCodebook,
    GridTensor,
    Tensor,
    decode,
    encode,
)
from evaluators.artifacts.packed import mixing_kernels as loops
from evaluators.artifacts.packed.coders import CODERS, WRITER_ID
from evaluators.artifacts.packed.container import (
    Header,
    Kind,
    TensorHeader,
    checked,
    header_bytes,
    prefixed,
    sections_of,
)
from evaluators.artifacts.packed.kernels import PURE, Kernels, compiled_kernels
from evaluators.artifacts.packed.mixing import (
    MIXED_INTEGERS,
    MIXED_POSITIONS,
    MixingCoder,
    Walk,
    leading_values,
    mixed_positions,
    mixed_values,
    sign_lag,
    signed_ranks,
    unmixed_positions,
    unmixed_values,
)
from evaluators.artifacts.packed.plain import Reader
from evaluators.artifacts.packed.sections import Section, matrix_shape

BOTH = [PURE, compiled_kernels()]
HERE = Path(__file__).parent
ONE = np.ones(1, np.float32)

shapes = st.one_of(
    hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=9),
    st.sampled_from([(1, 300), (300, 1), (6, 49), (49, 6), (3, 2, 5, 5), (1,)]),
)


@st.composite
def matrices(draw: st.DrawFn) -> np.ndarray:
    """Integers of any alphabet, sparsity and shape, with dead lines and repeated rows."""
    shape = draw(shapes)
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    high = draw(st.sampled_from([1, 2, 7, 127, 65535]))
    values = random.integers(-high, high + 1, shape, dtype=np.int32)
    values[random.random(shape) < draw(st.sampled_from([0, 0.3, 0.9, 0.99]))] = 0
    if draw(st.booleans()):
        values[random.random(shape[0]) < 0.4] = 0
    if draw(st.booleans()):
        values[:] = values[:1]
    return values


# Round trip ------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(matrices(), st.data())
def test_positions_come_back_compiled_and_plain(values: np.ndarray, data: st.DataObject) -> None:
    mask = (values != 0).astype(np.uint8)
    matrix = mask.reshape(matrix_shape(mask.shape))
    random = np.random.default_rng(data.draw(st.integers(0, 9)))
    rows, columns = matrix.shape
    units = (random.integers(0, 8, columns), random.integers(0, 8, rows))
    written = {mixed_positions(kernels, matrix, units) for kernels in BOTH}
    assert len(written) == 1
    for kernels in BOTH:
        reader = Reader(next(iter(written)) + bytes(3), "test")
        back, _ = unmixed_positions(kernels, reader, mask.shape, units)
        assert back.shape == mask.shape
        assert (back == mask).all()


@settings(max_examples=25)
@given(matrices())
def test_values_come_back_compiled_and_plain(values: np.ndarray) -> None:
    first, second = (mixed_values(kernels, values) for kernels in BOTH)
    assert first == second
    assert first.mode == MIXED_INTEGERS
    mask = (values != 0).astype(np.uint8)
    for kernels in BOTH:
        back = unmixed_values(kernels, Reader(first.data + bytes(3), "test"), mask)
        assert back.dtype == np.int32
        assert (back == values).all()


@pytest.mark.parametrize("byte", range(256))
def test_every_walk_has_a_byte(byte: int) -> None:
    walk = Walk.of_byte(byte)
    assert walk.byte() == byte
    assert 1 <= walk.lag <= 64
    offsets = walk.offsets()
    assert offsets.size == loops.OFFSETS
    assert (offsets > 0).all()
    matrix = np.arange(6).reshape(2, 3)
    assert (walk.ordered(walk.ordered(matrix)) == matrix).all()


@given(st.binary(max_size=60), hnp.array_shapes(min_dims=1, max_dims=2, max_side=30))
def test_any_bytes_are_positions_or_damage(body: bytes, shape: tuple[int, ...]) -> None:
    rows, columns = matrix_shape(shape)
    units = (np.zeros(columns, np.int64), np.ones(rows, np.int64))
    for kernels in BOTH:
        try:
            mask, _ = unmixed_positions(kernels, Reader(body, "test"), shape, units)
        except DamagedArtifact:
            continue
        assert mask.max() <= 1


def test_bytes_after_a_mixed_section_must_be_zero() -> None:
    data = mixed_values(compiled_kernels(), np.arange(1, 40, dtype=np.int32)).data
    mask = np.ones(39, np.uint8)
    with pytest.raises(DamagedArtifact, match="test: has non-zero bytes after its content"):
        unmixed_values(compiled_kernels(), Reader(data + bytes(8) + b"\1", "test"), mask)


# Files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("coder_id", CODERS)
def test_files_of_every_coder_stay_readable_and_unchanged(coder_id: int) -> None:
    """A real network (cnn-mnist, 85 % sparse, 6 clusters), written when the coder was new.

    A change of these bytes is a new coder id.
    """
    data = {number: (HERE / f"cnn-coder{number}.packed").read_bytes() for number in CODERS}
    artifact = decode(data[coder_id])
    assert data[coder_id][4] == coder_id
    assert artifact == decode(data[1])
    assert encode(artifact, coder_id=coder_id).data == data[coder_id]


def test_new_files_are_coder_2_and_smaller() -> None:
    old = (HERE / "cnn-coder1.packed").read_bytes()
    new = encode(decode(old)).data
    assert new[4] == WRITER_ID == 2
    assert len(new) < 0.98 * len(old)
    modes = {(p.layer, p.section): p.content.mode for p in sections_of(new)[1]}
    assert modes["fc.weight", "positions"] == MIXED_POSITIONS
    assert modes["fc.weight", "indices"] == MIXED_INTEGERS


def file_of(kind: Kind, shape: tuple[int, ...], *sections: Section) -> bytes:
    tensor = TensorHeader("w", kind, len(sections) > 2, True, shape)
    head = header_bytes(Header(2, False, (tensor,)))
    return checked(head + b"".join(prefixed(section) for section in sections))


def test_ranks_beyond_the_codebook_are_damage() -> None:
    wrong = mixed_values(compiled_kernels(), np.full(9, 3, np.int32))
    book = Section(1, b"\2" + np.array([1, 2], ">u2").tobytes())
    with pytest.raises(DamagedArtifact, match=r"indices of 'w': ranks must lie in 0\.\.2, found"):
        decode(file_of(Kind.CODEBOOK16, (9,), book, wrong))


def test_positions_have_three_modes() -> None:
    scale, positions = Section(1, b"\x78\x00"), Section(3, b"abc")
    with pytest.raises(DamagedArtifact, match="positions of 'w': unknown mode 3"):
        decode(file_of(Kind.GRID, (9, 9), scale, positions, Section(0, b"\2\0")))


def test_a_mixed_section_has_a_first_byte() -> None:
    scale = Section(1, b"\x78\x00")
    for sections in (
        (scale, Section(MIXED_INTEGERS, b"")),
        (scale, Section(MIXED_POSITIONS, b""), Section(0, b"\2\0")),
    ):
        with pytest.raises(DamagedArtifact, match="needs 1 more bytes where 0 are left"):
            decode(file_of(Kind.GRID, (9, 9), *sections))


# Size ------------------------------------------------------------------------------------------


def grid(levels: np.ndarray) -> Tensor:
    return GridTensor("w", levels.astype(np.int32), ONE)


def both_sizes(*tensors: Tensor) -> tuple[int, int]:
    """Bytes by coder 1 and by coder 2."""
    artifact = Artifact(tensors)
    return len(encode(artifact, coder_id=1).data), len(encode(artifact).data)


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("high", [1, 7, 127, 5000])
@pytest.mark.parametrize("shape", [(1, 40), (20, 30), (100, 400), (8, 8, 3, 3)])
def test_random_data_cost_no_more_than_before(
    sparsity: float, high: int, shape: tuple[int, ...]
) -> None:
    random = np.random.default_rng(4)
    levels = random.integers(-high, high + 1, shape)
    levels[random.random(shape) < sparsity] = 0
    old, new = both_sizes(grid(levels))
    # Coder 1 may find a lag in noise, which coder 2 tries only by mixing.
    assert new <= old + 2


def picture_net(rows: int = 60, side: int = 20) -> np.ndarray:
    """Smooth filters over a picture, pruned: what a first layer looks like."""
    random = np.random.default_rng(2)
    smooth = random.normal(size=(rows, side + 4, side + 4))
    for axis in (1, 2):
        smooth = sum(np.take(smooth, range(k, k + side), axis) for k in range(5))
    flat = smooth.reshape(rows, side * side) / 5
    flat *= np.exp(random.normal(size=(rows, 1)) / 2)
    return np.where(np.abs(flat) > 1.5, np.rint(2 * flat), 0).astype(np.int32)


def test_pictures_cost_less() -> None:
    levels = picture_net()
    old, new = both_sizes(grid(levels))
    assert new < 0.93 * old
    turned, new_turned = both_sizes(grid(levels.T))
    assert new_turned == pytest.approx(new, rel=0.01)
    assert turned == pytest.approx(old, rel=0.01)


def test_the_lag_of_a_picture_is_its_width() -> None:
    assert sign_lag(picture_net()) == 20
    assert sign_lag(np.random.default_rng(0).integers(-3, 4, (50, 200))) == 1


def test_dead_outputs_tell_the_next_layer() -> None:
    random = np.random.default_rng(6)
    dead = random.random(300) < 0.5
    first = random.integers(1, 4, (300, 20)) * ~dead[:, None]
    second = random.integers(1, 4, (20, 300)) * ~dead
    bias = random.integers(1, 8, 300) * ~dead
    names = ("fc1.weight", "fc1.bias", "fc2.weight")
    tensors = [
        GridTensor(name, values.astype(np.int32), ONE)
        for name, values in zip(names, (first, bias, second), strict=True)
    ]
    lines = {(x.layer, x.section): x.size_bytes for x in encode(Artifact(tuple(tensors))).ledger}
    assert lines["fc1.weight", "positions"] > 300 / 8
    assert lines["fc1.bias", "positions"] < 16
    assert lines["fc2.weight", "positions"] < 16


def test_units_by_hand() -> None:
    coder = MixingCoder(PURE)
    assert [found.tolist() for found in coder.units((2, 3))] == [[0, 0, 0], [0, 0]]
    coder.follow(np.array([[0, 0, 0, 0], [0, 1, 0, 0], [1, 1, 1, 1]], np.uint8))
    coder.follow(np.zeros(9, np.uint8))  # a bias: says nothing about the next layer
    by_rows, by_columns = coder.units((4, 6))
    assert by_rows.tolist() == [1, 1, 2, 2, 4, 4]
    assert by_columns.tolist() == [2, 3, 2, 2]
    assert coder.units((4,))[0].tolist() == [0, 0, 0, 0]
    assert coder.units((3,))[0].tolist() == [1, 2, 4]


@pytest.mark.parametrize("entries", [[-3.0, -1, 2, 4], [1, 1, 0, -0.5, -0.5], [-2, -1], [5]])
def test_ranks_are_small_numbers_with_the_entry_s_sign(entries: list[float]) -> None:
    values = np.float32(entries)
    ranks = signed_ranks(values)
    assert ranks[0] == 0
    assert len(set(ranks.tolist())) == values.size + 1
    assert (np.sign(ranks[1:]) == np.where(values < 0, -1, 1)).all()
    for sign in (-1, 1):
        own = np.sort(sign * ranks[1:][np.sign(ranks[1:]) == sign])
        assert own.tolist() == list(range(1, own.size + 1))
    indices = np.arange(values.size + 1)[:, None].repeat(8, 1)
    tensor = CodebookTensor("w", indices, FloatCodebook(values))
    assert decode(encode(Artifact((tensor,))).data).tensors[0] == tensor


def test_ranks_by_hand() -> None:
    assert signed_ranks(np.float32([-3, -1, 2, 4])).tolist() == [0, -2, -1, 1, 2]


# Mixing ----------------------------------------------------------------------------------------


def test_curves_are_the_logistic_function_and_its_inverse() -> None:
    tables = loops.curve_tables()
    x = np.arange(-loops.STRETCH_LIMIT, loops.STRETCH_LIMIT + 1)
    squash = tables[loops.CHANCES : loops.STEPS]
    assert np.abs(squash - 65536 / (1 + np.exp(-x / 256))).max() <= 1
    assert (squash[::-1] + squash == 65536).all()
    chances = np.arange(1, 65536)
    exact = 256 * np.log(chances / (65536 - chances))
    middle = (chances > 64) & (chances < 65536 - 64)
    stretch = tables[1 : loops.CHANCES]
    assert np.abs(stretch - exact)[middle].max() <= 2
    assert (np.diff(tables[: loops.CHANCES]) >= 0).all()
    # The curves are part of the format: every machine must have these very numbers.
    assert hashlib.sha256(tables.astype("<i8").tobytes()).hexdigest() == TABLES_SHA256


TABLES_SHA256 = "e5a395ce070b464d47e890fb453e877026d267a3d7d55d0a08fd0d96963a7f73"


@pytest.mark.parametrize("kernels", BOTH, ids=["plain", "compiled"])
def test_a_model_of_nothing_is_even(kernels: Kernels) -> None:
    mixing = loops.mixing_loops(kernels.compiled)
    model: Any = mixing.fresh_model(kernels, 10, np.full(loops.SETS, 7, np.int64))
    assert len(model) == loops.CELLS + 10
    refiner = model[loops.REFINERS : loops.REFINERS + loops.REFINER_SIZE]
    assert list(refiner) == sorted(refiner)
    assert not any(model[loops.CELLS :])


def test_a_weight_cannot_run_away() -> None:
    """However the bits fall, weights stay far from where 64-bit numbers end."""
    mixing = loops.mixing_loops(False)
    random = np.random.default_rng(0)
    model = mixing.fresh_model(PURE, 4, np.zeros(loops.SETS, np.int64))
    work = [0] * loops.WORK_CELLS
    work[loops.CELL_COUNT], work[loops.RATE], work[loops.FAST_RATE] = 2, 60, 384
    work[loops.REFINER_RATE] = 8
    state, buffer = [0, 0xFFFFFFFF, 0, 0], bytearray(100_000)
    for step in range(20_000):
        surprise = random.random() < 0.02
        work[loops.INPUTS] = loops.STRETCH_LIMIT if step // 500 % 2 else -loops.STRETCH_LIMIT
        bit = int((work[loops.INPUTS] > 0) != surprise)
        work[loops.SLOTS : loops.SLOTS + 2] = [step % 2, 2 + bit]
        loops.code_mixed(state, buffer, mixing.tables, model, work, bit)
    assert max(abs(weight) for weight in model[: loops.SET_SIZE - 1]) < 1 << 24


def test_classes_by_hand() -> None:
    assert [loops.chance_class(x) for x in (-2840, -1000, -1, 0, 2840)] == [0, 12, 19, 20, 23]
    assert [loops.gap_class(gap) for gap in (0, 15, 16, 24, 1000)] == [0, 15, 16, 17, 23]
    assert [loops.magnitude_class(x) for x in (0, -3, 4, -8, 47, 48)] == [0, 3, 4, 5, 6, 7]
    assert [loops.signed_size(x) for x in (0, 64, -64)] == [12, 12 + 2, 12 - 2]
    assert loops.near_weight(0b101) == 4
    assert loops.near_weight(0b111111) == 8


@given(
    hnp.arrays(
        np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(-2, 2)
    ),
    st.integers(1, 40),
)
def test_a_trial_walks_leading_rows_up_to_so_many_values(values: Any, most: int) -> None:
    part = leading_values(values, most)
    rows = len(part)
    assert 1 <= rows <= len(values)
    assert (part == values[:rows]).all()
    assert rows == 1 or np.count_nonzero(part) <= most
    if rows < len(values):
        assert np.count_nonzero(values[: rows + 1]) > most
