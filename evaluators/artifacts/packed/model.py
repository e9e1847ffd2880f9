"""What a packed file holds: tensors of floats, of grid levels or of codebook indices.

Building one of these checks everything the format relies on, so a value that exists can be
written, and a file that was read describes a value that could have been built. A zero has no sign
here: -0.0 becomes +0.0 on construction, because pruning by multiplication leaves either one and
the sign of a zero would cost a bit each.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from spaces.errors import InvalidRequest

Floats: TypeAlias = npt.NDArray[np.float32]
Integers: TypeAlias = npt.NDArray[np.int32]
FloatBits: TypeAlias = Literal[16, 32]

MAX_LEVEL = 65535
MAX_ENTRIES = 65535
MAX_DIMENSIONS = 7
MAX_NAME_BYTES = 255
MAX_ATTRIBUTES_BYTES = 1 << 20


class DamagedArtifact(InvalidRequest):
    """The bytes are not a packed file this reader can trust; the message names the section."""


def checked_floats(what: str, values: npt.ArrayLike, bits: int = 32) -> Floats:
    """Return a read-only float32 copy without -0.0; refuse NaN, infinity and lost precision."""
    given = np.asarray(values)
    if given.dtype not in (np.float16, np.float32):
        raise InvalidRequest(f"{what}: values must be float16 or float32, not {given.dtype}")
    if bits not in (16, 32):
        raise InvalidRequest(f"{what}: bits must be 16 or 32, not {bits}")
    if not np.isfinite(given).all():
        raise InvalidRequest(f"{what}: every value must be finite, found NaN or infinity")
    # Adding +0.0 turns -0.0 into +0.0 and changes nothing else.
    floats = np.array(given, dtype=np.float32, order="C") + np.float32(0.0)
    floats = np.asarray(floats, dtype=np.float32)
    if bits == 16 and not half_exact(floats):
        raise InvalidRequest(f"{what}: bits=16 needs values that float16 holds exactly")
    floats.setflags(write=False)
    return floats


def half_exact(values: Floats) -> bool:
    """Say whether float16 holds every value exactly."""
    if values.size and float(np.abs(values).max()) > 65504.0:
        return False
    return bool((values.astype(np.float16).astype(np.float32) == values).all())


def checked_integers(what: str, values: npt.ArrayLike, low: int, high: int) -> Integers:
    """Return a read-only int32 copy; refuse other kinds of numbers and numbers out of range."""
    given = np.asarray(values)
    if given.dtype.kind not in "iu":
        raise InvalidRequest(f"{what}: values must be integers, not {given.dtype}")
    if given.size and not (low <= int(given.min()) and int(given.max()) <= high):
        raise InvalidRequest(
            f"{what}: values must lie in {low}..{high}, found {given.min()}..{given.max()}"
        )
    integers = np.array(given, dtype=np.int32, order="C")
    integers.setflags(write=False)
    return integers


def check_name(name: str) -> None:
    """Refuse a tensor name that is empty, too long or not encodable."""
    try:
        size_bytes = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        raise InvalidRequest(f"tensor name {name!r} is not valid Unicode") from None
    if not 1 <= size_bytes <= MAX_NAME_BYTES:
        raise InvalidRequest(
            f"tensor name {name[:20]!r} must take 1..{MAX_NAME_BYTES} bytes, takes {size_bytes}"
        )


def check_shape(name: str, values: npt.NDArray[Any]) -> None:
    """Refuse an empty tensor and one with too many dimensions."""
    if values.size == 0:
        raise InvalidRequest(f"tensor {name!r}: shape {values.shape} holds no element")
    if values.ndim > MAX_DIMENSIONS:
        raise InvalidRequest(
            f"tensor {name!r}: at most {MAX_DIMENSIONS} dimensions, found {values.ndim}"
        )


def check_product(what: str, levels: Integers, scale: Floats) -> None:
    """Refuse a negative scale, and a level times scale beyond float32."""
    if (scale < 0).any():
        raise InvalidRequest(f"{what}: a scale must not be negative, found {scale.min()}")
    largest = float(np.abs(levels.astype(np.int64)).max()) * float(scale.max())
    if largest > float(np.finfo(np.float32).max):
        raise InvalidRequest(f"{what}: level times scale reaches {largest:g}, beyond float32")


def same(first: object, second: object) -> bool:
    """Say whether two fields are equal; arrays: one shape, type and bit pattern."""
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return (
            first.shape == second.shape
            and first.dtype == second.dtype
            and first.tobytes() == second.tobytes()
        )
    return first == second


def scaled(levels: Integers, scale: Floats) -> Floats:
    """Multiply levels by their scale: one IEEE float32 multiplication an element.

    Args:
        levels: any shape.
        scale: (1,), or (levels.shape[0],).
    """
    axes = (-1,) + (1,) * (levels.ndim - 1) if scale.size > 1 else ()
    product = levels.astype(np.float32) * scale.reshape(axes)
    # A negative level times a zero scale would be -0.0.
    return np.asarray(product + np.float32(0.0), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class EqualByBits:
    """Base of the values below: equal if every field is, arrays bit for bit."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EqualByBits) or type(self) is not type(other):
            return NotImplemented
        return all(
            same(getattr(self, item.name), getattr(other, item.name)) for item in fields(self)
        )

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, eq=False)
class FloatTensor(EqualByBits):
    """Floats stored as they are; zeros are coded as positions where that is smaller.

    Attributes:
        name: unique in the file.
        values: float32, any shape of 0..7 dimensions and at least one element.
        bits: 32, or 16 if float16 holds every value exactly.
    """

    name: str
    values: Floats
    bits: FloatBits = 32

    def __post_init__(self) -> None:
        check_name(self.name)
        values = checked_floats(f"tensor {self.name!r}", self.values, self.bits)
        check_shape(self.name, values)
        object.__setattr__(self, "values", values)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the decoded tensor."""
        return self.values.shape

    def decode(self) -> Floats:
        """Return the float32 values."""
        return self.values.copy()


@dataclass(frozen=True, eq=False)
class GridTensor(EqualByBits):
    """Levels of a uniform grid: value = float32(level) * scale; level 0 is exactly 0.

    Attributes:
        name: unique in the file.
        levels: int32 in -65535..65535, any shape; an asymmetric grid has an asymmetric range.
        scale: float32, (1,) for the whole tensor or (levels.shape[0],) for one a channel.
    """

    name: str
    levels: Integers
    scale: Floats

    def __post_init__(self) -> None:
        check_name(self.name)
        what = f"tensor {self.name!r}"
        levels = checked_integers(what, self.levels, -MAX_LEVEL, MAX_LEVEL)
        check_shape(self.name, levels)
        scale = checked_floats(f"{what}: scale", self.scale)
        channels = levels.shape[0] if levels.ndim else 1
        if scale.shape not in ((1,), (channels,)):
            raise InvalidRequest(
                f"{what}: scale must have shape (1,) or ({channels},), not {scale.shape}"
            )
        check_product(what, levels, scale)
        object.__setattr__(self, "levels", levels)
        object.__setattr__(self, "scale", scale)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the decoded tensor."""
        return self.levels.shape

    def decode(self) -> Floats:
        """Return the float32 values."""
        return scaled(self.levels, self.scale)


