"""The documentation as a site: every page, and the reference of what can be imported."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import minidask

ROOT = Path(__file__).parents[2]


def test_the_site_is_built_without_a_warning_and_has_the_whole_reference(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", str(tmp_path / "site")]
    result = subprocess.run(
        [*command, "-d", str(tmp_path / "trees")], cwd=ROOT, capture_output=True, text=True, timeout=55, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    built = {path.stem for path in (tmp_path / "site").glob("*.html")}
    assert built >= {path.stem for path in (ROOT / "docs").glob("*.md")}
    reference = (tmp_path / "site" / "reference.html").read_text()
    documented = set(re.findall(r'id="(?:minidask\.)?([\w.]+)"', reference))
    for name in set(minidask.__all__) - {"__version__", "errors"}:
        assert any(where.rpartition(".")[2] == name for where in documented), f"{name} is not in the reference"


def test_all_links_from_page_to_page_lead_somewhere(tmp_path: Path) -> None:
    for page in (ROOT / "docs").glob("*.md"):
        for target, _, anchor in re.findall(r"\]\((?!https?:)([\w./-]+\.md)(#([\w-]+))?\)", page.read_text()):
            where = page.parent / target
            assert where.is_file(), f"{page.name} links to {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", where.read_text(), re.MULTILINE)
                slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
                assert anchor.lstrip("#") in slugs, f"{page.name} links to {target}{anchor}"
