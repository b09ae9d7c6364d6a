"""Ceph's object gateway with all that it stands on, in processes of its own and one folder.

A monitor, one storage daemon on a sparse file, and the gateway; no systemd, nothing outside the folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from missing import Missing

from tusd_py.testing.redis import free_port
from tusd_py.testing.s3 import ACCESS_KEY, READER_KEY, READER_SECRET_KEY, SECRET_KEY, S3Server

PROGRAMS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
PACKAGES = ("radosgw", "ceph-mon", "ceph-osd", "ceph-common")
FSID = "6c1a2f3e-0d5b-4a86-9f6e-2f3a5d9c7b10"
SECONDS = 60

CONFIG = """
[global]
fsid = {fsid}
mon_initial_members = a
mon_host = v2:127.0.0.1:{mon}/0
public_addr = 127.0.0.1
ms_bind_ipv4 = true
ms_bind_ipv6 = false
keyring = {folder}/keyring
admin_socket = {folder}/$name.asok
log_file = {folder}/$name.log
pid_file = {folder}/$name.pid
run_dir = {folder}
crash_dir = {folder}
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 1
osd_pool_default_pgp_num = 1
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
osd_objectstore = bluestore
bluestore_block_size = 21474836480
osd_memory_target = 939524096
mon_allow_pool_size_one = true
mon_warn_on_pool_no_redundancy = false
mon_data_avail_crit = 1
mon_max_pg_per_osd = 1000
auth_allow_insecure_global_id_reclaim = false
osd_class_update_on_start = true
osd_crush_update_on_start = true

[mon.a]
mon_data = {folder}/mon
mon_addr = 127.0.0.1:{mon}

[osd.0]
osd_data = {folder}/osd

[client.rgw.a]
rgw_frontends = beast endpoint=127.0.0.1:{rgw}
rgw_data = {folder}/rgw
rgw_crypt_require_ssl = false
rgw_enable_usage_log = false
"""


class RadosGateway(S3Server):
    """Ceph's gateway, which speaks S3."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self._rgw = free_port()
        super().__init__(f"http://127.0.0.1:{self._rgw}", "radosgw")

    def __enter__(self) -> RadosGateway:
        folder = self._folder
        for name in ("mon", "osd", "rgw"):
            (folder / name).mkdir(parents=True)
        mon = free_port()
        (folder / "ceph.conf").write_text(CONFIG.format(fsid=FSID, folder=folder, mon=mon, rgw=self._rgw))
        keyring = folder / "keyring"
        every = ["--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mgr", "allow *"]
        self._run("ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        self._run("ceph-authtool", keyring, "--gen-key", "-n", "client.admin", *every)
        self._run("ceph-authtool", keyring, "--gen-key", "-n", "osd.0", *every)
        self._run("ceph-authtool", keyring, "--gen-key", "-n", "client.rgw.a", *every)
        address = f"[v2:127.0.0.1:{mon}]"
        self._run("monmaptool", "--create", "--fsid", FSID, "--addv", "a", address, folder / "monmap")
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", folder / "monmap", "--keyring", keyring)
        self._start("ceph-mon", "-i", "a")
        uuid = "0e6a7e62-5c3b-4c73-8d4a-6b1a1f0c9d21"
        self._run("ceph", "osd", "new", uuid)
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", uuid)
        self._start("ceph-osd", "-i", "0")
        self._start("radosgw", "-n", "client.rgw.a")
        for key, secret in ((ACCESS_KEY, SECRET_KEY), (READER_KEY, READER_SECRET_KEY)):
            user = ["user", "create", "--uid", key, "--display-name", key]
            self._run("radosgw-admin", *user, "--access-key", key, "--secret", secret)
        self.wait(SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            process.kill()
            process.wait()

    def _run(self, program: str, *arguments: str | Path) -> None:
        command = [program, "--conf", str(self._folder / "ceph.conf"), *map(str, arguments)]
        if program in ("ceph-authtool", "monmaptool"):
            command = [program, *map(str, arguments)]
        with (self._folder / "setup.log").open("ab") as log:
            subprocess.run(command, cwd=self._folder, stdout=log, stderr=log, check=True, timeout=SECONDS)

    def _start(self, program: str, *arguments: str) -> None:
        with (self._folder / f"{program}.out").open("ab") as log:
            command = [program, "--conf", str(self._folder / "ceph.conf"), "-f", *arguments]
            self._processes.append(subprocess.Popen(command, cwd=self._folder, stdout=log, stderr=log))


def set_up() -> None:
    """See to it that all programs are there.

    Raises:
        Missing: they are not, and cannot be installed.
    """
    if all(map(shutil.which, PROGRAMS)):
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Missing(f"on Debian as root: apt-get install --no-install-recommends {' '.join(PACKAGES)}")
    print("installing", *PACKAGES, flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "--yes", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(["apt-get", "-qq", *command], env=environment, capture_output=True, text=True)
        if done.returncode:
            raise Missing(f"apt-get {command[0]}: {done.stderr.strip().splitlines()[-1]}")
