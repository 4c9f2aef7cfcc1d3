"""Go's text/template, as far as ``--format`` and log tags use it (pkg.go.dev/text/template).

Actions with trim marks, comments, fields, variables, pipelines, parentheses, ``if``, ``range``,
``with``, ``else``, ``break``, ``continue``, the built-in functions and Docker's own. ``define``,
``template`` and ``block`` are refused by name. ``parse`` once, ``render`` for each value.
"""

from __future__ import annotations

from sampan.template.evaluation import render
from sampan.template.syntax import parse
from sampan.template.values import NOTHING, Map, Struct, show, to_json

__all__ = ["NOTHING", "Map", "Struct", "parse", "render", "show", "to_json", "unescape"]


def unescape(text: str) -> str:
    r"""Turn ``\t`` and ``\n`` written in a shell word into the characters."""
    return text.replace("\\t", "\t").replace("\\n", "\n")
