"""The command line's fixture, for engines too."""

from tests.search.cli.conftest import search

__all__ = ["search"]
