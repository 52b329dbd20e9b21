"""What mkdocs does beside its configuration: a link to a file outside docs/ becomes its text, because the site does not have that file.

tests/unit/test_documentation.py checks that such a link leads to a file.
"""

from __future__ import annotations

import posixpath
import re
from typing import Any


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page without links that leave docs/. mkdocs calls this for each page."""
    folder = posixpath.dirname(page.file.src_uri)

    def inside(link: re.Match[str]) -> str:
        return link[1] if posixpath.normpath(posixpath.join(folder, link[2])).startswith("../") else link[0]

    return re.sub(r"\[([^]]+)\]\(((?!\w+:|#)[^)\s]+)\)", inside, markdown)
