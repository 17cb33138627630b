"""What crosses a network is encrypted, and nobody without the secret reads or changes it, with no option at all."""

from __future__ import annotations

import os
import sys
import time
from operator import neg
from pathlib import Path

import pytest

import minidask
from minidask import errors
from minidask.net.access import load_or_create_access, save_access
from tests.helpers import Programs, wait_until
from tests.relay import Relay
from tests.tls_ends import Authority

MARK = b"a secret of the user's, sixty-four bytes long, which stays here." * 100


def both_ways(data: bytes) -> bytes:
    return data[::-1]


def test_a_recorded_stream_shows_nothing(programs: Programs, relays: list[Relay]) -> None:
    """Arguments, results and names; from the client and of a worker."""
    _, address = programs.scheduler()
    relays.append(relay := Relay(address))
    programs.worker(relay.address, "--nworkers", "1")
    with minidask.Client(relay.address) as client:
        assert client.submit(both_ways, MARK).result(20) == MARK[::-1]
    assert len(relay.seen) > 4 * len(MARK)
    for text in (MARK[:16], MARK[::-1][:16], b"both_ways", b"pickle", b"hello", b"client"):
        assert text not in relay.seen


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_relay_that_changes_bytes_costs_the_connection_and_no_result(
    way: str, programs: Programs, relays: list[Relay]
) -> None:
    """Once, in the midst of the work: the client connects again, and nothing is wrong."""
    _, address = programs.scheduler()
    programs.worker(address, "--nworkers", "2")
    left = [30]

    def change(data: bytes, direction: str) -> bytes:
        if direction != way:
            return data
        left[0] -= 1
        return data if left[0] else data[:-1] + bytes([data[-1] ^ 1])

    relays.append(relay := Relay(address, change))
    with minidask.Client(relay.address) as client:
        for number in range(200):
            assert client.submit(neg, number).result(30) == -number
    assert left[0] < 0


def test_a_relay_with_a_certificate_of_its_own_gets_nothing(programs: Programs, tmp_path: Path) -> None:
    """It is a scheduler itself, with another secret: neither client nor worker tells it anything."""
    _, address = programs.scheduler("--access-file", str(tmp_path / "other"))
    access = tmp_path / "access"
    load_or_create_access(access)
    began = time.monotonic()
    with pytest.raises(errors.AuthenticationError, match=rf"has read {access}: copy the access file"):
        minidask.Client(address, access_file=access)
    worker = programs.start(sys.executable, "-m", "minidask.worker", address, "--access-file", str(access))
    assert worker.exit_code(20) == 1
    assert f"has read {access}: copy the access file from the scheduler's machine" in worker.text
    assert "Traceback" not in worker.text
    assert time.monotonic() - began < 20


def test_the_scheduler_tells_who_was_turned_away(programs: Programs, tmp_path: Path) -> None:
    scheduler, address = programs.scheduler()
    load_or_create_access(tmp_path / "other")
    with pytest.raises(errors.AuthenticationError):
        minidask.Client(address, access_file=tmp_path / "other")
    wait_until(lambda: "the other side refuses this side's certificate" in scheduler.text, "the scheduler had said so")
    assert "Traceback" not in scheduler.text
    minidask.Client(address).close()


# --- certificates of one's own ---


def options(files: minidask.TLSFiles) -> list[str]:
    return ["--tls-ca-file", files.ca_file, "--tls-cert", files.cert, "--tls-key", files.key]


def submits_a_task() -> int:
    return minidask.get_client().submit(neg, 5).result(20)


def nbytes(data: bytes) -> int:
    return len(data)


def test_certificates_of_ones_own_for_everybody(programs: Programs, tmp_path: Path) -> None:
    """The scheduler, two workers that fetch from one another, the client, and the clients of tasks."""
    authority = Authority(tmp_path / "ours", "ours")
    _, address = programs.scheduler(*options(authority.files("scheduler")))
    for name in ("one", "two"):
        programs.worker(address, "--nworkers", "1", "--name", name, *options(authority.files(name)))
    with minidask.Client(address, tls=authority.files("client")) as client:
        client.wait_for_workers(2, timeout=20)
        assert client.submit(submits_a_task).result(30) == -5
        data = client.scatter(os.urandom(3_000_000))
        machines = list(client.nthreads())
        assert len(machines) == 2
        assert set(client.gather([client.submit(nbytes, data) for _ in range(8)])) == {3_000_000}
    with pytest.raises(errors.AuthenticationError, match="certificate"):
        minidask.Client(address)


def test_a_certificate_of_another_authority_is_refused_though_the_secret_is_right(
    programs: Programs, tmp_path: Path
) -> None:
    ours, other = Authority(tmp_path / "ours", "ours"), Authority(tmp_path / "other", "other")
    scheduler, address = programs.scheduler(*options(ours.files("scheduler")))
    stranger = other.files("client")
    with pytest.raises(errors.AuthenticationError, match="certificate is refused"):
        minidask.Client(address, tls=stranger)
    trusting = minidask.TLSFiles(ours.files("x").ca_file, stranger.cert, stranger.key)
    with pytest.raises(errors.AuthenticationError, match="refuses this side's certificate"):
        minidask.Client(address, tls=trusting)
    wait_until(lambda: "the other side's certificate is refused" in scheduler.text, "the scheduler had said so")
    with minidask.Client(address, tls=ours.files("client")):
        pass


