"""Identical runs have identical results: no task sees what another has left, no result changes the caller's classes.

Each script is a program as users write it; loky's outcome stands beside ours where loky handles the case.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.helpers import Programs

STATES = """
import collections, enum, functools, itertools, json, random, sys, time
import joblib, minidask
import numpy as np

rng, generator, plain = np.random.RandomState(0), np.random.default_rng(0), random.Random(0)
numbers, table, counts, ticks, count = [], {}, collections.Counter(), itertools.count(), 0
small = np.zeros(3)

def by_random_state(i): return int(rng.randint(10**6))
def by_generator(i): return int(generator.integers(10**6))
def by_random(i): return plain.random()
def by_list(i):
    numbers.append(i)
    return len(numbers)
def by_dict(i):
    table[i] = i
    return len(table)
def by_counter(i):
    counts["calls"] += 1
    return counts["calls"]
def by_count(i): return next(ticks)
def by_global(i):
    global count
    count += 1
    return count
def by_array(i):
    small[0] += 1
    return float(small[0])
def by_default(i, seen=[]):
    seen.append(i)
    return len(seen)
def by_keyword(i, *, seen={}):
    seen[i] = i
    return len(seen)
def by_attribute(i):
    by_attribute.calls = getattr(by_attribute, "calls", 0) + 1
    return by_attribute.calls
def closure():
    calls = 0
    seen = []
    def by_closure(i):
        nonlocal calls
        calls += 1
        seen.append(i)
        return calls + len(seen)
    return by_closure

class Counting:
    calls = 0
    seen = []
    def __init__(self): self.own = []
    def by_class_attribute(self, i):
        type(self).calls += 1
        return self.calls
    def by_class_list(self, i):
        self.seen.append(i)
        return len(self.seen)
    def by_instance(self, i):
        self.own.append(i)
        return len(self.own)
    @classmethod
    def by_classmethod(cls, i):
        cls.calls += 1
        return cls.calls
    def by_new_method(self, i):
        before = hasattr(Counting, "late")
        Counting.late = lambda self: i
        return before

class Registered:
    kinds = []
    def __init_subclass__(cls): Registered.kinds.append(cls.__name__)

def by_registry(i):
    class Late(Registered): pass
    return len(Registered.kinds)

class Holder:
    def __init__(self): self.calls = 0
holder = Holder()
def by_global_instance(i):
    holder.calls += 1
    return holder.calls

def decorated(function):
    calls = []
    @functools.wraps(function)
    def wrapper(i):
        calls.append(i)
        return len(calls), function(i)
    return wrapper

@decorated
@decorated
def by_decorated(i): return i

def helper():
    numbers.append(1)
    return len(numbers)
def by_helper(i): return helper(), helper()

class Both:
    def grow(self):
        numbers.append(0)
        return len(numbers)
def function_and_class(both, i):
    numbers.append(i)
    return both.grow()

shared = Counting()
tasks = dict(
    by_random_state=by_random_state, by_generator=by_generator, by_random=by_random, by_list=by_list, by_dict=by_dict,
    by_counter=by_counter, by_count=by_count, by_global=by_global, by_array=by_array, by_default=by_default,
    by_keyword=by_keyword, by_attribute=by_attribute, by_closure=closure(),
    by_class_attribute=shared.by_class_attribute, by_class_list=shared.by_class_list,
    by_instance=shared.by_instance, by_classmethod=Counting.by_classmethod,
    by_new_method=shared.by_new_method, by_registry=by_registry, by_global_instance=by_global_instance,
    by_decorated=by_decorated, by_helper=by_helper, by_partial=functools.partial(by_default, seen=[]),
    function_and_class=functools.partial(function_and_class, Both()),
)

def delayed_call(function, i):
    time.sleep(random.SystemRandom().random() / 100)
    return function(i)

def all_of_them(batch):
    parallel = joblib.Parallel(n_jobs=2, batch_size=batch)
    return {name: parallel(joblib.delayed(delayed_call)(f, i) for i in range(6)) for name, f in tasks.items()}

if __name__ == "__main__":
    engine, workers, processes, batch = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "processes", int(sys.argv[4])
    if engine == "loky":
        first = all_of_them(batch)
    else:
        with minidask.Client(n_workers=workers, processes=processes) as client, joblib.parallel_config("minidask"):
            first = all_of_them(batch)
            assert all_of_them(batch) == first, "the second run is another one"
    assert (numbers, table, count, Counting.calls, Counting.seen, shared.own) == ([], {}, 0, 0, [], [])
    assert Registered.kinds == [] and holder.calls == 0 and not hasattr(Counting, "late")
    print(json.dumps(first), "END")
