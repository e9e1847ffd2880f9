"""The Ray cluster: joining it, and what its nodes can hold. The only module that calls ray.init."""

import os
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spaces import InvalidRequest


def _show_token() -> None:
    """Let Ray send its token where there is one: new clusters then ask for it, clients do not know.

    `ray.init` on this machine makes one, and `ray start` uses it from then on (Ray 2.60).
    """
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    # Ray reads the mode when it is imported: set later, only the processes it starts would know.
    is_asked = os.environ.get("RAY_AUTH_TOKEN") or file.is_file()
    if is_asked and "ray" not in sys.modules:
        os.environ.setdefault("RAY_AUTH_MODE", "token")


try:
    # Before the import and before any node starts: Ray reports usage hourly otherwise.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    _show_token()
    import ray
except ImportError as error:
    raise InvalidRequest(
        f"--engine ray needs the extra `ray`: pip install 'compression-search[ray]' ({error})"
    ) from None

__all__ = ["Needs", "check_address", "join", "leave", "nodes", "places", "shortage", "token_hint"]

CONNECT_S = 5.0
RAY_CLIENT = "ray://"


@dataclass(frozen=True)
class Needs:
    """What a trial holds while it runs; Ray places it where this is free.

    Attributes:
        cpus: processors; a share is possible.
        gpus: GPUs; 0.25 lets four trials share one.
        resources: a node's own resources by name, e.g. {"bigmem": 1.0}.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    resources: Mapping[str, float] = field(default_factory=dict)

    @property
    def by_name(self) -> dict[str, float]:
        """As Ray names them, without the zeros."""
        needs = {"CPU": self.cpus, "GPU": self.gpus, **self.resources}
        return {name: amount for name, amount in needs.items() if amount > 0}


class _Connection:
    """This process's connection, shared by its engines; the last one to leave closes it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.is_ours = False


_connection = _Connection()


def check_address(address: str) -> None:
    """Refuse an address nobody listens at: Ray itself would wait for minutes.

    Raises:
        InvalidRequest: it is malformed, or nothing answers.
    """
    if address in ("auto", "local"):
        return
    host, _, port = address.removeprefix(RAY_CLIENT).rpartition(":")
    if not host or not port.isdigit():
        raise InvalidRequest(
            f"--ray-address must be auto, local, HOST:PORT or ray://HOST:PORT, but got {address!r}"
        )
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise InvalidRequest(
            f"--ray-address {address}: nothing answers there: {error}; "
            "`ray start --head` prints the address of a cluster"
        ) from None


def join(address: str) -> None:
    """Connect this process, unless it is connected; `leave` it as often as it was joined.

    Args:
        address: "auto" (the cluster this machine is in), "local" (a cluster of this process's
            own, which ends with it), HOST:PORT or ray://HOST:PORT.

    Raises:
        InvalidRequest: there is no such cluster, or it runs another Ray or Python.
    """
    with _connection.lock:
        if not ray.is_initialized():
            _connect(address)
            _connection.is_ours = True
        # Ray prints the deaths of nodes on stdout whatever `log_to_driver` says, and has no other
        # switch; a result as JSON stands alone there.
        ray._private.worker._worker_logs_enabled = False
        _connection.users += 1


def _connect(address: str) -> None:
    check_address(address)
    # What a user's network prints must not mix with a result on stdout: it stays in Ray's logs.
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address == "local":
        quiet["include_dashboard"] = False
    try:
        ray.init(address=address, **quiet)
    except Exception as error:  # whatever Ray says: its errors share no base
        if ray.is_initialized():
            ray.shutdown()
        what = " ".join(str(error).split()) or type(error).__name__
        # A wrong token looks like no cluster: Ray prints why, and says only that it failed.
        hint = token_hint() if "Failed to connect" in what else ""
        raise InvalidRequest(
            f"--ray-address {address}: cannot join the cluster: {what}{hint}"
        ) from None


def token_hint() -> str:
    """What to try where driver and cluster may differ about Ray's token; Ray itself is silent."""
    if os.environ.get("RAY_AUTH_MODE") == "token":
        return (
            "; this driver sends Ray's token: a cluster that was started without one needs "
            "RAY_AUTH_MODE=disabled here, one with another token that token in RAY_AUTH_TOKEN"
        )
    return "; a cluster that was started with a token needs it here too, in RAY_AUTH_TOKEN"


def leave() -> None:
    """Undo one `join`."""
    with _connection.lock:
        _connection.users -= 1
        if _connection.users == 0 and _connection.is_ours:
            _connection.is_ours = False
            ray.shutdown()


def nodes() -> list[dict[str, float]]:
    """What each live node offers in all, used or not, by resource."""
    listed: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [dict(node["Resources"]) for node in listed if node["Alive"]]


def places(offered: Sequence[Mapping[str, float]], needs: Needs) -> int:
    """How many trials fit at the same time on nodes that run nothing else.

    Two nodes of 4 CPUs hold 4 trials of 2 CPUs, and 2 trials of 3.
    """
    wanted = needs.by_name
    if not wanted:
        return len(offered)
    # Ray counts in 1/10000: 1 / 0.1 must be 10, not 9.
    return sum(
        min(
            round(node.get(name, 0.0) * 10_000) // max(1, round(amount * 10_000))
            for name, amount in wanted.items()
        )
        for node in offered
    )


def shortage(offered: Sequence[Mapping[str, float]], needs: Needs) -> str:
    """Why no trial runs: the resource that no node has enough of, and the most that one has."""
    for name, amount in needs.by_name.items():
        most = max((node.get(name, 0.0) for node in offered), default=0.0)
        if most < amount:
            return (
                f"a trial needs {amount:g} {name}, but none of the {len(offered)} nodes has it "
                f"(the most is {most:g})"
            )
    if not places(offered, needs):
        wanted = ", ".join(f"{amount:g} {name}" for name, amount in needs.by_name.items())
        return f"a trial needs {wanted}, but no node has all of it together"
    return "every node that could run a trial is taken by something else"
