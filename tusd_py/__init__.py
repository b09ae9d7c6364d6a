"""A tus 1.0 resumable-upload server with plugins."""

from tusd_py.config import ConfigError
from tusd_py.errors import Reject, TusError
from tusd_py.hooks.specs import hookimpl
from tusd_py.models import Changes, Identity, Request, Response, Status, Upload, Verdict

__all__ = [
    "Changes",
    "ConfigError",
    "Identity",
    "Reject",
    "Request",
    "Response",
    "Status",
    "TusError",
    "Upload",
    "Verdict",
    "hookimpl",
]
__version__ = "0.1.0"
