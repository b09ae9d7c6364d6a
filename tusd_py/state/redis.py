"""Records in Redis or Valkey, shared by any number of servers.

A record is one hash: `record` has the JSON without the parts, and every part has a field of its own, so that a list of
thousands that grows by one is not written anew. One script, COMMIT, compares the lock's number and changes the hash
and the indexes that have it together; they lie in one bucket (see `tusd_py.redis`), so this holds in a Cluster too and
nothing has to be mended after a crash. COMMIT also compares the number with the highest that the Redis locker has
given out for the upload: a writer whose lock went to another can change nothing even before the other one saves.

Indexes are sorted sets: `all`, `status:S`, `owner:O`, `both:S:O` by the time of creation, `due` by the time of expiry,
`waiting` of `MEMBER:FINAL`. Every record but that of a finished upload has a time to live that is longer than anybody
should need it: it is a backstop for records that no server looks after any more. What an index then still names is
dropped when somebody comes across it.

Redis may lose all of this, or what was written last: a restart reads a file that is a second old, a failover makes a
replica the master that has not heard everything. So every record knows in which run of a server it was written. One of
an unfinished upload that an earlier run has left is taken for lost, for its offset may be too low; and the key `kept`
shows, by the same run or by being gone, that records may be missing. The store's manifests and bytes make the records
again, and `tusd_py.lockers.redis` says why the numbers of locks do not begin anew.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from tusd_py.config import Config
from tusd_py.errors import AlreadyExists, Fenced, StoreUnavailable
from tusd_py.models import Status, Upload, now
from tusd_py.redis import Address, Script, Server
from tusd_py.state.base import Filter, Page, decode_position, encode_position
from tusd_py.state.redis_jobs import RedisJobs

GRACE = timedelta(days=7)
UNFINISHED = timedelta(days=30)
"""Records of unfinished uploads that never expire are remembered for so long; then the manifest has to do."""
MOST_KNOWN = 1000

_RUN = """
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
"""

# KEYS: the record, the locker's number.
# ARGV: the bucket's name, id, number, JSON, indexes as JSON, time of creation, time of expiry, milliseconds to live,
# version that is known ("new": insert), how many parts of it are kept, further parts.
_COMMIT = """
local base, id, fence, record, listed = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local created, expires, ttl, known, keep = ARGV[6], ARGV[7], tonumber(ARGV[8]), ARGV[9], tonumber(ARGV[10])
local old = redis.call('HMGET', KEYS[1], 'record', 'fence', 'listed', 'version', 'parts', 'run')
if known == 'new' then
    -- Sent again because the answer was lost, it is no second upload.
    if old[1] and old[6] == run then return old[1] == record and 1 or 'exists' end
    if old[1] then fence = math.max(fence, tonumber(old[2])) end
else
    if not old[1] or tonumber(old[2]) > fence then return 'fenced' end
    if tonumber(redis.call('GET', KEYS[2]) or 0) > fence then return 'fenced' end
    if keep > 0 and (old[4] ~= known or old[6] ~= run) then return 'resend' end
end
if old[3] ~= listed then
    -- Names of indexes are made here, but all of them are in the bucket of the keys.
    if old[3] then
        local before = cjson.decode(old[3])
        for _, name in ipairs(before.indexes) do redis.call('ZREM', base .. ':' .. name, id) end
        for _, entry in ipairs(before.waits) do redis.call('ZREM', base .. ':waiting', entry) end
    end
    local after = cjson.decode(listed)
    for _, name in ipairs(after.indexes) do redis.call('ZADD', base .. ':' .. name, created, id) end
    for _, entry in ipairs(after.waits) do redis.call('ZADD', base .. ':waiting', 0, entry) end
