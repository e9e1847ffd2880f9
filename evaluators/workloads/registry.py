"""Workloads by name, or from a user's file. Importing this module imports no torch."""

import importlib
import importlib.metadata
import importlib.util
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from spaces import InvalidRequest, SearchError

if TYPE_CHECKING:
    from evaluators.backends.base import AnyWorkload

__all__ = [
    "BUILT_IN",
    "DEFAULT_WORKLOAD",
    "BuiltIn",
    "backend_of",
    "call_user_function",
    "check_name",
    "list_workloads",
    "load_workload",
    "name_clashes",
]

DEFAULT_WORKLOAD = "lenet300-mnist"
KERAS_MODULE = "evaluators.workloads.keras"
#: What a workload is, by name: to look at the classes themselves would import both frameworks.
_WORKLOADS = {("evaluators.workloads.base", "Workload"), (KERAS_MODULE, "KerasWorkload")}
ENTRY_POINTS = "compression_search.workloads"
OUR_PACKAGES = ("search", "spaces", "evaluators", "dashboards")
#: Folders of Python, of installed packages and of ours.
_NOT_THE_USERS = (
    *(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")),
    *(Path(__file__).parents[2] / name for name in OUR_PACKAGES),
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """A workload that ships with the package.

    Attributes:
        function: "module:function" which returns the Workload.
        description: one line for `search workloads`.
        backend: the framework of its network.
    """

    function: str
    description: str
    backend: str = "torch"


BUILT_IN: dict[str, BuiltIn] = {
    "lenet300-mnist": BuiltIn(
        "evaluators.workloads.mnist:lenet300_mnist",
        "LeNet-300-100 on MNIST: 784-300-100-10 dense, 266,610 parameters (default)",
    ),
    "lenet5-mnist": BuiltIn(
        "evaluators.workloads.mnist:lenet5_mnist",
        "LeNet-5 on MNIST: conv 20 and 50, dense 500 and 10, 431,080 parameters",
    ),
    "cnn-mnist": BuiltIn(
        "evaluators.workloads.mnist:cnn_mnist",
        "TensorFlow tutorial CNN on MNIST: conv 12, dense 10, 20,410 parameters",
    ),
    "lenet300-mnist-keras": BuiltIn(
        "evaluators.workloads.keras_mnist:lenet300_mnist_keras",
        "LeNet-300-100 on MNIST in Keras, compressed by TFMOT (extra keras)",
        "keras",
    ),
    "cnn-mnist-keras": BuiltIn(
        "evaluators.workloads.keras_mnist:cnn_mnist_keras",
        "TensorFlow tutorial CNN on MNIST in Keras, compressed by TFMOT (extra keras)",
        "keras",
    ),
    "resnet20-cifar10": BuiltIn(
        "evaluators.workloads.cifar10:resnet20_cifar10",
        "ResNet-20 on CIFAR-10, pretrained, 269,722 parameters; data from $SEARCH_DATA",
    ),
    "vgg16-cifar10": BuiltIn(
        "evaluators.workloads.cifar10:vgg16_cifar10",
        "VGG-16 on CIFAR-10, of any width; data from $SEARCH_DATA, weights you train first",
    ),
    "resnet18-cifar10": BuiltIn(
        "evaluators.workloads.cifar10:resnet18_cifar10",
        "ResNet-18 on CIFAR-10, of any width; data from $SEARCH_DATA, weights you train first",
    ),
    "battery": BuiltIn(
        "evaluators.workloads.battery:battery",
        "which cell is charging and when it is full: dense, two heads, 26,436 parameters; "
        "data from $SEARCH_DATA",
    ),
    "emotion-lstm": BuiltIn(
        "evaluators.workloads.emotion_keras:emotion_lstm",
        "LSTM on six-class emotion texts in Keras, 339,922 parameters; data from $SEARCH_DATA",
        "keras",
    ),
    "emotion-lstm-torch": BuiltIn(
        "evaluators.workloads.emotion_torch:emotion_lstm_torch",
        "LSTM on six-class emotion texts in PyTorch, 340,434 parameters; data from $SEARCH_DATA",
    ),
}


def list_workloads() -> dict[str, str]:
    """Name -> one line about it: the built-in ones, then those of installed packages."""
    plugins = {
        name: f"{point.value}, of {point.dist.name if point.dist else 'an installed package'}"
        for name, point in _plugins().items()
        if name not in BUILT_IN
    }
    return {**{name: entry.description for name, entry in BUILT_IN.items()}, **plugins}


def check_name(name: str) -> None:
    """Refuse a workload that cannot be loaded, before a worker tries.

    Raises:
        InvalidRequest: unknown name, or a file that is not there.
    """
    if ":" in name:
        path = Path(name.rpartition(":")[0])
        if not path.is_file():
            raise InvalidRequest(f"workload {name}: there is no file {path}")
    elif name not in BUILT_IN and name not in _plugins():
        known = ", ".join(list_workloads())
        raise InvalidRequest(
            f"workload must be one of {known}, or path/to/file.py:function, but got {name!r}"
        )


def backend_of(name: str) -> str:
    """The framework to prepare before a workload's code runs: "torch" or "keras".

    Of a user's file only its text is known then: one that names our Keras workload has its network
    in Keras. The loaded workload decides in the end, so a wrong guess costs an import.
    """
    if name in BUILT_IN:
        return BUILT_IN[name].backend
    path = Path(name.rpartition(":")[0])
    if path.is_file() and KERAS_MODULE in path.read_text(encoding="utf-8", errors="replace"):
        return "keras"
    return "torch"


def load_workload(name: str) -> "AnyWorkload":
    """Build a workload. Runs the user's code where `name` is a file.

    Raises:
        InvalidRequest: unknown name, a file that cannot be imported, a function that raises or
            returns something else than a Workload.
    """
    check_name(name)
    if name in BUILT_IN:
        module, _, function = BUILT_IN[name].function.partition(":")
        return getattr(importlib.import_module(module), function)()  # type: ignore[no-any-return]
    if ":" in name:
        file, _, function = name.rpartition(":")
        make = _user_function(Path(file), function, f"workload {name}")
    else:
        make = _run(_plugins()[name].load, f"importing workload {name}")
    return _checked(_run(make, f"workload {name}"), name)


def _run(make: Callable[[], T], what: str) -> T:
    """Run the user's code; whatever it raises becomes one message with its own line."""
    try:
        return make()
    except SearchError as error:
        raise InvalidRequest(f"{what}: {error}{_where(error)}") from error
    except (Exception, SystemExit) as error:
        kind = type(error).__name__
        raise InvalidRequest(f"{what} raised {kind}: {error}{_where(error)}") from error


def _checked(workload: object, name: str) -> "AnyWorkload":
    module = type(workload).__module__
    if (module, type(workload).__name__) not in _WORKLOADS:
        kind = type(workload).__name__
        raise InvalidRequest(
            f"workload {name} must return an evaluators.workloads.base.Workload or "
            f"{KERAS_MODULE}.KerasWorkload, but got {kind}"
        )
    return workload  # type: ignore[return-value]


def call_user_function(name: str, what: str) -> object:
    """Call a function of a user's file.

    Args:
        name: "path/to/file.py:function".
        what: the flag that named it, for messages.

    Raises:
        InvalidRequest: no such file or function, or it raises.
    """
    file, colon, function = name.rpartition(":")
    if not colon or not Path(file).is_file():
        raise InvalidRequest(f"{what} must be path/to/file.py:function, but got {name!r}")
    return _run(_user_function(Path(file), function, f"{what} {name}"), f"{what} {name}")


def _user_function(path: Path, function: str, what: str) -> Callable[[], object]:
    path = path.resolve()
    # Appended, not put first: a folder `spaces/` beside the user's file must not hide ours.
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(f"user_workload_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InvalidRequest(f"{what}: {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    # Registered, so that classes defined in the file can be pickled and copied.
    sys.modules[spec.name] = module
    _run(partial(spec.loader.exec_module, module), f"{what}: importing {path.name}")
    make = getattr(module, function, None)
    if not callable(make):
        raise InvalidRequest(f"{what}: {path.name} has no function {function!r}")
    return make  # type: ignore[no-any-return]


def _where(error: BaseException) -> str:
    """The line of the user's own file, which a message without a traceback would hide."""
    trace, line = error.__traceback__, ""
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if file.is_file() and not any(file.is_relative_to(folder) for folder in _NOT_THE_USERS):
            line = f" ({file.name}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return line


def _plugins() -> dict[str, importlib.metadata.EntryPoint]:
    return {point.name: point for point in importlib.metadata.entry_points(group=ENTRY_POINTS)}


def name_clashes(workload: str) -> list[str]:
    """One sentence for each other package or folder that shares a name with ours."""
    sentences = []
    try:
        version = importlib.metadata.version("spaces")
    except importlib.metadata.PackageNotFoundError:
        pass
    else:
        sentences.append(
            f"the installed package spaces {version} (Hugging Face) has the import name of one of "
            "ours: whichever was installed last wins; use a virtual environment without it"
        )
    if ":" in workload:
        folder = Path(workload.rpartition(":")[0]).resolve().parent
        sentences += [
            f"{folder / name} is hidden by our package of that name; import it under another name"
            for name in OUR_PACKAGES
            if (folder / name).is_dir() and not (folder / name).samefile(_our_folder(name))
        ]
    return sentences


def _our_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent
