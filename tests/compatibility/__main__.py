"""``python -m tests.compatibility``: write the page from what the last runs recorded."""

from __future__ import annotations

from tests.compatibility.page import PAGE, load, render

PAGE.write_text(render(load()), encoding="utf-8")
print(f"wrote {PAGE}")
