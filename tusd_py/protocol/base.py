"""What an extension is: an object with steps that the core folds over."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import ClassVar, Literal

from tusd_py.body import Body
from tusd_py.errors import InvalidRequest
from tusd_py.models import Request, Response, Upload
from tusd_py.uploads import Uploads

Resource = Literal["collection", "upload"]
Handler = Callable[[Request, Body], Awaitable[Response]]
Routes = Mapping[tuple[Resource, str], Handler]


class Extension:
    """One section of the specification; a step that it does not override changes nothing."""

    names: ClassVar[tuple[str, ...]] = ()
    """What it adds to `Tus-Extension`."""

    def advertise(self) -> Mapping[str, str]:
        """Return further headers for the answer to OPTIONS."""
        return {}

    def routes(self, core: Core) -> Routes:
        """Return handlers by resource and method."""
        return {}

    def draft(self, request: Request, upload: Upload) -> Upload:
        """Add what a creation request says of this extension to the new upload, or raise if it is wrong."""
        return upload

    def wrap_body(self, request: Request, body: Body) -> None:
        """Add what a request with bytes says of this extension to its body, or raise if it is wrong."""

    def describe(self, upload: Upload) -> Mapping[str, str]:
        """Return the headers that tell an upload's state in answers to HEAD."""
        return {}

    def confirm(self, upload: Upload) -> Mapping[str, str]:
        """Return the headers that answers to POST and PATCH carry."""
        return {}


class NotOffered(Extension):
    """Stands in for an extension that is off: a request that relies on it is refused rather than misunderstood."""

    def __init__(self, header: str) -> None:
        """Refuse requests with this header."""
        self._header = header

    def draft(self, request: Request, upload: Upload) -> Upload:
        """Refuse the header at creation."""
        self._refuse(request)
        return upload

    def wrap_body(self, request: Request, body: Body) -> None:
        """Refuse the header with bytes."""
        self._refuse(request)

    def _refuse(self, request: Request) -> None:
        if self._header in request.headers:
            raise InvalidRequest(f"{self._header} is not supported by this server")


class Core:
    """What the core offers to the extensions' handlers."""

    uploads: Uploads
    extensions: list[Extension]

    def draft(self, request: Request) -> Upload:
        """Return the upload that a creation request describes, without an id."""
        raise NotImplementedError

    def wrap_body(self, request: Request, body: Body) -> Body:
        """Return the body with what all extensions add."""
        raise NotImplementedError

    def confirm(self, upload: Upload) -> dict[str, str]:
        """Return the headers of all extensions for answers to POST and PATCH."""
        raise NotImplementedError
