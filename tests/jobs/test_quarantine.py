"""With a prefix for the quarantine, nothing lies where accepted uploads lie but those, whatever dies in between."""

import asyncio
import itertools
import os
import tempfile

import pytest

from tusd_py import places as places_of
from tusd_py.backends import Rules
from tusd_py.claim import Claim
from tusd_py.composer import compose
from tusd_py.config import Config, ConfigError
from tusd_py.errors import AlreadyExists, Forbidden
from tusd_py.hooks.caller import Hooks
from tusd_py.hooks.plugins import plugin_manager
from tusd_py.hooks.specs import hookimpl
from tusd_py.jobs import Jobs
from tusd_py.lockers.memory import MemoryLocker
from tusd_py.models import JobStatus, Status, Verdict, now
from tusd_py.state.memory import MemoryState
from tusd_py.stores.file import FileStore
from tusd_py.testing.contracts import new_upload, wait_until
from tusd_py.testing.contracts.parts import new_job
from tusd_py.testing.faults import Call, Fault, FaultProxy
from tusd_py.uploads import Uploads

HELD = ("--quarantine-prefix", "held")
SOON = ("--job-lease", "700ms")


@pytest.fixture(scope="module")
def held_house(shared_house_with):
    """A running server with stages and a quarantine."""
    return shared_house_with(*HELD)


def places(house, url):
    """Where the bytes of an upload are, below the folder of uploads."""
    folder = house.folder / "uploads"
    return [str(path.relative_to(folder)) for path in folder.rglob(house.id_of(url))]


async def test_nothing_is_in_its_place_before_it_is_accepted(held_house):
    """While an upload is received and checked its bytes are in quarantine, and then at their place alone."""
    house = held_house
    url = await house.tus.create(5, {"Upload-Metadata": "check-first d2FpdA=="}, b"hel")
    name = house.id_of(url)
    assert places(house, url) == [f"held/{name}"]
    await house.tus.patch(url, 3, b"lo")
    await wait_until(lambda: house.log(url, event="begin", plugin="first"))
    assert places(house, url) == [f"held/{name}"]
    (house.folder / "go").touch()
    assert (await house.ended(url))["status"] == "accepted"
    assert places(house, url) == [name]
    assert (await house.tus.get(url)).body == b"hello"
    assert len({line["sha256"] for line in house.log(url, event="end")}) == 1


async def test_bytes_follow_an_operators_decisions(held_house):
    """What is refused stays in quarantine; released it goes to its place, and back when that is taken back."""
    house = held_house
    url = await house.upload(check_second="refuse")
    name = house.id_of(url)
    assert (await house.ended(url))["status"] == "quarantined"
    assert places(house, url) == [f"held/{name}"]
    for command, expected in (("release", name), ("quarantine", f"held/{name}")):
        await house.command("uploads", command, name, "--reason", "so")
        assert places(house, url) == [expected]
    assert (await house.tus.get(url)).refused("ERR_FORBIDDEN")
    assert (await house.tus.delete(url)).status == 204
    assert places(house, url) == []


async def test_parts_stay_in_quarantine(held_house):
    """Nobody checks a part of a concatenation, so it never leaves; the whole that is made of it does."""
    house = held_house
    parts = [await house.upload(text, {"Upload-Concat": "partial"}) for text in (b"hel", b"lo")]
    final = (await house.tus.post({"Upload-Concat": f"final;{parts[0]} {parts[1]}"})).headers["Location"]
    assert (await house.ended(final))["status"] == "accepted"
    assert [places(house, url) for url in (*parts, final)] == [
        [f"held/{house.id_of(parts[0])}"],
        [f"held/{house.id_of(parts[1])}"],
        [house.id_of(final)],
    ]


async def test_killed_amid_a_move_to_another_disk(make_house):
    """A server that dies while it copies an accepted upload leaves no half of it where consumers look."""
    house = make_house(*HELD, *SOON)
    uploads = house.folder / "uploads"
    uploads.mkdir()
    other = next(place for place in ("/dev/shm", "/var/tmp", "/tmp") if os.stat(place).st_dev != uploads.stat().st_dev)
    data = os.urandom(1024 * 1024) * 50
    with tempfile.TemporaryDirectory(dir=other) as disk, house.server as server:
        (uploads / "held").symlink_to(disk)
        url = await house.upload(data)
        await wait_until(lambda: list(uploads.glob(".*.moving")) or (uploads / house.id_of(url)).exists())
        server.kill()
        assert (uploads / house.id_of(url)).exists() <= (not list(uploads.glob(".*.moving")))
        server.start()
        assert (await house.ended(url))["status"] == "accepted"
        assert os.listdir(disk) == list(uploads.glob(".*.moving")) == []
        assert (uploads / house.id_of(url)).read_bytes() == data


