"""The part of Go's text/template that ``--format`` and a log's ``tag`` are written in.

``{{.Field.Sub}}``, ``{{json .X}}``, ``{{index .X "key"}}``, pipes, ``{{range .X}}…{{end}}`` (also
``range $k, $v := .X``), ``{{if …}}…{{else}}…{{end}}``, ``eq ne and or not len join lower upper
title split println``. Anything else is refused by name.
"""

from __future__ import annotations

import json
import re
from typing import Any

from sampan.errors import InvalidArgument

__all__ = ["parse", "render", "unescape"]

Node = tuple[Any, ...]
_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|`[^`]*`|\(|\)|\||[^\s()|]+')


def unescape(text: str) -> str:
    r"""Turn ``\t`` and ``\n`` written in a shell word into the characters."""
    return text.replace("\\t", "\t").replace("\\n", "\n")


def parse(text: str) -> list[Node]:
    """A template as nodes; raises InvalidArgument where it is malformed."""
    parts = re.split(r"(\{\{-?\s*.*?\s*-?\}\})", text, flags=re.DOTALL)
    position = 0

    def block(closers: tuple[str, ...]) -> tuple[list[Node], str]:
        nonlocal position
        nodes: list[Node] = []
        while position < len(parts):
            part = parts[position]
            position += 1
            if not part.startswith("{{"):
                if part:
                    nodes.append(("text", part))
                continue
            action = part[2:-2].strip("- \t\n")
            word = action.split(None, 1)[0] if action else ""
            if word in closers:
                return nodes, word
            if word in ("if", "range", "with"):
                body, closer = block(("else", "end"))
                other: list[Node] = []
                if closer == "else":
                    other, _ = block(("end",))
                nodes.append((word, action[len(word) :].strip(), body, other))
            elif word in ("else", "end"):
                raise InvalidArgument(f"template: unexpected {{{{{word}}}}}")
            elif not action.startswith("/*"):
                nodes.append(("value", _expression(action)))
        if closers:
            raise InvalidArgument(f"template: {text!r}: {{{{end}}}} is missing")
        return nodes, ""

    return block(())[0]


def render(nodes: list[Node], data: Any, scope: dict[str, Any] | None = None) -> str:
    """The template filled from decoded JSON."""
    scope = {"$": data} if scope is None else scope
    out: list[str] = []
    for node in nodes:
        kind = node[0]
        if kind == "text":
            out.append(node[1])
        elif kind == "value":
            out.append(_show(_evaluate(node[1], data, scope)))
        elif kind == "range":
            out.append(_loop(node, data, scope))
        else:
            value = _evaluate(_expression(node[1]), data, scope)
            inner = value if kind == "with" and value else data
            out.append(render(node[2] if value else node[3], inner, scope))
    return "".join(out)


def _loop(node: Node, data: Any, scope: dict[str, Any]) -> str:
    head, assigned, source = node[1].partition(":=")
    names = [name.strip() for name in head.split(",")] if assigned else []
    value = _evaluate(_expression(source if assigned else head), data, scope)
    pairs = list(value.items()) if isinstance(value, dict) else list(enumerate(value or []))
    if not pairs:
        return render(node[3], data, scope)
    out = []
    for key, item in pairs:
        bound = dict(zip(names, (key, item) if len(names) > 1 else (item,), strict=False))
        out.append(render(node[2], item, {**scope, **bound}))
    return "".join(out)


def _expression(text: str) -> Node:
    tokens = [(match.group(), match.start()) for match in _TOKEN.finditer(text)]
    position = 0

    def pipeline() -> Node:
        nonlocal position
        calls: list[list[Node | str]] = [[]]
        while position < len(tokens) and tokens[position][0] != ")":
            token, _ = tokens[position]
            position += 1
            if token == "|":
                calls.append([])
            elif token == "(":
                inner = pipeline()
                if position >= len(tokens):
                    raise InvalidArgument(f"template: {text!r}: a closing parenthesis is missing")
                after = tokens[position][1] + 1
                position += 1
                # `(index .X 0).Field`: a field that follows at once belongs to the parentheses
                if position < len(tokens) and tokens[position][1] == after:
                    inner = ("field", inner, tokens[position][0])
                    position += 1
                calls[-1].append(inner)
            else:
                calls[-1].append(token)
        return ("pipe", calls)

    return pipeline()


def _evaluate(node: Node, data: Any, scope: dict[str, Any]) -> Any:
    if node[0] == "field":
        return _fields(_evaluate(node[1], data, scope), node[2])
    value: Any = None
    for number, call in enumerate(node[1]):
        piped = [value] if number else []
        if not call:
            raise InvalidArgument("template: an empty command")
        head, *rest = call
        arguments = [_operand(item, data, scope) for item in rest] + piped
        if isinstance(head, str) and head in _FUNCTIONS:
            try:
                value = _FUNCTIONS[head](*arguments)
            except (TypeError, KeyError, IndexError) as error:
                raise InvalidArgument(f"template: {head}: {error}") from error
        elif arguments:
            raise InvalidArgument(f"template: {head} is not a function we know")
        else:
            value = _operand(head, data, scope)
    return value


def _operand(item: Node | str, data: Any, scope: dict[str, Any]) -> Any:
    if not isinstance(item, str):
        return _evaluate(item, data, scope)
    if item[0] in '"`':
        return json.loads(item) if item[0] == '"' else item[1:-1]
    if item.lstrip("-").isdigit():
        return int(item)
    if item in ("true", "false", "nil"):
        return {"true": True, "false": False, "nil": None}[item]
    name, _, path = item.partition(".")
    if name.startswith("$"):
        return _fields(scope.get(name, data), "." + path)
    if name:
        raise InvalidArgument(f"template: function {name} is not one we know")
    top = path.partition(".")[0]
    if top and not (isinstance(data, dict) and top in data):
        raise InvalidArgument(f"template: <{item}>: no field {top}")
    return _fields(data, item)


def _fields(value: Any, path: str) -> Any:
    """Follow ``.A.B``; below the first level what is absent is nil, as in a Go map."""
    for field in filter(None, path.split(".")):
        value = value.get(field) if isinstance(value, dict) else None
    return value


def _show(value: Any) -> str:
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + " ".join(map(_show, value)) + "]"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{k}:{_show(v)}" for k, v in sorted(value.items())) + "]"
    return str(value)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        value = value.get(key, "") if isinstance(value, dict) else value[key]
    return value


_FUNCTIONS: dict[str, Any] = {
    "and": lambda *v: next((x for x in v if not x), v[-1]),
    "eq": lambda a, *b: any(a == x for x in b),
    "index": _index,
    "join": lambda items, glue: glue.join(map(_show, items or [])),
    "json": lambda v: json.dumps(v, separators=(",", ":")),
    "len": lambda v: len(v or ()),
    "lower": lambda v: _show(v).lower(),
    "ne": lambda a, b: a != b,
    "not": lambda v: not v,
    "or": lambda *v: next((x for x in v if x), v[-1]),
    "println": lambda *v: " ".join(map(_show, v)) + "\n",
    "split": lambda text, by: text.split(by),
    "title": lambda v: _show(v).title(),
    "upper": lambda v: _show(v).upper(),
}
