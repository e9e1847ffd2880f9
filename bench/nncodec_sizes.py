"""Bytes that nncodec (DeepCABAC) needs for .npz files; `bench.coder` runs it in nncodec's Python.

`python nncodec_sizes.py FILE.npz ...` prints a JSON object, file -> bytes. nncodec 2.1.3 imports
libraries it does not need to code a dictionary of arrays; they are stubbed. Its integers are
lossless; the best of its scan orders, with and without row skipping, is what counts.
"""

import contextlib
import importlib.abc
import importlib.machinery
import io
import itertools
import json
import sys
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

UNUSED = {"PIL", "cv2", "datasets", "evaluate", "flwr", "h5py", "matplotlib", "pandas", "ptflops",
          "scipy", "skimage", "sklearn", "tensorflow", "timm", "torchmetrics", "torchvision",
          "tqdm", "transformers", "wandb"}  # fmt: skip


class Stubs(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds an empty module for every unused library."""

    def find_spec(self, name: str, *_: Any) -> importlib.machinery.ModuleSpec | None:
        unused = name.partition(".")[0] in UNUSED
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if unused else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = MagicMock(name=spec.name)
        module.__path__, module.__spec__, module.__name__ = [], spec, spec.name
        return module

    def exec_module(self, module: ModuleType) -> None:
        pass


def main() -> None:
    sys.meta_path.insert(0, Stubs())
    import numpy as np
    from nncodec import nnc

    sizes = {}
    for path in sys.argv[1:]:
        arrays = dict(np.load(path).items())
        found = []
        for skipping, order in itertools.product((False, True), (0, 1, 2)):
            with contextlib.redirect_stdout(io.StringIO()):
                data = nnc.compress(arrays, return_bitstream=True, row_skipping=skipping,
                                    scan_order=order, bitstream_path=None)  # fmt: skip
                back = nnc.decompress(data)
            for name, array in arrays.items():
                assert (np.asarray(back[name]).reshape(array.shape) == array).all(), name
            found.append(len(data))
        sizes[path] = min(found)
    print(json.dumps(sizes))


if __name__ == "__main__":
    main()