async def test_killed_amid_a_move_on_s3(make_house, s3):
    """Neither a death while the object is copied nor one while the other is deleted leaves it lost or at two places."""
    with FaultProxy(s3.endpoint) as proxy:
        house = make_house(*s3.options("moves"), "--s3-endpoint", proxy.endpoint, *HELD, *SOON)
        with house.server as server:
            for fault in (("PutObject", "lose"), ("DeleteObject", "hang")):
                (house.folder / "go").unlink(missing_ok=True)
                url = await house.upload(check_first="wait")
                name, (operation, kind) = house.id_of(url), fault
                await wait_until(lambda url=url: house.log(url, event="begin", plugin="first"))
                hit = Call(operation, f"moves/{name}" if kind == "lose" else f"moves/held/{name}")
                proxy.choose = lambda call, hit=hit, kind=kind: Fault(kind) if call == hit else None
                (house.folder / "go").touch()
                await wait_until(lambda hit=hit: hit in proxy.calls)
                server.kill()
                proxy.heal()
                server.start()
                assert (await house.ended(url))["status"] == "accepted"
                assert s3.keys(f"moves/{name}") == [f"moves/{name}", f"moves/{name}.info"]
                assert (await house.tus.get(url)).body == b"hello"
            assert s3.keys("moves/held/") == []


async def test_places_that_cannot_be(tmp_path):
    """No plugin can choose a path in quarantine, nor one that is kept for the server's own files once accepted."""
    desk = Desk(tmp_path)
    await desk.uploads.store.open()
    for path in ("held/a", "./held/a", "uploads.db"):
        with pytest.raises(Forbidden):
            await Claim(desk.uploads._backends, new_upload(storage={"path": path}), 1).insert(None)
    assert [path.name for path in tmp_path.iterdir()] == [".tusd-py"]


def test_a_store_that_cannot_move(tmp_path):
    """A server whose store of a plugin lacks what a quarantine needs does not start, and says why."""
    plugin = tmp_path / "plugin.py"
    plugin.write_text("""
from tusd_py import hookimpl
from tusd_py.stores.memory import MemoryStore

class Fixed:
    from_url = classmethod(lambda cls, url, config: cls())

@hookimpl
def register_stores(register):
    register("store", "fixed", f"{__name__}:Fixed")
""")
    options = {"upload_dir": str(tmp_path), "plugin": [str(plugin)], "store": "fixed:", "quarantine_prefix": "held"}

    async def start():
        async with compose(Config(**options)):
            pass

    with pytest.raises(ConfigError, match="this store cannot move uploads"):
        asyncio.run(start())


class Died(BaseException):
    """The process is gone."""


class Life:
    """Counts steps, and ends with one of them, either before it is done or after."""

    def __init__(self, steps):
        self.steps = steps

    async def step(self, work):
        self.steps -= 1
        if self.steps < 0:
            work.close()
            raise Died
        result = await work
        self.steps -= 1
        if self.steps < 0:
            raise Died
        return result


def dying(kind, *names):
    """Return a backend whose methods are steps of a life."""

    def of(name):
        async def method(self, *arguments):
            return await self.life.step(getattr(kind, name)(self, *arguments))

        return method

    return type(f"Dying{kind.__name__}", (kind,), {name: of(name) for name in names})


DyingState = dying(MemoryState, "save", "save_job", "add_jobs")
DyingStore = dying(FileStore, "save", "move", "clear")


class Checks:
    """A plugin that checks."""

    @hookimpl
    def check(self):
        return Verdict(ok=True)


