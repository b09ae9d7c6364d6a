"""Work on an upload while its bytes arrive, so that less is left for its check; for plugins."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Mapping
from datetime import datetime
from typing import Generic, TypeVar

import structlog

from tusd_py.models import Content, Upload

MOST_UPLOADS = 32
"""Answers are kept for so many uploads: those that received something last."""
Key = TypeVar("Key")
Answer = TypeVar("Answer")
Pieces = Generator[tuple[Key, Answer], None, None]
Work = Callable[[Upload, Content, Mapping[Key, Answer]], Pieces[Key, Answer]]
"""Yields an answer for each piece of an upload whose bytes are there now and that has none yet; may take its time."""

_log = structlog.get_logger("tusd_py.ahead")


class Ahead(Generic[Key, Answer]):
    """Answers about pieces of uploads that are still on their way.

    What was received once does not change, so that an answer holds for the complete upload too. Answers live in this
    process alone: whoever asks for them has to do himself what is missing, and that may be everything.
    """

    def __init__(self, work: Work[Key, Answer]) -> None:
        """Have `work` done in one thread, for one upload at a time."""
        self._work = work
        self._changed = threading.Condition()
        self._known: dict[tuple[str, datetime], _Known[Key, Answer]] = {}
        self._busy: _Known[Key, Answer] | None = None
        self._is_running = False

    def received(self, upload: Upload, content: Content) -> None:
        """Take note that `content.size` bytes of an upload are there; this does not wait."""
        with self._changed:
            known = self._known.pop(_key(upload), None) or _Known()
            known.news = (upload, content)
            self._known[_key(upload)] = known
            if len(self._known) > MOST_UPLOADS:
                self._known.pop(next(iter(self._known))).is_over = True
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._run, name="work ahead", daemon=True).start()

    def answers(self, upload: Upload) -> Mapping[Key, Answer] | None:
        """Return the answers so far, or None if nothing is known of the upload."""
        known = self._known.get(_key(upload))
        return None if known is None else known.answers

    def taken(self, upload: Upload) -> dict[Key, Answer]:
        """Return the answers about an upload and forget them; a piece that is being worked on is waited for."""
        with self._changed:
            known = self._known.pop(_key(upload), None)
            if known is None:
                return {}
            known.is_over = True
            self._changed.wait_for(lambda: self._busy is not known)
            return known.answers

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
                with contextlib.closing(self._work(upload, content, known.answers)) as pieces:
                    for key, answer in pieces:
                        known.answers[key] = answer
                        if known.is_over:
                            break
            except Exception as error:
                # The check will meet the same and tell it; a message may quote what is in the upload.
                _log.info("no work ahead of the check", upload=upload.id, kind=type(error).__name__)
                known.is_over = True


def _key(upload: Upload) -> tuple[str, datetime]:
    # A plugin may give an id again when the upload that had it is gone.
    return upload.id, upload.created_at


class _Known(Generic[Key, Answer]):
    """What is known of one upload."""

    def __init__(self) -> None:
        self.news: tuple[Upload, Content] | None = None
        self.answers: dict[Key, Answer] = {}
        self.is_over = False

    @property
    def has_work(self) -> bool:
        """Whether bytes have arrived that may be worked on."""
        return self.news is not None and not self.is_over
