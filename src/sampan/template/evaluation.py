"""Filling a template's nodes from a value (text/template/exec)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sampan.errors import InvalidArgument
from sampan.template.functions import FUNCTIONS
from sampan.template.values import NOTHING, Map, Nothing, Struct, show, truth

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sampan.template.syntax import Node, Operand, Pipeline

__all__ = ["render"]

_MISSING = object()


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


def render(
    nodes: list[Node], data: Any, functions: Mapping[str, Callable[..., Any]] | None = None
) -> str:
    """The template filled from ``data``; ``functions`` stand before the usual ones.

    Raises InvalidArgument for a field, function or argument that does not fit.
    """
    filler = _Filler(data, {**FUNCTIONS, **(functions or {})})
    filler.walk(nodes, data)
    return "".join(filler.out)


class _Filler:
    def __init__(self, data: Any, functions: dict[str, Callable[..., Any]]) -> None:
        self.out: list[str] = []
        self._functions = functions
        self._scopes: list[dict[str, Any]] = [{"$": data}]

    def walk(self, nodes: list[Node], dot: Any) -> None:
        for node in nodes:
            kind = node[0]
            if kind == "text":
                self.out.append(node[1])
            elif kind == "value":
                value = self._pipeline(node[1], dot)
                if not node[1][0]:  # a declaration prints nothing
                    self.out.append(show(value))
            elif kind == "range":
                self._range(node, dot)
            elif kind == "break":
                raise _Break
            elif kind == "continue":
                raise _Continue
            else:
                self._scopes.append({})
                value = self._pipeline(node[1], dot)
                inner = value if kind == "with" and truth(value) else dot
                self.walk(node[2] if truth(value) else node[3], inner)
                self._scopes.pop()

    def _range(self, node: Node, dot: Any) -> None:
        names, assigns, commands = node[1]
        value = self._pipeline(([], False, commands), dot)
        depth = len(self._scopes)
        pairs = _pairs(value)
        if not pairs:
            self._scopes.append({})
            self.walk(node[3], dot)
            self._scopes.pop()
            return
        for key, item in pairs:
            self._scopes.append({})
            self._set(names, assigns, (key, item) if len(names) > 1 else (item,))
            try:
                self.walk(node[2], item)
            except _Continue:
                pass
            except _Break:
                break
            finally:
                del self._scopes[depth:]

    def _pipeline(self, pipeline: Pipeline, dot: Any) -> Any:
        names, assigns, commands = pipeline
        value: Any = _MISSING
        for command in commands:
            value = self._command(command, dot, value)
        self._set(names, assigns, (value,))
        return value

    def _set(self, names: list[str], assigns: bool, values: tuple[Any, ...]) -> None:
        for name, value in zip(names, values, strict=False):
            scope = self._scopes[-1]
            if assigns:
                found = [scope for scope in reversed(self._scopes) if name in scope]
                if not found:
                    raise InvalidArgument(f"template: undefined variable {name}")
                scope = found[0]
            scope[name] = value

    def _command(self, command: list[Operand], dot: Any, piped: Any) -> Any:
        head, *rest = command
        if head[0] == "function" and head[1] in ("and", "or"):
            return self._decide(head[1] == "and", rest, dot, piped)
        value: Any = None if head[0] == "function" else self._operand(head, dot)
        takes = head[0] == "function" or callable(value)
        arguments = [self._operand(operand, dot) for operand in rest]
        if piped is not _MISSING:
            arguments.append(piped)
        if not takes:
            if arguments:
                raise InvalidArgument(
                    f"template: can't give argument to non-function {_name(head)}"
                )
            return value
        if head[0] == "function":
            if head[1] not in self._functions:
                raise InvalidArgument(f'template: function "{head[1]}" not defined')
            value = self._functions[head[1]]
        return _call(_name(head), value, arguments)

    def _decide(self, stops_at_false: bool, rest: list[Operand], dot: Any, piped: Any) -> Any:
        value: Any = _MISSING
        for operand in rest:
            value = self._operand(operand, dot)
            if truth(value) != stops_at_false:
                return value
        if piped is not _MISSING:
            return piped
        if value is _MISSING:
            raise InvalidArgument("template: and, or: an argument is missing")
        return value

    def _operand(self, operand: Operand, dot: Any) -> Any:
        kind = operand[0]
        if kind == "literal":
            return operand[1]
        if kind == "dot":
            return dot
        if kind == "field":
            return _fields(dot, operand[1], _name(operand))
        if kind == "variable":
            for scope in reversed(self._scopes):
                if operand[1] in scope:
                    return _fields(scope[operand[1]], operand[2], _name(operand))
            raise InvalidArgument(f"template: undefined variable {operand[1]}")
        if kind == "chain":
            return _fields(self._pipeline(operand[1], dot), operand[2], _name(operand))
        return self._command([operand], dot, _MISSING)


def _call(name: str, function: Callable[..., Any], arguments: list[Any]) -> Any:
    try:
        return function(*arguments)
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise InvalidArgument(f"template: error calling {name}: {error}") from error


def _name(operand: Operand) -> str:
    if operand[0] == "function":
        return str(operand[1])
    if operand[0] == "variable":
        return ".".join((operand[1], *operand[2]))
    return "." + ".".join(operand[-1]) if operand[0] in ("field", "chain") else "the operand"


def _member(value: dict[str, Any], name: str, shown: str) -> Any:
    if isinstance(value, Struct) and name not in value:
        name = value.aliases.get(name, name)
        if name not in value and name in value.optional:
            return value.optional[name]
    if name not in value:
        raise InvalidArgument(f"template: at <{shown}>: can't evaluate field {name}")
    return value[name]


def _pairs(value: Any) -> list[tuple[Any, Any]]:
    if value is None or isinstance(value, Nothing):
        return []
    if isinstance(value, dict):
        return sorted(value.items())
    if isinstance(value, list):
        return list(enumerate(value))
    if isinstance(value, int) and not isinstance(value, bool):
        return [(number, number) for number in range(value)]
    raise InvalidArgument(f"template: range can't iterate over {show(value)}")


def _fields(value: Any, names: tuple[str, ...], shown: str) -> Any:
    for name in names:
        if callable(value):
            value = _call(shown, value, [])
        if isinstance(value, Map):
            value = value.get(name, NOTHING)
        elif isinstance(value, dict):
            value = _member(value, name, shown)
        elif isinstance(value, Nothing):
            raise InvalidArgument(f"template: at <{shown}>: nil data; no entry for {name}")
        elif value is None:
            raise InvalidArgument(f"template: at <{shown}>: nil pointer evaluating {name}")
        else:
            raise InvalidArgument(
                f"template: at <{shown}>: can't evaluate field {name} in {show(value)[:40]!r}"
            )
    return value
