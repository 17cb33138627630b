"""`minidask-launch ssh` and `SSHCluster`: real sshds, on hosts of their own, with users of their own."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.launch.machines import SSHMachines, have_sshd, run, ssh_machines
from tests.helpers import Program, Programs, alive, wait_until

pytestmark = pytest.mark.skipif(not have_sshd(), reason="needs root, network namespaces and openssh-server")

LAUNCH = (sys.executable, "-m", "minidask.launch")

WORK = """
import getpass, os, sys, minidask
with minidask.Client(access_file=sys.argv[1]) as client:
    print(sorted(client.run(getpass.getuser).values()), client.submit(abs, -7).result(20), flush=True)
"""

CLUSTER = """
import getpass, sys, logging, minidask
config, *hosts = sys.argv[1:]
with minidask.SSHCluster(hosts, options=["-F", config], worker_options=["--nworkers", "1"]) as cluster:
    with minidask.Client(cluster) as client:
        print(sorted(client.run(getpass.getuser).values()), list(cluster.failed), flush=True)
        cluster.scale(1)
        while len(client.nthreads()) > 1:
            pass
        print(client.submit(abs, -7).result(20), cluster, flush=True)
        futures = client.map(__import__("time").sleep, [60] * 4)
        cluster.close()
        print(type(futures[0].exception(20)).__name__, flush=True)
"""


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SSHMachines]:
    with ssh_machines(tmp_path_factory.mktemp("ssh"), 3) as made:
        yield made


def launch(programs: Programs, machines: SSHMachines, *hosts: str) -> Program:
    options = ("--ssh-option=-F", f"--ssh-option={machines.config}", "--access-file", str(programs.folder / "access"))
    command = (*LAUNCH, "ssh", *hosts, *options, "--", "--nworkers", "1")
    return programs.start(*machines.hosts.on(0, *command))


def processes_of(machines: SSHMachines) -> list[str]:
    """All that the users of the hosts run, but for sshd itself."""
    found = [run("ps", "-u", user, "-o", "args=", check=False).splitlines() for user in machines.users]
    return [line for lines in found for line in lines if "minidask" in line]


def test_one_command_makes_a_cluster_and_its_end_ends_all(programs: Programs, machines: SSHMachines) -> None:
    launched = launch(programs, machines, "node1", "node2")
    launched.wait_for("2 machines")
    work = programs.folder / "work.py"
    work.write_text(WORK)
    worked = programs.start(*machines.hosts.on(0, sys.executable, str(work), str(programs.folder / "access")))
    assert f"{sorted(machines.users)} 7" in worked.wait_for("7\n")
    assert not [line for line in processes_of(machines) if (programs.folder / "access").read_text().split()[0] in line]
    launched.send(signal.SIGTERM)
    assert launched.exit_code() == 0, launched.text
    wait_until(lambda: not processes_of(machines), "nothing ran on the hosts")
    assert "Traceback" not in launched.text


def test_a_starter_that_is_killed_leaves_nothing_on_any_host(programs: Programs, machines: SSHMachines) -> None:
    launched = launch(programs, machines, "node1", "node2")
    launched.wait_for("2 machines")
    assert len(processes_of(machines)) >= 4
    launched.send(signal.SIGKILL)
    launched.exit_code()
    wait_until(lambda: not processes_of(machines), "nothing ran on the hosts")
    wait_until(lambda: not alive_in_namespace(machines), "nothing ran on the starter's host")


def alive_in_namespace(machines: SSHMachines) -> list[int]:
    return alive([int(pid) for pid in run("ip", "netns", "pids", machines.hosts.names[0]).split()])


def test_a_host_that_fails_is_named_with_its_error_while_the_others_work(
    programs: Programs, machines: SSHMachines
) -> None:
    launched = launch(programs, machines, "node1", "10.199.7.1")
    text = launched.wait_for("1 machine>")
    assert "10.199.7.1 has ended: ssh: connect to host 10.199.7.1 port 22: Connection refused" in text


def test_if_no_host_works_the_error_says_why_for_each(programs: Programs, machines: SSHMachines) -> None:
    launched = launch(programs, machines, "10.199.7.1", "nobody@node1")
    assert launched.exit_code() == 1
    assert "no machine has joined" in launched.text
    assert "10.199.7.1: ssh: connect to host" in launched.text
    assert "nobody@node1: " in launched.text and "Permission denied" in launched.text


def test_a_python_that_is_not_there_is_named(programs: Programs, machines: SSHMachines) -> None:
    options = ("--ssh-option=-F", f"--ssh-option={machines.config}", "--access-file", str(programs.folder / "access"))
    command = (*LAUNCH, "ssh", "node1", "--python", "/no/python", *options)
    launched = programs.start(*machines.hosts.on(0, *command))
    assert launched.exit_code() == 1
    assert "node1: " in launched.text and "/no/python" in launched.text


def test_a_cluster_of_a_program(programs: Programs, machines: SSHMachines, tmp_path: Path) -> None:
    script = tmp_path / "cluster.py"
    script.write_text(CLUSTER)
    hosts = ("node1", "node2", "10.199.7.1")
    ended = programs.start(*machines.hosts.on(0, sys.executable, str(script), str(machines.config), *hosts))
    assert ended.exit_code() == 0, ended.text
    first, second, third = [line for line in ended.text.splitlines() if line[:1] in "[7S"]
    assert first == f"{sorted(machines.users)} ['10.199.7.1']"
    assert second.startswith("7 <minidask.SSHCluster tcp://") and second.endswith(" 1 machine>")
    assert third == "SchedulerLost"
    wait_until(lambda: not processes_of(machines), "nothing ran on the hosts")


def test_print_shows_the_commands_which_work_as_they_are(programs: Programs, machines: SSHMachines) -> None:
    access = programs.folder / "access"
    options = ("--ssh-option=-F", f"--ssh-option={machines.config}", "--access-file", str(access))
    shown = run(*LAUNCH, "ssh", "node1", "--print", *options)
    assert not access.exists()
    command = (sys.executable, "-m", "minidask.scheduler", "--host", "0.0.0.0", "--access-file", str(access))
    scheduler = programs.start(*machines.hosts.on(0, *command))
    scheduler.wait_for("listens on")
    worker = programs.start(*machines.hosts.on(0, "bash", "-c", f"sleep 60 | {shown}"))
    worker.wait_for("joined the scheduler")
    os.killpg(worker.process.pid, signal.SIGTERM)  # all of the pipe, which is what Ctrl-C ends
    wait_until(lambda: not processes_of(machines), "nothing ran on the hosts")
