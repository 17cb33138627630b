"""Every error that minidask raises on purpose, under one base class.

An error says what happened, where, and what to do about it. Errors that users already catch under
a standard name (`TimeoutError`, `ConnectionError`) are of that class too, so existing code keeps working.
"""

from __future__ import annotations


class MinidaskError(Exception):
    """Base class of all errors raised by minidask itself."""


class ProtocolError(MinidaskError):
    """The peer sent bytes that are no valid minidask frame or message; that connection is closed."""


class VersionMismatch(ProtocolError):
    """The two ends speak different versions of the protocol, or run Pythons that cannot share code."""


class VersionWarning(UserWarning):
    """A worker has another Python or other packages than the client."""


class AuthenticationError(MinidaskError):
    """The two ends do not hold the same secret, or the access file is missing or unsafe."""


class SchedulerLost(MinidaskError, ConnectionError):
    """No scheduler answers at the address, or the connection to it broke while work was pending."""


class NoWorkersError(MinidaskError, TimeoutError):
    """No worker was there to run the work within the time allowed."""


class SerializationError(MinidaskError):
    """A function, argument, result or exception cannot be pickled or unpickled."""


class TaskError(MinidaskError):
    """The task ended in a way that cannot be raised again here as it was: `sys.exit`, or what does not pickle."""


class TaskTimeout(MinidaskError, TimeoutError):
    """The task ran longer than the `timeout` it was submitted with, and was stopped."""


class KilledWorker(MinidaskError):
    """The processes that ran the task died, as often as a task may be tried; the task is the likely cause."""