end
if expires == '' then redis.call('ZREM', base .. ':due', id) else redis.call('ZADD', base .. ':due', expires, id) end
if fence > tonumber(redis.call('GET', base .. ':highest') or 0) then redis.call('SET', base .. ':highest', ARGV[3]) end
local version, parts = tonumber(old[4] or 0) + 1, keep + #ARGV - 10
for number = keep + 1, parts do redis.call('HSET', KEYS[1], number, ARGV[number - keep + 10]) end
for number = parts + 1, tonumber(old[5] or 0) do redis.call('HDEL', KEYS[1], number) end
fence = string.format('%.0f', fence)
redis.call('HSET', KEYS[1], 'record', record, 'fence', fence, 'listed', listed, 'version', version, 'parts', parts)
redis.call('HSET', KEYS[1], 'run', run)
if ttl > 0 then redis.call('PEXPIRE', KEYS[1], ttl) else redis.call('PERSIST', KEYS[1]) end
return version
"""
INSERT = Script(_RUN + _COMMIT, needs_memory=True)
SAVE = Script(_RUN + _COMMIT)
"""Uploads that have begun may go on when Redis is out of memory; new ones are refused."""

# KEYS: the record. The hash, and whether this run of the server has written it.
GET = Script(_RUN + "return {redis.call('HGETALL', KEYS[1]), redis.call('HGET', KEYS[1], 'run') == run}", reads=True)

# KEYS: what says in which run all records were there.
KEEP = Script(_RUN + "return redis.call('SET', KEYS[1], run, 'GET') ~= run")

# KEYS: the record. ARGV: the bucket's name, id.
REMOVE = Script("""
local base, id, listed = ARGV[1], ARGV[2], redis.call('HGET', KEYS[1], 'listed')
if listed then
    listed = cjson.decode(listed)
    for _, name in ipairs(listed.indexes) do redis.call('ZREM', base .. ':' .. name, id) end
    for _, entry in ipairs(listed.waits) do redis.call('ZREM', base .. ':waiting', entry) end
