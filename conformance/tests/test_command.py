"""The command as people run it: what it prints, writes, sends and leaves behind, and how it ends."""

import json
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from socket import create_server
from xml.etree import ElementTree

import msgspec
import pytest
from defects import Defect, lacks, tells, without
from raw_http import HttpServer, Request, Response
from reference_server import ReferenceServer, Refusal
from tus_conformance.reports import Report
from tus_conformance.rules import rules

SECRET = "Bearer a+secret/that=nobody/reads"
CACHED = Defect("core.head.no-store", "no-cache", tells("HEAD", "Cache-Control", lambda _: "no-cache"))
SILENT_409 = "recommended.conflict-offset"
NOWHERE = Defect("creation.location", "not told", lacks("POST", "Location"))
TWO_RULES = ("--only", CACHED.rule, "--only", SILENT_409)


class RecordingServer(ReferenceServer):
    """Keeps what it was asked, and says in errors who asked."""

    def __init__(self):
        self.asked = []
        super().__init__()

    def respond(self, request: Request) -> Response:
        self.asked.append(request)
        return super().respond(request)

    def refused(self, request: Request, refusal: Refusal) -> Response:
        response = super().refused(request, refusal)
        response.headers["X-You-Are"] = request.headers.get("authorization")
        return response

    def head(self, request, upload):
        response = super().head(request, upload)
        # Two things to complain of, so that exchanges are printed.
        response.headers |= {"Cache-Control": "no-cache", "X-You-Are": request.headers.get("authorization")}
        return response


def run(*arguments: str, command: tuple[str, ...] = (sys.executable, "-m", "tus_conformance")):
    """Run the command to its end."""
    outcome = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=60)
    assert "Traceback" not in outcome.stdout + outcome.stderr
    return outcome


@pytest.fixture(scope="module")
def right():
    """A server that does everything right."""
    with ReferenceServer() as server:
        yield server


@pytest.fixture(scope="module")
def wrong():
    """A server that breaks one MUST, and lacks one thing that is recommended."""
    server = type("Wrong", (CACHED.server,), {"refused": _refuses_silently})
    with server() as server:
        yield server


def _refuses_silently(self, request: Request, refusal: Refusal) -> Response:
    refusal.headers.pop("Upload-Offset", None)
    return ReferenceServer.refused(self, request, refusal)


# How it ends


def test_status_0_if_every_must_holds(right):
    """A section that holds is printed with its rules and totals, and the status is 0."""
    outcome = run(right.url, "--only", "Termination")
    assert (outcome.returncode, outcome.stderr) == (0, "")
    for word in ("Termination", "pass      MUST         termination.status", rules()["termination.status"].text[:60]):
        assert word in outcome.stdout
    assert "Every MUST that counts for this server holds." in outcome.stdout


def test_status_1_if_a_must_fails(wrong):
    """A MUST that is broken is shown with what was sent, got and expected, and the status is 1."""
    outcome = run(wrong.url, "--only", CACHED.rule)
    assert outcome.returncode == 1
    for word in (
        "FAIL      MUST         core.head.no-store",
        "expected  Cache-Control: no-store",
        "got       200, Cache-Control: no-cache",
        "sent      HEAD /files/",
        "answer    200",
        "This server breaks the specification.",
    ):
        assert word in outcome.stdout


def test_status_1_if_a_must_is_blocked():
    """A MUST that cannot be tried, because something else is broken, makes the status 1 as well."""
    with NOWHERE.server() as server:
        outcome = run(server.url, "--only", CACHED.rule)
    assert outcome.returncode == 1
    assert "BLOCKED   MUST         core.head.no-store" in outcome.stdout
    assert "an upload could not be created (201, Location: None)" in outcome.stdout


def test_status_0_if_only_what_is_recommended_fails(wrong):
    """What is not a MUST is shown as failed, and fails nobody."""
    outcome = run(wrong.url, "--only", SILENT_409)
    assert outcome.returncode == 0
    assert "fail      RECOMMENDED  recommended.conflict-offset" in outcome.stdout