class Desk:
    """Uploads and jobs of which every step may be the last."""

    def __init__(self, folder):
        manager = plugin_manager(entry_points=False)
        manager.register(Checks(), "checks")
        self.state, self.hooks, self.folder = DyingState(), Hooks(manager), folder
        self.begin(1000)

    def begin(self, steps):
        """Start again with so many steps to live."""
        store = DyingStore(self.folder)
        store.life = self.state.life = Life(steps)
        self.uploads = Uploads(store, self.state, MemoryLocker(), self.hooks, Rules(quarantine_prefix="held"))
        self.jobs = Jobs(self.uploads)

    async def do(self, decision, name):
        """Finish an upload, or decide about it."""
        if decision == "finish":
            async with self.uploads.claimed(name) as claim:
                await claim.finish()
        else:
            arguments = {"settle": (), "recheck": ("me",)}.get(decision, ("why", "me"))
            await getattr(self.jobs, decision)(name, *arguments)

    async def work(self):
        """Do what a worker does first about jobs that are due."""
        for job in await self.state.due_jobs(now(), 10):
            await self.jobs.settle(job.upload_id)


async def test_the_place_is_taken(tmp_path):
    """What is where a released upload belongs stays there, also when the upload is removed; the upload stays apart."""
    desk = Desk(tmp_path)
    await desk.uploads.store.open()
    upload = new_upload(length=5, offset=5, status=Status.QUARANTINED, finished_at=now(), storage={"under": "held"})
    upload = await desk.uploads.store.create(upload)
    (tmp_path / upload.storage["path"]).write_bytes(b"hello")
    (tmp_path / upload.id).write_bytes(b"other")
    await desk.state.insert(upload)
    with pytest.raises(AlreadyExists):
        await desk.jobs.release(upload.id, "why", "me")
    found = await desk.uploads.find(upload.id)
    assert (found.status, found.storage) == (Status.QUARANTINED, upload.storage)
    # Also if the process died in between.
    await desk.state.save(places_of.moving(found, upload.id), found.fence)
    await desk.uploads.remove(upload.id)
    assert (tmp_path / upload.id).read_bytes() == b"other"
    assert not (tmp_path / upload.storage["path"]).exists()


@pytest.mark.parametrize("decision", ["finish", "settle", "release", "quarantine", "recheck"])
async def test_every_step_may_be_the_last(tmp_path, decision):
    """Wherever a decision is cut off, the bytes are safe, and are at the one right place when somebody has gone on."""
    before = {"settle": Status.CHECKING, "release": Status.QUARANTINED, "finish": Status.RECEIVING}.get(
        decision, Status.ACCEPTED
    )
    after = {"quarantine": Status.QUARANTINED, "settle": Status.ACCEPTED, "release": Status.ACCEPTED}.get(
        decision, Status.CHECKING
    )
    for steps in itertools.count():
        desk = Desk(tmp_path / str(steps))
        await desk.uploads.store.open()
        name = new_upload().id
        home = {"path": name}
        held = {"path": f"held/{name}", "home": name}
        is_apart = before in (Status.CHECKING, Status.QUARANTINED)
        storage = {"under": "held"} if is_apart else {}
        upload = new_upload(id=name, length=5, offset=5, status=before, finished_at=now(), storage=storage)
        upload = await desk.uploads.store.create(upload)
        paths = {path: tmp_path / str(steps) / path for path in (home["path"], held["path"])}
        paths[upload.storage["path"]].write_bytes(b"hello")
        is_due = {"due_at": now()} if decision == "settle" else {}
        check = new_job(name, "check", "checks", status=JobStatus.DONE, result={"ok": True, "reasons": []}, **is_due)
        await desk.state.insert(upload)
        if decision != "finish":
            await desk.state.add_jobs([check.changed(ended_at=now())])
            await desk.uploads.store.save(upload.changed(jobs=(check,)))

        desk.begin(steps)
        died = False
        try:
            await desk.do(decision, name)
        except Died:
            died = True
        assert b"hello" in [path.read_bytes() for path in paths.values() if path.exists()]
        desk.begin(1000)
        # Also who has lost the records finds the bytes.
        assert (await desk.uploads.store.load(name)).offset == 5
        await desk.work()
        found = await desk.uploads.find(name)
        assert found.status in (before, after, Status.ASSEMBLING)
        if found.status is not after:
            await desk.do(decision, name)
        found = await desk.uploads.find(name)
        assert found.status is after
        wanted = home if after is Status.ACCEPTED else held
        assert found.storage == {"type": "file", **wanted}
        assert (await desk.uploads.store.load(name)).storage["path"] == wanted["path"]
        assert {path for path in paths if paths[path].exists()} == {wanted["path"]}
        assert paths[wanted["path"]].read_bytes() == b"hello"
        if not died:
            assert steps > 8
            return
