"""The Gradio page: four tabs over one queue, and the gate before it.

`make_page` builds the page, `get_page_options` says how it is mounted, `PageGate` is the middleware in front of it.
"""

from dianjing.demo.page.blocks import make_page
from dianjing.demo.page.gate import PageGate, get_exception_handlers
from dianjing.demo.page.theme import get_page_options

__all__ = ["PageGate", "get_exception_handlers", "get_page_options", "make_page"]
