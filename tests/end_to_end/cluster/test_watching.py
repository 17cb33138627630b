"""`minidask-watch` between real programs, with encryption and without: see minidask/watching."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import psutil
import pytest

import minidask
from minidask.errors import AuthenticationError
from minidask.local.cluster import LocalCluster
from minidask.net.access import load_or_create_access
from tests.helpers import Programs, alive, wait_until

EXAMPLES = Path(__file__).parents[3] / "examples"
WATCH = [sys.executable, "-m", "minidask.watching"]
SCRIPT = """\
import warnings
warnings.simplefilter("ignore")
import minidask
with minidask.Client() as client:
    print("RESULT", client.submit(pow, 2, 10).result(60))
"""
LINE = re.compile(r" *[\d.]+ +(\w+(?: \d+)?) → (\w+(?: \d+)?) +(\w+) +[\d.]+ \w+  (protocol\.md:\d+)  (.*)")


def seen(text: str) -> list[tuple[str, ...]]:
    """Sender, receiver, kind, place in the protocol's text, and fields of each message that was printed."""
    return [found.groups() for line in text.splitlines() if (found := LINE.fullmatch(line))]


def kinds(text: str) -> list[str]:
    return [row[2] for row in seen(text)]


def stepped(log: Path) -> list[str]:
    """The kinds of messages that wait for Enter."""
    return [kind for kind in kinds(log.read_text()) if kind != "Heartbeat"]


@pytest.mark.parametrize("options", [(), ("--no-encryption",)], ids=["TLS", "plain"])
def test_a_script_is_watched_from_its_call_to_the_result(
    programs: Programs, tmp_path: Path, options: tuple[str, ...]
) -> None:
    script, picture = tmp_path / "script.py", tmp_path / "out.svg"
    script.write_text(SCRIPT)
    command = [*WATCH, "--nworkers", "1", "--sequence", str(picture), *options, "--", sys.executable, str(script)]
    watch = programs.start(*command)
    assert watch.exit_code(120) == 0, watch.text
    assert "RESULT 1024" in watch.text
    wanted = [("client 1", "scheduler", "Submit"), ("scheduler", "worker 1", "Run"), ("worker 1", "scheduler", "Done"),
              ("scheduler", "client 1", "TaskDone")]  # fmt: skip
    assert [row[:3] for row in seen(watch.text) if row[:3] in wanted] == wanted
    (submit,) = [row for row in seen(watch.text) if row[2] == "Submit"]
    assert "name='pow'" in submit[4] and "payload=[" in submit[4]
    labels = ["".join(text.itertext()) for text in ElementTree.parse(picture).findall(".//{*}text")]
    drawn = [label.split()[0] for label in labels if "protocol.md:" in label]
    assert [name for name in drawn if name in ("Submit", "Run", "Done", "TaskDone")] == [row[2] for row in wanted]