end
redis.call('ZREM', base .. ':due', id)
redis.call('DEL', KEYS[1])
""")

# KEYS: the record, an index. ARGV: what the index has.
DROP = Script("if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('ZREM', KEYS[2], ARGV[1]) end")

_Parts = tuple[Any, ...]
_Position = tuple[float, str]


class _Listed(msgspec.Struct):
    """Where a record is listed."""

    indexes: list[str]
    waits: list[str]


class RedisState(RedisJobs):
    """Records in Redis."""

    def __init__(self, url: str, record: type[Upload] = Upload) -> None:
        """Use the server at `url` for records of a class.

        Raises:
            ConfigError: this is no URL of Redis.
        """
        self._address = Address.parse(url)
        self._decoder = msgspec.json.Decoder(record)
        # What this process knows to be stored of long lists of parts: version and parts by id.
        self._known: OrderedDict[str, tuple[str, _Parts]] = OrderedDict()

    @classmethod
    def from_url(cls, url: str, config: Config) -> RedisState:
        """Return the state of a URL that `tusd_py.redis` explains."""
        return cls(url)

    async def open(self) -> None:
        """See whether the server can be used.

        Raises:
            StoreUnavailable: it cannot; the message is for the operator.
        """
        self._server = Server.connect(self._address)
        if problem := await self.problem():
            await self._server.aclose()
            raise StoreUnavailable(problem)

    async def insert(self, upload: Upload) -> None:
        """Add a record."""
        if await self._commit(INSERT, upload, "new", 0) == b"exists":
            raise AlreadyExists()

    async def get(self, upload_id: str) -> Upload | None:
        """Return the record, if any."""
        fields, is_of_this_run = await self._server.run(GET, [self._key(upload_id)], [])
        found = dict(zip(fields[::2], fields[1::2], strict=True))
        if b"record" not in found:
            return None
        record = found[b"record"]
        if count := int(found[b"parts"]):
            # The last of two keys of the same name counts.
            parts = b",".join(found[b"%d" % number] for number in range(1, count + 1))
            record = record[:-1] + b',"parts":[' + parts + b"]}"
        upload = self._decoder.decode(record)
        if not is_of_this_run and not upload.status.is_finished and not upload.status.is_tombstone:
            return None
        self._know(upload, found[b"version"].decode())
        return upload

    async def save(self, upload: Upload, fence: int) -> Upload:
        """Replace the record unless a newer lock's holder has, or there is a newer lock."""
        upload = upload.changed(fence=fence)
        parts = _parts(upload)
        version, before = self._known.get(upload.id, ("", ()))
        keep = len(before) if before == parts[: len(before)] else 0
        answer = await self._commit(SAVE, upload, version, keep)
        if answer == b"resend":
            answer = await self._commit(SAVE, upload, "", 0)
        if answer == b"fenced":
            raise Fenced()
        self._know(upload, str(answer))
        return upload

    async def remove(self, upload_id: str) -> None:
        """Forget a record and its jobs."""
        self._known.pop(upload_id, None)
        await self.remove_jobs(upload_id)
        await self._server.run(REMOVE, [self._key(upload_id)], [self._server.bucket(upload_id).name, upload_id])

    async def page(self, filter: Filter, after: str | None, limit: int) -> Page:
        """Return some records, the newest first; long lists of parts are left out."""
        position: _Position | None = None
        if after is not None:
            seconds, upload_id = decode_position(after)
            position = seconds * 1e6, upload_id
        found = list[Upload]()
        while len(found) <= limit:
            listed = await self._behind(_index(filter), position, limit + 1)
            for upload in await self._records(_index(filter), [upload_id for _, upload_id in listed]):
                if filter.status in (None, upload.status) and filter.owner in (None, upload.owner):
                    found.append(upload)
            if len(listed) <= limit:
                break
            position = listed[-1]
        return Page(found[:limit], encode_position(found[limit - 1]) if len(found) > limit else None)

    async def due(self, at: datetime, limit: int) -> list[Upload]:
        """Return records whose time has run out; long lists of parts are left out."""
        answers = await self._server.commands(
            *(
                ("ZRANGEBYSCORE", bucket.key("due"), "-inf", _micros(at), "WITHSCORES", "LIMIT", 0, limit)
                for bucket in self._server.buckets
            )
        )
        listed = sorted(entry for answer in answers for entry in _entries(answer))[:limit]
        return await self._records("due", [upload_id for _, upload_id in listed])

    async def waiting_finals(self, member: str) -> list[Upload]:
        """Return final uploads that wait for a member."""
        # Behind the entries that begin with "MEMBER:" would come "MEMBER;".
        answers = await self._server.commands(
            *(("ZRANGEBYLEX", bucket.key("waiting"), f"[{member}:", f"({member};") for bucket in self._server.buckets)
        )
        names = [entry.decode() for answer in answers for entry in answer]
        records = await self._fetch([name.partition(":")[2] for name in names])
        for name, upload in zip(names, records, strict=True):
            if upload is None:
                await self._drop("waiting", name.partition(":")[2], name)
        return [upload for upload in records if upload is not None and upload.status is Status.RECEIVING]

    async def highest_fence(self) -> int:
        """Return the highest lock number that any record has had."""
        answers = await self._server.commands(*(("GET", bucket.key("highest")) for bucket in self._server.buckets))
        return max(int(answer or 0) for answer in answers)

    async def has_lost_records(self) -> bool:
        """Return whether a bucket is gone or from an earlier run, which one server is told; so is the first of all."""
        return any([await self._server.run(KEEP, [bucket.key("kept")], []) for bucket in self._server.buckets])

    async def problem(self) -> str | None:
        """Return why records cannot be kept now, or None if they can."""
        return await self._server.problem()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._server.aclose()

    def _key(self, upload_id: str) -> str:
        return self._server.bucket(upload_id).upload(upload_id)

    def _know(self, upload: Upload, version: str) -> None:
        self._known.pop(upload.id, None)
        if parts := _parts(upload):
            self._known[upload.id] = version, parts
            if len(self._known) > MOST_KNOWN:
                self._known.popitem(last=False)

    async def _commit(self, script: Script, upload: Upload, version: str, keep: int) -> Any:
        bucket, parts = self._server.bucket(upload.id), _parts(upload)
        record = upload.changed(parts=()) if parts else upload
        return await self._server.run(
            script,
            [bucket.upload(upload.id), bucket.fence(upload.id)],
            [
                bucket.name,
                upload.id,
                upload.fence,
                msgspec.json.encode(record),
                msgspec.json.encode(_listed(upload)),
                _micros(upload.created_at),
                "" if upload.expires_at is None else _micros(upload.expires_at),
                _milliseconds_to_live(upload),
                version,
                keep,
                *(msgspec.json.encode(part) for part in parts[keep:]),
            ],
        )

    async def _behind(self, index: str, position: _Position | None, limit: int) -> list[_Position]:
        """Return up to `limit` entries of an index behind a position, the newest first."""
        commands: list[Sequence[str | int]] = []
        for bucket in self._server.buckets:
            key = bucket.key(index)
            if position is None:
                commands.append(("ZREVRANGEBYSCORE", key, "+inf", "-inf", "WITHSCORES", "LIMIT", 0, limit))
                continue
            # What was created in the same microsecond is ordered by id, which Redis cannot begin at.
            score = f"{position[0]:.0f}"
            commands.append(("ZREVRANGEBYSCORE", key, score, score, "WITHSCORES"))
            commands.append(("ZREVRANGEBYSCORE", key, f"({score}", "-inf", "WITHSCORES", "LIMIT", 0, limit))
        found = [entry for answer in await self._server.commands(*commands) for entry in _entries(answer)]
        if position is not None:
            found = [entry for entry in found if entry < (float(f"{position[0]:.0f}"), position[1])]
        return sorted(found, reverse=True)[:limit]

    async def _records(self, index: str, upload_ids: list[str]) -> list[Upload]:
        """Return the records of ids that an index has, and drop those that are no more from it."""
        records = await self._fetch(upload_ids)
        for upload_id, upload in zip(upload_ids, records, strict=True):
            if upload is None:
                await self._drop(index, upload_id, upload_id)
        return [upload for upload in records if upload is not None]

    async def _fetch(self, upload_ids: list[str]) -> list[Upload | None]:
        if not upload_ids:
            return []
        answers = await self._server.commands(*(("HGET", self._key(upload_id), "record") for upload_id in upload_ids))
        return [None if answer is None else self._decoder.decode(answer) for answer in answers]

    async def _drop(self, index: str, upload_id: str, entry: str) -> None:
        bucket = self._server.bucket(upload_id)
        await self._server.run(DROP, [bucket.upload(upload_id), bucket.key(index)], [entry])


