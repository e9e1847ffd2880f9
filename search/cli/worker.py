"""`search worker`: this machine as a target of a cluster."""

import argparse
import platform

from evaluators.cost.targets import load_target
from spaces import InvalidRequest

__all__ = ["worker_command"]


def worker_command(arguments: argparse.Namespace) -> int:
    """Join a cluster as a node that times files, until told to end."""
    target = load_target(arguments.target)
    if target.is_this_machine:
        raise InvalidRequest(
            f"--target must be a profile of other machines, e.g. m1, but {target.name} is measured "
            f"on every worker ({platform.node()} among them)"
        )
    from search.cli.interrupts import interrupts  # noqa: PLC0415 -- with Ray
    from search.engines.ray.node import serve  # noqa: PLC0415 -- an optional extra

    with interrupts():
        return serve(target.name, arguments.ray_address, arguments.cpus)
