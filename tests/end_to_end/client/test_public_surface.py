"""Whatever is passed to the public surface works, or raises TypeError or ValueError at once; the next call works."""

from __future__ import annotations

import contextlib
import gc
import math
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from operator import neg
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import minidask
from minidask import errors
from minidask.host import checks
from minidask.host.sizes import count
from minidask.scheduler.__main__ import _parse as parse_scheduler
from minidask.worker.__main__ import _parse as parse_worker
from tests.helpers import wait_until


class Indexed:
    def __index__(self) -> int:
        return 3


class Floating:
    def __float__(self) -> float:
        return 2.5


NEAR = [
    0, 1, -1, 60, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**400, 0.0, 1.0, 1.5, -0.5, 1e300, math.nan, math.inf,
    -math.inf, True, False, None, "1", "", "auto", "\udc80", b"1", np.int64(3), np.uint64(2**64 - 1), np.float32(1.5),
    np.float64("nan"), np.bool_(True), Decimal("1.5"), Decimal("NaN"), Fraction(3, 2), 1j, Indexed(), Floating(),
    (), [1], {}, object(), int,
]  # fmt: skip
NEAR_VALUES = st.sampled_from(NEAR)


@pytest.fixture(scope="module")
def surface() -> Iterator[minidask.Client]:
    with minidask.Client(n_workers=2, processes=False) as client:
        yield client


CALLS: dict[str, Callable[[minidask.Client, Any], Any]] = {
    "submit priority": lambda c, v: c.submit(neg, 1, priority=v),
    "submit timeout": lambda c, v: c.submit(neg, 1, timeout=v),
    "submit resources": lambda c, v: c.submit(neg, 1, resources=v).cancel(),
    "submit amount": lambda c, v: c.submit(neg, 1, resources={"gpu": v}).cancel(),
    "submit name of a resource": lambda c, v: c.submit(neg, 1, resources={v: 1}).cancel(),
    "map resources": lambda c, v: c.cancel(c.map(neg, [1], resources=v)),
    "submit fn": lambda c, v: None if v is int else c.submit(v),
    "map priority": lambda c, v: c.map(neg, [1], priority=v),
    "map fn": lambda c, v: None if v is int else c.map(v, [1]),
    "map iterable": lambda c, v: c.map(neg, v),
    "gather futures": lambda c, v: c.gather(v),
    "gather errors": lambda c, v: c.gather([], errors=v),
    "cancel futures": lambda c, v: c.cancel(v),
    "cancel force": lambda c, v: c.cancel([], force=v),
    "cancel_all": lambda c, v: c.cancel_all(force=v),
    "run": lambda c, v: None if v is int else c.run(v),
    "progress": lambda c, v: None if v is None else c.progress(v),
    "executor": lambda c, v: None if v is int else c.get_executor().submit(v),
    "wait_for_workers n": lambda c, v: _or_in_vain(errors.NoWorkersError, lambda: c.wait_for_workers(v, 0)),
    "wait_for_workers timeout": lambda c, v: c.wait_for_workers(1, v),
    "preload": lambda c, v: None if v == "auto" else c.preload(v, timeout=0),
    "preload timeout": lambda c, v: _or_in_vain(errors.NoWorkersError, lambda: c.preload("abc", timeout=v)),
    "explain": lambda c, v: c.explain(v),
    "story": lambda c, v: c.story(v),
    "processing": lambda c, v: None if v is None else c.processing(v),
    "who_has": lambda c, v: c.who_has(v),
    "logs worker": lambda c, v: c.logs(v),
    "logs n": lambda c, v: c.logs(n=v),
    "trace": lambda c, v: c.trace(v),
    "report path": lambda c, v: minidask.report(v, c),
    "report client": lambda c, v: minidask.report("run.html", v),
    "restart timeout": lambda c, v: _or_in_vain(errors.NoWorkersError, lambda: c.restart(v)),
    "get_versions check": lambda c, v: c.get_versions(check=v),
    "scale": lambda c, v: _scaled(v),
    "n_workers": lambda c, v: minidask.LocalCluster(v, processes=False).close(),
    "processes": lambda c, v: _started(v is not True, processes=v),
    "memory_limit": lambda c, v: _started(True, processes=False, memory_limit=v),
    "cluster resources": lambda c, v: _started(True, processes=False, resources={"gpu": v}),
    "Client resources": lambda c, v: minidask.Client(c.address, resources=v).close(),
    "Client n_workers": lambda c, v: minidask.Client(c.address, n_workers=v).close(),
    "Client processes": lambda c, v: minidask.Client(c.address, processes=v).close(),
    "Client memory_limit": lambda c, v: minidask.Client(c.address, memory_limit=v).close(),
    "Client name": lambda c, v: minidask.Client(c.address, name=v).close(),
    "Client timeout": lambda c, v: minidask.Client(c.address, timeout=v).close(),
    "Client forward_output": lambda c, v: minidask.Client(c.address, forward_output=v).close(),
    "Client output_prefix": lambda c, v: minidask.Client(c.address, output_prefix=v).close(),
    "Client cancel_dropped": lambda c, v: minidask.Client(c.address, cancel_dropped=v).close(),
    "Client access_file": lambda c, v: _or_in_vain(
        errors.AuthenticationError, lambda: minidask.Client(c.address, access_file=v).close()
    ),
    "Client address": lambda c, v: None if v is None or isinstance(v, str) else minidask.Client(v),
    "backend max_nbytes": lambda c, v: _backend(c)._copy().configure(2, max_nbytes=v),
    "backend mmap_mode": lambda c, v: _backend(c)._copy().configure(2, mmap_mode=v),
    "backend n_jobs": lambda c, v: joblib.parallel.get_active_backend()[0] and _backend(c).effective_n_jobs(v),
    "backend timeout": lambda c, v: _backend(c, wait_for_workers_timeout=v),
    "backend threads": lambda c, v: _backend(c, inner_max_num_threads=v),
    "backend resources": lambda c, v: _backend(c, resources={"gpu": v}),
    "backend scheduler": lambda c, v: _backend(v),
    "backend scatter": lambda c, v: _backend(c, scatter=v),
    "check workers": lambda c, v: checks.workers("n", v),
    "check memory": lambda c, v: checks.memory("memory_limit", v),
    "check path": lambda c, v: checks.path("access_file", v),
}


