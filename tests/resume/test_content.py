"""The key of a call: the same one in each run of a program, and another one for whatever may change the result."""

from __future__ import annotations

import copyreg
import functools
import importlib
import os
import pickle
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest

from minidask.resume.content import Contents


def key(*parts: Any) -> bytes:
    return Contents().key(*parts)


def made(text: str, name: str = "f", module: str = "__main__", **names: Any) -> Any:
    """What a text defines, as if it stood in this module."""
    names["__name__"] = module
    exec(compile(textwrap.dedent(text), "<text>", "exec"), names)
    return names[name]


# --- one program, run twice ---

PROGRAM = """
import sys
from functools import partial
import numpy as np
from minidask.resume.content import Contents
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC
from sklearn.preprocessing import StandardScaler
from sklearn.utils.parallel import _FuncWrapper

names = {"alpha", "beta", "gamma", "delta"}

class Base:
    table = {"a": frozenset(names)}
    @property
    def size(self):
        return len(names)

class Model(Base):
    def __init__(self, sizes):
        self.sizes = sizes
        self.kinds = {type(self), Base, int}
    def fit(self, other: "Model"):
        super().__init__()
        return other is MODEL

MODEL = Model(set(names))

def helper(x):
    return x in {"one", "two", "three"} and call(x)

def call(x, y=frozenset(names)):
    return helper(x), Model, names, np.sum

wrapper = _FuncWrapper(call).with_config_and_warning_filters({"enable_metadata_routing": False}, [object()])
args = (
    MODEL, Model, {"k": names}, make_pipeline(StandardScaler(), SVC(kernel="rbf")), np.arange(20).reshape(4, 5)[:, 1:],
    np.float64(3), partial(helper, "x"), wrapper, np.random.default_rng(3), MODEL.fit,
)
found = Contents().key(call, args).hex()
"""


def test_a_key_is_the_same_in_each_process(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(f"{PROGRAM}\nprint(found)")
    keys = set()
    for seed in ("0", "77"):
        program = [sys.executable, str(tmp_path / "program.py")]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        keys.add(subprocess.run(program, capture_output=True, timeout=60, env=environment, check=True).stdout)
    assert len(keys) == 1
    assert keys != {b""}


def test_comments_and_moved_lines_change_nothing() -> None:
    moved = "# a comment\n\n" + PROGRAM.replace("def helper", "# another one\n\n\ndef helper")
    assert made(moved, "found") == made(PROGRAM, "found")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"three"', '"four"'),
        ("and call(x)", "or call(x)"),
        ("len(names)", "len(names) + 1"),
        ('"delta"', '"epsilon"'),
        ("other is MODEL", "other is not MODEL"),
        ('kernel="rbf"', 'kernel="poly"'),
        ("arange(20)", "arange(1, 21)"),
        ("default_rng(3)", "default_rng(4)"),
        ("reshape(4, 5)[:, 1:]", "reshape(4, 5)[:, :4]"),
        ("float64(3)", "float32(3)"),
        ("Model(Base)", "Model(Base, dict)"),
        ('_routing": False', '_routing": True'),
    ],
)
def test_whatever_may_change_the_result_changes_the_key(before: str, after: str) -> None:
    assert before in PROGRAM
    assert made(PROGRAM.replace(before, after), "found") != made(PROGRAM, "found")


# --- functions ---


def test_a_function_is_its_code_defaults_closure_and_globals() -> None:
    def text(a: int, b: int, c: int, d: int) -> str:
        return f"""
        G = {a}
        def outer(v):
            def f(x=({b},), *, k={c}):
                return G, v, x, k
            return f
        f = outer({d})
        """

    first = key(made(text(1, 2, 3, 4)))
    assert key(made(text(1, 2, 3, 4))) == first
    others = [key(made(text(*values))) for values in [(9, 2, 3, 4), (1, 9, 3, 4), (1, 2, 9, 4), (1, 2, 3, 9)]]
    assert len({first, *others}) == 5


def test_a_lambda_in_a_comprehension_counts_by_its_content() -> None:
    contents = Contents()
    assert len({contents.key(lambda: 1) for _ in range(5)}) == 1
    assert len({contents.key(lambda i=i: i) for i in range(5)}) == 5
    assert len({contents.key((lambda n: lambda: n)(i)) for i in range(5)}) == 5


def test_what_a_cached_function_does_counts() -> None:
    text = "import functools\n@functools.lru_cache\ndef f(x): return x + {}"
    assert key(made(text.format(1))) == key(made(text.format(1))) != key(made(text.format(2)))


def test_functions_that_call_each_other() -> None:
    text = "def f(n): return g(n - 1)\ndef g(n): return n and f(n - 1) + {}"
    assert key(made(text.format(1))) == key(made(text.format(1))) != key(made(text.format(2)))


