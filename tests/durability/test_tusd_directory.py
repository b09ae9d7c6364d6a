"""A directory of tusd's can be opened, uploads in flight included, and tusd can read ours.

The manifests in `tusd/` are as tusd's file store writes them: tusd 2 with absolute and relative paths, and tusd 1.
"""

import asyncio
import base64
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tusd_py.testing.raw import RawClient

DATA = bytes(range(250)) * 4
BEGUN = "0b1ce2d5f6a7480980a1b2c3d4e5f607"
DEFERRED = "1c2df3e6a7b8491a91b2c3d4e5f60718"
FIRST_PART = "2d3ea4f7b8c94a2ba2c3d4e5f6071829"
SECOND_PART = "3e4fb5a8c9da4b3cb3d4e5f60718293a"
JOINED = "4f50c6b9daeb4c4dc4e5f60718293a4b"
OF_TUSD_1 = "5061d7caebfc4d5ed5f60718293a4b5c"


@pytest.fixture
def tusd_data(data: Path) -> Path:
    """A directory as tusd left it."""
    shutil.copytree(Path(__file__).parent / "tusd", data)
    for upload_id, stored in {
        BEGUN: DATA[:300],
        DEFERRED: DATA[:200],
        FIRST_PART: DATA[:400],
        SECOND_PART: DATA[400:],
        JOINED: DATA,
        OF_TUSD_1: DATA[:100],
    }.items():
        (data / upload_id).write_bytes(stored)
    return data


async def test_uploads_go_on(start: Any, tusd_data: Path) -> None:
    """What tusd began is finished here, with its metadata."""
    client = RawClient((server := start()).url)
    for upload_id, offset in {BEGUN: 300, OF_TUSD_1: 100}.items():
        url = server.url + upload_id
        answer = await client.head(url)
        assert (answer.status, answer.offset, answer.headers["Upload-Length"]) == (200, offset, "1000")
        assert (await client.patch(url, offset, DATA[offset:])).status == 204
        answer = await client.get(url)
        assert answer.body == DATA
    metadata = (await client.head(server.url + BEGUN)).headers["Upload-Metadata"]
    sent = dict(pair.split(" ") for pair in metadata.split(","))
    assert base64.b64decode(sent["filename"]).decode() == "Zoë's <plan> & more.pdf"


async def test_deferred_length(start: Any, tusd_data: Path) -> None:
    """An upload whose length tusd did not know yet can be told it here."""
    client = RawClient((server := start()).url)
    url = server.url + DEFERRED
    answer = await client.head(url)
    assert (answer.offset, answer.headers["Upload-Defer-Length"]) == (200, "1")
    assert (await client.patch(url, 200, DATA[200:], {"Upload-Length": 1000})).status == 204
    assert (await client.get(url)).body == DATA


async def test_parts(start: Any, tusd_data: Path) -> None:
    """Parts that tusd received can be joined here."""
    client = RawClient((server := start()).url)
    answer = await client.post({"Upload-Concat": f"final;/files/{SECOND_PART} {server.url}{FIRST_PART}"})
    assert answer.status == 201
    assert (await client.get(answer.headers["Location"])).body == DATA[400:] + DATA[:400]


@pytest.mark.parametrize("parts", ["still there", "removed"])
async def test_joined_upload(start: Any, tusd_data: Path, parts: str) -> None:
    """What tusd has joined is complete here, whether or not its parts are left."""
    if parts == "removed":
        for part in (FIRST_PART, SECOND_PART):
            (tusd_data / part).unlink()
            (tusd_data / f"{part}.info").unlink()
    client = RawClient((server := start()).url)
    answer = await client.head(server.url + JOINED)
    assert (answer.status, answer.offset) == (200, 1000)
    assert answer.headers["Upload-Concat"].startswith("final;")
    assert (await client.get(server.url + JOINED)).body == DATA


async def test_file_elsewhere(start: Any, tusd_data: Path, tmp_path: Path) -> None:
    """A file that a hook of tusd's put outside the directory is refused, not lost and not read."""
    outside = tmp_path / "outside"
    outside.write_bytes(DATA[:300])
    manifest = tusd_data / f"{BEGUN}.info"
    value = json.loads(manifest.read_text())
    value["Storage"]["Path"] = "/srv/tusd/outside"
    manifest.write_text(json.dumps(value))
    client = RawClient((server := start()).url)
    answer = await client.get(server.url + BEGUN)
    assert (answer.status, answer.code) == (403, "ERR_FORBIDDEN")
    assert (await client.patch(server.url + BEGUN, 300, DATA[300:])).status == 403
    assert outside.read_bytes() == DATA[:300]
    assert manifest.exists()


async def test_tusd_reads_ours(start: Any, data: Path) -> None:
    """Our manifests have every field of tusd's with its type, and say where the bytes are."""
    client = RawClient(start().url)
    part = await client.create(10, {"Upload-Concat": "partial"}, DATA[:10])
    urls = [
        part,
        await client.create(1000, {"Upload-Metadata": "filename w5xiZXI=,empty"}, DATA[:100]),
        await client.create(None, {"Upload-Defer-Length": "1"}),
        (await client.post({"Upload-Concat": f"final;{part} {part}"})).headers["Location"],
    ]
    types = {
        "ID": str,
        "Size": int,
        "SizeIsDeferred": bool,
        "Offset": int,
        "MetaData": dict,
        "IsPartial": bool,
        "IsFinal": bool,
        "PartialUploads": list | None,
        "Storage": dict,
    }
    for url in urls:
        upload_id = url.rsplit("/", 1)[-1]
        manifest = json.loads((data / f"{upload_id}.info").read_bytes())
        for name, kind in types.items():
            assert isinstance(manifest[name], kind), (name, manifest)
        assert all(isinstance(value, str) for value in {**manifest["MetaData"], **manifest["Storage"]}.values())
        assert manifest["ID"] == upload_id
        assert manifest["Storage"]["Path"] == str(data / upload_id)
        assert manifest["Storage"]["InfoPath"] == str(data / f"{upload_id}.info")
        assert "/" not in "".join(manifest["PartialUploads"] or [])


@pytest.mark.parametrize("how_much", ["more", "all"])
async def test_tusd_goes_on_with_ours(start: Any, data: Path, how_much: str) -> None:
    """Bytes that tusd appended to an upload of ours, while our server was stopped, count when it runs again."""
    server = start()
    client = RawClient(server.url)
    url = await client.create(len(DATA), body=DATA[:100])
    server.stop()
    with (data / url.rsplit("/", 1)[-1]).open("ab") as file:
        file.write(DATA[100 : 600 if how_much == "more" else None])
    await asyncio.to_thread(server.start)
    offset = await client.offset(url)
    assert offset == (600 if how_much == "more" else len(DATA))
    assert (await client.patch(url, offset, DATA[offset:])).status == 204
    assert (await client.get(url)).body == DATA
