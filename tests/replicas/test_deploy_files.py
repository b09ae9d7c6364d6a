"""The files in deploy/ are valid, safe, and agree with each other and with the rest of the repository."""

import json
import re
import shutil
import subprocess
import sysconfig
import tomllib
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tusd_py.settings import load

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE_FILE = DEPLOY / "docker-compose.yml"
SERVICES: dict[str, Any] = YAML(typ="safe").load(COMPOSE_FILE)["services"]
IMAGES = {name: service["image"] for name, service in SERVICES.items()}
BASES = re.findall(r"^FROM (\S+)", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)


def test_compose_file_follows_the_specification() -> None:
    """The file is valid by the schema of the Compose specification, which check-jsonschema brings along."""
    command = [str(Path(sysconfig.get_path("scripts"), "check-jsonschema")), "--builtin-schema", "vendor.compose-spec"]
    checked = subprocess.run([*command, str(COMPOSE_FILE)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_schema_would_find_mistakes(tmp_path: Path) -> None:
    """A file with a key that Compose does not know is refused, so the test above means something."""
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text(COMPOSE_FILE.read_text().replace("healthcheck:", "health_check:"))
    command = [str(Path(sysconfig.get_path("scripts"), "check-jsonschema")), "--builtin-schema", "vendor.compose-spec"]
    checked = subprocess.run([*command, str(wrong)], capture_output=True, text=True, check=False)
    assert checked.returncode == 1
    assert "'health_check' was unexpected" in checked.stdout


@pytest.mark.parametrize("image", sorted({*IMAGES.values(), *BASES}))
def test_images_are_pinned(image: str) -> None:
    """Every image has a version down to its last number."""
    assert re.fullmatch(r"[a-z/-]+:\d+\.\d+(\.\d+)?(-[a-z0-9.-]+)?", image)


def test_the_image_has_the_version_of_the_package() -> None:
    """The image that Compose builds is named like what is in it."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"tusd-py:{version}" in IMAGES.values()


@pytest.mark.parametrize("name", SERVICES)
def test_services_are_limited_and_watched(name: str) -> None:
    """Every service has limits, a health check and rotated logs, and can change neither its system nor its rights."""
    service = SERVICES[name]
    assert {"cpus", "memory", "pids"} == service["deploy"]["resources"]["limits"].keys()
    assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
    assert service["logging"]["options"]["max-size"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    # Root is only who changes to somebody else at once.
    assert "user" in service or name == "seaweedfs" or service["image"].startswith("tusd-py:")
    assert "USER tusd-py" in (DEPLOY / "Dockerfile").read_text()


def test_only_nginx_can_be_reached_from_outside() -> None:
    """No port but that of nginx is published, and that on the machine itself unless told otherwise."""
    assert {name: service["ports"] for name, service in SERVICES.items() if "ports" in service} == {
        "nginx": ["${ADDRESS:-127.0.0.1:8080}:8080"]
    }


def test_services_begin_after_those_they_need() -> None:
    """The order of the file is one to start in, and everybody waits until the others are well."""
    seen: set[str] = set()
    for name, service in SERVICES.items():
        needed = service.get("depends_on", {})
        assert needed.keys() <= seen, name
        assert {need["condition"] for need in needed.values()} <= {"service_healthy"}
        seen.add(name)


def test_secrets_are_not_in_the_file() -> None:
    """Every secret comes from .env, which git does not keep, and .env.example names them all, without a value."""
    text = COMPOSE_FILE.read_text()
    required = set(re.findall(r"\$\{(\w+):\?", text))
    example = (DEPLOY / ".env.example").read_text()
    assert set(re.findall(r"^(\w+)=$", example, re.MULTILINE)) == required
    optional = {name for service in SERVICES.values() for name, value in service["environment"].items() if not value}
    optional |= set(re.findall(r"\$\{(\w+):-", text))
    assert set(re.findall(r"^#(\w+)=", example, re.MULTILINE)) == optional
    ignored = subprocess.run(["git", "check-ignore", "deploy/.env"], cwd=ROOT, capture_output=True, check=False)
    assert ignored.returncode == 0 or not (ROOT / ".git").exists()


def test_settings_of_the_replicas_are_settings() -> None:
    """What the replicas are given can be read, and stopping takes less time than Compose gives."""
    for name, service in SERVICES.items():
        if not service["image"].startswith("tusd-py:"):
            continue
        environment = {
            name: re.sub(r"\$\{(\w+):[-?](.*?)\}", r"\2", value or "")
            for name, value in service["environment"].items()
            if value and name.startswith("TUSD_PY_")
        }
        config = load({}, environment).config
        assert len(load({}, environment).origin) == len(environment), name
        assert config.shutdown_timeout.total_seconds() < float(service["stop_grace_period"].removesuffix("s"))
        nginx = SERVICES["nginx"]["networks"]["default"]["ipv4_address"]
        assert service["environment"]["TUSD_PY_BEHIND_PROXY"] == nginx


def test_the_image_is_built_of_files_that_are_there() -> None:
    """What the Dockerfile copies exists, and is not kept from the build."""
    text = (DEPLOY / "Dockerfile").read_text()
    wanted = {name for line in re.findall(r"^COPY ([^-].*) \S+$", text, re.MULTILINE) for name in line.split()}
    assert {name for name in wanted if not (ROOT / name).exists()} == set()
    ignore, *kept = [line for line in (DEPLOY / "Dockerfile.dockerignore").read_text().split() if line[0] in "*!"]
    assert ignore == "*"
    assert {name.removeprefix("!") for name in kept if name.startswith("!")} == wanted


@pytest.mark.needs_nginx
def test_the_configuration_of_nginx_is_valid(tmp_path: Path) -> None:
    """nginx finds nothing wrong with the template, filled in as its image does."""
    rendered = tmp_path / "nginx.conf"
    values = {**SERVICES["nginx"]["environment"], "NGINX_ENVSUBST_OUTPUT_DIR": str(tmp_path)}
    text = (DEPLOY / "nginx" / "nginx.conf.template").read_text()
    assert set(re.findall(r"\$\{(\w+)\}", text)) == values.keys()
    text = re.sub(r"\$\{(\w+)\}", lambda found: values[found[1]], text)
    # Names of containers mean nothing here.
    rendered.write_text(text.replace("replica-1", "127.0.0.11").replace("replica-2", "127.0.0.12"))
    nginx = shutil.which("nginx")
    assert nginx
    checked = subprocess.run(
        [nginx, "-t", "-e", "stderr", "-c", str(rendered)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert "[warn]" not in checked.stderr


def test_variables_of_nginx_stay_variables() -> None:
    """Nothing that nginx has to fill in could be taken for a variable of the environment."""
    text = (DEPLOY / "nginx" / "nginx.conf.template").read_text()
    names = re.findall(r"\$(\w+)", text)
    assert names
    assert all(name == name.lower() for name in names)


def test_example_environment_is_read_by_compose() -> None:
    """Each line of .env.example is a comment or NAME=value, as both Compose and a shell read it."""
    for line in (DEPLOY / ".env.example").read_text().splitlines():
        assert re.fullmatch(r"(#.*|\w+=\S*|)", line), json.dumps(line)
