"""Large data: once per machine, read-only or each task's own, wherever in the arguments it is."""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import psutil
import pytest
import scipy.sparse
from joblib import Parallel, delayed

import minidask
from minidask import errors
from minidask.client.group import TaskGroup
from minidask.data import files as blobfiles
from minidask.wire.codec import encode
from minidask.wire.large import blob_id
from minidask.wire.messages import Message, PutBlob
from tests.helpers import Programs, alive, forget_garbage, pinned, wait_until

MIB = 2**20


def ones(mebibytes: float, value: float = 1.0) -> np.ndarray[Any, Any]:
    return np.full(int(mebibytes * MIB / 8), value)


@dataclasses.dataclass
class Box:
    content: Any


def total(data: Any) -> tuple[float, bool]:
    """The sum of an array wherever it is, and whether it may be written to."""
    array = data
    while not isinstance(array, np.ndarray):
        if isinstance(array, Box):
            array = array.content
        elif isinstance(array, dict):
            array = array["data"]
        elif isinstance(array, list):
            array = array[1]
        else:
            array = array.data
    return float(array.sum()), bool(array.flags.writeable)


@pytest.fixture
def sent(client: minidask.Client, messages: list[Message]) -> Iterator[Callable[[], int]]:
    """How many bytes the client has sent since it was last asked."""

    def ask() -> int:
        size = sum(len(piece) for message in messages for piece in encode(message))
        messages.clear()
        return size

    with joblib.parallel_config("minidask", scheduler=client):
        yield ask


