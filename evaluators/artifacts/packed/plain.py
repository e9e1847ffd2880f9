"""Bounds-checked reading of bytes, and the plain number formats of the container."""

from evaluators.artifacts.packed.model import DamagedArtifact

MAX_VARINT_BYTES = 5


def varint(number: int, size_bytes: int = 1) -> bytes:
    """Return a number in groups of seven bits, low groups first: 300 -> ac 02.

    Args:
        number: 0 or more.
        size_bytes: take at least so many bytes; padding a section uses this to keep a prefix
            longer than it has to be.
    """
    groups = bytearray()
    while number > 127 or len(groups) + 1 < size_bytes:
        groups.append(128 | (number & 127))
        number >>= 7
    groups.append(number)
    return bytes(groups)


def zigzag(number: int) -> int:
    """Fold signed numbers into 0, 1, 2 ...: 0, -1, 1, -2 ..."""
    return 2 * number if number >= 0 else -2 * number - 1


def zigzag_inverse(number: int) -> int:
    """Undo `zigzag`."""
    return number >> 1 if number % 2 == 0 else -((number + 1) >> 1)


class Reader:
    """Reads one span of a file; every step past its end is a DamagedArtifact naming the span.

    Args:
        data: the whole file.
        what: the span's name in error messages.
        start: where the span begins.
        end: where it ends; by default the end of the data.
        mode: how the span is coded, for spans that are sections.
    """

    def __init__(
        self, data: bytes, what: str, start: int = 0, *, end: int | None = None, mode: int = 0
    ) -> None:
        self.data = data
        self.what = what
        self.place = start
        self.end = len(data) if end is None else end
        self.mode = mode

    def damaged(self, problem: str) -> DamagedArtifact:
        """Return the error to raise: which part of the file, and what is wrong with it."""
        return DamagedArtifact(f"packed file, {self.what}: {problem}")

    def take(self, size_bytes: int) -> bytes:
        """Return the next bytes."""
        left = max(0, self.end - self.place)
        if size_bytes > left:
            raise self.damaged(f"needs {size_bytes} more bytes where {left} are left")
        self.place += size_bytes
        return self.data[self.place - size_bytes : self.place]

    def byte(self) -> int:
        """Return the next byte as a number."""
        return self.take(1)[0]

    def varint(self) -> int:
        """Return the next number written by `varint`."""
        number = 0
        for group in range(MAX_VARINT_BYTES):
            byte = self.byte()
            number |= (byte & 127) << (7 * group)
            if byte < 128:
                return number
        raise self.damaged(f"a number takes more than {MAX_VARINT_BYTES} bytes")

    def rest(self) -> bytes:
        """Return all that is left."""
        return self.take(self.end - self.place)

    def span(self, what: str, size_bytes: int, mode: int) -> "Reader":
        """Step over the next bytes and return a reader of just them."""
        start = self.place
        named = Reader(self.data, what, start, end=self.end)
        named.take(size_bytes)
        self.place = named.place
        return Reader(self.data, what, start, end=self.place, mode=mode)

    def again(self) -> "Reader":
        """Return a reader of what is left, which moves independently of this one."""
        return Reader(self.data, self.what, self.place, end=self.end, mode=self.mode)

    def unknown_mode(self) -> DamagedArtifact:
        """Return the error to raise for a mode the section cannot have."""
        return self.damaged(f"unknown mode {self.mode}")

    def refuse_non_zero(self, padding: bytes) -> None:
        """Refuse bytes after a section's content unless they are zero padding."""
        if padding.strip(b"\0"):
            raise self.damaged("has non-zero bytes after its content")
