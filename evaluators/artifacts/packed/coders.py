"""Which coder a file's coder id means: the container looks here and never inside a section."""

from collections.abc import Mapping

from evaluators.artifacts.packed.contexts import ContextCoder
from evaluators.artifacts.packed.mixing import MixingCoder

__all__ = ["CODERS", "WRITER_ID"]

#: An id never changes its meaning: files of every coder stay readable.
CODERS: Mapping[int, type[ContextCoder]] = {1: ContextCoder, 2: MixingCoder}
WRITER_ID = 2
