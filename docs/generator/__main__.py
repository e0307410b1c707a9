"""``python -m docs.generator``: rewrites the pages whose generated parts are not current."""

from __future__ import annotations

from docs.generator import DOCS, pages, redrawn

for page in pages():
    text = page.read_text()
    drawn = redrawn(text)
    if drawn != text:
        page.write_text(drawn)
        print(page.relative_to(DOCS.parent))