def test_many_functions_that_share_others_take_no_time() -> None:
    layers = "\n".join(f"def f{n}(x): return f{n + 1}(x) + f{n + 2}(x) + f{n + 3}(x)" for n in range(60))
    ends = "\n".join(f"def f{n}(x): return x" for n in range(60, 63))
    assert key(made(f"{layers}\n{ends}", "f0"))


def test_a_global_that_cannot_be_pickled_counts_by_its_class() -> None:
    text = "def f(): return lock"
    assert key(made(text, lock=threading.Lock())) == key(made(text, lock=threading.Lock()))


def test_an_argument_that_cannot_be_pickled_is_an_error() -> None:
    with pytest.raises(TypeError, match="lock"):
        key(len, threading.Lock())


def test_a_function_of_a_library_counts_by_its_name_and_version(monkeypatch: pytest.MonkeyPatch) -> None:
    from minidask.resume import content

    assert key(np.linalg.norm) == key(np.linalg.norm) != key(np.linalg.det)
    before = key(np.linalg.norm)
    monkeypatch.setattr(np, "__version__", "99")
    content._version.cache_clear()
    try:
        assert key(np.linalg.norm) != before
    finally:
        monkeypatch.undo()
        content._version.cache_clear()


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Writes modules of the user's own, and loads the first of them."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def load(**texts: str) -> Any:
        for name in [name for name in sys.modules if name.startswith("own_")]:
            del sys.modules[name]
        for name, text in texts.items():
            (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        importlib.invalidate_caches()
        return importlib.import_module(next(iter(texts)))

    yield load
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    "way",
    [
        "import own_b\ndef f(x): return own_b.g(x)",
        "from own_b import g\ndef f(x): return g(x)",
        "def f(x):\n    import own_b\n    return own_b.g(x)",
        "def f(x):\n    from own_b import g\n    return g(x)",
        "import own_b\nclass C:\n    def m(self, x): return own_b.g(x)\ndef f(x): return C().m(x)",
    ],
)
def test_what_a_function_uses_of_ones_own_modules_counts(own: Callable[..., Any], way: str) -> None:
    def of(constant: int, unused: int) -> bytes:
        module = own(
            own_a=f"import own_b\n{way}",
            own_b=f"import own_a\ndef g(x): return x + {constant}\ndef h(): return {unused}",
        )
        return key(module.f)

    assert of(1, 1) == of(1, 2) != of(2, 1)


def test_a_class_of_ones_own_counts_with_its_instances(own: Callable[..., Any]) -> None:
    def of(constant: int) -> bytes:
        text = f"""
        import abc, dataclasses, enum
        class Kind(enum.Enum):
            A = {constant}
        @dataclasses.dataclass
        class C(abc.ABC):
            x: int = 1
            kind: Kind = Kind.A
            @property
            def p(self): return self.x
            @classmethod
            def c(cls): return cls
            @staticmethod
            def s(): return __name__
        class S:
            __slots__ = ("a",)
            def __init__(self): self.a = C()
        """
        return key(own(own_a=text).S())

    assert of(1) == of(1) != of(2)


def test_a_class_stays_the_same_when_it_is_used() -> None:
    class Used:
        def __init__(self) -> None:
            self.a = 1

    before = key(Used)
    pickle.loads(cloudpickle.dumps(Used()))
    copyreg._slotnames(Used)  # type: ignore[attr-defined]
    assert Used.__annotations__ == {}
    assert "__slotnames__" in vars(Used)
    assert key(Used) == before


# --- arguments ---


def test_equal_texts_are_one_whatever_object_they_are() -> None:
    one, other = "some text", "".join(["some", " text"])
    assert one is not other
    assert key([one, one]) == key([one, other])
    assert key(["a"]) != key([b"a"])


def test_types_of_loaded_arrays_are_those_of_new_ones() -> None:
    array = np.arange(3)
    assert key([array, array.copy()]) == key([array, pickle.loads(pickle.dumps(array))])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (1, True),
        ([1], (1,)),
        ({1}, frozenset({1})),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),  # the order may be seen by the function
        (np.zeros(4), np.zeros((2, 2))),
        (np.zeros(4), np.zeros(8, np.float32)),
        (np.zeros(300_000), np.r_[np.zeros(299_999), 1]),
        (np.int64(1), 1),
        ("", None),
    ],
)
def test_what_differs_has_another_key(one: Any, other: Any) -> None:
    assert key(one) != key(other)


def test_a_large_array_is_hashed_once_and_its_content_counts() -> None:
    contents, array = Contents(), np.zeros(1 << 18)
    first = contents.key(array)
    assert contents.key(array) == first == contents.key(array.copy()) == key(array)
    assert contents.key(array + 1) != first
    assert key(np.asfortranarray(np.ones((600, 600)))) == key(np.asfortranarray(np.ones((600, 600))))


def test_sets_within_functions_within_sets() -> None:
    f = made("def f(): return HANDLERS\nHANDLERS = {f, len, max}\n")
    assert key(f) == key(f)
    assert key({f, functools.partial(f)}) == key({functools.partial(f), f} - {1})
