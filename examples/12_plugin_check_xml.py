"""A check that parses XML in a process of its own: a file that is made to be slow, huge or deadly harms nobody.

tusd-py serve --plugin examples/12_plugin_check_xml.py
"""

from xml.etree import ElementTree

import msgspec

from tusd_py import Reject, Upload, Verdict, hookimpl, processes
from tusd_py.hooks.specs import JobProgress
from tusd_py.models import Content


class Parsed(msgspec.Struct):
    """What the process says; anything else is an error."""

    root: str
    elements: int


def parse(content: Content, progress: processes.Progress) -> Parsed:
    """Parse a document; this runs in the process, which reads it by itself, also on S3."""
    try:
        with content.open() as file:
            root = ElementTree.parse(file).getroot()
    except ElementTree.ParseError as error:
        raise Reject(f"it is no XML: {error}") from None
    return Parsed(root.tag, sum(1 for _ in root.iter()))


@hookimpl
def check(upload: Upload, content: Content, progress: JobProgress) -> Verdict:
    """Parse an XML file within 128 MiB and a minute; other files pass."""
    if not upload.metadata.get("filename", "").endswith(".xml"):
        return Verdict(ok=True)
    try:
        parsed = processes.run(parse, content, memory=128 * 2**20, seconds=60, progress=progress)
    except processes.ProcessFailed as error:
        return Verdict(ok=False, reasons=[f"it cannot be parsed: {error}"])
    return Verdict(ok=parsed.elements > 1, reasons=[f"{parsed.elements} elements in <{parsed.root}>"])
