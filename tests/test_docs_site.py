"""The documentation's site names every page, and no page asks the network for anything."""

from __future__ import annotations

import re

from ruamel.yaml import YAML

from tests.mpirun import ROOT


def pages(nav: object) -> set[str]:
    """All file names in a navigation."""
    if isinstance(nav, str):
        return {nav}
    items = nav.values() if isinstance(nav, dict) else nav
    return {page for each in items for page in pages(each)}  # type: ignore[attr-defined]


def test_the_navigation_has_every_page_and_no_other() -> None:
    settings = YAML(typ="safe", pure=True).load(ROOT / "mkdocs.yml")
    docs = ROOT / settings["docs_dir"]
    assert pages(settings["nav"]) == {str(path.relative_to(docs)) for path in docs.rglob("*.md")}


def test_no_page_loads_anything_from_outside() -> None:
    settings = (ROOT / "mkdocs.yml").read_text()
    assert "font: false" in settings
    for path in (ROOT / "docs").rglob("*.md"):
        assert not re.search(r"!\[[^\]]*\]\(https?:|<(script|link|img|iframe)\b", path.read_text()), path
