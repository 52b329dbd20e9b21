"""README.zh-CN.md is the translation of README.md as it is now."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

PROJECT = Path(__file__).parents[2]
ENGLISH = PROJECT / "README.md"
CHINESE = PROJECT / "README.zh-CN.md"
BLOCK = re.compile(r"^```[\s\S]*?^```$|^(?: {4}.*\n)+", re.MULTILINE)
"""A fenced or an indented block. What stands after # in it, or between quotes in a diagram, is translated."""
COMMENT = re.compile(r" +# .*$", re.MULTILINE)
LABEL = re.compile(r'"[^"]*"')


def blocks(page: Path) -> list[str]:
    """The blocks without what is translated in them."""
    return [LABEL.sub('""', COMMENT.sub("", block)) for block in BLOCK.findall(page.read_text())]


def headings(page: Path) -> list[str]:
    """The level of each heading in its order."""
    return re.findall(r"^(#+) ", BLOCK.sub("", page.read_text()), re.MULTILINE)


def links(page: Path) -> list[str]:
    """Where the links lead, sorted: another language has another order of words."""
    return sorted(re.findall(r"\]\(([^)]+)\)", page.read_text()))


def rows(page: Path) -> int:
    return len(re.findall(r"^\|", page.read_text(), re.MULTILINE))


def digest() -> str:
    return hashlib.sha256(ENGLISH.read_bytes()).hexdigest()


def test_the_translation_is_of_the_present_english_text() -> None:
    recorded = re.search(r"<!-- README\.md sha256:([0-9a-f]{64}) -->", CHINESE.read_text())
    assert recorded, "README.zh-CN.md needs a line <!-- README.md sha256:DIGEST -->"
    remedy = f"README.md has changed: bring the translation to the same state, then record {digest()} in README.zh-CN.md"
    assert recorded[1] == digest(), remedy


def test_the_translation_has_the_same_headings_blocks_and_rows() -> None:
    assert headings(CHINESE) == headings(ENGLISH)
    assert blocks(CHINESE) == blocks(ENGLISH)
    assert rows(CHINESE) == rows(ENGLISH)


def test_the_translation_has_the_same_links() -> None:
    other = {"README.zh-CN.md": "README.md"}
    assert links(CHINESE) == sorted(other.get(link, link) for link in links(ENGLISH))
