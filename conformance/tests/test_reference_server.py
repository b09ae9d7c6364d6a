"""The suite has nothing to say against a server that does everything right."""

from collections import defaultdict
from datetime import timedelta
from urllib.parse import urlsplit

from judging import TestedServer, results
from reference_server import ReferenceServer
from tus_conformance.rules import rules
from tus_conformance.server import Options

# What is run for clients is a matter of its own (test_interruptions_and_clients.py): it needs other programs.
CLIENTS = {rule.id for rule in rules().values() if rule.section == "Clients"}


class ServerThatForgets(ReferenceServer):
    """Its uploads expire while the suite looks on."""

    lifetime = timedelta(seconds=3)


def test_right_server_passes_everything():
    """Every rule holds for the reference server; none is skipped, and nothing goes wrong inside."""
    with ServerThatForgets() as reference:
        server = TestedServer(reference.url, Options(timeout=5, patience=3))
        found = defaultdict(set)
        for result in results(server):
            found[result.result].add(result.rule.id)
        left = server.forget()
    assert dict(found) == {"pass": {rule.id for rule in rules().values() if not rule.untested} - CLIENTS}
    # Creations that were cut have uploads that nobody was told of.
    known = {urlsplit(url).path for url in server.created} & reference.uploads.keys()
    assert (reference.crashes, left, known) == ([], [], set())
