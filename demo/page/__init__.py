"""The page for people: four tabs over one worker. `make_page` makes it, `page_options` is how it is mounted."""

from dianjing.demo.page.blocks import make_page
from dianjing.demo.page.theme import get_page_options

__all__ = ["get_page_options", "make_page"]
