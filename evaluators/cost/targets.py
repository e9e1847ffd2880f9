"""Hardware profiles: the built-in ones are TOML files beside this package, or a path of one."""

import platform
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any, get_type_hints

from evaluators.formats import format_capabilities
from spaces import Figure, InvalidRequest, Target

__all__ = ["list_targets", "load_target"]

_FOLDER = files("evaluators") / "targets"
_TYPES = ("fp32", "fp16", "int8")


def list_targets() -> tuple[str, ...]:
    """Names of the built-in profiles, sorted."""
    names = (entry.name for entry in _FOLDER.iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml")))


#: Figures of what the roofline leaves out; without one it counts nothing for it.
_OPTIONAL_FIGURES = ("call_overhead_us", "output_element_ns", "int8_shallow_ratio")


def load_target(name: str) -> Target:
    """A built-in profile by its name, or a user's by the path of its TOML file.

    Raises:
        InvalidRequest: no such profile, or a file that is not one.
    """
    if name in list_targets():
        text = (_FOLDER / f"{name}.toml").read_text(encoding="utf-8")
    elif name.endswith(".toml"):
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"--target: cannot read {name}: {error}") from None
    else:
        known = ", ".join(list_targets())
        raise InvalidRequest(
            f"--target must be one of {known}, or the path of a .toml file, but got {name!r}"
        )
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidRequest(f"target {name}: not a TOML file: {error}") from None
    return _target(name, data)


def _target(name: str, data: Mapping[str, Any]) -> Target:
    known = set(get_type_hints(Target))
    optional = {"is_this_machine", "integer_only", "int8_weight_bits", "machines"}
    required = known - optional - set(_OPTIONAL_FIGURES)
    for rule, wrong in (("unknown", set(data) - known), ("missing", required - set(data))):
        if wrong:
            raise InvalidRequest(f"target {name}: {rule} keys {', '.join(sorted(wrong))}")
    throughput = data["throughput_gmacs"]
    if not isinstance(throughput, Mapping) or not throughput or set(throughput) - set(_TYPES):
        raise InvalidRequest(
            f"target {name}: throughput_gmacs must be a table of {', '.join(_TYPES)}"
        )
    target = Target(
        name=_text(name, data, "name"),
        description=_text(name, data, "description"),
        artifact_format=_text(name, data, "artifact_format"),
        native_format=_text(name, data, "native_format"),
        throughput_gmacs={
            kind: _figure(name, f"throughput_gmacs.{kind}", entry)
            for kind, entry in throughput.items()
        },
        bandwidth_gbps=_figure(name, "bandwidth_gbps", data["bandwidth_gbps"]),
        overhead_us=_figure(name, "overhead_us", data["overhead_us"]),
        compute_dtype=_text(name, data, "compute_dtype"),
        int8_needs_activation_bits=_flag(name, data, "int8_needs_activation_bits"),
        kernel_truth=_texts(name, data, "kernel_truth"),
        is_this_machine=_flag(name, data, "is_this_machine"),
        integer_only=_flag(name, data, "integer_only"),
        int8_weight_bits=_width(name, data, "int8_weight_bits"),
        machines=_texts(name, {"machines": [], **data}, "machines"),
        **{key: _figure(name, key, data[key]) for key in _OPTIONAL_FIGURES if key in data},
    )
    if target.machines and platform.machine() not in target.machines:
        target = replace(target, is_this_machine=False)
    if target.compute_dtype not in target.throughput_gmacs:
        raise InvalidRequest(
            f"target {name}: compute_dtype {target.compute_dtype!r} has no throughput_gmacs"
        )
    format_capabilities(target.artifact_format)
    return target


def _text(target: str, data: Mapping[str, Any], key: str) -> str:
    value = data[key]
    if not isinstance(value, str) or not value:
        raise InvalidRequest(f"target {target}: {key} must be a text, but got {value!r}")
    return value


def _texts(target: str, data: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = data[key]
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise InvalidRequest(f"target {target}: {key} must be a list of texts, but got {value!r}")
    return tuple(value)


def _flag(target: str, data: Mapping[str, Any], key: str) -> bool:
    value = data.get(key, False)
    if not isinstance(value, bool):
        raise InvalidRequest(f"target {target}: {key} must be true or false, but got {value!r}")
    return value


def _width(target: str, data: Mapping[str, Any], key: str) -> int:
    value = data.get(key, 8)
    if isinstance(value, bool) or not isinstance(value, int) or not 2 <= value <= 8:
        raise InvalidRequest(f"target {target}: {key} must be 2 to 8, but got {value!r}")
    return value


def _figure(target: str, key: str, entry: object) -> Figure:
    match entry:
        case {"value": int() | float() as value, "source": str() as source} if (
            not isinstance(value, bool) and value > 0 and source
        ):
            return Figure(float(value), source)
    raise InvalidRequest(
        f"target {target}: {key} must be {{value = above 0, source = text}}, but got {entry!r}"
    )