@dataclass(frozen=True, eq=False)
class FloatCodebook(EqualByBits):
    """Codebook entries stored as floats, (K,), in the order the indices mean."""

    entries: Floats
    bits: FloatBits = 32

    def __post_init__(self) -> None:
        entries = checked_floats("codebook", self.entries, self.bits)
        check_codebook(entries)
        object.__setattr__(self, "entries", entries)

    def decode(self) -> Floats:
        """Return the entries, float32 (K,)."""
        return self.entries.copy()


@dataclass(frozen=True, eq=False)
class GridCodebook(EqualByBits):
    """Codebook entries on a grid: entry = float32(level) * scale.

    Attributes:
        levels: int32 (K,) in -65535..65535, in the order the indices mean.
        scale: float32 (1,).
    """

    levels: Integers
    scale: Floats

    def __post_init__(self) -> None:
        levels = checked_integers("codebook", self.levels, -MAX_LEVEL, MAX_LEVEL)
        check_codebook(levels)
        scale = checked_floats("codebook scale", self.scale)
        if scale.shape != (1,):
            raise InvalidRequest(f"codebook scale must have shape (1,), not {scale.shape}")
        check_product("codebook", levels, scale)
        object.__setattr__(self, "levels", levels)
        object.__setattr__(self, "scale", scale)

    def decode(self) -> Floats:
        """Return the entries, float32 (K,)."""
        return scaled(self.levels, self.scale)