"""


def outcome(programs: Programs, script: str, *arguments: str) -> dict[str, Any]:
    program = programs.script(script, *arguments)
    text = program.wait_for("END")
    return dict(json.loads(text[text.index("{") : text.rindex("END")]))


@pytest.mark.parametrize("batch", ["1", "2"])
def test_what_tasks_change_ends_with_their_batch(programs: Programs, batch: str) -> None:
    right = outcome(programs, STATES, "loky", "2", "processes", batch)
    right["by_new_method"] = [calls > 1 for calls in right["by_list"]]  # in loky a class's new attributes live on
    for workers in ("1", "2", "3"):
        ours = outcome(programs, STATES, "minidask", workers, "processes", batch)
        assert ours == right, workers
    assert outcome(programs, STATES, "minidask", "2", "threads", batch) == right


CLASSES = """
import abc, collections, copyreg, dataclasses, enum, json, sys, typing
import joblib, minidask

class Meta(type):
    made = []
    def __new__(meta, name, bases, space):
        meta.made.append(name)
        return super().__new__(meta, name, bases, space)

class Base:
    kinds = []
    def __init_subclass__(cls): Base.kinds.append(cls.__name__)

class Point(Base):
    unit = "cm"
    def __init__(self, x): self.x = x
    def tell(self): return f"{self.x} {self.unit} {len(seen)}"

class Sub(Point): pass
class WithMeta(metaclass=Meta): value = 1
class Slotted:
    __slots__ = ("x",)
    def __init__(self, x): self.x = x
@dataclasses.dataclass
class Data:
    x: int
    many: list = dataclasses.field(default_factory=list)
class Named(typing.NamedTuple):
    x: int
    y: int = 2
Pair = collections.namedtuple("Pair", "a b")
class Colour(enum.Enum):
    RED = 1
    BLUE = 2
class Flags(enum.IntFlag):
    A = 1
    B = 2
class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self): ...
class Square(Shape):
    def area(self): return 1
class Round:
    def area(self): return 3
class Failed(Exception):
    code = 7
class Reduced:
    def __init__(self, x): self.x = x
    def __reduce__(self): return make_reduced, (self.x,)
def make_reduced(x): return Reduced(x)
class Outer:
    class Inner:
        level = 2
T = typing.TypeVar("T")
class Generic(typing.Generic[T]):
    kind = "generic"

seen = []
CLASSES = [Point, Sub, WithMeta, Slotted, Data, Named, Pair, Colour, Flags, Shape, Square, Round, Failed, Reduced,
           Outer, Outer.Inner, Generic, Base, Meta]

def change(i):
    seen.append(i)
    Shape.register(Round)
    for cls in CLASSES:
        if cls not in (Colour, Flags):
            cls.left = i
    Point.unit = "inch"
    Point.tell = lambda self: "changed"
    class New(Point): pass
    only_there = New(i)
    only_there.tell
    return [Point(i), Sub(i), WithMeta(), Slotted(i), Data(i), Named(i), Pair(i, i), Colour.RED, Flags.A | Flags.B,
            Square(), Round(), Failed(i), Reduced(i), Outer(), Outer.Inner(), Generic(), only_there, Point]

def fail(i):
    Failed.code = 9
    raise Failed(i)

def attributes(): return {cls.__qualname__: dict(vars(cls)) for cls in CLASSES}

if __name__ == "__main__":
    before, registry = attributes(), list(Base.kinds)
    made = list(Meta.made)
    with minidask.Client(n_workers=2, processes=sys.argv[1] == "processes"), joblib.parallel_config("minidask"):
        parallel = joblib.Parallel(n_jobs=2, batch_size=1)
        results = parallel(joblib.delayed(change)(i) for i in range(4))
        try:
            parallel(joblib.delayed(fail)(i) for i in range(2))
        except Failed as error:
            assert type(error) is Failed and error.code == 7
        again = parallel(joblib.delayed(change)(i) for i in range(2))
    kinds = [Point, Sub, WithMeta, Slotted, Data, Named, Pair, Colour, Flags, Square, Round, Failed, Reduced, Outer,
             Outer.Inner, Generic]
    for result in results + again:
        assert [type(obj) for obj in result[:len(kinds)]] == kinds, result
        assert result[7] is Colour.RED and result[8] is Flags.A | Flags.B and result[-1] is Point
        assert isinstance(result[-2], Point) and type(result[-2]).__name__ == "New"
    assert attributes() == before, [k for k in before if before[k] != attributes()[k]]
    assert [k for k in Base.kinds if k != "New"] == registry and Meta.made == made
    assert results[1][0].tell() == "1 cm 0" and not issubclass(Round, Shape) and seen == []
    print("END")
"""


@pytest.mark.parametrize("slots", ["processes", "threads"])
def test_results_leave_the_callers_classes_alone(programs: Programs, slots: str) -> None:
    programs.script(CLASSES, slots).wait_for("END")


MULTIPROCESSING = """
import multiprocessing
import joblib, minidask

class Point:
    def __init__(self, x): self.x = x
    def doubled(self): return Point(2 * self.x)

def double(point): return point.doubled()
doubling = lambda point: double(point)

