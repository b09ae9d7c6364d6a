"""tus-js-client in Node sends a file of 1 GiB in each of the ways it knows."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tusd_py.testing.server import ServerProcess

pytestmark = [pytest.mark.needs_node, pytest.mark.usefixtures("node_packages"), pytest.mark.timeout(300)]

CHUNK = 64 * 2**20


@pytest.fixture
def upload(
    run_client: Callable[..., list[dict[str, Any]]],
    assert_arrived: Callable[[str, Path], None],
    server: ServerProcess,
    big_file: Path,
) -> Callable[..., list[dict[str, Any]]]:
    """A function that sends the big file with these options, checks that it arrived, and returns the answers.

    Retries are off, so that no failure is mended behind the test's back.
    """

    def run(**options: Any) -> list[dict[str, Any]]:
        *answers, finished = run_client(
            "node", "upload.mjs", file=str(big_file), endpoint=server.url, retryDelays=None, **options
        )
        assert_arrived(finished["finished"], big_file)
        return answers

    return run


def chunk_ends(file: Path) -> list[int]:
    """The offsets behind each chunk of a file."""
    size = file.stat().st_size
    return [*range(CHUNK, size, CHUNK), size]


def statuses(answers: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """Methods and status codes in the order of the answers."""
    return [(answer["method"], answer["status"]) for answer in answers]


def test_plain(upload: Callable[..., list[dict[str, Any]]]) -> None:
    """The whole file goes in one PATCH."""
    answers = upload(metadata={"filename": "größe \u2603.bin", "filetype": "application/octet-stream"})
    assert statuses(answers) == [("POST", 201), ("PATCH", 204)]


def test_chunked(upload: Callable[..., list[dict[str, Any]]], big_file: Path) -> None:
    """Each PATCH carries one chunk, and each answer tells the offset behind it."""
    _created, *chunks = upload(chunkSize=CHUNK)
    assert [chunk["offset"] for chunk in chunks] == chunk_ends(big_file)


def test_parallel(upload: Callable[..., list[dict[str, Any]]]) -> None:
    """Four partial uploads are sent side by side and joined by the server."""
    *parts, joined = upload(parallelUploads=4, metadata={"filename": "parallel.bin"})
    assert Counter((part["method"], part["concat"], part["status"]) for part in parts) == {
        ("POST", "partial", 201): 4,
        ("PATCH", "partial", 204): 4,
    }
    urls = joined["concat"].removeprefix("final;").split(" ")
    assert set(urls) == {part["url"] for part in parts}
    assert (joined["method"], joined["status"]) == ("POST", 201)


def test_deferred_length(upload: Callable[..., list[dict[str, Any]]], big_file: Path) -> None:
    """A stream of unknown length is sent in chunks; the last request says how long it was."""
    created, *chunks = upload(asStream=True, uploadLengthDeferred=True, chunkSize=CHUNK)
    assert created["status"] == 201
    # The client may notice the end of its stream only after the last chunk, and tell the length with no data.
    assert sorted({chunk["offset"] for chunk in chunks}) == chunk_ends(big_file)


def test_data_during_creation(upload: Callable[..., list[dict[str, Any]]], big_file: Path) -> None:
    """The POST that creates the upload carries the whole file."""
    (created,) = upload(uploadDataDuringCreation=True)
    assert (created["method"], created["status"]) == ("POST", 201)
    assert created["offset"] == big_file.stat().st_size


def test_first_chunk_during_creation(upload: Callable[..., list[dict[str, Any]]], big_file: Path) -> None:
    """The POST that creates the upload carries the first chunk, PATCH requests the others."""
    answers = upload(uploadDataDuringCreation=True, chunkSize=CHUNK)
    assert statuses(answers) == [("POST", 201)] + [("PATCH", 204)] * (len(answers) - 1)
    assert [answer["offset"] for answer in answers] == chunk_ends(big_file)


def test_method_override(upload: Callable[..., list[dict[str, Any]]]) -> None:
    """PATCH is sent as POST with X-HTTP-Method-Override."""
    answers = upload(overridePatchMethod=True, chunkSize=4 * CHUNK)
    assert statuses(answers) == [("POST", 201)] + [("POST", 204)] * (len(answers) - 1)
    assert all(answer["override"] == "PATCH" for answer in answers[1:])