@pytest.mark.parametrize(
    "wrap",
    [
        lambda a: a,
        lambda a: [None, a],
        lambda a: {"data": a},
        lambda a: Box([0, {"data": Box(a)}]),
        lambda a: scipy.sparse.csr_matrix((a, np.zeros(len(a), dtype=np.int32), [0, len(a)]), shape=(1, 1)),
        lambda a: np.asfortranarray(a.reshape(1024, -1)),
        lambda a: {"data": a.reshape(1024, -1).T},
    ],
)
def test_wherever_it_is_it_is_sent_once_and_then_never_again(
    wrap: Callable[[Any], Any], sent: Callable[[], int]
) -> None:
    data = wrap(np.random.default_rng(1).random(MIB // 2))
    expected = total(data)[0]
    for _ in range(2):
        results = Parallel(n_jobs=2)(delayed(total)(data) for _ in range(20))
        assert results == [(pytest.approx(expected), False)] * 20
        assert sent() < 100_000


@pytest.mark.parametrize(
    "run",
    [
        lambda client, data: [client.submit(total, data).result(30) for _ in range(3)],
        lambda client, data: client.gather([client.submit(total, data=data) for _ in range(3)]),
        lambda client, data: client.gather(client.map(total, [data] * 3)),
        lambda client, data: list(client.get_executor().map(total, [data] * 3)),
        lambda client, data: list(client.run(total, data).values()) * 3,
    ],
    ids=["submit", "submit at once", "map", "executor", "run"],
)
def test_whichever_way_a_call_is_submitted_its_large_data_is_sent_once(
    run: Callable[[minidask.Client, Any], Any], client: minidask.Client, sent: Callable[[], int]
) -> None:
    data = np.random.default_rng(2).random(MIB // 2)
    forget_garbage(client)
    for _ in range(2):
        data[0] += 1  # a change between two calls is seen
        assert run(client, data) == [(pytest.approx(data.sum()), False)] * 3
        assert sent() < 10_000
    wait_until(lambda: not pinned(client), "all was released")


def frame_total(inputs: dict[str, Any]) -> float:
    frame = inputs["frame"]
    return float(frame["number"].sum()) + frame["text"].str.len().sum() + inputs["model"].coef_[0]


@pytest.mark.timeout(180)  # the slots import all three packages
def test_frames_with_numpy_and_arrow_columns_and_fitted_models_are_sent_once(sent: Callable[[], int]) -> None:
    pandas = pytest.importorskip("pandas")
    from sklearn.linear_model import Ridge

    text = [f"row {i}" for i in range(200_000)]
    frame = pandas.DataFrame({"number": np.arange(200_000.0), "text": pandas.array(text, dtype="string[pyarrow]")})
    model = Ridge().fit(np.eye(1, 200_000), [1.0])
    inputs = {"frame": frame, "model": model}
    expected = frame_total(inputs)
    for _ in range(2):
        assert Parallel(n_jobs=2)(delayed(frame_total)(inputs) for _ in range(10)) == [expected] * 10
        assert sent() < 300_000, "neither the numbers, nor the text, nor the model goes along"


def test_what_a_function_holds_stays_as_long_as_its_call(client: minidask.Client) -> None:
    held = np.asfortranarray(np.random.default_rng(0).random((1000, 300)))  # NumPy pickles it through a passing view

    def add(i: int) -> float:
        return float(held[0, 0]) + i

    with joblib.parallel_config("minidask", scheduler=client):
        results = Parallel(n_jobs=2, batch_size=1, pre_dispatch=2)(delayed(add)(i) for i in range(20))
    assert results == [held[0, 0] + i for i in range(20)]


class Computed:
    """Pickles an array that is made for that, and is gone before the task is sent."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __reduce__(self) -> Any:
        return float_sum, (ones(2, self.value),)


def float_sum(array: np.ndarray[Any, Any]) -> float:
    return float(array.sum())


def test_threads_that_send_passing_arrays_do_not_take_them_from_one_another(client: minidask.Client) -> None:
    failures: list[BaseException] = []

    def submit_many(value: float) -> None:
        try:
            for _ in range(20):
                group = TaskGroup(client.shell)
                futures = [group.submit(abs, (Computed(value),), name="abs") for _ in range(4)]
                group.close()
                assert client.gather(futures) == [value * MIB / 4] * 4
                assert client.submit(float, client.scatter(Computed(value))).result(30) == value * MIB / 4
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=submit_many, args=(float(value),)) for value in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    assert not failures


def test_within_one_call_data_is_taken_as_it_was_when_first_sent(client: minidask.Client) -> None:
    data = ones(2)

    def tasks() -> Iterator[Any]:
        for i in range(6):
            data[:] = i + 1
            yield delayed(total)(data)

    with joblib.parallel_config("minidask", scheduler=client):
        results = Parallel(n_jobs=2, batch_size=1, pre_dispatch=1)(tasks())
    assert results == [(len(data), False)] * 6


def test_data_that_a_thread_changes_as_it_is_sent_is_an_error_and_the_store_stays_sound(
    client: minidask.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = np.random.default_rng().random(MIB // 4)
    before = data.copy()
    monkeypatch.setattr("minidask.pickling.sharing.blob_id", lambda payload: changing(blob_id(payload), data))
    with pytest.raises(errors.SerializationError, match="was changed while it was being sent"):
        client.map(total, [data])
    monkeypatch.undo()
    results = client.gather(client.map(total, [before, data]))
    assert results == [(before.sum(), False), (data.sum(), False)]
    assert before[-1] != data[-1]


def changing(name: bytes, data: np.ndarray[Any, Any]) -> bytes:
    data[-1] += 1
    return name


def test_data_changed_between_two_calls_is_seen_as_changed(sent: Callable[[], int]) -> None:
    data = ones(2)
    for value in (1.0, 3.0, 1.0):
        data[:] = value
        assert Parallel(n_jobs=2)(delayed(total)(data) for _ in range(3)) == [(value * len(data), False)] * 3


def test_a_smaller_buffer_used_again_and_again_has_its_content_of_each_time(
    client: minidask.Client, sent: Callable[[], int]
) -> None:
    data = ones(0.25)

    def each() -> Iterator[np.ndarray[Any, Any]]:
        for i in range(12):
            data[:] = i // 3
            yield data

    results = client.gather(client.map(total, each()))
    assert results == [(i // 3 * len(data), True) for i in range(12)]
    sent()
    same = ones(0.25, 5.0)
    Parallel(n_jobs=2)(delayed(total)(same) for _ in range(50))
    assert sent() < 3 * same.nbytes, "the same bytes were sent with every task"


def write(data: np.ndarray[Any, Any], i: int) -> float:
    data[i] = -1.0
    return float(data.sum())


@pytest.mark.parametrize(
    ("size", "options"),
    [(2.0, {"mmap_mode": "c"}), (0.25, {}), (2.0, {"max_nbytes": None}), (2.0, {"mmap_mode": None})],
)
def test_what_a_task_writes_to_its_own_copy_no_other_sees(
    size: float, options: dict[str, Any], sent: Callable[[], int]
) -> None:
    data = ones(size)
    results = Parallel(n_jobs=2, batch_size=1, **options)(delayed(write)(data, i) for i in range(10))
    assert results == [len(data) - 2.0] * 10
    assert data.sum() == len(data)


def test_by_default_large_data_is_read_only_and_other_modes_are_refused(client: minidask.Client) -> None:
    with joblib.parallel_config("minidask", scheduler=client):
        with pytest.raises(ValueError, match="read-only"):
            Parallel(n_jobs=2)(delayed(write)(ones(2), i) for i in range(2))
        with pytest.raises(ValueError, match='choose "r"'):
            Parallel(n_jobs=2, mmap_mode="r+")(delayed(write)(ones(2), i) for i in range(2))


def pss(pids: list[int]) -> int:
    """The bytes that these processes have together, what they share counted once."""
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


@pytest.mark.timeout(180)  # ten processes
def test_eight_slots_share_one_copy(tmp_path: Path) -> None:
    data = np.random.default_rng(0).random(64 * MIB // 8)

    def hold(array: np.ndarray[Any, Any], i: int) -> float:
        result = float(array.sum())
        (tmp_path / f"has {i}").touch()
        end = time.monotonic() + 60  # not `wait_until`: slots would import pytest for it
        while not (tmp_path / "measured").exists() and time.monotonic() < end:
            time.sleep(0.01)
        return result

    with minidask.Client(n_workers=8) as client:
        client.gather(client.map(abs, range(64)))
        node = psutil.Process(client.scheduler_info()["pid"])
        pids = [os.getpid(), node.pid, *(slot.pid for slot in node.children())]
        assert len(pids) == 10
        small = client.map(hold, [np.zeros(10)] * 8, range(8))  # what the call itself takes
        wait_until(lambda: len(list(tmp_path.iterdir())) == 8, "all slots had it")
        before = pss(pids)
        (tmp_path / "measured").touch()
        client.gather(small)
        for path in tmp_path.iterdir():
            path.unlink()
        large = client.map(hold, [data] * 8, range(8))
        wait_until(lambda: len(list(tmp_path.iterdir())) == 8, "all slots had it")
        used = pss(pids) - before
        (tmp_path / "measured").touch()
        assert client.gather(large) == [data.sum()] * 8
    assert 0.9 * data.nbytes < used < 1.25 * data.nbytes


def test_large_results_are_the_users_own_and_outlive_the_cluster() -> None:
    with minidask.Client(n_workers=2) as client, joblib.parallel_config("minidask", scheduler=client):
        folder = client.shell.store.folder if client.shell.store else Path()
        results = Parallel()(delayed(ones)(8, float(i)) for i in range(6))
        single = client.submit(ones, 4, 9.0).result(30)
        dropped = client.submit(ones, 4)
        wait_until(dropped.done, "the task was done")
        del dropped
        assert not list(folder.glob("*.result"))
    assert not folder.exists()
    for i, array in enumerate(results):
        array += 1
        assert array.sum() == (i + 1) * len(array)
    assert single.sum() == 9.0 * len(single)


def test_scattered_data_is_shared_at_any_depth_until_it_is_released(sent: Callable[[], int], client: Any) -> None:
    handle = client.scatter({"data": ones(4)})["data"]
    assert sent() < 100_000
    assert client.submit(total, [0, Box(handle)]).result(30) == (4 * MIB / 8, False)
    handle.release()
    with joblib.parallel_config("minidask", scheduler=client, scatter=[shared := [0, ones(2)]]):
        assert Parallel(n_jobs=2)(delayed(total)(shared) for _ in range(5)) == [(2 * MIB / 8, False)] * 5


def test_calls_at_the_same_time_that_share_functions_and_data(client: minidask.Client) -> None:
    data, scale = ones(2), 2.0
    failures: list[BaseException] = []

    def scaled(array: np.ndarray[Any, Any]) -> float:
        return float(array.sum()) * scale

    def call() -> None:
        try:
            with joblib.parallel_config("minidask", scheduler=client):
                for _ in range(5):
                    assert Parallel(n_jobs=2)(delayed(scaled)(data) for _ in range(5)) == [2.0 * len(data)] * 5
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures


def test_data_that_each_task_has_its_own_of_does_not_pile_up(client: minidask.Client) -> None:
    forget_garbage(client)
    pins = []

    def arrays() -> Iterator[Any]:
        for i in range(40):
            pins.append(len(pinned(client)))
            yield delayed(total)(ones(2, float(i)))

    with joblib.parallel_config("minidask", scheduler=client):
        results = Parallel(n_jobs=2, batch_size=1)(arrays())
    assert [value for value, _ in results] == [i * MIB / 4 for i in range(40)]
    most = 4 + 4  # joblib has 4 on their way; as many results may be read at once, before a call for each is made
    assert max(pins) <= most, "more are held than wait and run"
    wait_until(lambda: not pinned(client), "nothing was held")


def test_a_result_that_is_gone_is_an_error_and_nothing_hangs(
    client: minidask.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = client.shell.store
    assert store is not None
    there = store.results()
    monkeypatch.setattr(store, "folder", Path("/nowhere"))
    with pytest.raises(errors.SerializationError, match="large result cannot be had"):
        client.submit(ones, 4).result(20)
    monkeypatch.undo()
    (lost,) = store.results() - there  # it is where this client did not look
    store.remove_result(lost)
    assert client.submit(ones, 4).result(20).sum() == MIB / 2


def test_a_result_that_cannot_be_mapped_does_not_stay_in_the_store(
    client: minidask.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*args: object, **options: object) -> memoryview:
        raise OSError(errno.ENOMEM, "no memory")

    store = client.shell.store
    assert store is not None
    with monkeypatch.context() as patched:
        patched.setattr(blobfiles, "mapped", no_memory)
        future = client.submit(lambda: [ones(2), ones(3), ones(4)])
        with pytest.raises(errors.SerializationError, match=r"large result cannot be had: .*no memory"):
            future.result(20)
    assert store.results() == set()


def test_without_room_for_it_data_is_sent_and_that_is_said_once(client: minidask.Client) -> None:
    with minidask.Client(n_workers=2) as other, joblib.parallel_config("minidask", scheduler=other):
        assert other.shell.store is not None
        (other.shell.store.folder / "lock").write_text("0")
        (other.shell.store.folder / "disk").unlink()
        (other.shell.store.folder / "disk").symlink_to("/dev/full-of-nothing")
        with pytest.warns(UserWarning, match="no room for 2097152 bytes"):
            results = Parallel()(delayed(total)(ones(2)) for _ in range(4))
        assert results == [(2 * MIB / 8, False)] * 4
        assert len(Parallel()(delayed(ones)(2) for _ in range(4))) == 4  # a second warning would be an error here


def test_data_reaches_another_machines_store_and_results_come_back(programs: Programs) -> None:
    _, address = programs.scheduler()
    worker = programs.worker(address, "--nworkers", "2")
    stores = {name for name in os.listdir("/dev/shm") if name.startswith("minidask-")}
    with minidask.Client(address) as client, joblib.parallel_config("minidask", scheduler=client):
        client.wait_for_workers(2, 20)
        data = np.random.default_rng(2).random(MIB)
        results = Parallel()(delayed(total)([0, data]) for _ in range(8))
        assert results == [(pytest.approx(float(data.sum())), False)] * 8
        arrays = Parallel()(delayed(ones)(3, float(i)) for i in range(4))
        assert [array[-1] for array in arrays] == [0.0, 1.0, 2.0, 3.0]
    store = next(name for name in stores if name.startswith(f"minidask-{worker.process.pid}-"))
    worker.end()
    assert store not in os.listdir("/dev/shm")


def test_bytes_that_are_not_what_their_name_says_end_the_connection_of_who_sends_them(client: minidask.Client) -> None:
    with minidask.Client(client.address, access_file=client.access_file) as liar:
        liar.shell.send_if_open([PutBlob(b"x" * 16, [b"not what the name says"])])
        with pytest.raises(errors.SchedulerLost, match="are not what its name says"):
            liar.submit(len, "sound").result(10)
    assert client.submit(len, "sound").result(10) == 5


@pytest.mark.alone(reason="whatever else starts removes what this looks for")
def test_nothing_of_killed_processes_stays_once_anything_of_ours_starts_again(programs: Programs) -> None:
    script = (
        "import time, numpy, minidask, os; c = minidask.Client(n_workers=2);"
        " f = c.map(len, [numpy.zeros(10**6)] * 2); c.gather(f);"
        " folder = c.shell.store.folder;"
        " print(os.listdir(folder), folder, c.scheduler_info()['pid'], flush=True); time.sleep(60)"
    )
    program = programs.script(script)
    *_, folder, node = program.wait_for("/dev/shm").split()
    slots = [process.pid for process in psutil.Process(int(node)).children()]
    for pid in (program.process.pid, int(node), *slots):
        os.kill(pid, signal.SIGKILL)
    program.process.wait(10)
    wait_until(lambda: not alive([int(node), *slots]), "all were gone")
    assert Path(folder).exists()
    with minidask.Client(n_workers=1, processes=False):
        assert not Path(folder).exists()
