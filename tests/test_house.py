"""What README, CONTRIBUTING and the packages' maps say of the repository is true."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "hpc_accel"
PACKAGES = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))


def layers() -> list[list[str]]:
    """The contract's lines, the top first."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    return [line.split(" | ") for line in contracts[0]["layers"]]


def test_readme_lists_every_package_in_the_order_of_imports():
    table = re.findall(r"^\| `hpc_accel/(\w+)` \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert sorted(table) == PACKAGES
    height = {name: number for number, line in enumerate(layers()) for name in line}
    heights = [height[name] for name in table]
    assert heights == sorted(heights, reverse=True), "each package stands below those it imports"


def test_contributing_draws_the_contract():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    drawing = text.partition("### The way of the imports\n")[2].partition("\nEach package")[0]
    assert [line.split() for line in drawing.splitlines() if line.strip()] == layers()


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_is_a_map_of_its_files(name):
    folder = PACKAGE / name
    text = (folder / "__init__.py").read_text().partition('"""')[2].partition('"""')[0]
    named = re.findall(r"[\w*]+", text)
    wild = [word[:-1] for word in named if word.endswith("_*")]
    for path in folder.iterdir():
        is_module = path.suffix == ".py" and not path.stem.startswith("__")
        if not is_module and not (path / "__init__.py").exists():
            continue
        assert path.stem in named or path.stem.startswith(tuple(wild)), f"{name}/__init__.py does not name {path.name}"


def test_paths_in_the_guides_exist():
    for guide in ("README.md", "CONTRIBUTING.md"):
        for path in re.findall(r"`((?:\w+/)+\w+\.(?:py|md|toml))`", (ROOT / guide).read_text()):
            assert (ROOT / path).exists() or (PACKAGE / path).exists(), f"{guide}: {path}"
