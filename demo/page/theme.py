"""The theme of the page: one accent color on light or dark neutral colors, and system fonts; nothing is fetched."""

import json
from pathlib import Path
from typing import Any

import gradio as gr

from dianjing.demo.i18n.catalog import TEXTS, get_script_texts

STYLESHEET_PATH, FRAME_STYLESHEET_PATH, SCRIPT_PATH = (
    Path(__file__).with_name(name) for name in ("style.css", "frame.css", "page.js")
)
FONTS = ("ui-sans-serif", "system-ui", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "sans-serif")
FONTS_MONO = ("ui-monospace", "Menlo", "Consolas", "monospace")
# cinnabar, the red of Chinese seals
ACCENT_COLOR = gr.themes.Color(
    c50="#fdf4f2",
    c100="#fbe6e2",
    c200="#f6cdc5",
    c300="#eda99c",
    c400="#e07d6b",
    c500="#cf5742",
    c600="#b8412d",
    c700="#993424",
    c800="#7f2e22",
    c900="#6a2a21",
    c950="#3a130e",
    name="cinnabar",
)
NEUTRAL_COLOR = gr.themes.Color(
    c50="#faf9f7",
    c100="#f3f1ed",
    c200="#e6e2db",
    c300="#d3cdc3",
    c400="#a39c90",
    c500="#787166",
    c600="#59534a",
    c700="#443f38",
    c800="#2b2824",
    c900="#1f1d1a",
    c950="#161412",
    name="paper",
)
translations = gr.I18n(
    en={key: text.en for key, text in TEXTS.items()}, zh={key: text.zh for key, text in TEXTS.items()}
)


def make_theme() -> gr.themes.Base:
    """Make the Gradio theme, with colors for light and dark mode."""
    return gr.themes.Base(
        primary_hue=ACCENT_COLOR,
        secondary_hue=ACCENT_COLOR,
        neutral_hue=NEUTRAL_COLOR,
        font=FONTS,
        font_mono=FONTS_MONO,
        radius_size=gr.themes.sizes.radius_md,
        spacing_size=gr.themes.sizes.spacing_md,
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        block_border_width="1px",
        block_border_color="*neutral_200",
        block_border_color_dark="*neutral_800",
        block_label_background_fill="*block_background_fill",
        block_label_background_fill_dark="*block_background_fill",
        block_label_border_width="0px",
        block_label_text_color="*neutral_600",
        block_label_text_color_dark="*neutral_300",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
        block_title_text_weight="500",
        block_info_text_color="*neutral_500",
        block_info_text_color_dark="*neutral_400",
        input_background_fill="*neutral_50",
        input_background_fill_dark="*neutral_800",
        input_border_color_focus="*primary_400",
        input_border_color_focus_dark="*primary_500",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_500",
        button_primary_text_color="white",
        button_primary_text_color_dark="white",
        button_secondary_background_fill="white",
        button_secondary_background_fill_hover="*neutral_100",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_background_fill_hover_dark="*neutral_700",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="*neutral_700",
        button_border_width="1px",
        slider_color="*primary_600",
        slider_color_dark="*primary_500",
    )


def make_head() -> str:
    """Make the elements of the document's head: the style of the frame, and the page's script with its texts."""
    style, script = (path.read_text(encoding="utf-8") for path in (FRAME_STYLESHEET_PATH, SCRIPT_PATH))
    texts = json.dumps(get_script_texts(), ensure_ascii=False).replace("</", "<\\/")
    return f"<style>{style}</style><script>{script.replace('DIANJING_TEXTS', texts)}</script>"


def get_page_options() -> dict[str, Any]:
    """The options of `gradio.mount_gradio_app` that the page needs."""
    return {
        "theme": make_theme(),
        "css_paths": [STYLESHEET_PATH],
        "head": make_head(),
        "i18n": translations,
        "footer_links": [],
        "run_history": False,
        "show_error": False,  # the page shows errors itself; a traceback may name folders
    }
