"""All checks of one upload, over a file that can be read and sought in: no server is needed.

`inspect` looks at the first bytes, `quick` at both ends of a complete file, `whole` at all of it.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from tusd_py import processes
from tusd_py.ahead import Answers
from tusd_py.config import ConfigError
from tusd_py.models import Content
from tusd_py_validate import archives, checksums, child, filetypes, formats, lines, rows, tables, text
from tusd_py_validate.detect import HEAD, detect
from tusd_py_validate.policy import Policy
from tusd_py_validate.problems import Problem, Problems, Progress, Stop, TimeUp, Watch, printable
from tusd_py_validate.schemas import Schema, SchemaError, Schemas
from tusd_py_validate.settings import Settings
from tusd_py_validate.source import Source, blocks
from tusd_py_validate.thrift import Broken
from tusd_py_validate.unpack import Unfit, Unpacked, can_unpack

MANY = 256 * 2**20
"""A JSONL file of this size is read by several processes."""
PIECE = 64 * 2**20
"""So much of a JSONL file is checked at a time while more of it arrives."""
WITH_SCHEMA = frozenset({"jsonl", "json", "csv", "tsv", "parquet"})
"""What can be compared with a schema."""


class Report(msgspec.Struct, frozen=True):
    """What the checks found."""

    type: str
    problems: tuple[Problem, ...] = ()
    checks: tuple[str, ...] = ()
    """What was checked, in order."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


class Begun(msgspec.Struct, frozen=True):
    """What was found in the lines of a JSONL file that begin before a byte."""

    part: lines.Part = lines.Part()
    stop: int = 0


class Checks:
    """The checks that the settings ask for."""

    def __init__(self, settings: Settings) -> None:
        """Load what the settings name.

        Raises:
            ConfigError: a schema of the rules cannot be used, or an extra is missing.
        """
        self.settings = settings
        self.policy = Policy(settings)
        try:
            self.schemas = Schemas(settings)
        except SchemaError as error:
            raise ConfigError(f"[plugins.validate]: {error}") from error

    def claims(self, metadata: Mapping[str, str], size: int | None) -> list[Problem]:
        """Return what is wrong with what is said of an upload, before there are any bytes."""
        problems = self.policy.claims(metadata, size)
        try:
            self.schema_for(metadata)
        except SchemaError as error:
            problems.append(Problem(check="schema", reason=str(error)))
        return problems

    def inspect(self, head: bytes, size: int | None, metadata: Mapping[str, str]) -> list[Problem]:
        """Return what is wrong as far as the first bytes tell; `size` is None while nobody knows it."""
        found = self.policy.named(detect(head, is_whole=size == len(head)), head)
        return self.policy.judge(found, metadata, size)

    def quick(self, source: Source, metadata: Mapping[str, str]) -> list[Problem]:
        """Return what is wrong with the type and size of a complete file; both ends of it are read."""
        try:
            found, _ = self.policy.detect(source)
        except Unfit as error:
            return [Problem(check="archive", reason=printable(str(error)))]
        return self.policy.judge(found, metadata, source.size)

    @property
    def least_ahead(self) -> int:
        """Return how much has to be there to begin with: a piece, which is read on to the end of its last line."""
        return PIECE + int(self.settings.max_line)

    def ahead(self, content: Content, metadata: Mapping[str, str], begun: Begun | None) -> Answers[Begun]:
        """Check lines of an upload of which this much has arrived, where it was `begun`; yield after each piece.

        Raises:
            ProcessFailed, SchemaError, TimeUp: they cannot be checked; that of the whole upload will say why.
        """
        with content.open() as file:
            head = file.read(HEAD)
        if filetypes.read_as(self.policy.named(detect(head, is_whole=False), head).name, metadata) != "jsonl":
            return
        begun, schema = begun or Begun(), self.schema_for(metadata)
        stops = range(begun.stop + PIECE, content.size - int(self.settings.max_line) + 1, PIECE)
        tasks = [self.range_of(content, stop - PIECE, stop, schema) for stop in stops]
        watch, memory = Watch(seconds=self.settings.max_seconds), int(self.settings.memory)
        found = child.run(child.check_range, *tasks, memory=memory, watch=watch, tell=lambda done: None)
        for stop, part in zip(stops, found, strict=True):
            begun = Begun(lines.merge([begun.part, part], self.settings.max_problems), stop)
            yield begun
            if not part.is_complete:
                return

    def range_of(self, source: Source, start: int, stop: int, schema: Schema | None) -> child.Range:
        """Return the task to check the lines that begin in a range."""
        limits: dict[str, Any] = {"max_line": int(self.settings.max_line), "max_problems": self.settings.max_problems}
        return child.Range(source=source, start=start, stop=stop, **limits, **self.reference(schema))

    def reference(self, schema: Schema | None) -> dict[str, Any]:
        """Return what another process needs to load a schema."""
        if schema is None or self.settings.schemas is None:
            return {}
        folder = str(Path(self.settings.schemas).resolve())
        return {"folder": folder, "schema": schema.name, "show_values": self.settings.show_values}

    def whole(
        self,
        source: Source,
        metadata: Mapping[str, str],
        watch: Watch | None = None,
        begun: Begun | None = None,
    ) -> Report:
        """Check all of a file, of which what was `begun` is done; `watch` hears how far it is and limits the time.

        Raises:
            OSError: it cannot be read now.
            StorageFull: there is no room for the copy that DuckDB needs.
        """
        watch = watch or Watch(seconds=self.settings.max_seconds)
        problems, name, done = Problems(self.settings.max_problems), "unknown", ["type"]
        try:
            found, head = self.policy.detect(source)
            name = filetypes.read_as(found.name, metadata)
            problems.extend(self.policy.judge(found, metadata, source.size))
            if not problems:  # what is not taken is not read either
                _Run(self, name, source, head, metadata, problems, watch, done, begun or Begun()).all()
        except Stop:
            pass
        except TimeUp as error:
            problems.add_last(Problem(check="limit", reason=str(error)))
        except Unfit as error:
            problems.add_last(Problem(check="archive", reason=printable(str(error))))
        except (SchemaError, ValueError) as error:
            check = "schema" if isinstance(error, SchemaError) else "checksum"
            problems.add_last(Problem(check=check, reason=printable(str(error))))
        except (MemoryError, RecursionError) as error:
            problems.add_last(Problem(check="limit", reason=f"it needs too much memory: {type(error).__name__}"))
        except processes.ProcessFailed as error:
            problems.add_last(Problem(check="structure", reason=f"it cannot be read: {error}"))
        return Report(name, tuple(problems), tuple(done))

    def finish(self, content: Content, metadata: Mapping[str, str]) -> Sequence[Problem]:
        """Return what is wrong with an upload before its client hears that it is complete."""
        if content.size <= self.settings.finish_size:
            return self.of_content(content, metadata)
        return self.quick(content, metadata)

    def of_content(
        self,
        content: Content,
        metadata: Mapping[str, str],
        progress: Progress | None = None,
        begun: Begun | None = None,
    ) -> Sequence[Problem]:
        """Return what is wrong with all of an upload, of which what was `begun` is done."""
        watch = Watch(progress, self.settings.max_seconds)
        return self.whole(content, metadata, watch, begun).problems

    def schema_for(self, metadata: Mapping[str, str]) -> Schema | None:
        """Return the schema that an upload has to fit; raises `SchemaError` if it cannot be used."""
        name = self.schemas.name_for(metadata)
        return self.schemas.get(name) if name else None


