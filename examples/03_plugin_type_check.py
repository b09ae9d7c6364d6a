"""A plugin that takes Parquet files and nothing else.

tusd-py serve --plugin examples/03_plugin_type_check.py
"""

from tusd_py import Reject, Upload, hookimpl
from tusd_py.models import Content

MAGIC = b"PAR1"


@hookimpl
async def inspect_head(upload: Upload, head: bytes) -> None:
    """Refuse what does not begin like Parquet, before more of it is sent."""
    if not head.startswith(MAGIC):
        raise Reject("only Parquet files are taken here", status=415)


@hookimpl
def pre_finish(upload: Upload, content: Content) -> None:
    """Refuse what does not end like Parquet, which a file that was cut does not; plain functions may block."""
    with content.open() as file:
        file.seek(max(0, content.size - len(MAGIC)))
        if file.read() != MAGIC:
            raise Reject("this Parquet file has no end: was it cut?", status=422)
