"""The conformance suite holds for all backends and numbers of workers: nothing failed, and nothing blocked."""

from collections.abc import Callable

import pytest
from tus_conformance.rules import rules
from tus_conformance.runner import run, selected
from tus_conformance.server import Options, Server

from tusd_py.testing.server import ServerProcess

# What servers of this project offer to whom asks for all of it.
EVERYTHING = ("--concatenation-unfinished", "--max-size", "1GiB")
# What is about servers without an extension cannot be said of one that has it, and the other way round.
NEVER = {rule.id for rule in rules().values() if rule.extension == "checksum-trailer"} | {"checksum.trailer.advertised"}

TAKES_TIME = {"expiration.gone", "interruptions.timeout"}


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--workers", "2"),
        ("--store", "memory:", "--state", "memory:", "--locker", "memory:"),
        ("--state", "memory:", "--locker", "memory:"),
    ],
    ids=["file", "file with two workers", "memory", "file with records in memory"],
)
def test_conforms(server_with: Callable[..., ServerProcess], options: tuple[str, ...]) -> None:
    """Every rule holds that counts."""
    server = Server(server_with(*EVERYTHING, *options).url, Options(patience=0.5))
    server.discover()
    # The tests of the suite itself drive a server by other people's clients.
    results = list(run(server, [rule for rule in selected([]) if rule.section != "Clients"]))
    assert [result for result in results if result.result in ("fail", "blocked")] == []
    assert {result.rule.id for result in results if result.result == "skipped"} <= NEVER | TAKES_TIME
    assert server.forget() == []


def test_conforms_in_time(server_with: Callable[..., ServerProcess]) -> None:
    """What a server does only after a while holds too: uploads expire, and silent connections are closed."""
    server = Server(server_with("--expire-after", "2s", "--read-timeout", "1s").url, Options(patience=4))
    server.discover()
    results = list(run(server, selected(["expiration", *TAKES_TIME])))
    assert {result.rule.id: result.cases for result in results if result.result != "pass"} == {}
