"""`minidask-scheduler --metrics-port`: see scheduler/metrics.py."""

from __future__ import annotations

import contextlib
import http.client
import re
import signal
import socket
import sys
from pathlib import Path

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

import minidask
from tests.helpers import Program, Programs, wait_until
from tests.tls_ends import Authority


def page_of(scheduler: Program) -> tuple[str, int]:
    """Where the figures of a scheduler are."""
    found = re.search(r"http://\[?([^\]/]+)\]?:(\d+)/metrics", scheduler.wait_for("/metrics"))
    assert found is not None
    return found[1], int(found[2])


def get(scheduler: Program, path: str = "/metrics") -> tuple[int, str]:
    host, port = page_of(scheduler)
    with contextlib.closing(http.client.HTTPConnection(host, port, timeout=30)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def figures(scheduler: Program) -> dict[str, float]:
    """The figures by name; those of machines added up."""
    status, text = get(scheduler)
    assert status == 200
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


def beside(scheduler: Program) -> psutil.Process:
    """The process that serves the figures."""
    (process,) = psutil.Process(scheduler.process.pid).children()
    return process


def wait_until_gone(process: psutil.Process, scheduler: Program) -> None:
    wait_until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, "the page had ended")
    assert "Traceback" not in scheduler.text


def test_the_figures_are_those_of_the_cluster_and_anybody_may_have_them(programs: Programs) -> None:
    scheduler, address = programs.scheduler("--metrics-port", "0")
    assert page_of(scheduler)[0] == "127.0.0.1"
    programs.worker(address, "--nworkers", "2")
    wait_until(lambda: figures(scheduler).get("minidask_workers") == 2, "the workers were counted")
    with minidask.Client(address) as client:
        client.gather(client.map(abs, range(-5, 0)))
        wait_until(lambda: figures(scheduler).get("minidask_tasks_finished_total") == 5, "the tasks were counted")
    assert figures(scheduler)["minidask_up"] == 1
    for path in ("/", "/stream?page=now", "/task?key=t1", "/page.js", "/metrics/x"):
        assert get(scheduler, path)[0] == 404


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_page_ends_with_the_scheduler(programs: Programs, number: signal.Signals) -> None:
    scheduler, _ = programs.scheduler("--metrics-port", "0")
    figures(scheduler)
    process = beside(scheduler)
    scheduler.send(number)
    scheduler.exit_code()
    wait_until_gone(process, scheduler)


def test_a_page_that_has_ended_is_told_in_the_log_and_the_scheduler_goes_on(programs: Programs) -> None:
    scheduler, address = programs.scheduler("--metrics-port", "0")
    figures(scheduler)
    beside(scheduler).kill()
    scheduler.wait_for("the metrics page has ended, with exit code -9")
    host, port = page_of(scheduler)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, port), timeout=10)
    programs.worker(address, "--nworkers", "1")


def test_a_port_that_is_taken_is_told_and_nothing_begins(programs: Programs) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        scheduler = programs.start(sys.executable, "-m", "minidask.scheduler", "--port", "0", "--metrics-port", port)
        assert scheduler.exit_code() == 1
    assert "cannot listen on 127.0.0.1" in scheduler.text and "--metrics-port" in scheduler.text
    assert "Traceback" not in scheduler.text and "listens on" not in scheduler.text.replace("cannot listen", "")


def test_a_package_that_is_missing_is_told(programs: Programs) -> None:
    scheduler = programs.script(
        'import sys\nsys.modules["prometheus_client"] = None\nfrom minidask.scheduler.__main__ import main\n'
        'sys.exit(main(["--port", "0", "--metrics-port", "0"]))\n'
    )
    assert scheduler.exit_code() == 1
    assert "pip install 'minidask[metrics]'" in scheduler.text and "Traceback" not in scheduler.text


def test_it_finds_its_scheduler_however_that_is_found(programs: Programs, tmp_path: Path) -> None:
    ours = Authority(tmp_path / "ours", "ours").files("scheduler")
    everywhere, _ = programs.scheduler("--host", "0.0.0.0", "--metrics-port", "0")
    certified, _ = programs.scheduler(
        "--metrics-port", "0", "--access-file", str(tmp_path / "access"),
        "--tls-ca-file", ours.ca_file, "--tls-cert", ours.cert, "--tls-key", ours.key,
    )  # fmt: skip
    with_file = programs.start(
        sys.executable, "-m", "minidask.scheduler", "--host", f"unix://{tmp_path}/socket", "--metrics-port", "0",
        "--access-file", str(tmp_path / "other"),
    )  # fmt: skip
    plain, _ = programs.scheduler(
        "--no-encryption", "--metrics-port", "0", "--access-file", str(tmp_path / "plain"), "--metrics-host", "0.0.0.0"
    )
    for scheduler in (everywhere, certified, with_file, plain):
        wait_until(lambda found=scheduler: figures(found).get("minidask_up") == 1, "it was there")
