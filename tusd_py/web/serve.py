"""Runs a server process: listens, announces itself, and stops in good order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from tusd_py.composer import compose
from tusd_py.config import Config, ConfigError
from tusd_py.errors import ShuttingDown
from tusd_py.web.adapter import LINGER_SECONDS
from tusd_py.web.app import Server, housekeeping
from tusd_py.web.front import Front
from tusd_py.worker import working

BACKLOG = 1024
MAX_HEADER_BYTES = 64 * 1024
OPEN_FILES = 65536
OWN_FILES = 64
# A socket, the upload's file and its lock.
FILES_PER_CONNECTION = 3
# Refused connections that may still be open; their files are among OWN_FILES.
MOST_LINGERING = 16

_log = structlog.get_logger("tusd_py.serve")


def listen(config: Config) -> socket.socket:
    """Return a bound socket, not listening yet.

    Raises:
        ConfigError: the address cannot be used.
    """
    try:
        if config.unix_socket:
            return _unix_socket(Path(config.unix_socket))
        family, kind, protocol, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        server = socket.socket(family, kind, protocol)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return _bound(server, address)
    except OSError as error:
        where = config.unix_socket or f"{config.host}:{config.port}"
        raise ConfigError(f"cannot listen on {where}: {error.strerror or error}") from error


def _unix_socket(path: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        server.connect(str(path))
    except FileNotFoundError:
        pass
    except ConnectionRefusedError:
        if not path.is_socket():
            raise ConfigError(f"{path} exists and is no socket") from None
        path.unlink()  # left behind by a server that died
    else:
        raise ConfigError(f"another server listens on {path}")
    finally:
        server.close()
    return _bound(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), str(path))


def _bound(server: socket.socket, address: Any) -> socket.socket:
    try:
        server.bind(address)
    except OSError:
        server.close()
        raise
    return server


def try_to_listen(config: Config) -> None:
    """See whether the address can be used, and leave it free.

    Raises:
        ConfigError: it cannot be used.
    """
    listen(config).close()
    if config.unix_socket:
        Path(config.unix_socket).unlink(missing_ok=True)


def endpoint(config: Config, server: socket.socket) -> str:
    """Return the URL under which uploads are created."""
    if config.public_url:
        return config.public_url.rstrip("/") + "/"
    if config.unix_socket:
        return f"http://unix:{config.unix_socket}:{config.collection_path}"
    host = f"[{config.host}]" if ":" in config.host else config.host
    scheme = "https" if config.tls_cert else "http"
    return f"{scheme}://{host}:{server.getsockname()[1]}{config.collection_path}"


def announce(config: Config, server: socket.socket) -> None:
    """Print the one line that says that the server is ready."""
    print(f"You can now upload files to: {endpoint(config, server)}", flush=True)  # noqa: T201 - what the command promises


def tls_context(config: Config) -> ssl.SSLContext | None:
    """Return the TLS settings, or None without TLS.

    Raises:
        ConfigError: certificate or key cannot be read.
    """
    if config.tls_cert is None or config.tls_key is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(config.tls_cert, config.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"cannot use tls_cert {config.tls_cert} with tls_key {config.tls_key}: {error}") from error
    return context


class OneLineForBadRequests(logging.Filter):
    """Keeps aiohttp from logging a traceback whenever a stranger sends something that is not HTTP."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Shorten the record of a request that could not be parsed."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            record.exc_info = record.exc_text = None
            record.levelno, record.levelname = logging.INFO, "INFO"
            record.msg, record.args = "not HTTP: %s", (str(error.message).partition("\n")[0],)
            return logging.getLogger().isEnabledFor(logging.INFO)
        return True


