"""Work ahead of the check: each piece is done once, as it arrives, and who takes the answer gets what there is."""

import asyncio
import threading
from pathlib import Path

import pytest

from tusd_py.ahead import MOST_UPLOADS, Ahead
from tusd_py.content import StoredFile
from tusd_py.models import Concat
from tusd_py.testing.contracts import new_upload, wait_until


def first(size, path="/data/file"):
    """So many bytes of a file."""
    return StoredFile(Path(path), size)


class Tens:
    """Answers with the numbers of all tens of bytes."""

    def __init__(self):
        """Wait with nothing yet."""
        self.may_go, self.has_begun = threading.Event(), threading.Event()
        self.may_go.set()
        self.begun, self.over = [], 0
        self.ahead = Ahead(self.pieces)

    def pieces(self, upload, content, answer):
        """Add those that are there and not in the answer."""
        answer = answer or []
        for number in range(len(answer), content.size // 10):
            self.begun.append((upload.id, number))
            self.has_begun.set()
            assert self.may_go.wait(10)
            if upload.metadata.get("broken"):
                raise ValueError("broken")
            answer = [*answer, number]
            yield answer
        self.over += 1

    async def until_over(self, turns):
        """Wait for the end of so many turns."""
        await wait_until(lambda: self.over == turns)


@pytest.fixture
def tens():
    """Work that has not begun."""
    return Tens()


async def test_each_piece_is_done_once(tens):
    """What arrives later adds to what is done, and what was taken is forgotten."""
    upload = new_upload()
    for turn, size in enumerate((5, 25, 40), 1):
        tens.ahead.received(upload, first(size))
        await tens.until_over(turn)
    assert tens.begun == [(upload.id, number) for number in range(4)]
    assert tens.ahead.taken(upload) == [0, 1, 2, 3]
    assert tens.ahead.taken(upload) is None


async def test_an_id_that_is_given_again_is_another_upload(tens):
    """Answers about the former upload say nothing of the bytes of the next."""
    former = new_upload()
    tens.ahead.received(former, first(20))
    await tens.until_over(1)
    assert tens.ahead.taken(new_upload(id=former.id)) is None


async def test_who_takes_waits_for_the_piece_that_is_worked_on_and_no_longer(tens):
    """The piece is in the answer, those behind it are not begun, and other uploads have their turn."""
    upload, other = new_upload(), new_upload()
    tens.ahead.received(upload, first(10))
    await tens.until_over(1)
    tens.may_go.clear()
    tens.has_begun.clear()
    tens.ahead.received(upload, first(1000))
    assert await asyncio.to_thread(tens.has_begun.wait, 10)
    tens.ahead.received(other, first(20))
    taking = asyncio.create_task(asyncio.to_thread(tens.ahead.taken, upload))
    await wait_until(lambda: tens.ahead.answer(upload) is None)
    assert not taking.done()
    tens.may_go.set()
    assert await taking == [0, 1]
    await tens.until_over(2)
    assert tens.begun == [(upload.id, 0), (upload.id, 1), (other.id, 0), (other.id, 1)]


async def test_failed_work_leaves_its_answers_and_the_others_their_turn(tens):
    """An upload that cannot be worked on is not tried again; the check will say why."""
    broken, upload = new_upload(metadata={"broken": "yes"}), new_upload()
    for turn, size in enumerate((20, 30), 1):
        tens.ahead.received(broken, first(size))
        tens.ahead.received(upload, first(size))
        await tens.until_over(turn)
    assert tens.begun.count((broken.id, 0)) == 1
    assert tens.ahead.taken(broken) is None
    assert tens.ahead.taken(upload) == [0, 1, 2]


async def test_answers_are_kept_for_a_few_uploads(tens):
    """Those that received something longest ago are forgotten first, so that nobody can fill the memory."""
    uploads = [new_upload() for _ in range(MOST_UPLOADS + 2)]
    for turn, upload in enumerate(uploads, 1):
        tens.ahead.received(upload, first(10))
        await tens.until_over(turn)
    assert [tens.ahead.answer(upload) for upload in uploads] == [None] * 2 + [[0]] * MOST_UPLOADS


async def test_some_uploads_are_not_worked_on(tens):
    """A part, what is too short, and what cannot be read here leave the thread to others."""
    upload = new_upload()
    tens.ahead.received(new_upload(concat=Concat("partial", "partial")), first(20))
    tens.ahead.received(new_upload(), None)
    tens.ahead.received(new_upload(), first(20), least=21)
    tens.ahead.received(upload, first(20), least=20)
    await tens.until_over(1)
    assert tens.begun == [(upload.id, 0), (upload.id, 1)]