def test_a_client_in_another_language_is_watched(programs: Programs, tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None and os.getuid() != 0:
        pytest.skip("needs Node.js, which tests/run installs for root")
    assert node is not None
    picture = tmp_path / "out.svg"
    watch = programs.start(*WATCH, "--sequence", str(picture), "--", node, str(EXAMPLES / "client.js"), "{access}")
    assert watch.exit_code(120) == 0, watch.text
    assert kinds(watch.text).count("Submit") == kinds(watch.text).count("TaskDone") >= 100
    texts = ["".join(text.itertext()) for text in ElementTree.parse(picture).findall(".//{*}text")]
    assert [text.split()[0] for text in texts if "protocol.md:" in text] == ["Submit", "Run", "Done", "TaskDone"]


def test_a_command_that_fails_gives_its_exit_code(programs: Programs) -> None:
    watch = programs.start(
        *WATCH, "--nworkers", "1", "--no-encryption", "--", sys.executable, "-c", "raise SystemExit(7)"
    )
    assert watch.exit_code(120) == 7


def test_a_signal_ends_the_command_too(programs: Programs) -> None:
    watch = programs.start(
        *WATCH, "--nworkers", "1", "--", sys.executable, "-uc", "import time; print('begun'); time.sleep(600)"
    )
    watch.wait_for("begun")
    (script,) = [p for p in psutil.Process(watch.process.pid).children() if "time.sleep(600)" in p.cmdline()[-1]]
    watch.send(signal.SIGTERM)
    assert watch.exit_code() == 0
    assert not alive([script.pid])


def test_it_steps_through_a_call_and_goes_on_when_nobody_steps(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    log = tmp_path / "log"
    with log.open("w") as output:
        watch = subprocess.Popen(
            [*WATCH, "--slow", "--nworkers", "1", "--", sys.executable, str(script)],
            stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            assert watch.stdin is not None
            shown = 0
            while "Submit" not in stepped(log):
                wait_until(lambda known=shown: len(stepped(log)) > known or watch.poll() is not None, "more was shown")
                assert watch.poll() is None, log.read_text()
                shown += 1
                if stepped(log)[-1] != "Submit":
                    watch.stdin.write(b"\n")
                    watch.stdin.flush()
            assert "Run" not in kinds(log.read_text()), "it was passed on before anybody has pressed Enter"
            watch.stdin.close()
            assert watch.wait(120) == 0
        finally:
            watch.send_signal(signal.SIGTERM)
            watch.wait(60)
    assert "RESULT 1024" in log.read_text()


def test_it_stands_between_a_cluster_and_programs_that_hold_the_secret(programs: Programs, tmp_path: Path) -> None:
    access, other = tmp_path / "a" / "access", tmp_path / "b" / "access"
    load_or_create_access(access)
    load_or_create_access(other)
    scheduler, address = programs.scheduler("--access-file", str(access))
    watch = programs.start(*WATCH, address, "--access-file", str(access))
    relay = watch.wait_for("connect to ").split("connect to ")[1].split(",")[0]
    programs.worker(relay, "--access-file", str(access), "--nworkers", "1")
    with pytest.raises(AuthenticationError):
        minidask.Client(relay, access_file=other)
    with minidask.Client(relay, access_file=access, name="\x1b[2Jmine") as client:
        assert client.submit(len, b"x" * (3 << 20)).result(60) == 3 << 20
        with pytest.raises(ZeroDivisionError):
            client.submit(lambda: 1 / 0).result(60)
    watch.wait_for("client 1 closes the connection")
    assert r"client 1 connects: '\x1b[2Jmine'" in watch.text and "\x1b" not in watch.text
    assert {"Submit", "Run", "Done", "TaskDone", "Failed", "TaskRaised"} <= set(kinds(watch.text))
    scheduler.end()
    assert watch.exit_code() == 1
    assert watch.text.splitlines()[-1] == f"minidask-watch: the scheduler at {address} has ended"


def test_on_a_local_cluster_calls_go_in_messages(programs: Programs) -> None:
    cluster = LocalCluster(1)
    try:
        watch = programs.start(*WATCH, cluster.scheduler_address)
        relay = watch.wait_for("connect to ").split("connect to ")[1].split(",")[0]
        assert cluster.access_file in watch.text
        with minidask.Client(relay, access_file=cluster.access_file) as client:
            assert client.gather(client.map(abs, range(-3, 0))) == [3, 2, 1]
        watch.wait_for("client 1 closes the connection")
        assert kinds(watch.text).count("Submit") == kinds(watch.text).count("TaskDone") == 3
        watch.send(signal.SIGTERM)
        assert watch.exit_code() == 0
    finally:
        cluster.close()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["node1", "--slow"], "leave ADDRESS out"),
        (["--access-file", "x"], "for the cluster at ADDRESS"),
        (["--call", "0"], "1 or more"),
    ],
)
def test_wrong_usage_is_told(arguments: list[str], says: str) -> None:
    ended = subprocess.run([*WATCH, *arguments], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2 and says in ended.stderr


def test_no_scheduler_is_told(tmp_path: Path) -> None:
    load_or_create_access(tmp_path / "access")
    environment = {**os.environ, "MINIDASK_ACCESS_FILE": str(tmp_path / "access")}
    ended = subprocess.run([*WATCH, "127.0.0.1:1"], capture_output=True, text=True, timeout=60, env=environment)
    assert ended.returncode == 1
    assert "no scheduler answers at tcp://127.0.0.1:1" in ended.stderr and "Traceback" not in ended.stderr
