"""Work on an upload while its bytes arrive, so that less is left for its check; for plugins."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator
from datetime import datetime
from typing import Generic, TypeVar

import structlog

from tusd_py.models import Content, Upload

MOST_UPLOADS = 32
"""Answers are kept for so many uploads: those that received something last."""
Answer = TypeVar("Answer")
Answers = Generator[Answer, None, None]
Work = Callable[[Upload, Content, Answer | None], Answers[Answer]]
"""Yields what there is to say of an upload, from its start on, piece by piece as far as its bytes are there.

The last argument is what was yielded last, from which it goes on. It may take its time.
"""

_log = structlog.get_logger("tusd_py.ahead")


class Ahead(Generic[Answer]):
    """What there is to say of the first bytes of uploads that are still on their way.

    What was received once does not change, so that an answer holds for the complete upload too. Answers live in this
    process alone: whoever asks for one does the rest himself, and that may be everything.
    """

    def __init__(self, work: Work[Answer]) -> None:
        """Have `work` done in one thread, for one upload at a time."""
        self._work = work
        self._changed = threading.Condition()
        self._known: dict[tuple[str, datetime], _Known[Answer]] = {}
        self._busy: _Known[Answer] | None = None
        self._is_running = False

    def received(self, upload: Upload, content: Content | None, *, least: int = 0) -> None:
        """Take note of what `post_receive` tells; this does not wait.

        Nothing is done about less than `least` bytes, about parts of a concatenation, and about what is not in a file
        of this machine: S3 gives nothing back before an upload is complete.
        """
        if upload.is_partial or content is None or content.size < least or not content.url.startswith("file:"):
            return
        with self._changed:
            known = self._known.pop(_key(upload), None) or _Known()
            known.news = (upload, content)
            self._known[_key(upload)] = known
            if len(self._known) > MOST_UPLOADS:
                self._known.pop(next(iter(self._known))).is_over = True
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._run, name="work ahead", daemon=True).start()

    def answer(self, upload: Upload) -> Answer | None:
        """Return the answer so far, or None."""
        known = self._known.get(_key(upload))
        return None if known is None else known.answer

    def taken(self, upload: Upload) -> Answer | None:
        """Return the answer, or None, and forget it; a piece that is being worked on is waited for."""
        with self._changed:
            known = self._known.pop(_key(upload), None)
            if known is None:
                return None
            known.is_over = True
            self._changed.wait_for(lambda: self._busy is not known)
            return known.answer

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = None
                self._changed.notify_all()
                self._busy = known = next((known for known in self._known.values() if known.has_work), None)
                if known is None or known.news is None:
                    self._is_running = False
                    return
                (upload, content), known.news = known.news, None
            try:
                with contextlib.closing(self._work(upload, content, known.answer)) as answers:
                    for answer in answers:
                        known.answer = answer
                        if known.is_over:
                            break
            except Exception as error:
                # The check will meet the same and tell it; a message may quote what is in the upload.
                _log.info("no work ahead of the check", upload=upload.id, kind=type(error).__name__)
                known.is_over = True


def _key(upload: Upload) -> tuple[str, datetime]:
    # A plugin may give an id again when the upload that had it is gone.
    return upload.id, upload.created_at


class _Known(Generic[Answer]):
    """What is known of one upload."""

    def __init__(self) -> None:
        self.news: tuple[Upload, Content] | None = None
        self.answer: Answer | None = None
        self.is_over = False

    @property
    def has_work(self) -> bool:
        """Whether bytes have arrived that may be worked on."""
        return self.news is not None and not self.is_over