def allow_open_files() -> None:
    """Raise the process's limit on open files as far as it may, up to a sane number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def most_connections(config: Config) -> int:
    """Return how many connections may be open: as set, but no more than the process can have files for."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return config.max_connections
    return min(config.max_connections, max(1, (files - OWN_FILES) // FILES_PER_CONNECTION))


class TooMany(asyncio.Protocol):
    """Answers a connection beyond the limit, and closes it.

    Args:
        others: those that wait to be closed. A connection that is closed before its request was read is reset, and
            the client never sees the answer, so a few of them get the time to send and to read.
    """

    def __init__(self, others: set[TooMany]) -> None:
        """Join `others` once connected."""
        self._others = others

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send 503."""
        assert isinstance(transport, asyncio.Transport)
        text = b"ERR_UNAVAILABLE: the server has too many connections; try again\n"
        transport.write(
            b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\nConnection: close\r\n"
            b"Content-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text)
        )
        if len(self._others) >= MOST_LINGERING:
            transport.close()
            return
        self._others.add(self)
        with contextlib.suppress(OSError):  # the client may be gone already
            if transport.can_write_eof():
                transport.write_eof()
        asyncio.get_running_loop().call_later(LINGER_SECONDS, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Make room for another."""
        self._others.discard(self)


async def serve(
    config: Config,
    server_socket: socket.socket,
    *,
    is_first: bool = True,
    ready: Callable[[], None],
    stop: asyncio.Event | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, or until `stop` is set.

    Args:
        config: the settings.
        server_socket: what to accept connections from.
        is_first: whether this process does the housekeeping; one of several does.
        ready: called when connections are accepted.
        stop: ends the server too.
    """
    stop = stop or asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError, ValueError):
            loop.add_signal_handler(number, stop.set)
    context = tls_context(config)
    logging.getLogger("aiohttp.server").addFilter(OneLineForBadRequests())
    async with contextlib.AsyncExitStack() as stack:
        parts = await stack.enter_async_context(compose(config))
        server = Server(parts)
        runner = web.AppRunner(
            server.app,
            access_log=None,
            keepalive_timeout=config.keepalive_timeout.total_seconds(),
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            lingering_time=LINGER_SECONDS,
            auto_decompress=False,
            read_bufsize=64 * 1024,
        )
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        if is_first:
            await stack.enter_async_context(housekeeping(parts))
        await stack.enter_async_context(working(parts))
        http, memory = runner.server, server.adapter.memory
        refused: set[TooMany] = set()
        assert http is not None

        def accept() -> asyncio.BaseProtocol:
            return Front(http(), memory) if len(http.connections) < most_connections(config) else TooMany(refused)

        listener = await loop.create_server(accept, sock=server_socket, ssl=context, backlog=BACKLOG)
        if (most := most_connections(config)) < config.max_connections:
            _log.debug("the limit on open files allows fewer connections than max_connections", connections=most)
        ready()
        await stop.wait()
        await _stop(server, listener, http)


async def _stop(server: Server, listener: asyncio.Server, http: web.Server) -> None:
    """Accept nothing more, let uploads finish for half the time, stop the rest with their bytes kept."""
    config, uploads = server.parts.config, server.parts.uploads
    seconds = config.shutdown_timeout.total_seconds()
    _log.info("stopping", receiving=len(uploads.bodies), timeout=seconds)
    server.stopping.set()
    listener.close()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds / 2):
            await uploads.bodies.idle()
    uploads.bodies.stop(ShuttingDown())
    http.pre_shutdown()  # else connections without a request would be waited for
    await http.shutdown(seconds / 4)
    _log.info("stopped")


def run(config: Config) -> int:
    """Run one process or several, and return the exit status."""
    allow_open_files()
    server_socket = listen(config)
    try:
        if config.workers > 1:
            from tusd_py.web.workers import supervise

            return supervise(config, server_socket)
        asyncio.run(serve(config, server_socket, ready=lambda: announce(config, server_socket)))
        return 0
    finally:
        server_socket.close()
        if config.unix_socket:
            Path(config.unix_socket).unlink(missing_ok=True)