def test_who_has_a_certificate_and_no_secret_is_refused(programs: Programs, tmp_path: Path) -> None:
    ours = Authority(tmp_path / "ours", "ours")
    _, address = programs.scheduler(*options(ours.files("scheduler")))
    load_or_create_access(tmp_path / "access")
    with pytest.raises(errors.AuthenticationError, match="copy the access file"):
        minidask.Client(address, tls=ours.files("client"), access_file=tmp_path / "access")


def test_files_that_do_not_go_together_are_told(programs: Programs, tmp_path: Path) -> None:
    files = Authority(tmp_path / "ours", "ours").files("one")
    for program in (["minidask.scheduler"], ["minidask.worker", "127.0.0.1:1"]):
        for more, text in (
            (["--tls-cert", files.cert], "three files"),
            ([*options(files), "--no-encryption"], "has no use for"),
            (options(files._replace(key=str(tmp_path / "none"))), "none cannot be used for TLS: No such file"),
        ):
            load_or_create_access(tmp_path / "access")
            started = programs.start(sys.executable, "-m", *program, *more, "--access-file", str(tmp_path / "access"))
            assert started.exit_code(20) == 1
            assert text in started.text and "Traceback" not in started.text


# --- without encryption ---


def test_no_encryption_is_followed_by_who_has_the_file_and_every_side_warns(
    programs: Programs, relays: list[Relay], tmp_path: Path
) -> None:
    access = tmp_path / "access"
    scheduler, address = programs.scheduler("--no-encryption", "--access-file", str(access))
    assert "are not encrypted (--no-encryption)" in scheduler.text
    relays.append(relay := Relay(address))
    worker = programs.worker(relay.address, "--nworkers", "1", "--access-file", str(access))
    assert f"connections to {relay.address} are not encrypted" in worker.text
    with pytest.warns(UserWarning, match="are not encrypted"):
        client = minidask.Client(relay.address, access_file=access)
    with client:
        assert client.submit(both_ways, MARK).result(20) == MARK[::-1]
        assert client.submit(submits_a_task).result(30) == -5
    assert MARK[:16] in relay.seen
    other = tmp_path / "other"
    save_access(load_or_create_access(other)._replace(encrypted=False))
    with pytest.raises(errors.AuthenticationError, match="same secret"):
        minidask.Client(address, access_file=other)


def test_one_side_that_encrypts_and_one_that_does_not_tell_both_users(programs: Programs, tmp_path: Path) -> None:
    access = tmp_path / "access"
    encrypted, address = programs.scheduler()
    text = "one side encrypts the connection, and the other one does not"
    with pytest.raises(errors.ProtocolError, match=text):
        minidask.Client(address, tls=False)
    wait_until(lambda: text in encrypted.text, "the scheduler had said so")
    plain, address = programs.scheduler("--no-encryption", "--access-file", str(access))
    with pytest.raises(errors.ProtocolError, match=text):
        minidask.Client(address, access_file=access, tls=True)
    text = "the side that connects encrypts, and this one was started with --no-encryption"
    wait_until(lambda: text in plain.text, "the scheduler had said so")


def test_a_scheduler_that_encrypts_again_says_so_in_its_file(programs: Programs, tmp_path: Path) -> None:
    option = ["--access-file", str(tmp_path / "access")]
    scheduler, _ = programs.scheduler("--no-encryption", *option)
    scheduler.end()
    _, address = programs.scheduler(*option)
    minidask.Client(address, access_file=tmp_path / "access").close()


# --- ends ---


def test_neither_end_waits_for_the_others_farewell(programs: Programs) -> None:
    """asyncio's own TLS waits 30 seconds for it, which a client that is killed or stands still never says."""
    scheduler, address = programs.scheduler()
    worker = programs.worker(address, "--nworkers", "1")
    for _ in range(5):
        began = time.monotonic()
        minidask.Client(address).close()
        assert time.monotonic() - began < 5
    silent = programs.script(
        f"import minidask, os, signal\nclient = minidask.Client({address!r})\nprint('here', flush=True)\n"
        "os.kill(os.getpid(), signal.SIGSTOP)\n"
    )
    silent.wait_for("here")
    began = time.monotonic()
    scheduler.ask_to_end()
    assert scheduler.exit_code(10) == 0
    assert time.monotonic() - began < 10
    worker.ask_to_end()
    assert worker.exit_code(10) == 0
    silent.process.kill()


def test_a_forked_child_says_nothing_for_its_parent(programs: Programs) -> None:
    """It closes the descriptor that it has inherited: a farewell would end the parent's connection."""
    _, address = programs.scheduler()
    programs.worker(address, "--nworkers", "1")
    with minidask.Client(address) as client:
        assert client.submit(neg, 1).result(20) == -1
        child = os.fork()
        if child == 0:
            os._exit(0 if client.closed else 1)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) in (0, 1)
        assert client.submit(neg, 2).result(20) == -2
