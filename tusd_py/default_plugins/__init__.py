"""The server's own plugins, on the same API as everybody's.

They are called last, so that installed plugins come before them; each can be left out with `--block-plugin NAME`.
"""

from __future__ import annotations

from tusd_py.config import Config, ConfigError, path_of, redacted
from tusd_py.default_plugins.access import Access
from tusd_py.default_plugins.audit import Audit
from tusd_py.default_plugins.limits import Limits
from tusd_py.default_plugins.metrics import Metrics


def default_plugins(config: Config) -> list[tuple[str, object]]:
    """Return names and plugins in the order in which they are registered.

    Raises:
        ConfigError: the audit log cannot be written, or Redis cannot be used.
    """
    try:
        limits = Limits(config.create_rate, config.quota, config.min_free_space, _directory(config), config.redis)
    except ImportError as error:
        raise ConfigError(f"redis {redacted(config.redis or '')}: {error}") from error
    plugins: list[tuple[str, object]] = [
        ("access", Access(config.api_token)),
        ("limits", limits),
        ("metrics", Metrics()),
    ]
    if config.audit_log:
        try:
            plugins.append(("audit", Audit(config.audit_log)))
        except OSError as error:
            raise ConfigError(f"cannot write the audit log {config.audit_log}: {error.strerror}") from error
    return plugins


def _directory(config: Config) -> str:
    """Return where the disk is that uploads fill; other stores than files have their own."""
    return str(path_of(config.store_url)) if config.store_url.startswith("file:") else config.upload_dir
