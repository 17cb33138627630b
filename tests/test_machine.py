"""What is read from the machine and its user: addresses, the access file, cores, memory."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import hypothesis.strategies as st
import joblib
import psutil
import pytest
from hypothesis import given

from minidask.errors import AuthenticationError
from minidask.host.resources import cpu_count, memory_total, thread_limits
from minidask.host.sizes import format_bytes, parse_bytes
from minidask.net.access import default_access_file, load_or_create_secret, load_secret, secret_for
from minidask.net.addresses import MAX_UNIX_PATH, Address
from minidask.worker.memory import MemoryLimits, over_limit

# --- addresses ---


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("node1", "tcp://node1:8786"),
        ("node1:1", "tcp://node1:1"),
        (" tcp://10.0.0.1:65535 ", "tcp://10.0.0.1:65535"),
        ("[::1]", "tcp://[::1]:8786"),
        ("tcp://[fe80::1]:5", "tcp://[fe80::1]:5"),
        ("unix:///run/x.sock", "unix:///run/x.sock"),
    ],
)
def test_addresses_and_their_canonical_form(text: str, canonical: str) -> None:
    assert str(Address.parse(text)) == canonical
    assert Address.parse(canonical) == Address.parse(text)


@pytest.mark.parametrize(
    "text",
    ["", "tcp://", ":5", "a:", "a:b", "a:0", "a:65536", "a:-1", "a:١", "::1", "[::1", "[::1]5", "a:" + "1" * 5000]
    + ["http://a", "a b:1", "[node]:1", "me@host:1", "unix://", "unix:///", "unix://relative/path", "tcp://a/b:1"]
    + ["unix:///" + "x" * MAX_UNIX_PATH, "unix:///\udc80" + "x" * MAX_UNIX_PATH],
)
def test_what_is_no_address_is_explained(text: str) -> None:
    with pytest.raises(ValueError, match=r"address .*(use|limit)"):
        Address.parse(text)


@given(text=st.text(max_size=30))
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    try:
        address = Address.parse(text)
    except ValueError:
        return
    assert Address.parse(str(address)) == address


# --- the access file ---


def test_a_secret_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "access"
    secret = load_or_create_secret(path)
    assert len(secret) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert load_or_create_secret(path) == load_secret(path) == secret
    assert [entry.name for entry in path.parent.iterdir()] == ["access"]


def test_programs_that_start_at_once_end_with_the_same_secret(tmp_path: Path) -> None:
    secrets: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: secrets.append(load_or_create_secret(tmp_path / "access"))) for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(secrets) == 16
    assert len(set(secrets)) == 1


@pytest.mark.parametrize(
    ("content", "mode", "text"),
    [
        ("ab" * 32, 0o644, "chmod 600"),
        ("ab" * 32, 0o660, "chmod 600"),
        ("ab" * 31, 0o600, "64 hex digits"),
        ("xy" * 32, 0o600, "64 hex digits"),
        ("ab " * 32, 0o600, "64 hex digits"),
        ("", 0o600, "64 hex digits"),
        ("é" * 64, 0o600, "64 hex digits"),
    ],
)
def test_an_unsafe_or_broken_file_is_refused(content: str, mode: int, text: str, tmp_path: Path) -> None:
    path = tmp_path / "access"
    path.write_text(content)
    path.chmod(mode)
    with pytest.raises(AuthenticationError, match=text):
        load_secret(path)


def test_no_file_and_no_regular_file(tmp_path: Path) -> None:
    with pytest.raises(AuthenticationError, match="start minidask-scheduler as this user, or copy"):
        load_secret(tmp_path / "missing")
    with pytest.raises(AuthenticationError, match=r"directory|regular file"):
        load_secret(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(AuthenticationError, match="cannot be written"):
        load_or_create_secret(tmp_path / "file" / "access")


def test_a_pipe_in_the_place_of_the_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "access", 0o600)
    with pytest.raises(AuthenticationError, match="not a regular file"):
        load_secret(tmp_path / "access")


def test_where_the_secret_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named, default, beside = tmp_path / "named", tmp_path / "state" / "minidask" / "access", tmp_path / "s" / "access"
    secrets = [load_or_create_secret(path) for path in (named, default, beside)]
    unix, tcp = Address.parse(f"unix://{tmp_path}/s/socket"), Address.parse("host")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("MINIDASK_ACCESS_FILE", raising=False)
    assert [secret_for(tcp, named), secret_for(tcp), secret_for(unix)] == secrets
    assert secret_for(Address.parse(f"unix://{tmp_path}/other")) == secrets[1]
    monkeypatch.setenv("MINIDASK_ACCESS_FILE", str(named))
    assert secret_for(tcp) == secret_for(unix) == secrets[0]
    monkeypatch.delenv("MINIDASK_ACCESS_FILE")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert default_access_file().expanduser() == Path("/home/somebody/.local/state/minidask/access")


# --- cores and memory ---


def test_cores_are_counted_as_joblib_counts_them() -> None:
    assert cpu_count() == joblib.cpu_count()
    code = "import minidask.host.resources, joblib; print(minidask.host.resources.cpu_count(), joblib.cpu_count())"
    for environment, prefix in (({"LOKY_MAX_CPU_COUNT": "1"}, []), ({}, ["taskset", "-c", "0"])):
        command = [*prefix, sys.executable, "-c", code]
        result = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
        assert result.stdout.split() == ["1", "1"]


def control_groups(root: Path, membership: str, files: dict[str, str]) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(membership)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("membership", "files", "cores"),
    [
        ("0::/a/b\n", {"a/cpu.max": "100000 100000", "a/b/cpu.max": "max 100000"}, 1),
        ("0::/\n", {"cpu.max": "50000 100000"}, 1),
        ("4:cpu,cpuacct:/x\n", {"cpu/x/cpu.cfs_quota_us": "90000", "cpu/x/cpu.cfs_period_us": "100000"}, 1),
        ("4:memory:/x\n", {"cpu/x/cpu.cfs_quota_us": "90000", "cpu/x/cpu.cfs_period_us": "100000"}, None),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("", {}, None),
    ],
)
def test_a_containers_quota_counts(membership: str, files: dict[str, str], cores: int | None, tmp_path: Path) -> None:
    assert cpu_count(control_groups(tmp_path, membership, files)) == (cores or joblib.cpu_count())


def test_a_containers_memory_counts(tmp_path: Path) -> None:
    total = psutil.virtual_memory().total
    two = control_groups(tmp_path / "2", "0::/a\n", {"memory.max": "1000000", "a/memory.max": "max"})
    one = control_groups(tmp_path / "1", "9:memory:/a\n", {"memory/a/memory.limit_in_bytes": "2000000"})
    assert memory_total(two) == 1_000_000
    assert memory_total(one) == 2_000_000
    assert memory_total(control_groups(tmp_path / "0", "", {})) == total


@pytest.mark.parametrize(
    ("text", "count"),
    [(0, 0), (5, 5), ("4GiB", 4 << 30), ("4 GB", 4 * 10**9), ("512M", 512 << 20), ("1e9", 10**9), ("1.5k", 1536)],
)
def test_sizes(text: str | int, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "GiB", "4XB", "-1", "4 4", "1..5", 0.5, 1.5, True, "nan", "inf"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="use forms like"):
        parse_bytes(text)


@given(count=st.integers(0, 2**50))
def test_sizes_for_people_are_close(count: int) -> None:
    assert parse_bytes(format_bytes(count)) == pytest.approx(count, rel=0.06)


def test_library_threads_leave_alone_what_the_user_set() -> None:
    limits = thread_limits(10**6, {"OMP_NUM_THREADS": "3"})
    assert "OMP_NUM_THREADS" not in limits
    assert limits["OPENBLAS_NUM_THREADS"] == "1"
    assert thread_limits(1, {})["MKL_NUM_THREADS"] == str(cpu_count())
    assert thread_limits(0, {})["MKL_NUM_THREADS"] == str(cpu_count())


def test_the_largest_slot_goes_first_when_memory_runs_out() -> None:
    limits = MemoryLimits(slot=100, machine=1000)
    assert over_limit({}, limits) is None
    assert over_limit({0: 100, 1: 90}, limits) is None
    assert over_limit({0: 50, 1: 101}, limits) is not None
    victim = over_limit({0: 500, 1: 460}, MemoryLimits(slot=None, machine=1000))
    assert victim is not None
    assert victim[0] == 0
