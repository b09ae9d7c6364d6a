"""HTTP/1.1 for servers that are tested: bodies come piece by piece, and trailers and broken connections can be seen."""

import contextlib
import socket
import socketserver
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

import h11


class Gone(Exception):
    """The client went away, or another request took its place: there is nobody to answer."""


@dataclass
class Response:
    """What is sent; headers that are None are left out."""

    status: int
    headers: dict[str, Any] = field(default_factory=dict)
    body: bytes | bytearray = b""


class Request:
    """One request, whose body has not been read yet."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._parser = h11.Connection(h11.SERVER)
        event = self._next_event()
        if not isinstance(event, h11.Request):
            raise Gone
        self.sent_method = self.method = event.method.decode()
        self.path = urlsplit(event.target.decode()).path
        self.headers = {name.decode(): value.decode("latin-1") for name, value in event.headers}
        self.trailers: dict[str, str] = {}

    def _next_event(self) -> Any:
        try:
            while (event := self._parser.next_event()) is h11.NEED_DATA:
                self._parser.receive_data(self._socket.recv(65_536))
        except (OSError, h11.RemoteProtocolError) as error:
            raise Gone from error
        return event

    @property
    def has_body(self) -> bool:
        return self.headers.get("content-length", "0") != "0" or "transfer-encoding" in self.headers

    @property
    def is_expecting(self) -> bool:
        """Whether the client waits to hear that it may send the body."""
        return "expect" in self.headers

    def body(self) -> Iterator[bytes]:
        """Yield the body as it comes in, and know the trailers in the end."""
        self.say_continue()
        while isinstance(event := self._next_event(), h11.Data):
            yield bytes(event.data)
        if not isinstance(event, h11.EndOfMessage):
            raise Gone
        self.trailers = {name.decode(): value.decode("latin-1") for name, value in event.headers}

    def say_continue(self) -> None:
        if self._parser.they_are_waiting_for_100_continue:
            self._socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")


class HttpServer:
    """A server in threads of its own, on a free port; a context manager that runs it."""

    read_timeout = 0.5
    """Seconds of silence after which a connection is closed."""

    def __init__(self) -> None:
        # Threads that are used again cost less than new ones.
        threads = self._threads = ThreadPoolExecutor(64)
        serve = self.serve

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                serve(self.request)

        crashes = self.crashes = []
        """What went wrong in the server itself."""

        class Listener(socketserver.ThreadingTCPServer):
            request_queue_size = 128

            def process_request(self, request: Any, client_address: object) -> None:
                threads.submit(self.process_request_thread, request, client_address)

            def handle_error(self, request: object, client_address: object) -> None:
                crashes.append(sys.exception())

        self._listener = Listener(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._listener.server_address[1]}/"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.shutdown()
        self._listener.server_close()
        self._threads.shutdown()
        self._thread.join()

    def serve(self, connection: socket.socket) -> None:
        """Answer one request, and close the connection."""
        connection.settimeout(self.read_timeout)
        with contextlib.suppress(OSError):
            try:
                request = Request(connection)
                connection.sendall(self.serialized(request, self.respond(request)))
            except Gone as error:
                self.give_up(connection, error)
            # A connection closed with bytes unread is reset, and the answer lost: read them first.
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65_536):
                pass

    def give_up(self, connection: socket.socket, error: Gone) -> None:
        """Do what is left to do when there is nobody to answer."""

    def serialized(self, request: Request, response: Response) -> bytes:
        fields = {**response.headers, "Connection": "close"}
        if response.status != 204:
            fields["Content-Length"] = len(response.body)
        lines = [f"HTTP/1.1 {response.status} "]
        lines += [f"{name}: {value}" for name, value in fields.items() if value is not None]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        return head if request.sent_method == "HEAD" else head + response.body

    def respond(self, request: Request) -> Response:
        raise NotImplementedError