def _or_in_vain(error: type[Exception], call: Callable[[], Any]) -> None:
    """Where a value makes sense, but what it asks for is not there."""
    with contextlib.suppress(error):
        call()


def _started(sensible: bool, **options: Any) -> None:
    if sensible:  # those that would start processes are other tests' business
        minidask.LocalCluster(1, **options).close()


def _scaled(value: Any) -> None:
    with minidask.LocalCluster(1, processes=False) as cluster:
        cluster.scale(value)


def _backend(scheduler: Any, **options: Any) -> Any:
    from minidask.backend.backend import MinidaskBackend

    return MinidaskBackend(scheduler=scheduler, **options)


@pytest.mark.parametrize("name", CALLS)
def test_near_types_work_or_raise_and_the_next_call_works(surface: minidask.Client, name: str) -> None:
    for value in NEAR:
        with contextlib.suppress(TypeError, ValueError):
            CALLS[name](surface, value)
        assert not surface.closed, (name, value)
    assert surface.submit(neg, 1).result(20) == -1


@given(value=st.one_of(NEAR_VALUES, st.integers(), st.floats(), st.decimals(), st.text(), st.booleans()))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_task_with_any_priority_and_limit(surface: minidask.Client, value: Any) -> None:
    for keyword in ("priority", "timeout"):
        with contextlib.suppress(TypeError, ValueError):
            future = surface.submit(neg, 1, **{keyword: value})
            always = keyword == "priority" or value is None or checks.seconds(keyword, value) >= 5
            assert not always or future.result(20) == -1
    assert not surface.closed


@pytest.mark.parametrize("value", [60, np.int64(60), np.float32(60), Decimal(60), Fraction(121, 2), math.inf, None])
def test_what_means_a_time_limit_is_one(surface: minidask.Client, value: Any) -> None:
    assert surface.submit(neg, 1, timeout=value).result(20) == -1


@pytest.mark.parametrize("value", [3, np.int64(3), Indexed(), -(2**63)])
def test_what_means_a_whole_number_is_one(surface: minidask.Client, value: Any) -> None:
    assert surface.submit(neg, 1, priority=value).result(20) == -1


