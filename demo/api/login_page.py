"""The login form of the page as plain HTML, in the browser's language; it loads nothing else."""

import html

from dianjing.demo.i18n.catalog import TEXTS
from dianjing.errors import Language

PAGE_TEMPLATE = """<!doctype html>
<html lang="{language}"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">
<title>点睛 Dianjing</title>
<style>
:root {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }}
body {{ max-width: 20rem; margin: 15vh auto; padding: 0 1rem; }}
label {{ display: block; margin-top: 1rem; }}
input, button {{ box-sizing: border-box; width: 100%; min-height: 44px; padding: .5rem; font: inherit; }}
button {{ margin-top: 1.5rem; color: #fff; background: #b8412d; border: 0; border-radius: .5rem; }}
[role=alert] {{ color: #b8412d; }}
</style></head><body>
<h1>点睛 Dianjing</h1>{error}
<form method="post" action="login">{fields}<button>{submit}</button></form>
</body></html>
"""


def render_login_page(language: Language, *, has_user: bool, error: str | None = None) -> str:
    """Render the form: user and password, or a key alone; `error` says why the last attempt failed."""

    def get_text(key: str) -> str:
        return html.escape(getattr(TEXTS[key], language))

    user = (
        f'<label>{get_text("login_user")}<input name="username" autocomplete="username" required autofocus></label>'
        if has_user
        else ""
    )
    secret = get_text("login_password" if has_user else "login_key")
    return PAGE_TEMPLATE.format(
        language="zh-CN" if language == "zh" else "en",
        error="" if error is None else f'<p role="alert">{html.escape(error)}</p>',
        fields=f'{user}<label>{secret}<input name="password" type="password" '
        'autocomplete="current-password" required></label>',
        submit=get_text("login_submit"),
    )
