"""``python -m tests.compatibility``: write the pages from what the last runs recorded."""

from __future__ import annotations

from tests.compatibility import page, registry

records = page.load()
for path, text in ((page.PAGE, page.render(records)), (registry.PAGE, registry.render(records))):
    path.write_text(text, encoding="utf-8")
    print(f"wrote {path}")
