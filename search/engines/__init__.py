"""Where evaluations run: `concurrent.futures` executors with one worker set-up each."""

from search.engines.base import Engine
from search.engines.in_process import InProcessEngine
from search.engines.local import LocalEngine

__all__ = ["ENGINES", "Engine", "InProcessEngine", "LocalEngine"]

#: Name on the command line -> constructor taking the number of workers.
ENGINES: dict[str, type[Engine]] = {"local": LocalEngine, "in-process": InProcessEngine}
