"""`tusd-py upload FILE... URL`: send files to a tus server, and go on after a crash."""

from __future__ import annotations

import functools
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tusd_py.cli_upload import values
from tusd_py.cli_upload.files import LocalFile, find_files

if TYPE_CHECKING:
    from requests import Session

    from tusd_py.cli_upload.progress import Progress
    from tusd_py.cli_upload.transfer import Sent, Transfer

SECONDS_TO_STOP = 3.0


@click.command(
    short_help="Send files to a tus server; resumable.",
    # Those of the program, which click does not take over if the command is called without it before.
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.argument("url", metavar="URL", type=values.endpoint)
@click.option(
    "--parallel",
    type=click.IntRange(1, 64),
    default=3,
    show_default=True,
    metavar="N",
    help="Files at the same time.",
)
@click.option(
    "--chunk-size",
    type=values.chunk_size,
    default="64MiB",
    show_default=True,
    metavar="SIZE",
    help="Bytes per request; every file on its way has one chunk in memory.",
)
@click.option(
    "--header",
    "headers",
    type=values.header,
    multiple=True,
    metavar="'NAME: VALUE'",
    help="Send this header with every request, for example to log in; repeatable. The variable "
    "TUSD_PY_UPLOAD_HEADERS takes one per line, and keeps secrets out of the list of processes.",
)
@click.option(
    "--metadata",
    type=values.metadata,
    multiple=True,
    metavar="KEY=VALUE",
    help="Tell the server this about every file; repeatable. filename and filetype are set from the file.",
)
@click.option(
    "--checksum",
    type=click.Choice(["auto", "none", "sha1", "sha256", "sha512", "md5"]),
    default="auto",
    show_default=True,
    help="Let the server verify every chunk; auto: if it can.",
)
@click.option(
    "--retries",
    type=click.IntRange(min=0),
    default=8,
    show_default=True,
    metavar="N",
    help="Failures in a row after which a file is given up; the pauses between them grow.",
)
@click.option("--no-resume", is_flag=True, help="Begin anew, even if an earlier command sent a part.")
@click.option(
    "--state-file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Where unfinished uploads are remembered.  [default: in the user's state directory]",
)
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for every file that has arrived.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress, only results and failures.")
@click.pass_context
def upload(
    ctx: click.Context,
    files: tuple[Path, ...],
    url: str,
    parallel: int,
    chunk_size: int,
    headers: tuple[tuple[str, str], ...],
    metadata: tuple[tuple[str, str], ...],
    checksum: str,
    retries: int,
    no_resume: bool,
    state_file: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Send FILEs, and everything in those that are directories, to the tus server at URL.

    The address of each upload is printed when it is finished. Whatever interrupts the command, run it
    again: it goes on from where the server has got to. Once every file has arrived this is forgotten, and
    the same command sends them anew.

    Example: tusd-py upload film.mp4 photos/ https://example.org/files/
    """
    # Imported here because requests and tqdm take longer to load than other commands take to run.
    from tusd_py.cli_upload.progress import Bars, Lines, Progress
    from tusd_py.cli_upload.state import UploadState, default_state_file
    from tusd_py.cli_upload.transfer import Transfer
    from tusd_py.cli_upload.tus import RequestError

    failures: dict[Path, str] = {}
    found = find_files(files, failures)
    if not found and not failures:
        raise click.UsageError("There is no file in what was given.")
    state_path = state_file or default_state_file()
    try:
        state = UploadState(state_path)
    except OSError as error:
        name = click.format_filename(state_path)
        raise click.ClickException(
            f"The state file {name} cannot be used: {error.strerror or error}. See --state-file."
        ) from error
    from_environment = os.environ.get("TUSD_PY_UPLOAD_HEADERS", "").strip().splitlines()
    all_headers = dict([*map(values.header, from_environment), *headers])
    transfer = Transfer(url, state, chunk_size, retries, not no_resume, all_headers, dict(metadata))
    slots = min(parallel, len(found))
    progress = Progress() if quiet else Bars(found, slots) if sys.stderr.isatty() else Lines(found, slots)
    arrived: list[str] = []
    try:
        algorithm = choose_checksum(checksum, transfer, progress)
        with progress, closing(send_all(transfer, found, algorithm, slots, progress)) as outcomes:
            for file, outcome in outcomes:
                if isinstance(outcome, str):
                    failures[file.path] = outcome
                else:
                    arrived.append(outcome.key)
                    progress.result(as_line(outcome) if as_json else outcome.url)
    except RequestError as error:
        raise click.ClickException(f"The server cannot be used: {transfer.without_secrets(str(error))}") from error
    except KeyboardInterrupt:
        click.echo("Stopped. To resume, run the same command again.", err=True)
        ctx.exit(128 + signal.SIGINT)
    if failures:
        click.echo(f"{len(failures)} of {len(failures) + len(arrived)} did not arrive:", err=True)
        for path, reason in failures.items():
            click.echo(f"  {click.format_filename(path)}: {reason}", err=True)
        ctx.exit(1)
    # Only now: as long as one is missing, the same command must not send the others a second time.
    state.forget(arrived)


def choose_checksum(wanted: str, transfer: Transfer, progress: Progress) -> str | None:
    """Return the algorithm to use, one that both sides know; None for no checksums."""
    if wanted == "none":
        return None
    with transfer.session() as http:
        offered = transfer.checksum_algorithms(http, lambda text: progress.note(transfer.without_secrets(text)))
    if wanted == "auto":
        return offered[0] if offered else None
    if wanted not in offered:
        verifies = f"it verifies {', '.join(offered)}" if offered else "it does not verify checksums"
        raise click.ClickException(f"The server does not know the checksum {wanted}; {verifies}.")
    return wanted


def send_all(
    transfer: Transfer, files: Sequence[LocalFile], checksum: str | None, slots: int, progress: Progress
) -> Generator[tuple[LocalFile, Sent | str]]:
    """Send the files in threads; yield each at its end, with a text if it did not arrive."""
    from tusd_py.cli_upload.tus import FileChangedError, RequestError, StoppedError

    waiting: queue.SimpleQueue[LocalFile] = queue.SimpleQueue()
    ended: queue.SimpleQueue[tuple[LocalFile, Sent | str]] = queue.SimpleQueue()

    def send(slot: int, file: LocalFile, http: Session) -> Sent | str:
        def note(text: str) -> None:
            progress.note(f"{click.format_filename(file.path)}: {transfer.without_secrets(text)}")

        try:
            return transfer.send(file, http, checksum, functools.partial(progress.position, slot), note)
        except (RequestError, FileChangedError) as error:
            return transfer.without_secrets(str(error))
        except OSError as error:
            return f"cannot be read: {error.strerror or error}"

    def work(slot: int) -> None:
        with transfer.session() as http:
            while not transfer.stop.is_set():
                try:
                    file = waiting.get_nowait()
                except queue.Empty:
                    return
                progress.begin(slot, file)
                outcome: Sent | str = "not sent"
                try:
                    outcome = send(slot, file, http)
                except StoppedError:
                    return
                except Exception as error:
                    # A thread that died without a word would leave the command waiting for its file.
                    outcome = transfer.without_secrets(f"{type(error).__name__}: {error}")
                finally:
                    progress.end(slot, None if isinstance(outcome, str) else outcome)
                ended.put((file, outcome))

    for file in files:
        waiting.put(file)
    # Daemons: one that hangs in a dead connection must not keep the command from ending.
    threads = [threading.Thread(target=work, args=(slot,), daemon=True) for slot in range(slots)]
    for thread in threads:
        thread.start()
    try:
        for _ in files:
            while True:
                try:
                    yield ended.get(timeout=1)
                    break
                except queue.Empty:
                    progress.tick()
    finally:
        transfer.stop.set()
        deadline = time.monotonic() + SECONDS_TO_STOP
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))


def as_line(sent: Sent) -> str:
    """Return a line of JSON about a file that has arrived."""
    return json.dumps(
        {
            "path": os.fspath(sent.file.path),
            "url": sent.url,
            "bytes": sent.size,
            "seconds": round(sent.seconds, 3),
            "resumed_from": sent.resumed_from,
        }
    )
