"""Every setting: its default and one line of help; `tusd_py.settings` says where values come from."""

from __future__ import annotations

import ipaddress
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec


class ConfigError(Exception):
    """A setting is unknown or has a value that cannot be."""


class Size(int):
    """A number of bytes, written as 10GiB, 64M or 1000."""


def _setting(group: str, text: str, *, secret: bool = False) -> msgspec.Meta:
    return msgspec.Meta(description=text, extra={"group": group, "secret": secret})


_Net, _Store, _Limit, _Http, _Plugin, _Log = "Network", "Storage", "Limits", "HTTP", "Plugins", "Logging"
_S3, _Jobs = "S3", "Jobs"


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of one server."""

    host: Annotated[str, _setting(_Net, "Address to listen on; 0.0.0.0 opens the server to the network.")] = "127.0.0.1"
    port: Annotated[int, _setting(_Net, "Port to listen on; 0 takes a free one.")] = 8080
    unix_socket: Annotated[
        str | None, _setting(_Net, "Path of a Unix socket to listen on instead of host and port.")
    ] = None
    base_path: Annotated[str, _setting(_Net, "Path under which uploads are created.")] = "/files/"
    workers: Annotated[int, _setting(_Net, "Number of server processes on this machine.")] = 1
    behind_proxy: Annotated[
        list[str],
        _setting(
            _Net,
            "Addresses or networks of trusted proxies, or 'unix'; only their Forwarded and X-Forwarded-* count.",
        ),
    ] = []
    public_url: Annotated[
        str | None,
        _setting(_Net, "URL of the upload endpoint as clients see it; overrides what proxies forward."),
    ] = None
    tls_cert: Annotated[str | None, _setting(_Net, "PEM file with the certificate chain; turns TLS on.")] = None
    tls_key: Annotated[str | None, _setting(_Net, "PEM file with the certificate's private key.")] = None

    upload_dir: Annotated[str, _setting(_Store, "Directory for bytes, records and locks.")] = "./data"
    store: Annotated[str | None, _setting(_Store, "URL of the store for bytes; default file:UPLOAD_DIR.")] = None
    redis: Annotated[
        str | None,
        _setting(
            _Store,
            "URL of Redis or Valkey for records, locks, rates and quotas of all servers: redis://, rediss://, "
            "unix://, redis+sentinel://, redis+cluster://.",
        ),
    ] = None
    state: Annotated[
        str | None, _setting(_Store, "URL of the records; default that of redis, or sqlite:UPLOAD_DIR/uploads.db.")
    ] = None
    locker: Annotated[
        str | None, _setting(_Store, "URL of the locks; default that of redis, or file:UPLOAD_DIR/.locks.")
    ] = None
    fsync: Annotated[
        Literal["never", "finish", "chunk"],
        _setting(
            _Store,
            "When the file store forces bytes to the disk: never, when an upload finishes, or after every chunk.",
        ),
    ] = "finish"
    orphan_grace: Annotated[
        timedelta,
        _setting(_Store, "What a crash left in the storage that belongs to no upload is removed after so long."),
    ] = timedelta(days=1)

    quarantine_prefix: Annotated[
        str | None,
        _setting(
            _Store,
            "Folder, or prefix of keys, in the store for the bytes of uploads that no check has accepted; by default "
            "they lie among the others.",
        ),
    ] = None

    spool_dir: Annotated[
        str | None,
        _setting(
            _Store,
            "Folder for copies of uploads from S3 while a plugin needs a path; by default TMPDIR, /var/tmp or /tmp, "
            "whichever is the first on a disk.",
        ),
    ] = None
    spool_size: Annotated[
        Size | None, _setting(_Store, "Largest such copy; by default what leaves a twentieth of the disk free.")
    ] = None

    s3_endpoint: Annotated[
        str | None, _setting(_S3, "URL of an S3 service; Amazon's by default. Keys and region come from AWS_*.")
    ] = None
    s3_addressing: Annotated[
        Literal["auto", "path", "virtual"],
        _setting(_S3, "Where URLs name the bucket; auto is path with an endpoint of your own, else the host."),
    ] = "auto"
    s3_key: Annotated[
        str,
        _setting(
            _S3, "Key of an upload's object behind the store's prefix; {id} and {date} (2026/11/22) are filled in."
        ),
    ] = "{id}"
    s3_part_size: Annotated[
        Size, _setting(_S3, "Size of parts; larger where 10,000 of them would not hold the upload.")
    ] = Size(8 * 1024 * 1024)
    s3_concurrency: Annotated[int, _setting(_S3, "Parts of one upload that are sent at the same time.")] = 4
    s3_memory: Annotated[
        Size, _setting(_S3, "Memory for parts that are not sent yet, for all uploads of a process.")
    ] = Size(128 * 1024 * 1024)
    s3_checksum: Annotated[
        Literal["full", "part", "none"],
        _setting(_S3, "CRC-32C that the storage verifies: of every part and the whole object, of parts, or none."),
    ] = "full"
    s3_encryption: Annotated[
        str | None, _setting(_S3, "Encryption by the storage: AES256, aws:kms or aws:kms:KEY; its default by default.")
    ] = None
    s3_storage_class: Annotated[
        str | None, _setting(_S3, "Storage class of objects, such as STANDARD_IA; the bucket's by default.")
    ] = None
    s3_tags: Annotated[str | None, _setting(_S3, "Tags of objects, as in project=a&kind=b; none by default.")] = None
    s3_timeout: Annotated[
        timedelta, _setting(_S3, "A call that is silent for so long is repeated, three times in all.")
    ] = timedelta(seconds=30)

    max_size: Annotated[Size | None, _setting(_Limit, "Largest upload in bytes (10GiB, 500M); none by default.")] = None
    expire_after: Annotated[
        timedelta,
        _setting(_Limit, "Unfinished uploads expire so long after their last byte (36h, 7d); 0 keeps them forever."),
    ] = timedelta(days=7)
    remember_ended: Annotated[
        timedelta, _setting(_Limit, "How long removed uploads are answered with 410 rather than 404.")
    ] = timedelta(days=7)
    max_metadata_size: Annotated[Size, _setting(_Limit, "Largest Upload-Metadata header in bytes.")] = Size(16 * 1024)
    max_concat_members: Annotated[int, _setting(_Limit, "Most partial uploads in one concatenation.")] = 1000
    buffer_memory: Annotated[
        Size,
        _setting(_Limit, "Memory for received bytes that are not stored yet, for all uploads of a process."),
    ] = Size(64 * 1024 * 1024)
    max_connections: Annotated[
        int, _setting(_Limit, "Most open connections of a process; further ones get 503 and are closed.")
    ] = 10_000
    read_timeout: Annotated[
        timedelta, _setting(_Limit, "A request body that is silent for so long is cut; its bytes are kept.")
    ] = timedelta(seconds=60)
    keepalive_timeout: Annotated[
        timedelta,
        _setting(_Limit, "A connection without a request, or with half a head, is closed after so long."),
    ] = timedelta(seconds=75)
    lock_timeout: Annotated[
        timedelta, _setting(_Limit, "A request waits so long for an upload's lock before it gets 423.")
    ] = timedelta(seconds=10)
    shutdown_timeout: Annotated[
        timedelta,
        _setting(_Limit, "The server exits at most so long after SIGTERM; uploads may finish in the first half."),
    ] = timedelta(seconds=10)
    progress_interval: Annotated[
        timedelta,
        _setting(_Limit, "How often a running upload's offset is recorded and post_receive is called."),
    ] = timedelta(seconds=1)
    create_rate: Annotated[
        int,
        _setting(
            _Limit,
            "Uploads that one client address may create per minute, at each process or, with redis, at all servers "
            "together; 0 is no limit.",
        ),
    ] = 6000
    quota: Annotated[
        Size,
        _setting(
            _Limit,
            "Bytes of uploads that one person, or one address without a name, may announce in 24 hours, at each "
            "process or, with redis, at all servers together; 0 is no limit.",
        ),
    ] = Size(0)
    min_free_space: Annotated[
        Size,
        _setting(
            _Limit,
            "New uploads are refused while the disk of the uploads has less free space than this.",
        ),
    ] = Size(0)

    disable: Annotated[
        list[Literal["termination", "concatenation", "checksum", "download"]],
        _setting(_Http, "Parts of the protocol to turn off."),
    ] = []
    concatenation_unfinished: Annotated[
        bool, _setting(_Http, "Accept a concatenation before its parts are complete.")
    ] = False
    cors: Annotated[bool, _setting(_Http, "Answer browsers of other origins (CORS).")] = True
    cors_origin: Annotated[list[str], _setting(_Http, "Origins that browsers may upload from; * is any.")] = (
        msgspec.field(default_factory=lambda: ["*"])
    )
    cors_credentials: Annotated[bool, _setting(_Http, "Allow browsers to send cookies; needs named origins.")] = False
    cors_allow_header: Annotated[list[str], _setting(_Http, "Further request headers that browsers may send.")] = []
    cors_expose_header: Annotated[list[str], _setting(_Http, "Further response headers that pages may read.")] = []
    api_token: Annotated[
        str | None,
        _setting(
            _Http,
            "Bearer token for the list of uploads and the metrics; without one only this machine may read them.",
            secret=True,
        ),
    ] = None

    plugin: Annotated[list[str], _setting(_Plugin, "Further plugins: a module name or the path of a Python file.")] = []
    block_plugin: Annotated[list[str], _setting(_Plugin, "Plugins not to load, by name.")] = []
    hook_timeout: Annotated[timedelta, _setting(_Plugin, "A plugin's hook may take so long.")] = timedelta(seconds=30)
    head_size: Annotated[Size, _setting(_Plugin, "How many first bytes the inspect_head hook gets.")] = Size(64 * 1024)
    jobs: Annotated[
        str | None,
        _setting(
            _Jobs,
            "URL of the queue that hands jobs out: memory: for the server itself, or Redis for `tusd-py worker` "
            "processes; default that of redis, or memory:.",
        ),
    ] = None
    job_concurrency: Annotated[int, _setting(_Jobs, "Jobs that one process does at the same time.")] = 4
    job_attempts: Annotated[int, _setting(_Jobs, "A job fails for good after so many attempts.")] = 5
    job_backoff: Annotated[
        timedelta,
        _setting(_Jobs, "The second attempt comes about so long after the first; each further wait is twice as long."),
    ] = timedelta(seconds=2)
    job_timeout: Annotated[timedelta, _setting(_Jobs, "An attempt may take so long.")] = timedelta(hours=1)
    job_lease: Annotated[
        timedelta, _setting(_Jobs, "A job whose worker has been silent for so long is begun again by another.")
    ] = timedelta(seconds=30)

    worker_listen: Annotated[
        str | None,
        _setting(
            _Jobs,
            "HOST:PORT at which `tusd-py worker` serves /metrics, /healthz and /readyz, such as 127.0.0.1:9100; none "
            "by default.",
        ),
    ] = None

    plugins: Annotated[
        dict[str, dict[str, Any]],
        _setting(_Plugin, "Tables of plugins' own settings, by plugin name (TOML only)."),
    ] = {}

    log_format: Annotated[
        Literal["auto", "console", "json"],
        _setting(_Log, "Form of log lines; auto is console on a terminal, else json."),
    ] = "auto"
    log_level: Annotated[Literal["debug", "info", "warning", "error"], _setting(_Log, "Least severe lines to log.")] = (
        "info"
    )
    audit_log: Annotated[
        str | None,
        _setting(_Log, "File for the audit log (JSON lines), or - for standard error; off by default."),
    ] = None

    def __post_init__(self) -> None:
        """Check what no type says."""
        problems = []
        if not 0 <= self.port <= 65535:
            problems.append(f"port must be between 0 and 65535, not {self.port}")
        for name in (
            "workers",
            "max_connections",
            "max_concat_members",
            "head_size",
            "s3_concurrency",
            "job_concurrency",
            "job_attempts",
        ):
            if (count := getattr(self, name)) < 1:
                problems.append(f"{name} must be at least 1, not {count}")
        if not 5 * 1024 * 1024 <= self.s3_part_size <= 5 * 1024**3:
            problems.append("s3_part_size must be between 5MiB and 5GiB")
        if self.s3_memory < 2 * self.s3_part_size:
            problems.append("s3_memory must hold two parts at least (s3_part_size)")
        if "{id}" not in self.s3_key:
            problems.append("s3_key must contain {id}, or uploads would replace each other")
        if self.quarantine_prefix is not None:
            if not re.fullmatch(r"[\w-]+(/[\w-]+)*", self.quarantine_prefix, re.ASCII):
                problems.append("quarantine_prefix must be names of letters, digits, - and _, with / between them")
            if f"{self.s3_key}/".startswith(f"{self.quarantine_prefix}/"):
                problems.append("s3_key must not begin with quarantine_prefix")
        if self.create_rate < 0:
            problems.append(f"create_rate must be at least 0, not {self.create_rate}")
        if self.worker_listen is not None:
            host, _, port = self.worker_listen.rpartition(":")
            if not host or not port.isdecimal() or int(port) > 65535:
                problems.append(f"worker_listen must be HOST:PORT, not {self.worker_listen!r}")
        if (self.tls_cert is None) != (self.tls_key is None):
            problems.append("tls_cert and tls_key belong together: give both or none")
        if self.cors_credentials and "*" in self.cors_origin:
            problems.append("cors_credentials needs cors_origin to name the origins instead of *")
        if self.public_url and not self.public_url.startswith(("http://", "https://")):
            problems.append(f"public_url must begin with http:// or https://, not {self.public_url!r}")
        for name in (
            "read_timeout",
            "lock_timeout",
            "hook_timeout",
            "keepalive_timeout",
            "progress_interval",
            "s3_timeout",
            "orphan_grace",
            "job_backoff",
            "job_timeout",
            "job_lease",
        ):
            if getattr(self, name) <= timedelta(0):
                problems.append(f"{name} must be more than 0")
        for text in self.behind_proxy:
            try:
                ipaddress.ip_network("::1" if text == "unix" else text, strict=False)
            except ValueError as error:
                problems.append(f"behind_proxy: {error}; give addresses, networks such as 10.0.0.0/8, or unix")
        if problems:
            raise ConfigError("; ".join(problems))

    @property
    def collection_path(self) -> str:
        """`base_path` with a slash at both ends."""
        inner = self.base_path.strip("/")
        return f"/{inner}/" if inner else "/"

    @property
    def jobs_url(self) -> str:
        """URL of the queue of jobs, with the default filled in."""
        return self.jobs or self.redis or "memory:"

    @property
    def store_url(self) -> str:
        """URL of the store, with the default filled in."""
        return self.store or f"file:{self.upload_dir}"

    @property
    def state_url(self) -> str:
        """URL of the state, with the default filled in."""
        return self.state or self.redis or f"sqlite:{Path(self.upload_dir, 'uploads.db')}"

    @property
    def locker_url(self) -> str:
        """URL of the locker, with the default filled in."""
        return self.locker or self.redis or f"file:{Path(self.upload_dir, '.locks')}"


def path_of(url: str) -> Path:
    """Return the path in `scheme:relative/path`, `scheme:/absolute/path` or `scheme:///absolute/path`.

    Raises:
        ConfigError: it names a host or no path.
    """
    path = url.partition(":")[2]
    if path.startswith("//"):
        host, slash, rest = path[2:].partition("/")
        if host:
            raise ConfigError(f"{url!r} names a host; write {url.partition(':')[0]}:{host}{slash}{rest} for a path")
        path = slash + rest
    if not path:
        raise ConfigError(f"{url!r} names no path")
    return Path(path)


def redacted(url: str) -> str:
    """Return a URL, or any other text, without the password or other secrets in it."""
    url = re.sub(r"(?<=://)([^:@/]*):.*(?=@)", r"\1:***", url)
    return re.sub(r"(?i)([?&][a-z_]*(?:pass|secret|token)[a-z_]*=)[^&]*", r"\1***", url)
