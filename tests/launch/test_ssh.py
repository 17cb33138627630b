"""What is a host for ssh, and what is none."""

from __future__ import annotations

import pytest

import minidask
from minidask.launch.__main__ import main


def test_an_option_of_ssh_is_no_host(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="cannot begin with a dash"):
        minidask.SSHCluster(["-oProxyCommand=true"])
    with pytest.raises(SystemExit):
        main(["ssh", "-oProxyCommand=true"])
    assert "arguments are required" in capsys.readouterr().err
