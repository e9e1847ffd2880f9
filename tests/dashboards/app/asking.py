"""The application without a browser: what its pages answer, asked as the browser asks."""

import json
from collections.abc import Iterator
from typing import Any

from dash import Dash

from dashboards.app.access import Access
from dashboards.app.library import Library
from dashboards.app.server import build_app

__all__ = ["Answered", "ask", "open_app", "show", "texts"]


def open_app(storage: object, *names: str, access: Access | None = None) -> Dash:
    return build_app(Library(str(storage), names), access or Access("127.0.0.1"))


class Answered(dict[str, Any]):
    """`{"page.children": ...}` of a callback, and the status of its answer."""

    status: int = 200


def ask(app: Dash, output: str, /, *, changed: str = "", **values: Any) -> Answered:
    """Run the callback that writes `output` ("page.children") as a browser's POST.

    Args:
        app: the application.
        output: the first of its outputs, without the hash of a duplicate.
        changed: the input that set it off; the first that has a value.
        values: `where_data={...}` for `where.data`; what is left out is None.
    """
    wanted = output.replace("..", "")
    (key,) = [
        key
        for key, entry in app.callback_map.items()
        if key.strip(".").split("@")[0].split("...")[0] == wanted and "callback" in entry
    ]
    entry = app.callback_map[key]
    parts = key.strip(".").split("...")
    outputs = [dict(zip(("id", "property"), part.rsplit(".", 1), strict=True)) for part in parts]

    def filled(wires: Any) -> list[dict[str, Any]]:
        return [
            {**wire, "value": values.get(f"{wire['id']}_{wire['property']}".replace("-", "_"))}
            for wire in wires
        ]

    inputs, state = filled(entry["inputs"]), filled(entry["state"])
    triggers = [
        f"{wire['id']}.{wire['property']}"
        for wire in inputs
        if f"{wire['id']}_{wire['property']}".replace("-", "_") in values
    ]
    body = {
        "output": key,
        "outputs": outputs if key.startswith("..") else outputs[0],
        "inputs": inputs,
        "state": state,
        "changedPropIds": [changed] if changed else triggers[:1],
    }
    response = app.server.test_client().post(
        "/_dash-update-component", json=body, base_url="http://127.0.0.1"
    )
    answer = Answered()
    answer.status = response.status_code
    if response.status_code == 200:
        for identity, properties in response.json["response"].items():
            for name, value in properties.items():
                answer[f"{identity}.{name}"] = value
    return answer


def show(app: Dash, path: str, search: str = "", theme: str = "light") -> Answered:
    """The page under an address."""
    where = {"pathname": path, "search": search, "theme": theme}
    return ask(app, "head.children", where_data=where)


def texts(node: Any) -> str:
    """Every text of an answer's components, plots apart, one a line."""
    return "\n".join(_texts(node))


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, list):
        for child in node:
            yield from _texts(child)
    elif isinstance(node, dict) and "props" in node:
        content = json.loads(node["props"].get("data-table", "null"))
        if content is not None:
            yield from (content["caption"], *content["head"])
            yield from (text for row in content["rows"] for text in row)
        yield from _texts(node["props"].get("children"))
        for option in node["props"].get("options") or ():
            yield str(option["label"]) if isinstance(option, dict) else str(option)
