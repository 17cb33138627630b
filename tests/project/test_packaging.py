"""What gets installed: one package, two programs, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "sources"  # a copy: setuptools would put what an older build left in build/ into the wheel
    shutil.copytree(ROOT, sources, ignore=shutil.ignore_patterns("build", ".*", "*.egg-info"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(sources)]
    subprocess.run(command, check=True, timeout=120, capture_output=True)
    (path,) = folder.glob("minidask-*.whl")
    return zipfile.ZipFile(path)


TOPS = {".ci", ".gitignore", "CHANGELOG.md", "LICENSE", "README.md", "bench", "docs", "examples", "minidask",
        "pyproject.toml", "scheduler", "tests", "worker"}  # fmt: skip


def kept() -> list[Path]:
    """The files that git keeps; in a copy without git's folder all that lie here, but for those of tools."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        return [path.relative_to(ROOT) for top in sorted(TOPS) for path in (ROOT / top, *(ROOT / top).rglob("*"))]
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=ROOT, check=True, timeout=60, capture_output=True, text=True).stdout
    return [Path(name) for name in listed.split("\0") if name]


def test_nothing_is_kept_that_does_not_belong_here() -> None:
    """What lies about when all is added comes along, for ever: downloaded packages, say."""
    paths = [path for path in kept() if "__pycache__" not in path.parts]
    assert {path.parts[0] for path in paths} <= TOPS
    assert [path for path in paths if (ROOT / path).is_file() and (ROOT / path).stat().st_size > 256 * 1024] == []


@pytest.mark.timeout(120)
def test_the_wheel_holds_the_package_and_no_other_top_level_name(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"minidask"}
    expected = set()
    for folder, package in (("minidask", ""), ("scheduler", "scheduler/"), ("worker", "worker/")):
        for path in (ROOT / folder).rglob("*.py"):
            expected.add(f"minidask/{package}{path.relative_to(ROOT / folder)}")
    assert {name for name in names if name.endswith(".py")} == expected
    assert "minidask/py.typed" in names
    assert wheel.read("minidask/watching/protocol.md") == (ROOT / "docs/protocol.md").read_bytes()


def test_the_wheel_installs_both_programs(wheel: zipfile.ZipFile) -> None:
    (entry_points,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    text = wheel.read(entry_points).decode()
    assert "minidask-scheduler = minidask.scheduler.__main__:main" in text
    assert "minidask-worker = minidask.worker.__main__:main" in text


def test_a_clone_works_where_it_lies(tmp_path: Path) -> None:
    for folder in ("minidask", "scheduler", "worker"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, tmp_path / folder, symlinks=True, ignore=ignored)
    code = """if True:
        import sys
        sys.meta_path = [finder for finder in sys.meta_path if "Editable" not in str(finder)]
        import minidask
        with minidask.Client(n_workers=1) as client:
            print(minidask.__file__, client.submit(abs, -1).result(20))
    """
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, timeout=60, capture_output=True, text=True)
    assert (ended.stdout, ended.stderr) == (f"{tmp_path}/minidask/__init__.py 1\n", "")