# Which rules


def test_list():
    """--list prints all rules with their cases, or why there is none, and needs no server."""
    outcome = run("--list")
    assert outcome.returncode == 0
    for rule in rules().values():
        assert f"{rule.level:11}  {rule.id}\n" in outcome.stdout
    assert "- HEAD gets 200 or 204" in outcome.stdout
    assert "(not tested: only the server knows what it prefers)" in outcome.stdout


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("core.head.status", {"core.head.status"}),
        ("core.head.*", {rule for rule in rules() if rule.startswith("core.head.")}),
        ("Termination", {rule for rule in rules() if rule.startswith("termination.")}),
        ("termination", {rule for rule in rules() if rule.startswith("termination.")}),
        ("creation with *", {rule.id for rule in rules().values() if rule.section == "Creation With Upload"}),
    ],
)
def test_only(right, pattern, expected):
    """--only takes an id, a pattern or a section; what cannot be tested does not come up."""
    outcome = run(right.url, "--only", pattern, "--json", "-")
    assert {result["rule"]["id"] for result in json.loads(outcome.stdout)["results"]} == {
        rule for rule in expected if not rules()[rule].untested
    }


def test_only_several(right):
    """--only may be repeated, and --list heeds it."""
    arguments = ("--only", "core.head.status", "--only", "termination.gone")
    outcome = run(right.url, *arguments, "--json", "-")
    assert [result["rule"]["id"] for result in json.loads(outcome.stdout)["results"]] == [
        "core.head.status",
        "termination.gone",
    ]
    listed = run("--list", *arguments).stdout
    assert "core.head.status" in listed
    assert "core.head.length" not in listed


def test_only_unknown(right):
    """A pattern that fits no rule is named, also beside one that does, and the status is 2."""
    outcome = run(right.url, "--only", "core.*", "--only", "cord.*")
    assert (outcome.returncode, outcome.stdout) == (2, "")
    assert "no rule that can be tested fits 'cord.*'" in outcome.stderr


# What it writes


def test_json(wrong, tmp_path):
    """The JSON file is a report: rules with results, and for what failed what was sent, got and expected."""
    outcome = run(wrong.url, *TWO_RULES, "--json", str(tmp_path / "report.json"))
    assert "core.head.no-store" in outcome.stdout
    report = msgspec.json.decode((tmp_path / "report.json").read_bytes(), type=Report)
    assert (report.url, report.extensions, report.left) == (wrong.url, tuple(sorted(wrong.extensions)), ())
    first, second = report.results
    assert (first.rule, first.result) == (rules()[CACHED.rule], "fail")
    (case,) = first.cases
    assert (case.id, case.expected) == ("core.head.no-store:head-is-not-cached", "Cache-Control: no-store")
    assert case.exchanges[0].sent.startswith("HEAD /files/")
    assert case.exchanges[0].got.startswith("200\n")
    assert (second.rule.level, second.result) == ("RECOMMENDED", "fail")


def test_junit(wrong, tmp_path):
    """In the JUnit file only a broken MUST is a failure."""
    run(wrong.url, *TWO_RULES, "--only", "core.head.status", "--junit", str(tmp_path / "report.xml"))
    root = ElementTree.parse(tmp_path / "report.xml").getroot()
    found = {case.get("name"): [child.tag for child in case] for case in root.iter("testcase")}
    assert found == {CACHED.rule: ["failure"], SILENT_409: ["skipped"], "core.head.status": []}
    totals = {suite.get("name"): (suite.get("tests"), suite.get("failures")) for suite in root.iter("testsuite")}
    assert totals == {"Core Protocol": ("2", "1"), "Recommended": ("1", "0")}
    assert "expected  Cache-Control: no-store" in root.find(".//failure").text


