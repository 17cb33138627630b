"""What others start: units for systemd, manifests for Kubernetes, and files for containers. They are shown, not run."""

from __future__ import annotations

import os
import secrets
import string
from importlib import resources
from pathlib import PurePosixPath

NAMES = {
    "scheduler": "minidask-scheduler.service",
    "worker": "minidask-worker.service",
    "kubernetes": "kubernetes.yaml",
    "compose": "compose.yaml",
    "dockerfile": "Dockerfile",
}
OURS = "/opt/minidask/bin"


def template(name: str) -> str:
    """Return one of these files as it is in this package."""
    return (resources.files("minidask.launch") / "templates" / NAMES[name]).read_text()


def unit(daemon: str, python: str | None, scheduler: str | None) -> str:
    """Return a unit for systemd.

    Args:
        daemon: "scheduler" or "worker".
        python: of the environment that has minidask; None: that of /opt/minidask.
        scheduler: its address, for a worker; None: node1:8786.
    """
    text = template(daemon)
    if python is not None:
        text = text.replace(OURS, str(PurePosixPath(os.path.abspath(python)).parent))
    return text.replace("SCHEDULER=node1:8786", f"SCHEDULER={scheduler or 'node1:8786'}")


def manifests(image: str, replicas: int, cores: int, memory: str) -> str:
    """Return the manifests for Kubernetes, with a new secret.

    Args:
        image: of the containers.
        replicas: how many workers.
        cores: of each, which are the tasks that it runs at once.
        memory: of each, as Kubernetes has it.
    """
    values = {"image": image, "replicas": replicas, "cores": cores, "memory": memory, "secret": secrets.token_hex(32)}
    return string.Template(template("kubernetes")).substitute(values)
