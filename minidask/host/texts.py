"""Text of others, made fit to be shown: no escape sequence of theirs reaches a terminal, no line of theirs a log."""

from __future__ import annotations


def printable(text: str, keep: str = "") -> str:
    r"""Return a text with everything that does not print written as Python does: `\x1b`, `\u202e`.

    Args:
        keep: characters that stay as they are all the same, as line ends in a text of several lines.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in text)
