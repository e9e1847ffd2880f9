"""`search --help` answers at once, and every command explains itself."""

import subprocess
import sys

import pytest

from search.cli.main import ENGINES as ENGINE_NAMES
from search.cli.main import PROPOSERS as PROPOSER_NAMES
from search.cli.main import build_parser
from search.engines import ENGINES
from search.location import DEFAULT_STORAGE
from search.proposers import PROPOSERS
from tests.search.cli.conftest import Search

COMMANDS = (
    *("run", "resume", "front", "show", "report"),
    *("export", "verify", "space", "targets", "workloads"),
)
#: numpy is there: the errors live in `spaces`, and it takes a tenth of a second.
HEAVY = (
    "torch",
    "tensorflow",
    "tf_keras",
    "optuna",
    "pandas",
    "plotly",
    "rich",
    "sqlalchemy",
    "numba",
)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom search.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stderr.strip() == "[]"
    assert all(command in run.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, search: Search) -> None:
    said = search(command, "--help")
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith(f"usage: search {command}")
    assert "--json" in said.out


def test_the_parser_knows_what_there_is() -> None:
    """It lists names without importing what they stand for."""
    assert set(PROPOSER_NAMES) == set(PROPOSERS)
    extras = {"ray", "tune"}  # which `search.engines` does not know
    assert set(ENGINE_NAMES) == {*ENGINES, *extras}
    assert build_parser().parse_args(["front"]).storage == DEFAULT_STORAGE


@pytest.mark.parametrize("arguments", [(), ("fly",), ("run", "--fly"), ("show",), ("verify",)])
def test_a_wrong_command_line(arguments: tuple[str, ...], search: Search) -> None:
    said = search(*arguments)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("usage: search")
