"""The files in deploy/: what each tool reads must be what it can read, and agree with the rest."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from search.cli.main import build_parser
from tests.clusters import HAS_RAY

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"

pytestmark = pytest.mark.skipif(not HAS_RAY, reason="the extra `ray` is not installed")


def test_ray_up_reads_the_cluster_file() -> None:
    """By Ray's own checks: its JSON schema, then what the provider needs."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((DEPLOY / "ray-cluster.yaml").read_text())
    prepared = prepare_config(config)
    validate_config(prepared)
    assert prepared["provider"]["type"] == "local"
    assert prepared["max_workers"] == len(config["provider"]["worker_ips"])
    with pytest.raises(Exception, match="max_worker"):
        validate_config({**prepared, "max_worker": 2})


def kuberay() -> tuple[dict[str, Any], dict[str, Any]]:
    claim, cluster = yaml.safe_load_all((DEPLOY / "kuberay.yaml").read_text())
    return claim, cluster


def test_the_kuberay_manifest_holds_together() -> None:
    claim, cluster = kuberay()
    assert (cluster["apiVersion"], cluster["kind"]) == ("ray.io/v1", "RayCluster")
    spec = cluster["spec"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    images = set()
    for group in groups:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        images.add(container["image"])
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for mount in container["volumeMounts"]:
            named = volumes[mount["name"]]["persistentVolumeClaim"]["claimName"]
            assert named == claim["metadata"]["name"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
    assert len(images) == 1, "head and workers must run the same code"
    for group in spec["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_every_file_names_the_ray_that_is_tested() -> None:
    pinned = next(
        line.partition("==")[2]
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line.startswith("ray==")
    )
    assert kuberay()[1]["spec"]["rayVersion"] == pinned
    assert f"rayproject/ray:{pinned}-" in (DEPLOY / "Dockerfile").read_text()


def test_bash_reads_the_slurm_script() -> None:
    subprocess.run(["bash", "-n", DEPLOY / "slurm.sh"], check=True, timeout=20)
    options = [
        line.split()[1]
        for line in (DEPLOY / "slurm.sh").read_text().splitlines()
        if line.startswith("#SBATCH")
    ]
    assert len(options) >= 5
    assert all(option.startswith("--") and "=" in option for option in options)


@pytest.mark.parametrize("name", ["ray-cluster.yaml", "kuberay.yaml"])
def test_the_commands_shown_in_comments_parse(name: str) -> None:
    lines = [line.lstrip("# ") for line in (DEPLOY / name).read_text().splitlines()]
    shown = [line for line in lines if line.startswith("search submit")]
    assert len(shown) == 1
    sent = shown[0].replace(" ...", "").split()[1:]
    parsed = build_parser().parse_args(sent)
    assert build_parser().parse_args(parsed.arguments).storage == "/shared/runs"