class _Run:
    """The checks of the content of one file."""

    def __init__(
        self,
        checks: Checks,
        name: str,
        source: Source,
        head: bytes,
        metadata: Mapping[str, str],
        problems: Problems,
        watch: Watch,
        done: list[str],
        begun: Begun,
    ) -> None:
        self._checks, self._settings, self._policy = checks, checks.settings, checks.policy
        self._name, self._source, self._head, self._metadata = name, source, head, metadata
        self._problems, self._watch, self._done = problems, watch, done
        self._begun = begun
        self._schema = checks.schema_for(metadata)
        self._limits: dict[str, Any] = {
            "max_line": int(self._settings.max_line),
            "max_problems": self._settings.max_problems,
        }

    def all(self) -> None:
        """Check digests, structure and schema; raises `Stop` if enough is wrong."""
        with self._source.open() as file:
            if self._settings.checksum != "ignore" and (digests := checksums.expected(self._metadata)):
                self._done.append("checksum")
                for reason in checksums.verify(file, self._source.size, digests, self._watch):
                    self._problems.add(Problem(check="checksum", reason=reason))
            self._done.append("structure")
            inner = filetypes.inner(self._metadata) if can_unpack(self._name) else None
            self._check_schema_use(inner or self._name)
            self._structure(file, inner)

    def _check_schema_use(self, name: str) -> None:
        """Say so if a schema is wanted and cannot be used, or is missing."""
        if self._schema is None:
            if self._settings.schema_required and (name in WITH_SCHEMA or "table" in filetypes.names_of(name)):
                self._problems.add(Problem(check="schema", reason="there is no schema for it, and one is required"))
        elif name in WITH_SCHEMA and (name == "jsonl" or not can_unpack(self._name)):
            self._done.append("schema")
        else:
            reason = f"{filetypes.title(self._name)} cannot be compared with a schema"
            self._problems.add(Problem(check="schema", reason=reason))

    def _structure(self, file: BinaryIO, inner: str | None) -> None:
        name = self._name
        if name in formats.CHECKS:
            try:
                formats.CHECKS[name](file, self._source.size)
            except Broken as error:
                self._problems.add(Problem(check="structure", reason=printable(str(error))))
                return
        if name == "jsonl":
            self._jsonl(file)
        elif name == "json":
            self._json()
        elif name in ("csv", "tsv"):
            header = self._csv(blocks(file), self._head, is_tsv=name == "tsv", size=self._source.size)
            if self._schema and not self._problems:
                self._table(self._schema, header, rows.delimiter_of(self._head, is_tsv=name == "tsv"))
        elif name == "parquet" and self._schema:
            self._table(self._schema, None, "")
        elif "text" in filetypes.names_of(name) and name != "utf16":
            self._problems.extend(text.check(blocks(file), self._tell("structure")))
        elif "archive" in filetypes.names_of(name):
            self._archive(file)
            if inner and not self._problems:
                self._unpacked(file, inner)

    def _tell(self, step: str) -> Any:
        return lambda at: self._watch(step, at, self._source.size)

    def _jsonl(self, file: BinaryIO) -> None:
        source, start = self._source, self._begun.stop
        left, count = source.size - start, self._settings.processes or os.cpu_count() or 1
        if left < MANY or count == 1:
            read = self._tell("structure")
            found = iter([lines.check_range(file, start, source.size, schema=self._schema, **self._limits, read=read)])
        else:
            edges = [start + left * number // count for number in range(count + 1)]
            tasks = [self._checks.range_of(source, *span, self._schema) for span in itertools.pairwise(edges)]
            found = self._in_processes(child.check_range, *tasks, step="structure", count=count)
        part = lines.merge(chain([self._begun.part], found), self._settings.max_problems)
        self._problems.extend(part.problems)

    def _json(self) -> None:
        if self._source.size > self._settings.max_json:
            reason = f"a JSON document may have {int(self._settings.max_json)} bytes; use JSON Lines for more"
            self._problems.add(Problem(check="limit", reason=reason))
        else:
            task = child.Document(source=self._source, **self._checks.reference(self._schema))
            [found] = self._in_processes(child.check_document, task, step="schema")
            self._problems.extend(found)

    def _csv(self, pieces: Iterable[bytes], head: bytes, *, is_tsv: bool, size: int) -> list[str]:
        return rows.check(
            pieces,
            rows.delimiter_of(head, is_tsv=is_tsv),
            self._problems,
            max_row=int(self._settings.max_line),
            formulas=self._settings.csv_formulas == "allow",
            read=lambda at: self._watch("structure", min(at, size), size),
        )

    def _table(self, schema: Schema, header: list[str] | None, delimiter: str) -> None:
        if not child.has_duckdb():
            raise SchemaError("tables are compared with a schema only if tusd-py-validate[tables] is installed")
        max_row = int(self._settings.max_line)
        with self._source.on_disk() as path:
            task = tables.Table(
                path=str(path),
                header=header,
                delimiter=delimiter,
                max_row=max_row,
                max_problems=self._settings.max_problems,
                memory=int(self._settings.memory),
                **self._checks.reference(self._schema),
            )
            [found] = self._in_processes(child.check_table, task, step="schema")
        if header is not None and found:
            with self._source.open() as file:
                found = rows.located(blocks(file), delimiter, max_row, found)
        self._problems.extend(found)

    def _archive(self, file: BinaryIO) -> None:
        def seen(member: archives.Member) -> None:
            for reason in (reason for each in member.found.types for reason in self._policy.refusals(each)):
                path = printable(member.name, 200)
                self._problems.add(Problem(check="archive", reason=f"a member: {reason}", path=path))

        self._done.append("archive")
        file.seek(0)
        archives.walk(self._name, file, self._source.size, self._settings.archives, seen, self._tell("archive"))

    def _unpacked(self, file: BinaryIO, inner: str) -> None:
        """Check what is in a compressed file, as a name like rows.csv.gz says what that is."""
        file.seek(0)
        stream = Unpacked(self._name, file, self._settings.archives, self._tell("structure"))
        head = stream.read(HEAD)
        pieces = chain([head], stream)
        if inner == "jsonl":
            self._problems.extend(lines.check_blocks(pieces, schema=self._schema, **self._limits).problems)
        else:
            self._csv(pieces, head, is_tsv=inner == "tsv", size=self._source.size)

    def _in_processes(
        self,
        function: Callable[[child.Task, processes.Progress], child.Found],
        *tasks: child.Task,
        step: str,
        count: int = 1,
    ) -> Iterator[child.Found]:
        memory, tell = int(self._settings.memory), self._tell(step)
        return child.run(function, *tasks, memory=memory, watch=self._watch, tell=tell, count=count)
