"""MkDocs hook: fill the marked places of the reference pages from the code.

A page of docs/reference says `<!-- generated: NAME -->`; NAME is a key of `docs_reference.RENDERERS`.
"""

import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MARKER = re.compile(r"<!-- generated: ([\w-]+) -->")
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # the package of this checkout

from tools.docs_reference import RENDERERS  # noqa: E402


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace every marker of a page by its text. Raises: KeyError for a name that has no renderer."""
    return MARKER.sub(lambda match: RENDERERS[match[1]](), markdown)
