"""Slots that cannot be replaced: the system has no descriptor, no process or no memory to spare for a while."""

from __future__ import annotations

import abc
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import joblib
import psutil
import pytest

import minidask
from minidask.errors import NoWorkersError
from tests.helpers import Program, Programs, wait_until

pytestmark = pytest.mark.timeout(120)

KILLED_AS_IT_STARTS = """
import os, sys
if os.path.exists({flag!r}) and any("worker.slot.process" in argument for argument in sys.orig_argv):
    os.kill(os.getpid(), 9)
"""


class Machine(abc.ABC):
    """A worker with two slots, which can be put at a limit and be freed from it."""

    def __init__(self, programs: Programs, address: str) -> None:
        self.program = self.start(programs, address)
        self.pid = self.program.process.pid

    def start(self, programs: Programs, address: str) -> Program:
        return programs.worker(address, "--nworkers", "2", "--name", "limited")

    @abc.abstractmethod
    def limit(self) -> None: ...

    @abc.abstractmethod
    def free(self) -> None: ...

    def slots(self) -> list[int]:
        """The processes of its slots."""
        children = psutil.Process(self.pid).children()
        return [child.pid for child in children if child.status() != psutil.STATUS_ZOMBIE]


class Limited(Machine):
    """At a limit of the kernel's that its process has."""

    which: int
    soft: int

    def limit(self) -> None:
        self._before = resource.prlimit(self.pid, self.which)
        resource.prlimit(self.pid, self.which, (self.soft, self._before[1]))

    def free(self) -> None:
        resource.prlimit(self.pid, self.which, self._before)


class WithoutDescriptors(Limited):
    which, soft = resource.RLIMIT_NOFILE, 4


class WithoutProcesses(Machine):
    """It belongs to a user of its own, as root may always start processes."""

    user = ("setpriv", "--reuid", "54321", "--clear-groups")

    def start(self, programs: Programs, address: str) -> Program:
        if os.getuid() != 0 or not shutil.which("setpriv"):
            pytest.skip("a user of one's own needs root, and setpriv (Debian's util-linux)")
        may_read_all = ["--inh-caps", "-all,+dac_override", "--ambient-caps", "-all,+dac_override"]
        command = [sys.executable, "-m", "minidask.worker", address, "--nworkers", "2", "--name", "limited"]
        program = programs.start(*self.user, *may_read_all, *command)
        program.wait_for("joined the scheduler")
        return program

    def limit(self) -> None:
        self._set("1")

    def free(self) -> None:
        self._set("10000")

    def _set(self, soft: str) -> None:
        subprocess.run([*self.user, "prlimit", "--pid", str(self.pid), f"--nproc={soft}:"], check=True)


class WithoutMemory(Machine):
    """The kernel kills its slots as they start, as it does where memory is used up."""

    def start(self, programs: Programs, address: str) -> Program:
        self._flag = programs.folder / "flag"
        (programs.folder / "sitecustomize.py").write_text(KILLED_AS_IT_STARTS.format(flag=str(self._flag)))
        path = os.pathsep.join([str(programs.folder), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, "-m", "minidask.worker", address, "--nworkers", "2", "--name", "limited"]
        program = programs.start(*command, PYTHONPATH=path)
        program.wait_for("joined the scheduler")
        return program

    def limit(self) -> None:
        self._flag.touch()

    def free(self) -> None:
        self._flag.unlink()


@pytest.mark.parametrize("kind", [WithoutDescriptors, WithoutProcesses, WithoutMemory])
def test_a_slot_that_cannot_be_replaced_is_not_offered_until_it_is_there_again(
    kind: Callable[[Programs, str], Machine], programs: Programs
) -> None:
    _, address = programs.scheduler()
    machine = kind(programs, address)
    with minidask.Client(address) as client:
        client.wait_for_workers(2)
        wait_until(lambda: len(set(client.gather(client.map(slowly, range(8))))) == 2, "both slots work")
        machine.limit()
        for left in (1, 0):
            os.kill(machine.slots()[0], signal.SIGKILL)
            wait_until(lambda left=left: client.slots() == left, f"{left} slots were offered")  # type: ignore[misc]
            machine.program.wait_for(f"{left} of 2 workers can be used")
            if left:
                assert len(set(client.gather(client.map(slowly, range(6))))) == 1, "what is left works"
        waiting = [client.submit(slowly, i) for i in range(4)]
        time.sleep(1)  # several tries more
        assert not any(future.done() for future in waiting) and machine.program.process.poll() is None
        programs.worker(address, "--nworkers", "1", "--name", "other")
        assert len({future.result(30) for future in waiting}) == 1, "they go elsewhere"
        machine.free()
        machine.program.wait_for("2 of 2 workers can be used")
        wait_until(lambda: client.slots() == 3, "all were offered again")
        pids = client.gather(client.map(slowly, range(24)))
        assert set(machine.slots()) <= set(pids)


def slowly(_: int) -> int:
    time.sleep(0.1)
    return os.getpid()


LOCAL = """
import os, resource, signal, sys, time, joblib, minidask, psutil

def slowly(i):
    time.sleep(0.05)
    return i

def slots():
    return [child for child in psutil.Process(node).children() if child.status() != "zombie"]

client = minidask.Client(n_workers=2)
client.wait_for_workers(2)
node = client.scheduler_info()["pid"]
before = resource.prlimit(node, resource.RLIMIT_NOFILE)

def limit_and_kill():
    resource.prlimit(node, resource.RLIMIT_NOFILE, (4, before[1]))
    for slot in slots():
        slot.kill()
    while client.slots():
        time.sleep(0.01)
    print("limited", flush=True)
    time.sleep(2)
    resource.prlimit(node, resource.RLIMIT_NOFILE, before)
    print("freed", flush=True)

def calls():
    for i in range(40):
        if i == 10:
            limit_and_kill()
        yield joblib.delayed(slowly)(i)

with joblib.parallel_config("minidask", scheduler=client):
    for way in ("list", "generator", "generator_unordered"):
        found = list(joblib.Parallel(return_as=way)(calls()))
        assert sorted(found) == list(range(40)), found
        assert client.slots() == 2 or client.wait_for_workers(2) is None
print("over", flush=True)
"""


def test_a_call_under_way_waits_for_slots_of_its_own_cluster(programs: Programs) -> None:
    script = programs.script(LOCAL)
    assert script.exit_code(90) == 0, script.text
    assert script.text.count("0 of 2 workers can be used") >= 3, script.text
    assert "Traceback" not in script.text


def test_who_waits_for_slots_that_do_not_come_is_told(programs: Programs) -> None:
    _, address = programs.scheduler("--no-workers-timeout", "2")
    machine = WithoutDescriptors(programs, address)
    with minidask.Client(address) as client, joblib.parallel_config("minidask", scheduler=client, n_jobs=2):
        client.wait_for_workers(2)
        assert joblib.Parallel()(joblib.delayed(abs)(-i) for i in range(4)) == [0, 1, 2, 3]
        machine.limit()
        for slot in machine.slots():
            os.kill(slot, signal.SIGKILL)
        wait_until(lambda: client.slots() == 0, "no slot was offered")
        with pytest.raises(NoWorkersError, match="for 2 seconds"):
            client.submit(abs, -1).result(30)
        machine.free()
        wait_until(lambda: client.slots() == 2, "they were offered again")
        assert joblib.Parallel()(joblib.delayed(abs)(-i) for i in range(4)) == [0, 1, 2, 3]
