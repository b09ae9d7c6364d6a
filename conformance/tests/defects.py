"""What a defect is: a server that does one thing wrong, and the rule that has to notice."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from raw_http import Request, Response
from reference_server import ReferenceServer

# Rules that cannot be tried without uploads, even if there is no extension at all.
NEED_UPLOADS = "core.* interruptions.* recommended.*"

Change = Callable[[Request, Response], object]


@dataclass(frozen=True)
class Defect:
    """One defect."""

    rule: str
    """The rule that it breaks."""
    what: str
    """What is wrong, in a few words."""
    overrides: Mapping[str, Any]
    """Attributes and methods of the reference server that are replaced."""
    blocked: str = field(default="", kw_only=True)
    """Other rules that cannot be tried because of it, by id or pattern, with spaces between."""

    timeout: float = field(default=4, kw_only=True)
    """Seconds that an answer may take."""
    patience: float = field(default=1, kw_only=True)
    """Seconds to wait for what the server does by itself."""

    def __str__(self) -> str:
        return f"{self.rule}: {self.what}"

    @property
    def server(self) -> type[ReferenceServer]:
        """The server that has the defect."""
        return type("DefectiveServer", (ReferenceServer,), dict(self.overrides))


# Ways to replace methods


def nothing(*_: object) -> None:
    """Do not even look."""


def answers(method: str | None, change: Change) -> dict[str, Any]:
    """Change the answers to a method, or to all of them."""

    def respond(self: ReferenceServer, request: Request) -> Response:
        response = ReferenceServer.respond(self, request)
        if method in (None, request.method):
            change(request, response)
        return response

    return {"respond": respond}


def status(method: str | None, right: int, wrong: int) -> dict[str, Any]:
    """Answer with another status."""

    def change(request: Request, response: Response) -> None:
        if response.status == right:
            response.status = wrong

    return answers(method, change)


def lacks(method: str | None, *names: str, status: int | None = None) -> dict[str, Any]:
    """Leave headers out of answers, or only of those with this status."""

    def change(request: Request, response: Response) -> None:
        if status in (None, response.status):
            for name in names:
                response.headers[name] = None

    return answers(method, change)


def tells(method: str | None, name: str, wrong: Callable[[Any], object]) -> dict[str, Any]:
    """Tell another value in a header than the right one, where there is one."""

    def change(request: Request, response: Response) -> None:
        if response.headers.get(name) is not None:
            response.headers[name] = wrong(response.headers[name])

    return answers(method, change)


def without(*extensions: str, **overrides: Any) -> dict[str, Any]:
    """Do not advertise some extensions."""
    return {"extensions": tuple(name for name in ReferenceServer.extensions if name not in extensions), **overrides}
