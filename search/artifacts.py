"""Files of any format as readers see them: plain files, or packages that are folders."""

from evaluators.artifacts.files import Content, digest, exists, read_content

__all__ = ["Content", "digest", "exists", "read_content"]
