"""A delivery that splits JSON Lines into a set for training and one for validation.

    # tusd-py.toml
    plugin = ["examples/09_plugin_deliver_split.py"]

    [plugins.09_plugin_deliver_split]
    folder = "datasets"
    validation = 0.1

Which set an example belongs to follows from its content, so equal examples are never in both, also of several uploads,
and a second run makes the same files. Other uploads are left alone.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from tusd_py import Reject, Upload, hookimpl
from tusd_py.hooks.specs import JobProgress
from tusd_py.models import Content

LONGEST_LINE = 16 * 1024 * 1024


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    folder: str
    validation: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.1


chosen: Settings


@hookimpl
def register_settings(settings: Mapping[str, Any]) -> None:
    """Take the settings; without a folder the server does not start."""
    global chosen
    chosen = msgspec.convert(settings, Settings)


def is_for_validation(example: Any) -> bool:
    """Choose a set by the example's content, however it is written down."""
    same = json.dumps(example, sort_keys=True, separators=(",", ":")).encode()
    return int.from_bytes(hashlib.sha256(same).digest()[:8]) < chosen.validation * 2**64


@hookimpl
def deliver(upload: Upload, content: Content, progress: JobProgress) -> None:
    """Write both files line by line under other names, and give them theirs when both are whole."""
    if not upload.metadata.get("filename", "").endswith(".jsonl"):
        return
    folder = Path(chosen.folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{upload.id}.{kind}.jsonl" for kind in ("train", "validation")]
    unfinished = [file.with_suffix(".part") for file in files]
    with content.open() as source, unfinished[0].open("wb") as train, unfinished[1].open("wb") as validation:
        while line := source.readline(LONGEST_LINE):
            if len(line) == LONGEST_LINE:
                raise Reject(f"a line has more than {LONGEST_LINE} bytes")
            if line.strip():
                try:
                    example = json.loads(line)
                except (ValueError, RecursionError):
                    raise Reject("a line is no JSON") from None  # another attempt would not help
                (validation if is_for_validation(example) else train).write(line.rstrip(b"\r\n") + b"\n")
            progress(source.tell())
    for before, after in zip(unfinished, files, strict=True):
        before.replace(after)