def test_markdown(wrong, tmp_path):
    """The Markdown file has a table for each section."""
    run(wrong.url, *TWO_RULES, "--markdown", str(tmp_path / "report.md"))
    page = (tmp_path / "report.md").read_text()
    assert "| MUST | 0 | 1 | 0 | 0 |" in page
    assert (
        "\n## Core Protocol\n\n| result | level | rule |\n|---|---|---|\n| **fail** | MUST | `core.head.no-st" in page
    )
    assert "expected Cache-Control: no-store; got 200, Cache-Control: no-cache" in page


@pytest.mark.parametrize("option", ["--json", "--junit", "--markdown"])
def test_standard_output(wrong, tmp_path, option):
    """With - a report is all that is on standard output, and people read standard error."""
    outcome = run(wrong.url, *TWO_RULES, option, "-")
    run(wrong.url, *TWO_RULES, option, str(tmp_path / "file"))
    assert _timeless(outcome.stdout) == _timeless((tmp_path / "file").read_text())
    assert "FAIL      MUST         core.head.no-store" in outcome.stderr


def _timeless(text: str) -> list[str]:
    """Return lines without those that tell the names of uploads and dates."""
    return [line for line in text.splitlines() if "/files/" not in line and "Upload-Expires" not in line]


def test_header(tmp_path):
    """--header goes with every request; its value is nowhere in what is printed or written, also not in failures."""
    files = [str(tmp_path / name) for name in ("json", "junit", "markdown")]
    with RecordingServer() as server:
        outcome = run(
            server.url,
            *("--header", f"Authorization: {SECRET}", "--header", "X-Tenant: 5", "--only", "core.head.*"),
            *("--only", "checksum", "--only", "recommended.*", "--only", "interruptions.honest"),
            *("--json", files[0], "--junit", files[1], "--markdown", files[2]),
        )
    assert outcome.returncode == 1
    assert len(server.asked) > 100
    assert {request.headers.get("authorization") for request in server.asked} == {SECRET}
    assert {request.headers.get("x-tenant") for request in server.asked} == {"5"}
    assert "Authorization: ***\n" in outcome.stdout
    assert "X-Tenant: ***\n" in outcome.stdout
    assert "X-You-Are: ***\n" in outcome.stdout
    for text in (outcome.stdout, outcome.stderr, *(Path(file).read_text() for file in files)):
        assert SECRET.partition(" ")[2] not in text


def test_header_without_a_value(right):
    """A header may be empty."""
    assert run(right.url, "--header", "X-Empty:", "--only", "core.head.status").returncode == 0


def test_header_malformed(right):
    """What is no header is refused."""
    outcome = run(right.url, "--header", "no colon")
    assert outcome.returncode == 2
    assert "'no colon' is not of the form 'name:value'" in outcome.stderr


def test_metadata():
    """Uploads are created with the metadata that a server asks for."""

    class Demanding(RecordingServer):
        def check_metadata(self, metadata):
            if metadata is None or "project dGVzdHM=" not in metadata:
                raise Refusal(422, "which project?")
            super().check_metadata(metadata)

    arguments = ("--only", "core.*", "--only", "concatenation")
    with Demanding() as server:
        outcome = run(server.url, *arguments, "--metadata", "project=tests", "--json", "-")
        assert {result["result"] for result in json.loads(outcome.stdout)["results"]} == {"pass", "fail"}
        failed = [
            result["rule"]["id"] for result in json.loads(outcome.stdout)["results"] if result["result"] == "fail"
        ]
        assert failed == [CACHED.rule]
        assert run(server.url, *arguments).returncode == 1


# Servers that cannot be tested


class Other(HttpServer):
    """A server of something else."""

    def respond(self, request: Request) -> Response:
        return Response(404, {"Content-Type": "text/html"}, b"<h1>Not Found</h1>")


class Closing(HttpServer):
    """Closes at once."""

    def serve(self, connection):
        pass


