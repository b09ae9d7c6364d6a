"""`tusd-py upload`: the client side of the command line."""

from tusd_py.cli_upload.command import upload

__all__ = ["upload"]
