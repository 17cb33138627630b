"""Names, paths and texts that are no UTF-8, and programs without a command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import minidask
from minidask.wire.codec import decode, encode
from minidask.wire.frames import AUTHENTICATED, FrameDecoder
from minidask.wire.messages import Failed
from minidask.wire.packing import pack, unpack
from tests.helpers import Programs

CAFE = "caf\udce9"


def test_the_wire_carries_any_text() -> None:
    message = Failed(1, 1, 0.5, f"{CAFE} ☕", [])
    decoder = FrameDecoder(AUTHENTICATED)
    data = b"".join(bytes(piece) for piece in encode(message))
    decoder.get_buffer()[: len(data)] = data
    (frame,) = decoder.received(len(data))
    assert decode(frame) == message
    assert unpack(pack([CAFE, "é", {"a": CAFE}])) == [CAFE, "é", {"a": CAFE}]
    with pytest.raises(ValueError, match="decode"):
        unpack(b"\xa1\xff")


def test_an_exception_with_such_a_text_arrives(client: minidask.Client) -> None:
    def work() -> None:
        raise ValueError(CAFE, "\ud83d")

    error = client.submit(work).exception(20)
    assert isinstance(error, ValueError)
    assert error.args == (CAFE, "\ud83d")


def test_tasks_arguments_and_output_may_have_such_names(
    client: minidask.Client, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(text: str) -> str:
        print(text)
        return text

    work.__qualname__ = work.__name__ = CAFE
    assert client.submit(work, CAFE).result(20) == CAFE
    assert capsys.readouterr().out == "caf\\udce9\n"
    with minidask.Client(client.address, name=CAFE) as named:
        assert r"caf\udce9" in [told["name"] for told in named.scheduler_info()["clients"]], "as it can be shown"


@pytest.mark.parametrize("line", ["['']", "[]", "[None]", "[b'caf\\xe9'.decode('utf-8', 'surrogateescape')]", "None"])
def test_any_command_line_will_do(programs: Programs, line: str) -> None:
    script = programs.script(
        f"""
import sys
argv = {line}
if argv is None:
    del sys.argv
else:
    sys.argv = argv
import minidask
with minidask.Client(n_workers=1) as client:
    print(client.submit(abs, -1).result(), len(client.submit(lambda: sys.argv).result()))
    print(repr(client), client._repr_html_())
"""
    )
    assert script.exit_code() == 0, script.text
    assert script.text.startswith("1 ")


@pytest.mark.parametrize("start", ["script", "-c", "-", "-m"])
def test_such_a_folder_may_hold_the_program(tmp_path: Path, start: str) -> None:
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    source = b"""
import os, minidask, helper
if __name__ == "__main__":
    with minidask.Client(n_workers=1) as client:
        print(client.submit(helper.double, 4).result(30), client.submit(lambda: os.getcwdb()[-4:]).result(30))
"""
    for name, text in ((b"helper.py", b"def double(x):\n    return 2 * x\n"), (b"prog.py", source)):
        with open(folder + b"/" + name, "wb") as file:
            file.write(text)
    commands = {"script": [folder + b"/prog.py"], "-c": ["-c", source], "-": ["-"], "-m": ["-m", "prog"]}
    command = [sys.executable, *commands[start]]
    ran = subprocess.run(
        command, cwd=folder, input=source if start == "-" else b"", capture_output=True, timeout=60, check=False
    )
    assert (ran.stdout, ran.stderr) == (b"8 b'caf\\xe9'\n", b"")


@pytest.mark.parametrize("variable", ["TMPDIR", "XDG_RUNTIME_DIR"])
def test_such_a_folder_may_be_the_temporary_one(programs: Programs, tmp_path: Path, variable: str) -> None:
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    script = programs.script(
        "import minidask\nwith minidask.Client(n_workers=1) as client: print(client.submit(abs, -1).result(30))",
        **{variable: os.fsdecode(folder)},
    )
    assert script.exit_code() == 0, script.text
    assert script.text == "1\n"
