"""A plugin whose plain functions hang or end the process when an upload's metadata asks for it."""

import sys
import time

from tusd_py import hookimpl


@hookimpl
def pre_create(upload):
    match upload.metadata.get("plain"):
        case "hang":
            time.sleep(3600)
        case "exit":
            sys.exit(3)
