"""Text: whether it is UTF-8 throughout, and its kind by magika, if that is asked for."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable

from tusd_py.config import ConfigError
from tusd_py_validate.problems import Problem

TRUSTED = 0.9
"""magika is believed if it is this sure; what it has never seen it often takes for something else."""


def check(blocks: Iterable[bytes], read: Callable[[int], None]) -> list[Problem]:
    """Return what keeps a file from being UTF-8 text."""
    decoder, done, newlines = codecs.getincrementaldecoder("utf-8")(), 0, 0
    for block in _with_end(blocks):
        held = len(decoder.getstate()[0])
        try:
            decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            line = newlines + block.count(b"\n", 0, max(0, error.start - held)) + 1
            reason = f"it is not UTF-8: {error.reason}"
            return [Problem(check="structure", reason=reason, line=line, offset=done - held + error.start)]
        if b"\0" in block:
            at = block.index(b"\0")
            line = newlines + block.count(b"\n", 0, at) + 1
            return [Problem(check="structure", reason="it has a byte 0", line=line, offset=done + at)]
        done += len(block)
        newlines += block.count(b"\n")
        read(done)
    return []


def _with_end(blocks: Iterable[bytes]) -> Iterable[bytes]:
    yield from blocks
    yield b""


class Names:
    """What magika calls texts: python, yaml, markdown, ..."""

    def __init__(self) -> None:
        """Load magika's network.

        Raises:
            ConfigError: magika is not installed.
        """
        try:
            from magika import Magika
        except ImportError as error:
            raise ConfigError(
                "[plugins.validate]: text_types needs tusd-py-validate[text], which is missing"
            ) from error
        self._magika = Magika()

    def of(self, head: bytes) -> str:
        """Return the name for a text that begins like this; `text` if magika is not sure."""
        result = self._magika.identify_bytes(head)
        if not result.ok or result.score < TRUSTED or not result.output.is_text:
            return "text"
        label = str(result.output.label)
        return "text" if label in ("txt", "unknown", "empty") else label
