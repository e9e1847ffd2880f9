"""A workload by name: ours, a plug-in's, a user's file, and all that can be wrong with one."""

import copy
import pickle
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from evaluators.workloads import registry
from evaluators.workloads.base import Workload
from evaluators.workloads.registry import check_name, load_workload, name_clashes
from spaces import InvalidRequest

GOOD = """
from tests import networks

def make():
    return networks.mlp()
"""


@pytest.fixture(autouse=True)
def clean_imports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("user_workload_"):
            del sys.modules[name]


def written(folder: Path, text: str, name: str = "net.py") -> str:
    (folder / name).write_text(text)
    return f"{folder / name}:make"


def message(name: str) -> str:
    with pytest.raises(InvalidRequest) as raised:
        load_workload(name)
    text = str(raised.value)
    assert "\n" not in text
    return text


def test_a_users_file(tmp_path: Path) -> None:
    workload = load_workload(written(tmp_path, GOOD))
    assert isinstance(workload, Workload)
    assert name_clashes(written(tmp_path, GOOD)) == []


def test_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, GOOD)
    monkeypatch.chdir(tmp_path)
    assert load_workload("net.py:make").name == "tiny"


def test_it_may_import_its_neighbours_and_define_classes(tmp_path: Path) -> None:
    (tmp_path / "my_layers_xyz.py").write_text("WIDTH = 4\n")
    text = (
        "import my_layers_xyz\nfrom torch import nn\nfrom tests import networks\n"
        "class Net(nn.Linear):\n    pass\n"
        "def make():\n    return networks.workload(Net(4, my_layers_xyz.WIDTH))\n"
    )
    model = load_workload(written(tmp_path, text)).model
    assert type(copy.deepcopy(model)).__name__ == "Net"
    assert pickle.dumps(model)


@pytest.mark.parametrize("folder", ["spaces", "search", "evaluators", "dashboards"])
def test_a_folder_of_our_name_beside_it(folder: str, tmp_path: Path) -> None:
    """Ours is imported, the file still loads, and one line says what happened."""
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "__init__.py").write_text("raise RuntimeError('the wrong one')\n")
    name = written(tmp_path, GOOD + f"import {folder}\nassert {folder}.__doc__\n")
    assert load_workload(name).name == "tiny"
    (sentence,) = name_clashes(name)
    assert str(tmp_path / folder) in sentence
    assert "hidden by our package" in sentence


def test_hugging_faces_package_is_mentioned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.importlib.metadata, "version", lambda name: "0.30.1")
    (sentence,) = name_clashes("lenet300-mnist")
    assert "spaces 0.30.1 (Hugging Face)" in sentence


def test_a_function_that_raises(tmp_path: Path) -> None:
    text = message(written(tmp_path, "def make():\n    return 1 / 0\n"))
    assert "raised ZeroDivisionError: division by zero (net.py, line 2)" in text


def test_the_line_is_the_users_own_also_below_a_library(tmp_path: Path) -> None:
    text = "import json\nimport torch\n\ndef make():\n    json.loads('{')\n"
    assert "(net.py, line 5)" in message(written(tmp_path, text))
    text = "import torch\ndef make():\n    torch.zeros(2, 2) @ torch.zeros(3, 3)\n"
    assert "RuntimeError" in message(written(tmp_path, text, "other.py"))
    assert "(other.py, line 3)" in message(written(tmp_path, text, "other.py"))


def test_a_wrong_value_names_the_file_and_line(tmp_path: Path) -> None:
    text = "from tests import networks\ndef make():\n    return networks.workload('resnet')\n"
    found = message(written(tmp_path, text))
    assert "must be a torch.nn.Module, but got str" in found
    assert str(tmp_path) in found


def test_a_file_that_raises(tmp_path: Path) -> None:
    found = message(written(tmp_path, "x = 1\nraise ValueError('no weights here')\n"))
    assert "importing net.py raised ValueError: no weights here (net.py, line 2)" in found
    assert "ModuleNotFoundError" in message(written(tmp_path, "import not_there_at_all\n"))


@pytest.mark.parametrize(
    "where", ["import sys\nsys.exit(3)\n", "def make():\n    raise SystemExit\n"]
)
def test_a_file_that_exits(where: str, tmp_path: Path) -> None:
    assert "raised SystemExit" in message(written(tmp_path, where))


def test_a_syntax_error(tmp_path: Path) -> None:
    found = message(written(tmp_path, "def make():\n    return ]\n"))
    assert "SyntaxError" in found
    assert "(net.py, line 2)" in found


@pytest.mark.parametrize(
    ("text", "kind"),
    [("def make():\n    pass\n", "NoneType"), ("def make():\n    return {}\n", "dict")],
)
def test_the_wrong_thing(text: str, kind: str, tmp_path: Path) -> None:
    assert f"Workload or evaluators.workloads.keras.KerasWorkload, but got {kind}" in message(
        written(tmp_path, text)
    )


def test_a_function_that_is_not_there(tmp_path: Path) -> None:
    assert "has no function 'make'" in message(written(tmp_path, "make = 3\n"))
    assert "has no function ''" in message(written(tmp_path, GOOD)[: -len("make")])
    assert "raised TypeError" in message(written(tmp_path, "def make(x):\n    pass\n", "arg.py"))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for check in (check_name, load_workload):
        with pytest.raises(InvalidRequest, match=r"there is no file .*absent.py"):
            check(f"{tmp_path}/absent.py:make")
    with pytest.raises(InvalidRequest, match="there is no file"):
        check_name(f"{tmp_path}:make")
    (tmp_path / "net.txt").write_text("")
    assert "is not a Python file" in message(f"{tmp_path}/net.txt:make")


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(InvalidRequest, match=r"lenet300-mnist, lenet5-mnist, cnn-mnist.*'mnist'"):
        check_name("mnist")


def test_plug_ins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    written(tmp_path, GOOD, "plugin_xyz.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    points = {
        "good": EntryPoint("good", "plugin_xyz:make", registry.ENTRY_POINTS),
        "gone": EntryPoint("gone", "plugin_that_left:make", registry.ENTRY_POINTS),
    }
    monkeypatch.setattr(registry, "_plugins", lambda: points)
    check_name("good")
    assert load_workload("good").name == "tiny"
    assert "importing workload gone raised ModuleNotFoundError" in message("gone")
    with pytest.raises(InvalidRequest, match="good, gone"):
        check_name("bad")
