"""Termination: DELETE removes an upload for good."""

import os
from pathlib import Path

import pytest

from tusd_py.testing.raw import OFFSET_STREAM, RawClient
from tusd_py.testing.server import ServerProcess


@pytest.mark.parametrize("body", [b"", b"abc", b"abcde"], ids=["no bytes", "unfinished", "complete"])
async def test_termination(tus: RawClient, body: bytes) -> None:
    """A terminated upload is gone for every method, and is told to be gone rather than unknown."""
    url = await tus.create(5, body=body)
    answer = await tus.delete(url)
    assert (answer.status, answer.body) == (204, b"")
    for gone in (
        await tus.head(url),
        await tus.get(url),
        await tus.patch(url, len(body), b"x"),
        await tus.patch(url, len(body)),
        await tus.delete(url),
        await tus.patch(url, 0, headers={"Upload-Length": 5}),
    ):
        assert (gone.status, gone.offset) == (410, None)


async def test_bytes_are_freed(tmp_path: Path) -> None:
    """Nothing is left on the disk, and the memory of it outlives a restart."""
    with ServerProcess("--upload-dir", str(tmp_path)) as server:
        tus = RawClient(server.url)
        url = await tus.create(5, body=b"abc")
        files = [tmp_path / url.rpartition("/")[2], tmp_path / f"{url.rpartition('/')[2]}.info"]
        assert all(map(os.path.exists, files))
        assert (await tus.delete(url)).status == 204
        assert not any(map(os.path.exists, files))
        server.kill()
        server.restart()
        assert (await tus.head(url)).status == 410


async def test_nothing_to_terminate(tus: RawClient) -> None:
    """An unknown upload cannot be terminated, and the collection neither."""
    assert (await tus.delete(tus.url + "unknown")).status == 404
    assert (await tus.delete(tus.url)).status == 405


async def test_body_is_ignored(tus: RawClient) -> None:
    """A body of DELETE means nothing, and is not taken for the next request."""
    url = await tus.create(5)
    async with tus.connect() as connection:
        await connection.send(tus.message("DELETE", url, {"Content-Type": "text/plain"}, tus.message("OPTIONS")))
        await connection.send(tus.message("HEAD", url))
        assert (await connection.answer()).status == 204
        assert (await connection.answer("HEAD")).status == 410


async def test_running_patch_is_stopped(tus: RawClient) -> None:
    """DELETE stops a PATCH in progress, whose client learns that its bytes are not wanted any more."""
    url = await tus.create(10)
    async with tus.connect() as connection:
        headers = {"Content-Length": 10, "Content-Type": OFFSET_STREAM, "Expect": "100-continue"}
        await connection.send(tus.patch_message(url, 0, headers=headers))
        assert (await connection.answer()).status == 100
        await connection.send(b"abc")
        assert (await tus.delete(url)).status == 204
        assert (await connection.answer()).status == 423
    assert (await tus.head(url)).status == 410


async def test_member_of_a_concatenation(tus: RawClient) -> None:
    """What was made of a part does not go with it; a part that is gone cannot be used again."""
    part = await tus.create(3, {"Upload-Concat": "partial"}, b"abc")
    final = (await tus.post({"Upload-Concat": f"final;{part}"})).headers["Location"]
    assert (await tus.delete(part)).status == 204
    assert (await tus.get(final)).body == b"abc"
    answer = await tus.post({"Upload-Concat": f"final;{part} {part}"})
    assert (answer.status, answer.code) == (400, "ERR_INVALID_CONCAT")
    assert (await tus.delete(final)).status == 204
    assert (await tus.head(final)).status == 410
