"""Clusters for the tests, and a look at what they leave behind.

Where a test belongs:

- `tests/ROOM/test_FILE.py` tests `minidask/ROOM/FILE.py` (the scheduler's: `scheduler/FILE.py`) by calling it: it
  starts no process of ours and no cluster.
- `tests/end_to_end/SUBJECT/` has the tests that need a cluster or start programs, by what a user would look for:
  `client`, `joblib` (and scikit-learn), `nesting`, `large_data`, `caller` (what tasks have of the caller's process:
  code, versions, settings), `launch` (engines that put daemons on machines), `cluster` (daemons, sizes, several
  clients, losses), `system` (where and how people start Python).
- `tests/foreign/` runs joblib's and scikit-learn's own tests.
- `tests/project/` looks at the project: its layers, its package, its benchmark.

Three processes share the tests out by file (`.ci/check`). A test that is marked `alone` runs afterwards, when no other
test does: it sends Ctrl-C to its own process, measures milliseconds, or looks at what any program of ours removes.

Fixtures of all are here, functions and classes in `helpers.py`, simulated clusters in `simulation.py`. Some are
commands: `tests.faults`, `tests.soak` and `tests.kills` inject faults for as long as one likes, and `tests.leaks` looks
what clusters leave behind.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import joblib
import pytest
from joblib.parallel import default_parallel_config

import minidask
import minidask.client.registry
from minidask.host.folders import sweep
from minidask.wire.messages import Message
from tests.helpers import RUN, Programs, Started, at_rest, leftovers, our_processes, wait_until
from tests.leaks import held_by_us

TESTS = Path(__file__).parent
ORDER = {"foreign": 0, "end_to_end": 2}  # all others are between these

# Several processes run tests at once: that one example takes longer than another tells nothing.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")


def pytest_configure() -> None:
    # A shell has what it puts in the background ignore Ctrl-C, and so would all that the tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.setdefault(RUN, str(os.getpid()))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first, so that no process has one left at the end."""
    items.sort(key=lambda item: ORDER.get(item.path.relative_to(TESTS).parts[0], 1))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """Nothing is left behind. If several processes run the tests, the first one looks when the others have ended."""
    yield
    if hasattr(session.config, "workerinput"):
        return
    with contextlib.suppress(AssertionError):
        wait_until(lambda: not our_processes(), "our processes had ended", 10)
    if left := [*map(str, our_processes()), *leftovers()]:
        print("\nLEFT BEHIND:", *left, sep="\n", file=sys.stderr)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    started = Started(tmp_path)
    yield started
    started.end_all()


@pytest.fixture(autouse=True)
def nothing_is_printed(request: pytest.FixtureRequest) -> Iterator[None]:
    """What the code of a room prints is looked at by its test, or a fault: an error that nobody has caught, say."""
    if request.path.relative_to(TESTS).parts[0] in ("end_to_end", "foreign", "project"):
        yield
        return
    capture = request.getfixturevalue("capsys" if "capsys" in request.fixturenames else "capfd")
    yield
    printed = "".join(capture.readouterr())
    assert not printed, f"nobody has looked at this: {printed}"


@pytest.fixture(autouse=True)
def later_calls_go_where_they_went() -> Iterator[None]:
    """A configuration of joblib's, or a client of no more use, that a test leaves is a fault of a later test."""
    yield
    left = vars(joblib.parallel._backend).pop("config", default_parallel_config)["backend"]
    assert left is default_parallel_config["backend"], f"calls still go to {left}"
    clients = [client for client in minidask.client.registry.live_clients if isinstance(client, minidask.Client)]
    lost = [client for client in clients if client.closed and not client.implicit and not client.nested]
    assert not lost, f"not closed, and of no more use: {lost}"


@pytest.fixture(scope="session", autouse=True)
def clients_are_closed() -> Iterator[None]:
    """And then the process of the tests holds no thread, descriptor or file of ours."""
    sweep()
    yield
    for client in list(minidask.client.registry.live_clients):
        client.close()
    with contextlib.suppress(AssertionError):
        wait_until(lambda: not held_by_us(), "nothing was held", 20)
    assert not held_by_us()


@pytest.fixture(autouse=True, scope="session")
def private_state(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The tests' own state directory: not that of the person who runs them."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))
    os.environ.pop("MINIDASK_ACCESS_FILE", None)
    os.environ.pop("MINIDASK_SCHEDULER", None)


@pytest.fixture(autouse=True, scope="session")
def hang_up_is_not_ignored() -> None:
    """Programs inherit what is ignored. The tests themselves may run under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def shared_client(private_state: None) -> Iterator[minidask.Client]:
    with minidask.Client(n_workers=2) as client:
        client.submit(abs, -1).result(20)  # the code of the tests is sent before a test counts what it sends
        yield client


@pytest.fixture
def client(shared_client: minidask.Client) -> minidask.Client:
    """A client of a cluster of two worker processes, at rest."""
    wait_until(lambda: at_rest(shared_client), "the cluster was at rest")
    return shared_client


@pytest.fixture
def messages(client: minidask.Client, monkeypatch: pytest.MonkeyPatch) -> list[Message]:
    """The messages that the client sends from now on."""
    kept: list[Message] = []
    post = client.shell.connection.post

    def keeping(batch: list[Message]) -> None:
        kept.extend(batch)
        post(batch)

    monkeypatch.setattr(client.shell.connection, "post", keeping)
    return kept


@pytest.fixture(scope="module")
def clusters(request: pytest.FixtureRequest) -> Iterator[Callable[..., minidask.Client]]:
    """Gives clients by the shape of their cluster, which is started once in a module, and at rest when it is given."""
    with contextlib.ExitStack() as stack:

        @functools.cache
        def start(workers: int, processes: bool) -> minidask.Client:
            if (workers, processes) == (2, True):
                return request.getfixturevalue("shared_client")
            return stack.enter_context(minidask.Client(n_workers=workers, processes=processes))

        def give(workers: int, processes: bool = True) -> minidask.Client:
            client = start(workers, processes)
            wait_until(lambda: at_rest(client), "the cluster was at rest")
            return client

        yield give


@pytest.fixture
def one_worker(clusters: Callable[..., minidask.Client]) -> minidask.Client:
    """A cluster of one slot, where whatever waits must lend it; the module's tests share it."""
    return clusters(1)


@pytest.fixture
def thread_client() -> Iterator[minidask.Client]:
    with minidask.Client(n_workers=2, processes=False) as client:
        yield client


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    started = Programs(tmp_path)
    try:
        yield started
    finally:
        started.end_all()
