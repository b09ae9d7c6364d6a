"""Two clients on one upload: PATCH requests at the same offset, and HEAD while a PATCH stalls."""

from __future__ import annotations

import contextlib
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier

from tus_conformance.cases.interruptions import BETWEEN_TRIES_SECONDS, READING_SECONDS, beginning, cut
from tus_conformance.rules import case
from tus_conformance.server import Blocked, Server, Skipped, described, fail, number
from tus_conformance.wire import Answer, Connection, NoAnswer

LENGTH = 256 * 1024
# A machine can be slow by chance.
TRIES = 3


@case("recommended.prompt-head")
def head_while_a_patch_stalls(server: Server) -> str:
    """HEAD tells an offset within a second, and a PATCH there succeeds"""
    seconds: list[float] = []
    while len(seconds) < TRIES and min(seconds, default=2) > 1:
        url = server.create(LENGTH)
        content = secrets.token_bytes(LENGTH)
        with cut(server, url, beginning(server, url, 0, content, LENGTH // 2, False), "silence"):
            told = server.head(url)
            seconds.append(told.seconds)
            offset = number(told.get("Upload-Offset"))
            if not told.is_success or offset is None:
                fail("Upload-Offset", told, got=described(told, "Upload-Offset"))
            deadline = time.monotonic() + server.options.timeout
            while (answer := server.patch(url, offset, content[offset:])).status == 423:
                if time.monotonic() > deadline:
                    break
                time.sleep(BETWEEN_TRIES_SECONDS)
            if not answer.is_success:
                fail(f"success for a PATCH at offset {offset}, as HEAD told", told, answer)
    if min(seconds) > 1:
        fail("an answer within a second", got=f"one after {min(seconds):.1f} seconds or more, {TRIES} times")
    return f"after {min(seconds):.2f} seconds"


@dataclass
class _Patch:
    """What one of two clients sends, and what it is told."""

    upload: bytes
    """The upload as this client has it."""
    start: int
    connection: Connection
    answer: Answer | None = None

    def send(self, data: bytes) -> None:
        self.connection.send(data)

    def read_answer(self) -> None:
        with contextlib.suppress(NoAnswer):
            self.answer = self.connection.answer("PATCH")

    @property
    def acknowledged(self) -> range:
        """The bytes that the server says it has taken."""
        is_success = self.answer is not None and self.answer.is_success
        end = number(self.answer.get("Upload-Offset")) if self.answer and is_success else None
        return range(self.start, end or self.start)

    def __str__(self) -> str:
        return str(self.answer.status) if self.answer else "no answer"


def _judge(server: Server, url: str, *patches: _Patch) -> str:
    """Compare what two clients were told with what is stored."""
    remark = " and ".join(map(str, patches))
    answers = [patch.answer for patch in patches if patch.answer is not None]
    claims = [patch for patch in patches if patch.acknowledged]
    if len(claims) > 1 and max(patch.start for patch in claims) < min(patch.acknowledged.stop for patch in claims):
        fail("that the same bytes are not taken from two clients", *answers, got=remark)
    offset = server.offset(url)
    if offset < (acknowledged := max(patch.acknowledged.stop for patch in patches)):
        fail(f"an offset of {acknowledged} or more, as was acknowledged", *answers, got=f"{offset}")
    rest = bytes(max(0, LENGTH - offset))
    if rest:
        server.append(url, offset, rest)
    stored = server.content(url)
    allowed = [
        patch.upload[:offset] + rest
        for patch in patches
        if all(patch.upload.startswith(claim.upload[: claim.acknowledged.stop]) for claim in claims)
    ]
    if stored is not None and stored not in allowed:
        fail(
            "the bytes of one client, the one that was told so if there is one",
            *answers,
            got=f"{remark}, but other bytes",
        )
    return remark


def _while_the_first_stalls(server: Server, *, is_told_the_offset: bool) -> str:
    url = server.create(LENGTH)
    content = secrets.token_bytes(LENGTH)
    half = beginning(server, url, 0, content, LENGTH // 2, False)
    with cut(server, url, half, "silence") as connection, server.connect(url) as another:
        first = _Patch(content, 0, connection)
        start = 0
        if is_told_the_offset:
            try:
                start = server.offset(url)
            except Blocked:
                raise Skipped("HEAD tells no offset while a PATCH stalls") from None
        second = _Patch(content[:start] + secrets.token_bytes(LENGTH - start), start, another)
        second.send(server.patch_message(url, start, second.upload[start:]))
        another.interim(server.options.patience)  # the server may as well let the second one wait
        first.send(content[LENGTH // 2 :])
        first.read_answer()
        second.read_answer()
    return _judge(server, url, first, second)


@case("interruptions.two-clients")
def same_offset_while_the_first_stalls(server: Server) -> str:
    """A client stalls half-way, a second one sends other bytes from the same offset, the first one goes on"""
    return _while_the_first_stalls(server, is_told_the_offset=False)


@case("interruptions.two-clients")
def next_offset_while_the_first_stalls(server: Server) -> str:
    """A client stalls half-way, a second one sends other bytes from the offset of HEAD, the first one goes on"""
    return _while_the_first_stalls(server, is_told_the_offset=True)


@case("interruptions.two-clients")
def at_once(server: Server) -> str:
    """Two clients send other bytes from the same offset at the same time: everything at once, or the heads first"""
    remarks = []
    for pause in (0, READING_SECONDS) * 2:
        url = server.create(LENGTH)
        with contextlib.ExitStack() as connections, ThreadPoolExecutor(2) as clients:
            patches = [
                _Patch(secrets.token_bytes(LENGTH), 0, connections.enter_context(server.connect(url))) for _ in range(2)
            ]
            head = beginning(server, url, 0, bytes(LENGTH), 0, False)
            together = Barrier(2)

            def send(patch: _Patch, head: bytes = head, pause: float = pause, together: Barrier = together) -> None:
                if pause:
                    patch.send(head)
                    time.sleep(pause)
                together.wait()
                patch.send(patch.upload if pause else head + patch.upload)
                patch.read_answer()

            list(clients.map(send, patches))
        remarks.append(_judge(server, url, *patches))
    return "; ".join(dict.fromkeys(remarks))
