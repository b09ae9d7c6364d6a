"""How the S3 store is chosen, and what is said if it cannot be."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

from tusd_py.cli import cli
from tusd_py.config import Config, ConfigError
from tusd_py.stores.s3 import S3Store
from tusd_py.testing.s3 import S3Server

WITHOUT_THE_EXTRA = """
import sys
sys.modules["aiobotocore"] = None
from tusd_py.cli import main
main()
"""


@pytest.mark.parametrize(
    ("url", "bucket", "prefix"),
    [
        ("s3://bucket", "bucket", ""),
        ("s3://bucket/", "bucket", ""),
        ("s3://my.bucket-1/a/b/", "my.bucket-1", "a/b/"),
    ],
)
def test_url(url: str, bucket: str, prefix: str) -> None:
    """The URL names bucket and prefix."""
    store = S3Store.from_url(url, Config())
    assert (store.bucket.name, store.prefix) == (bucket, prefix)


@pytest.mark.parametrize("url", ["s3:", "s3://", "s3:bucket", "s3:///prefix", "s3://Bucket", "s3://b/x"])
def test_url_that_names_no_bucket(url: str) -> None:
    """What is no name of a bucket is refused with the right form."""
    with pytest.raises(ConfigError, match="s3://bucket/prefix"):
        S3Store.from_url(url, Config())


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({}, "https://my-bucket.s3.amazonaws.com/key"),
        ({"s3_addressing": "path"}, "https://s3.eu-central-1.amazonaws.com/my-bucket/key"),
        ({"s3_endpoint": "https://s3.example"}, "https://s3.example/my-bucket/key"),
        ({"s3_endpoint": "https://s3.example", "s3_addressing": "virtual"}, "https://my-bucket.s3.example/key"),
    ],
)
async def test_addressing(monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], url: str) -> None:
    """The bucket is in the host's name or in the path: as the settings say, or else as the service is known to want."""
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    store = S3Store.from_url("s3://my-bucket", Config(**settings))
    await store.bucket.open()
    signed = await store.bucket._client.generate_presigned_url(
        "get_object", Params={"Bucket": "my-bucket", "Key": "key"}
    )
    await store.aclose()
    assert signed.partition("?")[0] == url


def test_extra_is_named() -> None:
    """Without the library the error says what to install."""
    command = [sys.executable, "-c", WITHOUT_THE_EXTRA, "check", "--store", "s3://bucket"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "pip install 'tusd-py[s3]'" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.one_server
def test_check(s3: S3Server, tmp_path) -> None:
    """`tusd-py check` says whether the bucket can be used, and why not."""
    good = ["check", "--upload-dir", str(tmp_path), *s3.options("check")]
    assert CliRunner().invoke(cli, good).exit_code == 0
    bad = ["check", "--upload-dir", str(tmp_path), "--store", "s3://nobody", "--s3-endpoint", s3.endpoint]
    result = CliRunner().invoke(cli, bad)
    assert result.exit_code == 1
    assert "the bucket nobody cannot be used: the bucket does not exist" in result.output
