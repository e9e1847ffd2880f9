"""The engine for more than one machine: a pool of Ray actors behind the executor interface.

Needs the extra `ray`. `search.engines` does not import it, so that nobody else pays for it.
"""

from search.engines.ray.cluster import Needs
from search.engines.ray.engine import RayEngine

__all__ = ["Needs", "RayEngine"]
