"""Renders the page: content, style and scripts in one self-contained file."""

import base64
import hashlib
import html
import json
import math
from importlib import resources
from typing import Any

from ...printing import printable

SCRIPTS = ("elements.js", "charts.js", "map.js", "overview.js", "ranking.js", "evaluations.js", "page.js")

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<noscript><p>This page needs JavaScript, which is disabled.</p></noscript>
{content}
<script>{script}</script>
</body>
</html>
"""


def rendered(title: str, content: dict[str, Any]) -> str:
    """One HTML document that works without a network.

    Content is embedded as JSON; scripts insert it as text, never as HTML. The content security policy allows only the
    script with the given hash, and forbids every request.

    Args:
        title: plain text.
        content: JSON values, by the id of their element.
    """
    script = "'use strict';\n(() => {\n" + "\n".join(map(_file, SCRIPTS)) + "\n})();\n"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )
    parts = [
        f'<script type="application/json" id="{name}">{embedded(value)}</script>' for name, value in content.items()
    ]
    return _PAGE.format(
        policy=policy,
        title=html.escape(printable(title)),
        style=_file("page.css"),
        content="\n".join(parts),
        script=script,
    )


def embedded(value: object) -> str:
    """JSON that is safe inside a script element: it cannot close the element or open a tag."""
    text = json.dumps(finite(value), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def finite(value: object) -> object:
    """The value without NaN and infinity, which JSON lacks, and without characters that move or hide text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return printable(value, keep="\n")
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return value


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