Codebook: TypeAlias = FloatCodebook | GridCodebook


def max_entries(elements: int) -> int:
    """Return how many codebook entries a tensor may have.

    As many as elements, or 256 if that is more: a codebook far larger than its tensor would let a
    small damaged file take much memory.
    """
    return min(MAX_ENTRIES, max(256, elements))


def check_codebook(entries: npt.NDArray[Any]) -> None:
    """Refuse a codebook that is not a list of 1..65535 entries."""
    if entries.ndim != 1 or not 1 <= entries.size <= MAX_ENTRIES:
        raise InvalidRequest(
            f"codebook must be a list of 1..{MAX_ENTRIES} entries, has shape {entries.shape}"
        )


@dataclass(frozen=True, eq=False)
class CodebookTensor(EqualByBits):
    """Shared values: value = codebook entry (index - 1), and exactly 0 for index 0.

    Attributes:
        name: unique in the file.
        indices: int32 in 0..K, any shape.
        codebook: the K shared values.
    """

    name: str
    indices: Integers
    codebook: Codebook

    def __post_init__(self) -> None:
        check_name(self.name)
        entries = self.codebook.decode().size
        indices = checked_integers(f"tensor {self.name!r}: indices", self.indices, 0, entries)
        check_shape(self.name, indices)
        if entries > max_entries(indices.size):
            raise InvalidRequest(
                f"tensor {self.name!r}: a codebook for {indices.size} elements has at most "
                f"{max_entries(indices.size)} entries, not {entries}"
            )
        object.__setattr__(self, "indices", indices)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the decoded tensor."""
        return self.indices.shape

    def decode(self) -> Floats:
        """Return the float32 values."""
        table = np.concatenate((np.zeros(1, np.float32), self.codebook.decode()))
        return np.asarray(table[self.indices], dtype=np.float32)


Tensor: TypeAlias = FloatTensor | GridTensor | CodebookTensor


@dataclass(frozen=True)
class Artifact:
    """Everything one packed file holds: tensors in file order and a little metadata.

    Attributes:
        tensors: names are unique.
        attributes: short text such as activation scales; stored sorted by key.
    """

    tensors: tuple[Tensor, ...]
    attributes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names: set[str] = set()
        for tensor in self.tensors:
            if tensor.name in names:
                raise InvalidRequest(f"tensor name {tensor.name!r} occurs twice")
            names.add(tensor.name)
        size_bytes = 0
        for text in pairs_flat(self.attributes):
            if not isinstance(text, str):
                raise InvalidRequest(f"attributes must be text, found {text!r}")
            try:
                size_bytes += len(text.encode("utf-8")) + 5
            except UnicodeEncodeError:
                raise InvalidRequest(f"attribute text {text!r} is not valid Unicode") from None
        if size_bytes > MAX_ATTRIBUTES_BYTES:
            raise InvalidRequest(
                f"attributes take {size_bytes} bytes, at most {MAX_ATTRIBUTES_BYTES} are allowed"
            )
        object.__setattr__(self, "tensors", tuple(self.tensors))
        object.__setattr__(self, "attributes", dict(self.attributes))


def pairs_flat(attributes: Mapping[str, str]) -> Iterator[str]:
    """Yield each key and its value, sorted by key."""
    for key in sorted(attributes):
        yield key
        yield attributes[key]


def dense(artifact: Artifact) -> dict[str, Floats]:
    """Return every tensor by name as float32, bit for bit the same on any machine."""
    return {tensor.name: tensor.decode() for tensor in artifact.tensors}
