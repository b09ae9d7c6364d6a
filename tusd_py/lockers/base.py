"""What a locker is: exclusive access to one upload, which its holder can be asked to give up."""

from __future__ import annotations

from typing import Protocol, Self

from tusd_py.config import Config


class LetGo(Protocol):
    """How a holder is told that it should stop."""

    def __call__(self, urgent: bool, /, *, lost: bool = False) -> None:
        """Stop, at once if it is urgent.

        This is called on the holder's event loop, when somebody else wants the lock or when it is `lost`: then another
        may hold it by now, and whatever was not done before must be left undone.
        """


class Lock(Protocol):
    """A lock that is held."""

    fence: int
    """Higher than that of every earlier lock on the same upload."""

    async def release(self) -> None:
        """Let the next one in; releasing twice is no error."""


class Locker(Protocol):
    """Gives out locks, at most one per upload at a time."""

    @classmethod
    def from_url(cls, url: str, config: Config) -> Self:
        """Return the locker that a URL names."""

    async def open(self, first_fence: int) -> None:
        """Get ready to give out locks with numbers of at least `first_fence`.

        Raises:
            StoreUnavailable: that is not possible; the message is for the operator.
        """

    async def acquire(self, upload_id: str, *, timeout: float, let_go: LetGo, urgent: bool = True) -> Lock:
        """Return the upload's lock, asking a present holder to let go.

        `timeout` is in seconds; 0 takes the lock only if it is free, and asks nobody. `let_go` is called when the
        next one asks this holder, which may be before this returns.

        Raises:
            Locked: the holder did not let go in time.
        """

    async def problem(self) -> str | None:
        """Return why locks cannot be given out now, for the operator, or None if they can."""

    async def aclose(self) -> None:
        """Give back what the locker holds open."""
