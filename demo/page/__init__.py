"""The page for people: four tabs over one worker. `make_page` makes it, `page_options` is how it is mounted."""

from dianjing.demo.page.look import page_options
from dianjing.demo.page.page import make_page

__all__ = ["make_page", "page_options"]
