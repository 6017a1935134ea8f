"""The Gradio page: four tabs over one queue. `make_page` builds it, `get_page_options` says how it is mounted."""

from dianjing.demo.page.blocks import make_page
from dianjing.demo.page.theme import get_page_options

__all__ = ["get_page_options", "make_page"]
