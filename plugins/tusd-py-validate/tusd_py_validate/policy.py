"""Which types and sizes are taken, by what is said of an upload and by what it begins and ends with."""

from __future__ import annotations

from collections.abc import Mapping

from tusd_py_validate import archives, checksums, filetypes
from tusd_py_validate.detect import HEAD, TAIL, Found, detect, zip_type
from tusd_py_validate.problems import Problem
from tusd_py_validate.settings import Settings
from tusd_py_validate.source import Source
from tusd_py_validate.text import Names


class Policy:
    """What the settings say of types, sizes and metadata."""

    def __init__(self, settings: Settings) -> None:
        """Keep the settings; raises `ConfigError` if magika is asked for and missing."""
        self._settings = settings
        self._denied = frozenset(settings.deny)
        self._allowed = frozenset(settings.allow)
        self._names = Names() if settings.text_types else None

    def detect(self, source: Source) -> tuple[Found, bytes]:
        """Return a complete file's type, and its first bytes.

        Raises:
            Unfit: it is a zip without a directory that can be read.
        """
        with source.open() as file:
            head = file.read(HEAD)
            file.seek(max(0, source.size - TAIL))
            found = detect(head, file.read(TAIL), is_whole=source.size == len(head))
            if archives.is_zip(found.name):  # all names are at its end
                names = archives.zip_names(file, source.size, self._settings.archives)
                found = Found(zip_type(names), found.also)
        return self.named(found, head), head

    def named(self, found: Found, head: bytes) -> Found:
        """Return a text with the name that magika gives it, if it is asked."""
        if self._names is None or found.name != "text":
            return found
        return Found(self._names.of(head), found.also)

    def refusals(self, name: str) -> list[str]:
        """Return in words that a type is denied, if it is."""
        return [f"{filetypes.title(name)} is not taken"] if filetypes.names_of(name) & self._denied else []

    def judge(self, found: Found, metadata: Mapping[str, str], size: int | None) -> list[Problem]:
        """Return what is wrong with a type and size; the size is None while nobody knows it."""
        taken = filetypes.read_as(found.name, metadata)
        reasons = [reason for each in found.types for reason in self.refusals(each)]
        if not reasons and self._allowed and not filetypes.names_of(taken) & self._allowed:
            reasons.append(f"{filetypes.title(taken)} is not taken; these are: {', '.join(sorted(self._allowed))}")
        if not reasons and self._settings.declared == "refuse" and found.name != "empty":
            for words, types in filetypes.declared(metadata):
                if not filetypes.agrees(found.name, types):
                    reasons.append(f"it is {filetypes.title(found.name)}, and not what {words} says")
                    break
        return [*(Problem(check="type", reason=reason) for reason in reasons), *self._size(taken, size)]

    def claims(self, metadata: Mapping[str, str], size: int | None) -> list[Problem]:
        """Return what is wrong with what is said of an upload, before there are any bytes."""
        problems = self._digests(metadata)
        for words, types in filetypes.declared(metadata):
            if all(self.refusals(name) for name in types):
                refused = filetypes.title(min(types))
                problems.append(Problem(check="type", reason=f"{words} says that it is {refused}, which is not taken"))
            too_large = [self._size(name, size) for name in sorted(types)]
            if all(too_large):
                problems += too_large[0]
        return problems

    def _size(self, name: str, size: int | None) -> list[Problem]:
        """Compare a size with the limit of a type: its own, or the smallest of its groups'."""
        told = self._settings.max_size
        limits = [told[name]] if name in told else [told[each] for each in filetypes.names_of(name) if each in told]
        if size is None or not limits or size <= min(limits):
            return []
        reason = f"{filetypes.title(name)} may have {int(min(limits))} bytes, and this has {size}"
        return [Problem(check="size", reason=reason)]

    def _digests(self, metadata: Mapping[str, str]) -> list[Problem]:
        if self._settings.checksum == "ignore":
            return []
        try:
            digests = checksums.expected(metadata)
        except ValueError as error:
            return [Problem(check="checksum", reason=str(error))]
        if not digests and self._settings.checksum == "required":
            reason = f"the metadata has no digest of the file under {', '.join(checksums.LENGTHS)}"
            return [Problem(check="checksum", reason=reason)]
        return []
