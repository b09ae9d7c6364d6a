"""A plugin with all stages that does what the metadata of an upload says, and writes down what it does.

The value of `check`, `describe` or `deliver`, or of one of these with a dash and the plugin's name, is what to do:
`refuse`, `reject`, `crash`, `crash-twice`, `hang`, `hang-async`, `wait` until the file FOLDER/go exists. The folder is
the variable STAGES_FOLDER; what happens goes to FOLDER/log, one JSON object a line.
"""

import asyncio
import hashlib
import json
import os
import threading
import time
from pathlib import Path

from tusd_py.errors import Reject, TusError
from tusd_py.hooks.specs import hookimpl
from tusd_py.models import Verdict

NAME = Path(__file__).stem
FOLDER = Path(os.environ.get("STAGES_FOLDER", "."))


def wanted(stage, upload):
    return upload.metadata.get(f"{stage}-{NAME}", upload.metadata.get(stage, ""))


def note(event, stage, upload, **facts):
    line = json.dumps(
        {"event": event, "stage": stage, "plugin": NAME, "upload": upload.id, "pid": os.getpid(), **facts}
    )
    log = os.open(FOLDER / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(log, line.encode() + b"\n")
    os.close(log)


def begun(stage, upload):
    lines = [json.loads(line) for line in (FOLDER / "log").read_text().splitlines()]
    return sum(
        (line["event"], line["stage"], line["plugin"], line["upload"]) == ("begin", stage, NAME, upload.id)
        for line in lines
    )


def digest(content):
    with content.open() as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def act(stage, upload, progress):
    note("begin", stage, upload, status=upload.status)
    what = wanted(stage, upload)
    if what == "reject":
        raise Reject(f"{NAME} rejects it")
    if what == "crash" or (what == "crash-twice" and begun(stage, upload) <= 2):
        raise RuntimeError("secret details")
    if what == "hang":
        threading.Event().wait()
    if what == "wait":
        progress(3)
        while not (FOLDER / "go").exists():
            time.sleep(0.005)


@hookimpl
def check(upload, content, progress):
    act("check", upload, progress)
    ok = wanted("check", upload) != "refuse"
    note("end", "check", upload, sha256=digest(content))
    progress(content.size)
    return Verdict(ok=ok, reasons=[f"{NAME} looked at it"])


@hookimpl
async def describe(upload, content, progress):
    if wanted("describe", upload) == "hang-async":
        note("begin", "describe", upload)
        await asyncio.Event().wait()
    await asyncio.to_thread(act, "describe", upload, progress)
    sha256 = await asyncio.to_thread(digest, content)
    note("end", "describe", upload, sha256=sha256)
    return {"sha256": sha256, "size": content.size}


@hookimpl
def deliver(upload, content, facts, progress):
    act("deliver", upload, progress)
    try:
        sha256 = digest(content)
    except TusError as error:
        note("refused", "deliver", upload, error=error.message)
        raise
    note("end", "deliver", upload, sha256=sha256, facts=facts)


@hookimpl
def post_verdict(upload, verdict):
    note("verdict", "", upload, status=upload.status, ok=verdict.ok, reasons=list(verdict.reasons))


@hookimpl
def post_finish(upload):
    note("finish", "", upload)
