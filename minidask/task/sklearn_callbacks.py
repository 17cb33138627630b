"""scikit-learn's callbacks (`sklearn.callback`) on every machine of a cluster: their reports take minidask's wire.

A callback's copy in a task reports to the original over a Unix socket. That works on the original's machine alone, and
each fit leaves a descriptor open in the process of the task. The copy has a `ListenerHandle` with the socket's address.
In handles that minidask sends, the address is marked. For a marked address `sklearn.callback._transport` gets a
connection of minidask's:

    send(handle, message) ─► Client(address) ─► `_Wire` ─► channels.py ─► `_deliver` ─► the listener's consumer

Only this file knows internals of scikit-learn 1.9, and `_differences` checks them. It is loaded as soon as
`sklearn.callback` is (`minidask/backend/register.py`).
"""

from __future__ import annotations

import importlib
import logging
import warnings
from typing import Any

from minidask.errors import SerializationError
from minidask.pickling.payload import loads
from minidask.pickling.sharing import REDUCERS, dumps
from minidask.task import channels
from minidask.task.context import current_slot, is_slot_process
from minidask.wire.messages import Payload

MADE_FOR = "1.9"
CHANNEL = "sklearn.callback"
MARK = "minidask:"

log = logging.getLogger("minidask")


def _differences(transport: Any) -> list[str]:
    """How scikit-learn's internals differ from those of the version that this file is made for."""
    found = []
    if getattr(getattr(transport, "ListenerHandle", None), "_fields", None) != ("address", "authkey"):
        found.append("ListenerHandle is not (address, authkey)")
    for function in ("send", "can_reuse_listener"):
        code = getattr(getattr(transport, function, None), "__code__", None)
        if code is None or "Client" not in code.co_names or not hasattr(transport, "Client"):
            found.append(f"{function} does not use Client")
    for table in ("_listeners", "_message_consumers", "_worker_connections"):
        if not isinstance(getattr(transport, table, None), dict):
            found.append(f"{table} is not a dict")
    return found


def _is_tree(contexts: Any) -> bool:
    """Whether the places of fits in their search are as `_reduce_context` takes them to be."""
    kind = getattr(contexts, "CallbackContext", None)
    code = getattr(getattr(kind, "_from_parent", None), "__code__", None)
    return code is not None and {"_callbacks", "_children_map"} <= set(code.co_names)


class _Wire:
    """Stands for scikit-learn's connection to the process of the original."""

    def __init__(self, address: str) -> None:
        self._address = address

    def send(self, message: Any) -> None:
        consumer = _transport._message_consumers.get(self._address)
        if consumer is not None:  # with processes=False, the original is in this process
            consumer(message)
        else:
            payload = dumps((self._address, message), "what a callback reports")
            if not channels.tell_caller(CHANNEL, payload):
                log.debug("a callback reports when its task is over: %r", self._address)

    def recv(self) -> None:
        """Return no answer: none is needed, as a call ends when all messages of its tasks were handled."""
        _transport._worker_connections.pop(MARK + self._address, None)  # it would be kept for ever

    def close(self) -> None:
        pass


class _Nowhere(_Wire):
    """A connection to a listener that another task has opened, on another machine."""

    def send(self, message: Any) -> None:
        pass


def _connect(address: Any, *args: Any, **kwargs: Any) -> Any:
    """Connect to an address. Stands in the place of `multiprocessing.connection.Client`."""
    if isinstance(address, str) and address.startswith(MARK):
        return _Wire(address.removeprefix(MARK))
    try:
        return _plain_client(address, *args, **kwargs)
    except OSError:
        if current_slot() is None:
            raise
        log.warning("a callback that was set up in a task gets no reports from other machines: set it up outside of it")
        return _Nowhere(str(address))


def _deliver(payload: Payload) -> None:
    """Hand a copy's message to the original, in the process of the original."""
    address, message = loads(payload, "what a callback reports")
    consumer = _transport._message_consumers.get(address)
    if consumer is not None:  # else its fit is over
        consumer(message)


def _reduce_handle(handle: Any) -> Any:
    """Reduce a `ListenerHandle` in minidask's pickles: its address is marked where it is received."""
    if is_slot_process() and not handle.address.startswith(MARK):
        return _plain, tuple(handle)  # some task has set the callback up: scikit-learn's own way leads there
    return received_handle, (handle.address.removeprefix(MARK), handle.authkey)


def received_handle(address: str, authkey: bytes) -> Any:
    """Return the handle with a marked address in a task, with the plain address in the caller. Pickles call this.

    Raises:
        SerializationError: this scikit-learn has other internals.
    """
    if _transport is None:
        raise SerializationError(
            f"scikit-learn {_version()} on this machine is not {MADE_FOR}, so it cannot take the callbacks of the"
            " caller's: use one version on all machines"
        )
    return _transport.ListenerHandle(address if current_slot() is None else MARK + address, authkey)


def _plain(address: str, authkey: bytes) -> Any:
    return importlib.import_module("sklearn.callback._transport").ListenerHandle(address, authkey)


def _version() -> str:
    return str(getattr(importlib.import_module("sklearn"), "__version__", "?"))


_warned = False


def _reduce_callback(callback: Any) -> Any:
    """Reduce a callback of an unknown scikit-learn in its own way, and warn once."""
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"minidask carries the callbacks of scikit-learn {MADE_FOR} to any machine, but this is {_version()}, which"
            f" does it otherwise ({'; '.join(_found)}). They go scikit-learn's own way: on other machines fits with"
            " callbacks may fail. Look for a newer minidask",
            stacklevel=2,
        )
    return callback.__reduce_ex__(5)


def _reduce_context(context: Any) -> Any:
    """Reduce the place of a fit in its search without the places of all other fits, which scikit-learn sends along.

    Without callbacks only the way up to the search is ever read. A search of 200 fits else sends 200 places with each
    batch, in five milliseconds, and one of 10,000 fits takes most of its time for that.
    """
    state = vars(context)
    if state["_callbacks"]:
        return context.__reduce_ex__(5)
    make, arguments, _, *rest = context.__reduce_ex__(5)
    return make, arguments, {**state, "_children_map": {}}, *rest


def _load(module: str) -> Any:
    try:
        return importlib.import_module(f"sklearn.callback.{module}")
    except ImportError:
        return None


_transport, _contexts = _load("_transport"), _load("_callback_context")
_found = _differences(_transport)
if not _found:
    _plain_client, _transport.Client = _transport.Client, _connect
    REDUCERS[_transport.ListenerHandle] = _reduce_handle
    channels.handle(CHANNEL, _deliver)
else:
    _transport = None
    _public = importlib.import_module("sklearn.callback")
    for _name in ("ProgressBar", "ScoringMonitor"):
        if hasattr(_public, _name):
            REDUCERS[getattr(_public, _name)] = _reduce_callback
if _is_tree(_contexts):
    REDUCERS[_contexts.CallbackContext] = _reduce_context
