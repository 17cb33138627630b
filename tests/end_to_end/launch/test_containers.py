"""What is printed for Kubernetes, Compose and systemd: it fits its schema, and its commands run."""

from __future__ import annotations

import subprocess
import sys
from operator import neg
from pathlib import Path
from typing import Any

import pytest

import minidask
from minidask.launch import shown
from tests.helpers import Programs

yaml = pytest.importorskip("yaml")
BIN = str(Path(sys.executable).parent)


def printed(*command: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "minidask.launch", *command], capture_output=True, text=True, timeout=30, check=True
    ).stdout


def manifests() -> list[dict[str, Any]]:
    options = ("--image", "registry/minidask:1", "--replicas", "3", "--cores", "2", "--memory", "4Gi")
    return list(yaml.safe_load_all(printed("kubernetes", "--print", *options)))


def test_the_manifests_fit_the_schemas_of_kubernetes() -> None:
    validate = pytest.importorskip("kubernetes_validate").validate
    found = manifests()
    assert [document["kind"] for document in found] == ["Secret", "Service", "Deployment", "Deployment"]
    for document in found:
        validate(document, "1.30", strict=True)
    spec = found[3]["spec"]
    assert (spec["replicas"], spec["template"]["spec"]["terminationGracePeriodSeconds"]) == (3, 900)
    assert spec["template"]["spec"]["containers"][0]["image"] == "registry/minidask:1"


def test_each_printed_secret_is_another_one() -> None:
    assert manifests()[0]["stringData"] != manifests()[0]["stringData"]


@pytest.mark.parametrize("engine", ["kubernetes", "compose"])
def test_the_commands_of_the_containers_make_a_cluster(engine: str, programs: Programs, tmp_path: Path) -> None:
    secret, commands = "ab" * 32, []
    if engine == "kubernetes":
        found = manifests()
        secret = found[0]["stringData"]["access"].split()[0]
        for document in found[2:]:
            container = document["spec"]["template"]["spec"]["containers"][0]
            commands.append([*container["command"], *container["args"]])
    else:
        services = yaml.safe_load(printed("compose", "--print"))["services"]
        commands = [["sh", "-c", services[name]["command"][7:-1]] for name in ("scheduler", "worker")]
    (tmp_path / "access").write_text(secret)  # others may read it, as it is where it is mounted
    started = []
    for number, command in enumerate(commands):
        own = tmp_path / str(number)
        own.mkdir()
        address = started[0].split('minidask.Client("')[1].split('"')[0] if started else ""
        line = command[2]
        for old, new in (
            ("/run/minidask/access", str(tmp_path / "access")),
            ("/run/secrets/access", str(tmp_path / "access")),
            ("/tmp/access", str(own / "access")),
            ("--host 0.0.0.0", "--host 127.0.0.1 --port 0"),
            ("--port 8787", f"--port 0 {address}"),
            ("scheduler:8786", address),
            ("exec ", f"exec {BIN}/"),
        ):
            line = line.replace(old, new)
        program = programs.start(*command[:2], line)
        started.append(program.wait_for("joined the scheduler" if started else "minidask.Client("))
    with minidask.Client(access_file=tmp_path / "0" / "access") as client:
        assert client.submit(neg, 1).result(20) == -1


@pytest.mark.parametrize("daemon", ["scheduler", "worker"])
def test_a_unit_is_printed_for_the_python_that_is_named(daemon: str) -> None:
    text = printed("systemd", "--print", daemon, "--python", "/srv/env/bin/python", "--reach", "node7:9000")
    assert f"ExecStart=/srv/env/bin/minidask-{daemon} " in text
    assert ("SCHEDULER=node7:9000" in text) == (daemon == "worker")
    assert "/opt/minidask" not in text
    assert shown.template(daemon).count("\n") == text.count("\n")
