"""What a hook returns is what its contract says, or the plugin's failure: nothing is taken for an answer."""

import pytest

from tusd_py import Changes, Identity, Verdict, hookimpl
from tusd_py.errors import HookFailed
from tusd_py.testing.contracts.parts import new_job, new_upload
from tusd_py.testing.plugins import hooks_of


class Answers:
    """A plugin all of whose hooks return the same."""

    def __init__(self, answer):
        self.answer = answer

    @hookimpl
    def authenticate(self):
        return self.answer

    @hookimpl
    def authorize(self):
        return self.answer

    @hookimpl
    def pre_create(self):
        return self.answer

    @hookimpl
    async def inspect_head(self):
        return self.answer

    @hookimpl
    def pre_finish(self):
        return self.answer

    @hookimpl
    def pre_terminate(self):
        return self.answer

    @hookimpl
    def check(self):
        return self.answer

    @hookimpl
    async def describe(self):
        return self.answer

    @hookimpl
    def deliver(self):
        return self.answer


def call(hooks, hook):
    """Call a hook as the server does; its arguments do not matter here."""
    upload = new_upload()
    match hook:
        case "check" | "describe" | "deliver":
            return hooks.run_stage(new_job(upload.id, hook, "plugin"), 5, {})
        case "authenticate":
            return hooks.authenticate(None)
        case "authorize":
            return hooks.authorize(None, "append", upload)
        case "inspect_head":
            return hooks.inspect_head(upload, b"")
        case "pre_finish":
            return hooks.pre_finish(upload, None)
    return getattr(hooks, hook)(None, upload)


@pytest.mark.parametrize(
    ("hook", "answer", "said"),
    [
        ("authenticate", True, "returned bool from authenticate instead of Identity"),
        ("authenticate", Identity(name=5), "returned int from authenticate instead of str"),
        # What looks like a refusal must not be taken for consent.
        ("authorize", False, "returned bool from authorize instead of None"),
        ("inspect_head", False, "returned bool from inspect_head instead of None"),
        ("pre_finish", Verdict(ok=False), "returned Verdict from pre_finish instead of None"),
        ("pre_terminate", "no", "returned str from pre_terminate instead of None"),
        ("pre_create", {}, "returned dict from pre_create instead of Changes"),
        ("pre_create", Changes(metadata={"size": 5}), r"returned a wrong Changes from pre_create: .* `\$.metadata"),
        ("check", None, "returned None from check instead of Verdict"),
        (
            "check",
            Verdict(ok=False, reasons="bad"),
            r"returned a wrong Verdict from check: .* `\$.reasons`",
        ),
        ("check", Verdict(ok="yes"), r"returned a wrong Verdict from check: Expected `bool`.* `\$.ok`"),
        ("describe", None, "returned None from describe instead of Mapping"),
        ("describe", {"folder": object()}, "returned from describe what cannot be JSON: .* type object"),
        ("deliver", 204, "returned int from deliver instead of None"),
    ],
)
async def test_a_wrong_answer_is_named_with_what_was_wanted(hook, answer, said):
    """The error names the plugin, the hook, what it returned and what it has to return."""
    async with hooks_of(Answers(answer)) as hooks:
        with pytest.raises(HookFailed, match=f"plugin 'plugin' {said}"):
            await call(hooks, hook)


async def test_the_kind_of_a_failure_is_told():
    """The kind of an exception is told, its text is not: that can be anything, and the log has it."""

    class Fails:
        @hookimpl
        def check(self, upload):
            return {}["4111 1111 1111 1111"]

    async with hooks_of(Fails()) as hooks:
        with pytest.raises(HookFailed, match=r"^plugin 'plugin' failed in check: KeyError$"):
            await hooks.run_stage(new_job("u", "check", "plugin"), 5, {"upload": new_upload()})
