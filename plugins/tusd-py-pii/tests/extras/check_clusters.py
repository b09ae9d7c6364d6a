"""Scans on a real Dask cluster and a real Ray. Not part of the suite: run scripts/pii-extras, which installs both."""

import json
import os
import signal

import pytest
from tusd_py_pii.clusters import run_on
from tusd_py_pii.errors import ScanFailed
from tusd_py_pii.rules import built_in
from tusd_py_pii.scan import FileSource, Scan, scan_file

SCAN = Scan(rules=tuple(built_in()), salt=b"salt")


@pytest.fixture(scope="module", params=["dask", "ray"])
def cluster(request):
    """The setting that names a cluster of two processes on this machine."""
    if request.param == "dask":
        from distributed import LocalCluster

        with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1") as made:
            yield f"dask:{made.scheduler_address}"
    else:
        import ray

        context = ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
        yield f"ray:{context.address_info['address']}"
        ray.shutdown()


@pytest.mark.parametrize("task_bytes", [3_000, 20_000, 1 << 26])
def test_the_report_is_that_of_one_pass(cluster, tmp_path, task_bytes):
    """Wherever the file is cut and whoever scans the pieces, the report is the same."""
    path = tmp_path / "a.jsonl"
    path.write_text(
        "".join(json.dumps({"t": f"{n} p{n}@corp.io", "card": "4111 1111 1111 1111"}) + "\n" for n in range(2000))
    )
    source = FileSource(str(path))
    report = scan_file(source, SCAN, run=run_on(cluster, 1), task_bytes=task_bytes)
    assert report == scan_file(source, SCAN)
    assert report.counts() == {"card": 2000, "email": 2000}


def test_a_failing_piece_fails_the_scan_with_its_reason(cluster, tmp_path):
    """A line beyond the limit on a worker is the reason that the scan gives, without a trace."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"fine\n" * 1000 + b"x" * 20_000_000 + b"\n")
    with pytest.raises(ScanFailed, match=r"^a line is longer than 16777216 bytes \(byte 5000\)$"):
        scan_file(FileSource(str(path)), SCAN, name="a.txt", run=run_on(cluster, 1))


class Deadly(FileSource, frozen=True):
    """A file that kills whoever opens it, but for the process that plans."""

    planner: int = 0

    def open(self):
        """Open it, or die."""
        if os.getpid() != self.planner:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().open()


def test_workers_that_die_are_a_failed_scan(cluster, tmp_path):
    """If a file kills the workers that read it, the scan fails, and the cluster goes on."""
    path = tmp_path / "a.txt"
    path.write_text("text\n")
    with pytest.raises(ScanFailed, match="died"):
        scan_file(Deadly(str(path), os.getpid()), SCAN, name="a.txt", run=run_on(cluster, 1))
    assert scan_file(FileSource(str(path)), SCAN, name="a.txt", run=run_on(cluster, 1)).rows == 1
