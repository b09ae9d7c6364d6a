"""Clients: the server is driven by tuspy and by tus-js-client in their modes, and what arrives is compared."""

from __future__ import annotations

import hashlib
import secrets
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tus_conformance.cases.interruptions import BETWEEN_TRIES_SECONDS, beginning, cut
from tus_conformance.clients import tus_js_client, tuspy
from tus_conformance.rules import case
from tus_conformance.server import Server, Skipped, expect_refused, fail

LENGTH = 2 * 1024 * 1024 + 4321
CHUNK = 512 * 1024

Client = Callable[[Server, Mapping[str, Any]], dict[str, str]]


def _send(client: Client, server: Server, length: int = LENGTH, **options: object) -> str | None:
    """Let a client send a file, and compare what arrives."""
    with tempfile.TemporaryDirectory() as folder:
        content = secrets.token_bytes(length)
        file = Path(folder, "tus-conformance.bin")
        file.write_bytes(content)
        told = client(server, {"file": str(file), **options})
    return _compare(server, _url(told, "finished"), content)


def _url(told: Mapping[str, str], what: str) -> str:
    if what not in told:
        fail(f"that the upload is {what}", got=f"that the client ended without it, having told of {', '.join(told)}")
    return told[what]


def _compare(server: Server, url: str, content: bytes) -> str | None:
    if (offset := server.offset(url)) != len(content):
        fail(f"offset {len(content)}", got=f"offset {offset}")
    stored = server.content(url)
    if stored is None:
        return "without GET, only the offset could be compared"
    sent, arrived = hashlib.sha256(content).hexdigest(), hashlib.sha256(stored).hexdigest()
    if arrived != sent:
        fail(f"{len(content)} bytes with SHA-256 {sent}", got=f"{len(stored)} bytes with {arrived}")
    return None


def _require(server: Server, *extensions: str) -> None:
    for extension in extensions:
        if extension not in server.extensions:
            raise Skipped(f"{extension} is not advertised")


# tuspy


@case("clients.tuspy")
def tuspy_whole(server: Server) -> str | None:
    """A file in one PATCH"""
    return _send(tuspy, server)


@case("clients.tuspy")
def tuspy_chunks(server: Server) -> str | None:
    """A file in chunks"""
    return _send(tuspy, server, chunk_size=CHUNK)


@case("clients.tuspy")
def tuspy_empty(server: Server) -> str | None:
    """A file without a byte"""
    return _send(tuspy, server, 0)


@case("clients.tuspy")
def tuspy_checksum(server: Server) -> str | None:
    """A file in chunks with checksums"""
    _require(server, "checksum")
    return _send(tuspy, server, chunk_size=CHUNK, upload_checksum=True)


@case("clients.tuspy")
def tuspy_resumed(server: Server) -> str | None:
    """A file whose upload stops, is cut in the next PATCH, and is resumed"""
    with tempfile.TemporaryDirectory() as folder:
        content = secrets.token_bytes(LENGTH)
        file = Path(folder, "tus-conformance.bin")
        file.write_bytes(content)
        task = {"file": str(file), "chunk_size": CHUNK}
        url = _url(tuspy(server, {**task, "stop_at": CHUNK}), "created")
        with cut(server, url, beginning(server, url, CHUNK, content[CHUNK:], CHUNK // 2, False), "FIN"):
            deadline = time.monotonic() + server.options.timeout
            # tuspy takes no 423 for an answer to its first HEAD.
            while not server.head(url).is_success and time.monotonic() < deadline:
                time.sleep(BETWEEN_TRIES_SECONDS)
            tuspy(server, {**task, "url": url})
    return _compare(server, url, content)


# tus-js-client


@case("clients.tus-js-client")
def js_whole(server: Server) -> str | None:
    """A file in one PATCH"""
    return _send(tus_js_client, server)


@case("clients.tus-js-client")
def js_chunks(server: Server) -> str | None:
    """A file in chunks"""
    return _send(tus_js_client, server, chunkSize=CHUNK)


@case("clients.tus-js-client")
def js_empty(server: Server) -> str | None:
    """A file without a byte"""
    return _send(tus_js_client, server, 0)


@case("clients.tus-js-client")
def js_resumed(server: Server) -> str | None:
    """A file whose upload is paused while bytes are sent, and resumed at once"""
    return _send(tus_js_client, server, interrupt="resume")


@case("clients.tus-js-client")
def js_without_patch(server: Server) -> str | None:
    """A file by POST with X-HTTP-Method-Override"""
    return _send(tus_js_client, server, overridePatchMethod=True)


@case("clients.tus-js-client")
def js_stream(server: Server) -> str | None:
    """A stream whose length is known at its end"""
    _require(server, "creation-defer-length")
    return _send(tus_js_client, server, asStream=True, uploadLengthDeferred=True, chunkSize=CHUNK)


@case("clients.tus-js-client")
def js_with_creation(server: Server) -> str | None:
    """A file in chunks, the first of them with the creation"""
    _require(server, "creation-with-upload")
    return _send(tus_js_client, server, uploadDataDuringCreation=True, chunkSize=CHUNK)


@case("clients.tus-js-client")
def js_parallel(server: Server) -> str | None:
    """A file in four parts at the same time"""
    _require(server, "concatenation")
    partial = dict(server.options.metadata)
    return _send(tus_js_client, server, parallelUploads=4, metadataForPartialUploads=partial)


@case("clients.tus-js-client")
def js_terminated(server: Server) -> None:
    """An upload that is terminated while bytes are sent is gone"""
    _require(server, "termination")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "tus-conformance.bin")
        file.write_bytes(secrets.token_bytes(LENGTH))
        told = tus_js_client(server, {"file": str(file), "interrupt": "terminate"})
    expect_refused(server.head(_url(told, "terminated")), "that the upload is gone")
