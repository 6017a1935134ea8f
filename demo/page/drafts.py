"""Drafts: the browser keeps what was typed and set in each tab, so that a reload of the page loses nothing.

The values stay in the browser's own storage, one entry for each model; the server gets them with a run alone.
"""

import json
from collections.abc import Mapping
from typing import Any

import gradio as gr

from dianjing.demo.page.context import instant


def connect_drafts(page: gr.Blocks, drafts: Mapping[str, Any], *, model: str) -> None:
    """Keep the values of components, by name, whenever they change, and restore them when the page is loaded."""
    components, arguments = list(drafts.values()), f"{json.dumps(model)}, {json.dumps(list(drafts))}"
    page.load(None, None, components, js=f"() => window.dianjing.loadDrafts({arguments})", **instant())
    gr.on(
        [component.change for component in components],
        None,
        components,
        None,
        js=f"(...values) => window.dianjing.saveDrafts({arguments}, values)",
        **instant(),
    )
