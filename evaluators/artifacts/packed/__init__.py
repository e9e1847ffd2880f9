"""The format `packed`: a compressed network's weights (not its graph) in one small file.

Positions of non-zeros, codebook indices or grid levels, codebooks, scales and biases, entropy
coded. Reading needs integer arithmetic and one float32 multiplication an element, so every
machine decodes the same bits.
"""

from evaluators.artifacts.packed.container import (
    Encoded,
    decode,
    encode,
    ledger,
    pad_section,
)
from evaluators.artifacts.packed.model import (
    Artifact,
    Codebook,
    CodebookTensor,
    DamagedArtifact,
    FloatCodebook,
    FloatTensor,
    GridCodebook,
    GridTensor,
    Tensor,
    dense,
)
from spaces.trial import LedgerLine

__all__ = [
    "Artifact",
    "Codebook",
    "CodebookTensor",
    "DamagedArtifact",
    "Encoded",
    "FloatCodebook",
    "FloatTensor",
    "GridCodebook",
    "GridTensor",
    "LedgerLine",
    "Tensor",
    "decode",
    "dense",
    "encode",
    "ledger",
    "pad_section",
]
