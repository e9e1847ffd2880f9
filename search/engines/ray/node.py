"""A machine that is a target, as a node of the cluster: it times files and trains nothing."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from search.engines.ray.cluster import check_address
from spaces import InvalidRequest

__all__ = ["resource_of", "serve"]

#: Seconds for Ray's processes to end by themselves.
END_S = 10.0


def resource_of(target: str) -> str:
    """What a node advertises that is this target, e.g. "target:m1"."""
    return f"target:{target}"


def serve(target: str, address: str, cpus: int) -> int:
    """Be a node until told to end (Ctrl-C, SIGTERM) or until the cluster ends.

    Args:
        target: name of the hardware profile that this machine is.
        address: HOST:PORT of the cluster.
        cpus: how many trials may also be trained here; 0 keeps the machine quiet for timing.

    Returns:
        The exit code: 0 when it was told to end.

    Raises:
        InvalidRequest: no cluster there, or one that this machine cannot join.
    """
    if address in ("auto", "local") or address.startswith("ray://"):
        raise InvalidRequest(f"--ray-address must be HOST:PORT of a cluster, but got {address!r}")
    check_address(address)
    resources = {resource_of(target): 1}
    process = subprocess.Popen(  # noqa: S603 -- our own command
        _command(address, cpus, json.dumps(resources)),
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # Ctrl-C reaches this process, which then ends all of them
    )
    assert process.stdout is not None
    said: list[str] = []
    try:
        for line in process.stdout:
            said.append(line.strip())
            if "started" in line.lower():
                sys.stderr.write(f"this machine is {resource_of(target)} in {address}\n")
        code = process.wait()
    except KeyboardInterrupt:
        return _end(process)
    if code and not any("started" in line.lower() for line in said):
        raise InvalidRequest(f"--ray-address {address}: cannot join: {_reason(said)}")
    return code


def _command(address: str, cpus: int, resources: str) -> Sequence[str]:
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--address={address}"]
    return [*start, f"--num-cpus={cpus}", f"--resources={resources}", "--block"]


def _end(process: "subprocess.Popen[str]") -> int:
    """Ray's `start --block` ends its node with itself."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return 0


def _reason(said: Sequence[str]) -> str:
    lines = [line for line in said if line]
    return next((line for line in reversed(lines) if "error" in line.lower()), "") or (
        lines[-1] if lines else "Ray said nothing"
    )