def test_errors_name_the_argument_and_what_it_got(surface: minidask.Client) -> None:
    with pytest.raises(TypeError, match=r"priority must be a whole number, got 1.5 \(float\)"):
        surface.submit(neg, 1, priority=1.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"timeout must be a number of seconds, got '60' \(str\)"):
        surface.submit(neg, 1, timeout="60")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"priority.*64 bits"):
        surface.submit(neg, 1, priority=2**63)
    with pytest.raises(ValueError, match="timeout must be above 0 seconds, got nan"):
        surface.submit(neg, 1, timeout=math.nan)


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (["gpu"], TypeError, r"resources must be a dict of amounts, as \{\"gpu\": 1\}, got \['gpu'\]"),
        ({"gpu": "1"}, TypeError, r"resources: the amount of gpu must be a number, got '1' \(str\)"),
        ({"gpu": True}, TypeError, "the amount of gpu must be a number, got True"),
        ({"gpu": 0}, ValueError, r"the amount of gpu must be above 0, from 0.000001 to 1e\+15, got 0"),
        ({"gpu": math.nan}, ValueError, "the amount of gpu must be above 0"),
        ({"gpu": math.inf}, ValueError, "the amount of gpu must be above 0"),
        ({1: 1}, TypeError, r"resources: the names must be texts, got 1 \(int\)"),
        ({"": 1}, ValueError, "a name must have 1 to 200 characters"),
        (dict.fromkeys(map(str, range(101)), 1), ValueError, "at most 100 names, got 101"),
    ],
)
def test_bad_resources_are_named(surface: minidask.Client, value: Any, error: type[Exception], text: str) -> None:
    for call in (
        lambda: surface.submit(neg, 1, resources=value),
        lambda: surface.map(neg, [1], resources=value),
        lambda: _backend(surface, resources=value),
        lambda: minidask.LocalCluster(1, processes=False, resources=value),
    ):
        with pytest.raises(error, match=text):
            call()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("gpu=1,big=1", {"gpu": 1, "big": 1}),
        ("GPU=2 MEM=1.5e9", {"GPU": 2, "MEM": 1.5e9}),  # as dask worker takes it
        (" memory=0.25, ", {"memory": 0.25}),
    ],
)
def test_resources_of_a_command_line(text: str, found: dict[str, float]) -> None:
    assert checks.resources_in(text) == found == parse_worker(["h", "--resources", text]).resources


