"""A real S3 server (moto's server mode) on loopback, in this process, and its environment."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

__all__ = ["s3_server"]

NAMES = {
    "AWS_ACCESS_KEY_ID": "tester",
    "AWS_SECRET_ACCESS_KEY": "tester",
    "AWS_REGION": "us-east-1",
}


@contextmanager
def s3_server() -> Iterator[str]:
    """The address of an empty bucket; boto3 in this process and its children finds the server."""
    pytest.importorskip("boto3", reason="the extra `s3` is not installed")
    moto = pytest.importorskip("moto.server", reason="moto[server] is not installed")
    import boto3

    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**NAMES, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}.items():
            patch.setitem(os.environ, name, value)
        boto3.client("s3").create_bucket(Bucket="bucket")
        yield "s3://bucket"
    server.stop()
