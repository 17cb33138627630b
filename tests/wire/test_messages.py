"""The messages are those of the specification, `docs/protocol.md`."""

from __future__ import annotations

import re
from pathlib import Path

from minidask.wire import messages as m


def test_the_specification_has_every_message_with_its_code_and_fields() -> None:
    text = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (\w+)( ✚)? \|([^|]*)\|", text, re.MULTILINE)
    told = {int(code): (name, bool(payload), fields.strip()) for code, name, payload, fields in rows}
    told[17] = ("SlotReady", False, "")
    for code, kind in enumerate(m.CODES):
        name, payload, fields = told[code]
        names = [field.split()[0] for field in re.sub(r"\[[^]]*\]+", "", fields).split(",") if field.strip()]
        assert name == kind.__name__
        assert names + ["payload"] * payload == list(kind._fields)


def test_the_chapters_that_may_be_skipped_say_when_and_come_after_the_others() -> None:
    text = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
    chapters = {part.partition("\n")[0]: part for part in text.split("\n## ")[1:]}
    names = list(chapters)
    first = names.index("A session in bytes") + 1
    optional = names[first : names.index("Versions")]
    assert {"Large data", "The store of a machine", "Tasks within tasks"} < set(optional)
    assert [name for name in names if "*Skip unless* " in chapters[name]] == optional