@pytest.mark.parametrize(
    "text", ["", ",", "gpu", "gpu=", "=1", "gpu=x", "gpu=0", "gpu=-1", "gpu=nan", "gpu=inf", "gpu=1=2", "gpu=1,gpu=1",
             "gpu=1e-9", "n" * 201 + "=1"]
)  # fmt: skip
def test_bad_resources_of_a_command_line_are_refused_with_what_to_write(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_worker(["h", "--resources", text])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "argument --resources" in told
    assert "write for example gpu=1,memory=0.5" in told or "1 to 200 characters" in told


# --- what is another client's ---


def test_a_handle_of_another_client_ends_one_task_only(surface: minidask.Client) -> None:
    with minidask.Client(surface.address) as other:
        handle = other.scatter(np.arange(5))
        pending = surface.submit(neg, 1)
        for call in (
            lambda: surface.submit(len, handle),
            lambda: surface.map(len, [handle]),
            lambda: surface.scatter_one([handle]),
        ):
            with pytest.raises(errors.SerializationError, match="another Client's"):
                call()
        assert pending.result(20) == -1
        assert other.submit(len, handle).result(20) == 5
    with pytest.raises(errors.SerializationError, match="another Client's"):
        surface.submit(len, handle)
    assert surface.submit(neg, 2).result(20) == -2


def test_a_future_of_another_client_is_cancelled_there(surface: minidask.Client) -> None:
    with minidask.Client(surface.address) as other:
        future, own = other.submit(neg, 1), surface.submit(neg, 2)
        with pytest.raises(ValueError, match="another one's"):
            surface.cancel([own, future])
        assert surface.gather([own, future]) == [-2, -1]


# --- what gather takes ---


def test_gather_takes_futures_at_any_depth(surface: minidask.Client) -> None:
    one = surface.submit(neg, 1)
    nested = {"a": surface.map(neg, [1, 2]), "b": {"c": (one,)}}
    assert surface.gather(nested) == {"a": [-1, -2], "b": {"c": [-1]}}
    assert surface.gather(future for future in [one]) == [-1]
    assert surface.gather({one}) == [-1]
    assert surface.gather(one) == -1
    for wrong in (5, [one, "text"], None):
        with pytest.raises(TypeError, match=r"gather\(\) takes futures"):
            surface.gather(wrong)


# --- environment variables and command lines ---


def test_a_senseless_address_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIDASK_SCHEDULER", "http://here")
    with pytest.raises(ValueError, match="MINIDASK_SCHEDULER"):
        minidask.Client()


def test_a_client_obeys_the_environment(surface: minidask.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIDASK_SCHEDULER", surface.address)
    with minidask.Client() as client:
        assert client.address == surface.address
        assert client.cluster is None
    with minidask.Client(n_workers=1, processes=False) as client:
        assert client.address != surface.address


@pytest.mark.parametrize("value", ["\udc80", "a..b", "h" * 70, ":0", "h:99999", "unix://", "tcp://", "http://x", " "])
def test_the_environment_works_or_is_named(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIDASK_SCHEDULER", value)
    if not value.strip():
        minidask.Client(n_workers=1, processes=False).close()
        return
    with pytest.raises(ValueError, match="in the environment variable MINIDASK_SCHEDULER: address"):
        minidask.Client()


@pytest.mark.parametrize("value", ["x", "/", "/dev/null", "\udc80", "~nobody-of-that-name/x", "-1"])
def test_an_access_file_of_the_environment_is_named(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINIDASK_ACCESS_FILE", value)
    named = pytest.raises(errors.AuthenticationError, match="access file")
    with socket.create_server(("127.0.0.1", 0)) as listener, named:  # where nobody listens, no secret is looked for
        minidask.Client(f"127.0.0.1:{listener.getsockname()[1]}", timeout=5)
    with minidask.Client(n_workers=1, processes=False) as client:  # its cluster has a secret of its own
        assert client.submit(neg, 1).result(20) == -1


@pytest.mark.parametrize(
    ("parse", "arguments"),
    [
        *[(parse_scheduler, [option]) for option in ("--port=70000", "--port=-1", "--port=x", "--port=²")],
        *[(parse_scheduler, [f"--no-workers-timeout={value}"]) for value in ("nan", "-1", "x", "")],
        *[(parse_worker, ["h", f"--death-timeout={value}"]) for value in ("nan", "-1", "x", "")],
        *[(parse_worker, ["h", f"--nworkers={value}"]) for value in ("0", "-1", "1.5", "²", "9" * 5000, "")],
        *[(parse_worker, ["h", f"--memory-limit={value}"]) for value in ("-5", "lots", "nan")],
        *[(parse_worker, ["h", f"--port={value}"]) for value in ("70000", "-1", "²")],
        *[(parse_worker, ["h", f"--preload={value}"]) for value in ("", "a b", "-x", "a..b", "a/b")],
        (parse_worker, ["h", "--local-directory=/nonexistent"]),
        (parse_worker, ["h:99999"]),
    ],
)
def test_a_senseless_option_is_wrong_usage(
    parse: Callable[[list[str]], Any], arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(arguments)
    assert ended.value.code == 2
    assert "error: argument" in capsys.readouterr().err


def test_numbers_in_english() -> None:
    assert [count(n, "machine") for n in (0, 1, 2)] == ["0 machines", "1 machine", "2 machines"]


# --- everything stops; what nobody holds does not begin ---


def test_what_nobody_holds_any_more_does_not_begin() -> None:
    with minidask.Client(n_workers=1) as client:
        first = client.submit(time.sleep, 60)
        wait_until(lambda: client.scheduler_info()["tasks"]["running"] == 1, "it runs")
        client.map(neg, range(36))
        called: list[Any] = []
        client.submit(neg, 5).add_done_callback(lambda future: called.append(future.result()))
        gc.collect()
        wait_until(lambda: client.scheduler_info()["tasks"]["queued"] == 1, "the others were cancelled")
        client.cancel(first, force=True)
        wait_until(lambda: called == [-5], "the one with a callback ran")
        assert not len(client.shell.core)


def test_cancel_all_stops_what_nobody_holds() -> None:
    with minidask.Client(n_workers=1, cancel_dropped=False) as client:
        client.submit(time.sleep, 60)
        held = client.submit(neg, 1)
        client.map(neg, range(36))
        gc.collect()
        assert client.scheduler_info()["tasks"]["queued"] == 37
        client.cancel_all(force=True)
        wait_until(lambda: not any(client.scheduler_info()["tasks"][k] for k in ("queued", "running")), "all ended")
        assert held.cancelled()
        assert client.submit(neg, 2).result(20) == -2


def test_an_executor_runs_what_nobody_holds() -> None:
    gate, opener = os.pipe()
    with minidask.Client(n_workers=1, processes=False) as client:
        blocker = client.submit(os.read, gate, 1)  # in this process, whose pipe it is
        client.get_executor().submit(neg, 1)
        gc.collect()
        assert len(client.shell.core) == 2
        os.write(opener, b"x")
        assert blocker.result(20) == b"x"
        wait_until(lambda: not len(client.shell.core), "both ran")
        assert client.scheduler_info()["tasks"]["finished"] == 2
    os.close(gate)
    os.close(opener)


# --- a client has its cluster, or an error ---


def test_parallel_does_not_leave_a_lost_cluster_for_this_machine() -> None:
    with minidask.Client(n_workers=1, reconnect_timeout=0) as client:
        assert joblib.Parallel(n_jobs=2, backend="minidask")(joblib.delayed(abs)(-i) for i in range(3)) == [0, 1, 2]
        os.kill(client.scheduler_info()["pid"], signal.SIGKILL)
        wait_until(lambda: client.closed, "the loss was noticed")
        for n_jobs in (2, -1):
            with pytest.raises(errors.SchedulerLost, match=rf"{client.address}.*make a new one"):
                joblib.Parallel(n_jobs=n_jobs, backend="minidask")(joblib.delayed(neg)(i) for i in range(3))
        with pytest.raises(errors.SchedulerLost, match=r"close\(\)"):
            minidask.get_client()
    with minidask.Client(n_workers=1, processes=False) as client:
        assert minidask.get_client() is client