@pytest.mark.parametrize(
    ("server", "reason"),
    [
        (Other, "is no tus server: OPTIONS gets 404 and POST 404, without any header of tus"),
        (Closing, "cannot be tested: the server closed the connection without an answer"),
    ],
)
def test_no_tus_server(server, reason):
    """What cannot be tested is said in a line, with the status 2."""
    with server() as server:
        outcome = run(server.url)
    assert (outcome.returncode, outcome.stdout) == (2, "")
    assert outcome.stderr.count("\n") == 1
    assert f"tus-conformance: {server.url} {reason}" in outcome.stderr


def test_silent_server():
    """A server that never answers is given up after --timeout."""
    with closing(create_server(("127.0.0.1", 0))) as listener:
        started = time.monotonic()
        outcome = run(f"http://127.0.0.1:{listener.getsockname()[1]}/files/", "--timeout", "0.5")
        seconds = time.monotonic() - started
    assert outcome.returncode == 2
    assert "cannot be tested: no whole answer came within 0.5 seconds" in outcome.stderr
    assert 0.5 <= seconds < 10


def test_nobody_listens():
    """A server that is not there is told from one that is wrong."""
    with closing(create_server(("127.0.0.1", 0))) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/files/"
    outcome = run(url)
    assert outcome.returncode == 2
    assert f"tus-conformance: {url} cannot be tested: [Errno 111] Connection refused" in outcome.stderr


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "127.0.0.1:8080", "http://"])
def test_no_url(url):
    """What is no URL of a server is refused."""
    outcome = run(url)
    assert outcome.returncode == 2
    assert "is not a URL like http://127.0.0.1:8080/files/" in outcome.stderr


def test_without_url():
    """Without a URL it is asked for."""
    outcome = run()
    assert outcome.returncode == 2
    assert "which server?" in outcome.stderr


# What is left behind


def test_nothing_is_left_behind():
    """All uploads that the suite was told of are removed in the end."""
    with RecordingServer() as server:
        run(server.url, "--only", "core.*", "--only", "conc*", "--only", "creation*", "--only", "checksum")
    assert len(server.gone) > 100
    assert server.uploads == {}


@pytest.mark.parametrize("interrupts", [1, 2])
def test_nothing_is_left_behind_after_interrupt(interrupts):
    """Ctrl-C ends the run after the rule that is being tried, a second one at once; uploads are removed either way."""
    arguments = [sys.executable, "-m", "tus_conformance", "--only", "expiration.changes", "--only", "termination"]
    with (
        RecordingServer() as server,
        subprocess.Popen(
            [*arguments, server.url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process,
    ):
        while not any(upload.length == 5 for upload in list(server.uploads.values())):
            time.sleep(0.01)
        for _ in range(interrupts):
            process.send_signal(signal.SIGINT)
            time.sleep(0.1)  # else two would be one
        output, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert errors.strip().startswith("interrupted")
    assert "termination" not in output
    assert server.gone
    assert server.uploads == {}


def test_what_is_left_is_named():
    """The uploads that a server does not let be removed are named in the end, and in the report."""
    with type("Keeping", (RecordingServer,), without("termination"))() as server:
        outcome = run(server.url, "--only", "core.head.length", "--json", "-")
    left = [server.url.removesuffix("/files/") + path for path in server.uploads]
    assert len(left) >= 1
    assert sorted(json.loads(outcome.stdout)["left"]) == sorted(left)
    assert f"{len(left)} uploads could not be removed" in outcome.stderr
    for url in left:
        assert f"  {url}\n" in outcome.stderr


def test_command_is_module(wrong):
    """`tus-conformance` and `python -m tus_conformance` are the same."""
    script = (str(Path(sys.executable).with_name("tus-conformance")),)
    outcome, other = (run(wrong.url, *TWO_RULES, **more) for more in ({}, {"command": script}))
    assert outcome.returncode == other.returncode == 1
    assert _timeless(outcome.stdout) == _timeless(other.stdout)
    assert run("--version", command=script).stdout == run("--version").stdout
