"""The format `mlpackage`: what Core ML loads, with the policy's own codes in it (iOS 18, macOS 15).

Everything is half precision, which is what the Neural Engine computes in: floats are rounded to
it, and so are scales. Indices and levels take 1, 2, 3, 4, 6 or 8 bits; zeros are a bit mask where
that is smaller.
"""

# Before any module of ours imports one of coremltools.
from evaluators.artifacts.mlpackage import alone as _alone  # noqa: F401
