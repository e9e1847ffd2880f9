"""Six-class emotion texts (Saravia et al. 2018): read, checked, tokenised, padded. No framework.

The texts are for education and research, so they do not ship: they are read from `emotion/` in the
folder that `$SEARCH_DATA` names, `{train,val,test}.txt` of `text;label` lines, the data's own
splits. What is read is compared with a sha256 of its decoded content, whatever its line ends.
"""

import hashlib
import os
from collections import Counter
from functools import lru_cache
from pathlib import Path

import numpy as np

from spaces import InvalidRequest

__all__ = ["CLASSES", "EMBEDDING", "LENGTH", "SPLITS", "UNITS", "VOCABULARY", "encoded_splits"]

CLASSES = ("anger", "fear", "joy", "love", "sadness", "surprise")
#: Split -> sha256 of its lines, joined by single line feeds.
SPLITS = {
    "train": "721977343ed316678d40129ae302dfb53c7ff43fa72e0bc91d8987dd8d5824bf",
    "val": "6c294743ab32d997e8efdafcc579efe60d2fc0b44c9f4738fced19768dc024df",
    "test": "7e464bdc312a975a8e68fa41410a28b2b32f422f6fa8531445b7069a0ceff70b",
}
#: Token ids of one text; 99 % have 52 words or fewer, and a longer one loses its beginning.
LENGTH = 50
#: Ids in all: padding, unknown words, and the commonest words of the training texts.
VOCABULARY = 4950
PADDING, UNKNOWN = 0, 1
#: Sizes of the networks: 339,922 parameters, 1.36 MB in fp32.
EMBEDDING, UNITS = 50, 128


def encoded(texts: list[str], ids: dict[str, int]) -> np.ndarray:
    """(texts, LENGTH) int32; padding stands in front, so that the last step has read all.

    Example: with ids {"i": 2, "feel": 3}, "i feel odd" becomes [0, ..., 0, 2, 3, 1].
    """
    rows = np.full((len(texts), LENGTH), PADDING, np.int32)
    for row, text in zip(rows, texts, strict=True):
        known = [ids.get(word, UNKNOWN) for word in text.split()][-LENGTH:]
        row[LENGTH - len(known) :] = known
    return rows


def vocabulary(texts: list[str]) -> dict[str, int]:
    """Word -> id from 2 up: the commonest words, equally common ones by alphabet."""
    counts = Counter(word for text in texts for word in text.split())
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    return {word: number for number, word in enumerate(ranked[: VOCABULARY - 2], start=2)}


@lru_cache
def encoded_splits() -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Train (16,000), validation and test (2,000 each): (n, LENGTH) int32 ids, (n,) int64 classes.

    Raises:
        InvalidRequest: the folder or a file is not there, or its content is another one.
    """
    folder = _data_folder()
    read = [_read(folder / f"{name}.txt", digest) for name, digest in SPLITS.items()]
    ids = vocabulary(read[0][0])
    return tuple((encoded(texts, ids), classes) for texts, classes in read)


def _data_folder() -> Path:
    root = os.environ.get("SEARCH_DATA", "")
    folder = Path(root) / "emotion"
    missing = [f"emotion/{name}.txt" for name in SPLITS if not (folder / f"{name}.txt").is_file()]
    if not root or missing:
        raise InvalidRequest(
            "workload emotion-lstm reads its texts from the folder that SEARCH_DATA names, here "
            f"{root!r}, which must hold {', '.join(missing or ['emotion/train.txt'])}"
        )
    return folder


def _read(path: Path, digest: str) -> tuple[list[str], np.ndarray]:
    lines = path.read_text(encoding="utf-8").split("\n")
    lines = [line for line in lines if line]
    found = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    if found != digest:
        raise InvalidRequest(
            f"workload emotion-lstm: {path} has other content than the published split: "
            f"sha256 of its lines is {found}, wanted {digest}"
        )
    pairs = [line.rpartition(";") for line in lines]
    classes = np.array([CLASSES.index(label) for _, _, label in pairs], dtype=np.int64)
    return [text for text, _, _ in pairs], classes