def in_child(queue):
    with minidask.Client(n_workers=2) as client, joblib.parallel_config("minidask"):
        points = joblib.Parallel(n_jobs=2)(joblib.delayed(double)(Point(i)) for i in range(4))
        points += [client.submit(doubling, Point(4)).result(), client.submit(Point(5).doubled).result()]
    queue.put([type(point) is Point and point.x for point in points])

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=in_child, args=(queue,))
    child.start()
    print(queue.get(timeout=60), "END")
    child.join()
"""


def test_a_program_in_a_child_of_multiprocessing(programs: Programs) -> None:
    assert "[0, 2, 4, 6, 8, 10] END" in programs.script(MULTIPROCESSING).wait_for("END")


NESTED = """
import json, random, sys, time
import joblib, minidask, numpy as np
rng = np.random.RandomState(0)
numbers = []
count = 0
class Box:
    total = 0
def by_rng(i):
    time.sleep(random.SystemRandom().random() / 100); return int(rng.randint(10**6))
def by_list(i):
    time.sleep(random.SystemRandom().random() / 100); numbers.append(i); return len(numbers)
def by_global(i):
    global count
    count += 1; return count
def by_class(i):
    Box.total += 1; return Box.total
def by_argument(rng, i):
    time.sleep(random.SystemRandom().random() / 100); return int(rng.randint(10**6))
def stateless(i): return i
def fails(i):
    numbers.append(i)
    raise KeyError(len(numbers))
class Point:
    def __init__(self, x): self.x = x
def classy(i):
    numbers.append(i); return Point(i)
def outer(k):
    out = []
    own = np.random.RandomState(k)
    p = joblib.Parallel(n_jobs=3, batch_size=1)
    for f in (by_rng, by_list, by_global, by_class, stateless):
        out.append(p(joblib.delayed(f)(i) for i in range(6)))
    out.append(p(joblib.delayed(by_argument)(own, i) for i in range(6)))
    try: p(joblib.delayed(fails)(i) for i in range(3))
    except KeyError as e: out.append(str(e))
    assert all(type(q) is Point for q in p(joblib.delayed(classy)(i) for i in range(6)))
    out += [len(numbers), count, Box.total]
    return out
if __name__ == "__main__":
    client = minidask.Client(n_workers=int(sys.argv[1]), processes=sys.argv[2] == "processes")
    with client, joblib.parallel_config("minidask"):
        r = joblib.Parallel(n_jobs=2, batch_size=1)(joblib.delayed(outer)(k) for k in range(2))
    assert numbers == []
    print(json.dumps({"both": r}), "END")
"""


def test_what_nested_calls_change_ends_with_their_batch_wherever_they_run(programs: Programs) -> None:
    """With one slot they run in their task; with four most of them are sent away."""
    first = [[985772] * 6, *[[1] * 6] * 3, [0, 1, 2, 3, 4, 5]]
    for arguments in (["1", "processes"], ["4", "processes"], ["3", "threads"]):
        both = outcome(programs, NESTED, *arguments)["both"]
        assert [task[:5] for task in both] == [first, first]
        assert [task[5:] for task in both] == [[[985772] * 6, "1", 0, 0, 0], [[128037] * 6, "1", 0, 0, 0]]


SCATTERED = """
import json, sys, time
import joblib, minidask
import numpy as np

data = {"numbers": [1, 2], "array": np.zeros(10), "large": np.zeros(10**6)}

def change(data, i):
    time.sleep(0.005)
    data["numbers"].append(i)
    data["array"][0] += 1
    assert not data["large"].flags.writeable
    data[i] = i
    return len(data), len(data["numbers"]), data["array"][0]

if __name__ == "__main__":
    with minidask.Client(n_workers=2, processes=sys.argv[1] == "processes") as client:
        handle = client.scatter(data)
        found = client.gather(client.map(change, [handle] * 8, range(8)))
        with joblib.parallel_config("minidask", scatter=[data]):
            found += joblib.Parallel(n_jobs=2, batch_size=1)(joblib.delayed(change)(data, i) for i in range(8))
    assert len(data) == 3 and len(data["numbers"]) == 2 and data["array"][0] == 0
    print(json.dumps({"found": found}), "END")
"""


@pytest.mark.parametrize("slots", ["processes", "threads"])
def test_scattered_data_is_what_was_scattered_for_each_task(programs: Programs, slots: str) -> None:
    assert outcome(programs, SCATTERED, slots)["found"] == [[4, 3, 1.0]] * 16


THREADS = """
import functools, sys, threading
import joblib, minidask

class Point: pass
def make(i): return Point()

@functools.cache
def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)

def in_thread(i):
    found = []
    def work(): found.append(minidask.get_client().submit(make, i).result())
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return type(found[0]) is Point and fib(20 + i)

if __name__ == "__main__":
    with minidask.Client(n_workers=2, processes=sys.argv[1] == "processes") as client:
        print(client.gather(client.map(in_thread, range(3))), "END")
"""


@pytest.mark.parametrize("slots", ["processes", "threads"])
def test_threads_of_a_task_have_its_classes(programs: Programs, slots: str) -> None:
    assert "[6765, 10946, 17711] END" in programs.script(THREADS, slots).wait_for("END")