def _parts(upload: Upload) -> _Parts:
    parts: _Parts = getattr(upload, "parts", ())
    return parts


def _listed(upload: Upload) -> _Listed:
    status = upload.status.value
    indexes = ["all", f"status:{status}"]
    if upload.owner is not None:
        indexes += [f"owner:{upload.owner}", f"both:{status}:{upload.owner}"]
    waits = list[str]()
    if upload.is_final and upload.concat and upload.status is Status.RECEIVING:
        waits = [f"{member}:{upload.id}" for member in sorted(set(upload.concat.members))]
    return _Listed(indexes, waits)


def _index(filter: Filter) -> str:
    if filter.status is None:
        return "all" if filter.owner is None else f"owner:{filter.owner}"
    return f"status:{filter.status.value}" if filter.owner is None else f"both:{filter.status.value}:{filter.owner}"


def _micros(at: datetime) -> int:
    """Return microseconds, which a sorted set's floating-point number holds exactly."""
    return round(at.timestamp() * 1e6)


def _milliseconds_to_live(upload: Upload) -> int:
    if upload.expires_at is None:
        return 0 if upload.status.is_finished else UNFINISHED // timedelta(milliseconds=1)
    return (max(upload.expires_at - now(), timedelta(0)) + GRACE) // timedelta(milliseconds=1)


def _entries(answer: Sequence[Any]) -> list[_Position]:
    """Return score and name of what a sorted set gave: names and scores, one behind the other."""
    return [(float(score), name.decode()) for name, score in zip(answer[::2], answer[1::2], strict=True)]
