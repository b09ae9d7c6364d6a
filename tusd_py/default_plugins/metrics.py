"""Prometheus metrics on `/metrics`.

With several worker processes the figures of all are added up (prometheus_client's multiprocess mode, which the
server turns on by `PROMETHEUS_MULTIPROC_DIR` before it starts them).
"""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector

from tusd_py.hooks.specs import Measure, RegisterRoute, hookimpl
from tusd_py.models import Request, Response, Status, Upload

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_LONG_SECONDS = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600)
_METHODS = frozenset({"OPTIONS", "HEAD", "POST", "PATCH", "DELETE", "GET"})
# Clients choose the file type freely; only these become labels.
_FILE_TYPES = frozenset({"application", "audio", "font", "image", "model", "text", "video"})


def file_type(upload: Upload) -> str:
    """Return the declared media type's first half if it is a registered one, else other or none."""
    declared = upload.metadata.get("filetype") or upload.metadata.get("type")
    if not declared:
        return "none"
    top = declared.partition("/")[0].strip().lower()
    return top if top in _FILE_TYPES else "other"


class Metrics:
    """Counts what the other hooks tell."""

    def __init__(self) -> None:
        """Start at zero, in a registry of its own."""
        self.registry = registry = CollectorRegistry()
        self.uploads = Counter(
            "uploads_total", "Uploads by what happened to them.", ["status", "file_type"], registry=registry
        )
        self.duration = Histogram(
            "upload_duration_seconds",
            "Time from creation to completion, of accepted uploads.",
            registry=registry,
            buckets=_LONG_SECONDS,
        )
        self.chunks = Counter(
            "chunks_uploaded_total",
            "Request bodies received, by how they ended.",
            ["status"],
            registry=registry,
        )
        self.active = Gauge(
            "active_uploads",
            "Request bodies being received now.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.received = Counter("upload_received_bytes_total", "Bytes stored.", registry=registry)
        self.requests = Histogram(
            "request_duration_seconds",
            "Time to answer requests.",
            ["method", "status"],
            registry=registry,
            buckets=_SECONDS,
        )
        self.lock_wait = Histogram(
            "lock_wait_seconds",
            "Time that requests waited for an upload.",
            ["outcome"],
            registry=registry,
            buckets=_SECONDS,
        )
        self.lock_handover = Histogram(
            "lock_handover_seconds",
            "Time from being asked for a lock to letting go.",
            registry=registry,
            buckets=_SECONDS,
        )
        self.hooks = Histogram(
            "hook_duration_seconds",
            "Time that plugins' hooks took.",
            ["hook", "plugin", "outcome"],
            registry=registry,
            buckets=_SECONDS,
        )
        self.jobs = Histogram(
            "job_duration_seconds",
            "Time that attempts at jobs took, by how they ended: done, repeated, failed, returned.",
            ["stage", "plugin", "outcome"],
            registry=registry,
            buckets=_LONG_SECONDS,
        )
        self.job_wait = Histogram(
            "job_wait_seconds",
            "Time from a job being due to its beginning.",
            ["stage"],
            registry=registry,
            buckets=_LONG_SECONDS,
        )
        self.queue = Gauge(
            "jobs",
            "Jobs of all uploads whose turn has come, and which wait or run; every process tells the same.",
            ["stage", "status"],
            registry=registry,
            multiprocess_mode="mostrecent",
        )
        self.queue_age = Gauge(
            "jobs_oldest_waiting_seconds",
            "How long the job has been due that nobody has begun for longest; every process tells the same.",
            ["stage"],
            registry=registry,
            multiprocess_mode="mostrecent",
        )
        self.dropped = Counter(
            "hook_events_dropped_total",
            "Events that a plugin was too slow to see.",
            ["plugin"],
            registry=registry,
        )

    @hookimpl
    def register_routes(self, register: RegisterRoute) -> None:
        """Add `/metrics`."""
        register("GET", "/metrics", self._page, "metrics")

    @hookimpl
    def post_create(self, upload: Upload) -> None:
        """Count a new upload."""
        self.uploads.labels("created", file_type(upload)).inc()

    @hookimpl
    def post_finish(self, upload: Upload) -> None:
        """Count an accepted upload."""
        self.uploads.labels(upload.status.value, file_type(upload)).inc()
        if upload.finished_at:
            self.duration.observe((upload.finished_at - upload.created_at).total_seconds())

    @hookimpl
    def post_verdict(self, upload: Upload) -> None:
        """Count an upload that is put into quarantine."""
        if upload.status is Status.QUARANTINED:
            self.uploads.labels(upload.status.value, file_type(upload)).inc()

    @hookimpl
    def post_terminate(self, upload: Upload) -> None:
        """Count an upload that ended otherwise."""
        self.uploads.labels(upload.status.value, file_type(upload)).inc()

    @hookimpl
    def post_request(self, request: Request, response: Response, seconds: float) -> None:
        """Count a request."""
        method = request.method if request.method in _METHODS else "other"
        self.requests.labels(method, str(response.status)).observe(seconds)

    @hookimpl
    def post_measure(self, measure: Measure) -> None:
        """Count one figure."""
        labels, value = measure.labels, measure.value
        match measure.name:
            case "receiving":
                self.active.inc(value)
            case "bytes_received":
                self.received.inc(max(0, value))
            case "chunk":
                self.chunks.labels(labels["status"]).inc(value)
            case "lock_wait":
                self.lock_wait.labels(labels["outcome"]).observe(value)
            case "lock_handover":
                self.lock_handover.observe(value)
            case "hook":
                self.hooks.labels(labels["hook"], labels["plugin"], labels["outcome"]).observe(value)
            case "job":
                self.jobs.labels(labels["stage"], labels["plugin"], labels["outcome"]).observe(value)
            case "job_wait":
                self.job_wait.labels(labels["stage"]).observe(value)
            case "jobs":
                self.queue.labels(labels["stage"], labels["status"]).set(value)
            case "jobs_age":
                self.queue_age.labels(labels["stage"]).set(value)
            case "event_dropped":
                self.dropped.labels(labels["plugin"]).inc(value)

    def _page(self, request: Request) -> Response:
        registry = self.registry
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return Response(200, {"Content-Type": content_type, "Cache-Control": "no-store"}, encode(registry))
