"""A check that quarantines JSON Lines with a line that is no JSON object, after the upload and as a job.

tusd-py serve --plugin examples/06_plugin_check_jsonl.py
"""

import json

from tusd_py import Upload, Verdict, hookimpl
from tusd_py.hooks.specs import JobProgress
from tusd_py.models import Content

MOST_REASONS = 20
LONGEST_LINE = 1024 * 1024


@hookimpl
def check(upload: Upload, content: Content, progress: JobProgress) -> Verdict:
    """Look at every line, in a thread of this plugin, for as long as it takes; other files pass."""
    if not upload.metadata.get("filename", "").endswith(".jsonl"):
        return Verdict(ok=True)
    reasons: list[str] = []
    with content.open() as file:
        number = 0
        # Never the whole file, nor a whole line that is longer than it may be.
        while len(reasons) < MOST_REASONS and (line := file.readline(LONGEST_LINE)):
            number += 1
            try:
                if len(line) == LONGEST_LINE:
                    return Verdict(ok=False, reasons=[*reasons, f"line {number} is longer than {LONGEST_LINE} bytes"])
                if not isinstance(json.loads(line), dict):
                    reasons.append(f"line {number} is no object")
            except (ValueError, RecursionError):
                reasons.append(f"line {number} is no JSON")
            progress(file.tell())
    return Verdict(ok=not reasons, reasons=reasons)
