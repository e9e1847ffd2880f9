"""What the documents say is true: links lead somewhere, commands parse, the example runs."""

import contextlib
import io
import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from torch import nn

from search.cli.main import build_parser, main

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_to_files(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), f"{page.name} links to {link}"


def commands() -> list[str]:
    lines = [line.split("#")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [part.strip() for line in lines for part in line.split("|") if "search " in part]


@pytest.mark.parametrize("command", commands())
def test_commands_of_the_readme_parse(command: str) -> None:
    program, *arguments = shlex.split(command)
    assert program == "search"
    assert build_parser().parse_args(arguments).command


def test_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = re.findall(r"^make ([a-z-]+)", "\n".join(blocks("sh")), flags=re.MULTILINE)
    assert {"run", "test"} <= set(named)
    for target in named:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


def test_the_example_is_the_file_in_docs() -> None:
    names = ("my_net.py", "my_keras.py", "my_tuner.py")
    examples = [(ROOT / "docs" / "examples" / n).read_text(encoding="utf-8") for n in names]
    assert blocks("python") == examples


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ten lines of the README, on a network that was really trained."""
    (tmp_path / "my_net.py").write_text(blocks("python")[0], encoding="utf-8")
    _train_example(tmp_path)
    monkeypatch.chdir(tmp_path)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main(
            [
                *["run", "my_net.py:workload", "--budget-kb", "2", "--max-drop", "10"],
                *["--trials", "8", "--finalists", "2", "--workers", "1", "--json"],
            ]
        )
    assert code == 0
    answer = json.loads(out.getvalue())
    assert answer["trials"] == 8
    assert answer["front"]
    assert all(row["size_bytes"] <= 2000 for row in answer["front"])
    assert Path(answer["file"]).stat().st_size == answer["pick"]["size_bytes"]
    assert main(["verify", answer["file"]]) == 0


def _train_example(folder: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))
    x = torch.randn(1000, 16, generator=generator)
    y = (x[:, :4] + 0.5 * x[:, 4:8]).argmax(dim=1)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        loss = nn.functional.cross_entropy(model(x[:800]), y[:800])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    torch.save(model.state_dict(), folder / "net.pt")
    torch.save((x, y), folder / "data.pt")
