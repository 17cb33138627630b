"""The two daemons as processes: started, misused, killed and ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from operator import neg
from pathlib import Path

import psutil
import pytest

import minidask
from minidask import errors
from minidask.host.folders import sweep
from minidask.wire.frames import PREFIX
from tests.helpers import Programs, alive, at_rest, wait_until


def host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return host, int(port)


def command(program: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"minidask.{program}", *options], capture_output=True, text=True, timeout=30, check=False
    )


# --- the command line ---


@pytest.mark.parametrize("program", ["scheduler", "worker"])
def test_help_teaches_and_version_tells(program: str) -> None:
    text = command(program, "--help").stdout
    assert "--access-file" in text
    assert "exit codes" in text
    assert "8786" in text
    assert command(program, "--version").stdout.strip() == f"minidask-{program} {minidask.__version__}"


@pytest.mark.parametrize(
    ("program", "options", "text"),
    [
        ("worker", ["http://x"], "unknown scheme"),
        ("worker", ["localhost", "--nworkers", "0"], "neither auto nor a whole number"),
        ("worker", ["localhost", "--memory-limit", "much"], "no number of bytes"),
        ("scheduler", ["--port", "x"], "is no port"),
    ],
)
def test_wrong_usage(program: str, options: list[str], text: str) -> None:
    result = command(program, *options)
    assert result.returncode == 2
    assert text in result.stderr


def test_a_port_out_of_range_and_one_already_taken(programs: Programs) -> None:
    _, address = programs.scheduler()
    _, port = host_and_port(address)
    taken = command("scheduler", "--port", str(port))
    assert taken.returncode == 1
    assert "address already in use" in taken.stderr
    assert "Choose another --port" in taken.stderr
    out_of_range = command("scheduler", "--port", "70000")
    assert out_of_range.returncode == 2
    assert "65535" in out_of_range.stderr


def test_a_worker_that_finds_no_scheduler_gives_up(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("ab" * 32)
    secret.chmod(0o600)
    result = command("worker", "127.0.0.1:1", "--death-timeout", "0.5", "--access-file", str(secret))
    assert result.returncode == 1
    assert "gave up after 0.5 seconds" in result.stderr


def test_a_worker_with_a_wrong_secret_is_turned_away_at_once(programs: Programs, tmp_path: Path) -> None:
    _, address = programs.scheduler()
    secret = tmp_path / "secret"
    secret.write_text("ab" * 32)
    secret.chmod(0o600)
    result = command("worker", address, "--access-file", str(secret))
    assert result.returncode == 1
    assert "same secret" in result.stderr
    assert command("worker", address, "--access-file", str(tmp_path / "none")).returncode == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "unix"])
def test_every_kind_of_address_works(host: str, programs: Programs, tmp_path: Path) -> None:
    where = f"unix://{tmp_path}/socket" if host == "unix" else host
    _, address = programs.scheduler("--host", where)
    programs.worker(address, "--nworkers", "1")
    with minidask.Client(address) as client:
        client.wait_for_workers(1)
        assert client.submit(neg, 1).result(20) == -1


# --- clusters of several workers ---


def test_work_is_spread_over_workers_and_survives_the_death_of_one(programs: Programs, tmp_path: Path) -> None:
    _, address = programs.scheduler()
    first = programs.worker(address, "--nworkers", "1", "--name", "first")
    programs.worker(address, "--nworkers", "1", "--name", "second")

    def hold(folder: Path, number: int) -> int:
        (folder / f"{number}-{os.getpid()}").touch()
        time.sleep(0.2)
        return number

    with minidask.Client(address) as client:
        client.wait_for_workers(2)
        assert sorted(client.run(os.getppid).values()) == sorted(
            machine["pid"] for machine in client.scheduler_info()["machines"]
        )
        futures = client.map(hold, [tmp_path] * 20, range(20))
        wait_until(lambda: len(list(tmp_path.glob("[0-9]-*"))) >= 4, "some tasks had run")
        first.send(signal.SIGKILL)
        assert client.gather(futures) == list(range(20))
        wait_until(lambda: client.slots() == 1, "the death was noticed")


def test_a_slot_that_is_killed_costs_one_attempt(programs: Programs, tmp_path: Path) -> None:
    _, address = programs.scheduler()
    programs.worker(address, "--nworkers", "2")

    def once_deadly(folder: Path) -> str:
        if not (folder / "tried").exists():
            (folder / "tried").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return "second time"

    with minidask.Client(address) as client:
        others = client.map(neg, range(50))
        assert client.submit(once_deadly, tmp_path).result(20) == "second time"
        assert client.gather(others) == [-i for i in range(50)]


def test_work_waits_for_workers_and_fails_after_the_timeout(programs: Programs) -> None:
    _, address = programs.scheduler("--no-workers-timeout", "1")
    with minidask.Client(address) as client:
        assert client.slots() == 0
        with pytest.raises(errors.NoWorkersError, match="minidask-worker"):
            client.submit(neg, 1).result(10)
    _, address = programs.scheduler()
    with minidask.Client(address) as client:
        waiting = client.submit(neg, 2)
        programs.worker(address, "--nworkers", "1")
        assert waiting.result(20) == -2


def test_joblib_waits_for_workers_and_names_its_option(programs: Programs) -> None:
    import joblib

    _, address = programs.scheduler()
    with joblib.parallel_config("minidask", scheduler=address, wait_for_workers_timeout=0.3):
        with pytest.raises(errors.NoWorkersError, match="wait_for_workers_timeout=10") as caught:
            joblib.Parallel()(joblib.delayed(neg)(i) for i in range(2))
        assert isinstance(caught.value, TimeoutError)
        programs.worker(address, "--nworkers", "2")
        assert joblib.Parallel()(joblib.delayed(neg)(i) for i in range(2)) == [0, -1]


def test_a_worker_comes_back_to_a_scheduler_that_was_started_again(programs: Programs) -> None:
    scheduler, address = programs.scheduler()
    _, port = host_and_port(address)
    worker = programs.worker(address, "--nworkers", "1")
    with minidask.Client(address, reconnect_timeout=0) as client:
        pending = client.submit(time.sleep, 60)
        wait_until(lambda: not at_rest(client), "the task was sent")
        scheduler.send(signal.SIGKILL)
        with pytest.raises(errors.SchedulerLost, match="pending"):
            pending.result(10)
        with pytest.raises(errors.SchedulerLost):
            client.submit(neg, 1)
    scheduler.exit_code()
    again = programs.start(sys.executable, "-m", "minidask.scheduler", "--port", str(port))
    again.wait_for("listens on")
    with minidask.Client(address) as client:
        client.wait_for_workers(1, 20)
        assert client.submit(neg, 1).result(20) == -1
    assert worker.text.count("joined the scheduler") == 2


# --- ends ---


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_daemon_cleanly_with_every_child(
    number: signal.Signals, programs: Programs, tmp_path: Path
) -> None:
    def compute() -> int:
        (tmp_path / "begun").touch()
        return sum(range(10**12))

    scheduler, address = programs.scheduler()
    worker = programs.worker(address, "--nworkers", "2")
    wait_until(lambda: len(psutil.Process(worker.process.pid).children()) == 2, "the slots had started")
    slots = psutil.Process(worker.process.pid).children()
    with minidask.Client(address) as client:
        busy = client.submit(compute)
        wait_until((tmp_path / "begun").exists, "the task ran")
        worker.send(number)
        if number == signal.SIGTERM:  # the first has it wait for what runs: see end_to_end/cluster/test_draining.py
            worker.wait_for("draining")
            worker.send(number)
        assert worker.exit_code(10) == 0
        wait_until(lambda: not alive([slot.pid for slot in slots]), "the slots had ended", 5)
        busy.cancel()
    scheduler.send(number)
    assert scheduler.exit_code(10) == 0
    assert "Traceback" not in scheduler.text + worker.text


def test_slots_end_with_a_worker_that_is_killed(programs: Programs) -> None:
    _, address = programs.scheduler()
    worker = programs.worker(address, "--nworkers", "2")
    wait_until(lambda: len(psutil.Process(worker.process.pid).children()) == 2, "the slots had started")
    slots = psutil.Process(worker.process.pid).children()
    worker.send(signal.SIGKILL)
    wait_until(lambda: not alive([slot.pid for slot in slots]), "the slots had ended", 5)
    worker.exit_code()
    sweep()  # as whatever of ours is started next does


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the group of a slot that its daemon has ended")
def test_what_tasks_have_started_ends_with_a_worker_that_is_killed(programs: Programs, tmp_path: Path) -> None:
    def start_children_and_wait() -> None:
        pids = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid, os.fork()]
        if not pids[-1]:
            time.sleep(60)
            os._exit(0)
        (tmp_path / "unfinished").write_text(" ".join(map(str, pids)))
        (tmp_path / "unfinished").rename(tmp_path / "pids")
        time.sleep(60)

    _, address = programs.scheduler()
    worker = programs.worker(address, "--nworkers", "1")
    with minidask.Client(address) as client:
        future = client.submit(start_children_and_wait)
        wait_until((tmp_path / "pids").exists, "the children ran")
        pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
        try:
            assert alive(pids) == pids
            worker.send(signal.SIGKILL)
            wait_until(lambda: not alive(pids), "they had ended", 5)
        finally:
            for pid in alive(pids):
                os.kill(pid, signal.SIGKILL)
        future.cancel()
    worker.exit_code()
    sweep()


def test_shutdown_ends_the_whole_cluster(programs: Programs) -> None:
    scheduler, address = programs.scheduler("--allow-shutdown")
    worker = programs.worker(address, "--nworkers", "1")
    minidask.Client(address).shutdown()
    assert scheduler.exit_code(10) == 0
    assert worker.exit_code(10) == 0


# --- strangers at the door ---


def answer_to(address: str, data: bytes, seconds: float = 5.0) -> bytes:
    """What the scheduler says to these bytes before it closes the connection."""
    with socket.create_connection(host_and_port(address), seconds) as sock:
        sock.sendall(data)
        received = b""
        while chunk := sock.recv(4096):
            received += chunk
        return received


@pytest.mark.parametrize("encrypted", [True, False])
def test_strangers_are_turned_away_and_the_cluster_goes_on(encrypted: bool, programs: Programs, tmp_path: Path) -> None:
    access = tmp_path / "access"
    option = ["--access-file", str(access)]
    scheduler, address = programs.scheduler(*option, *([] if encrypted else ["--no-encryption"]))
    programs.worker(address, "--nworkers", "1", *option)
    assert b"speaks the minidask protocol, not HTTP" in answer_to(address, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    for data in (
        b"\0" * 100,
        b"SSH-2.0-OpenSSH\r\n",
        PREFIX.pack(b"mD", 0, 2**32 - 1),
        PREFIX.pack(b"mD", 65535, 10),
        PREFIX.pack(b"mD", 0, 3) + b"\xff\xff\xff",
        b"\x80\x04\x95pickle",
    ):
        answer = answer_to(address, data)
        if data.startswith(b"mD"):
            assert b"refuse" in answer and (b"one side encrypts" in answer) is encrypted
        else:
            assert (b"refuse" in answer) is not encrypted
    with contextlib.nullcontext() if encrypted else pytest.warns(UserWarning, match="not encrypted"):
        client = minidask.Client(address, access_file=access)
    with client:
        assert client.submit(neg, 1).result(20) == -1
    assert "Traceback" not in scheduler.text


def test_another_protocol_version_is_told_to_both_sides(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    from minidask.wire import handshake

    scheduler, address = programs.scheduler()
    monkeypatch.setattr(handshake, "PROTOCOL", handshake.PROTOCOL + 1)
    with pytest.raises(errors.VersionMismatch, match="install the same minidask version"):
        minidask.Client(address)
    wait_until(
        lambda: f"speaks protocol {handshake.PROTOCOL} and the side that listens" in scheduler.text,
        "the scheduler had logged it",
    )
    monkeypatch.undo()
    minidask.Client(address).close()


def test_a_silent_stranger_is_dropped_in_time(programs: Programs) -> None:
    scheduler = programs.script(
        "from minidask.net import transport\ntransport.HANDSHAKE_SECONDS = 1.0\n"
        'from minidask.scheduler.__main__ import main\nmain(["--port", "0"])\n'
    )
    address = scheduler.wait_for("minidask.Client(").split('minidask.Client("')[1].split('"')[0]
    began = time.monotonic()
    assert answer_to(address, b"\x16\x03\x01", 15) == b""
    wait_until(lambda: "within 1 seconds" in scheduler.text, "the scheduler had logged it")
    assert 0.9 < time.monotonic() - began < 4


def test_the_scheduler_unpickles_nothing(programs: Programs) -> None:
    """An audit hook in the scheduler process reports every use of pickle, while real tasks pass through it."""
    watched = programs.script(
        """
import sys
def hook(event, arguments):
    if event.startswith("pickle"):
        print("PICKLE", event, arguments, flush=True)
sys.addaudithook(hook)
from minidask.scheduler.__main__ import main
code = main(["--port", "0"])
print("loaded", sorted(m for m in ("pickle", "cloudpickle", "joblib", "numpy") if m in sys.modules), flush=True)
sys.exit(code)
"""
    )
    address = watched.wait_for("minidask.Client(").split('minidask.Client("')[1].split('"')[0]
    programs.worker(address, "--nworkers", "1")
    with minidask.Client(address) as client:
        assert client.gather(client.map(lambda i: [i, {i}], range(10))) == [[i, {i}] for i in range(10)]
        assert client.submit(dict, a=[1.5, b"x"]).result(10) == {"a": [1.5, b"x"]}
        with pytest.raises(ZeroDivisionError):
            client.submit(lambda: 1 / 0).result(10)
    watched.send(signal.SIGTERM)
    assert watched.exit_code(10) == 0
    assert "PICKLE" not in watched.text
    assert "loaded []" in watched.text
