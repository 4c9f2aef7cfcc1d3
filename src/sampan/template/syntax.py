"""A template's text as nodes (text/template/parse).

A list of nodes, each a tuple by its first word:

    ("text", text)                     ("if" | "with", pipeline, body, otherwise)
    ("value", pipeline)                ("range", pipeline, body, otherwise)
    ("break",)  ("continue",)

A pipeline is ``(variables, assigns, commands)``: the names it sets, whether they exist already,
and a list of commands, each a list of operands:

    ("field", (names…))      ("variable", name, (names…))   ("chain", pipeline, (names…))
    ("function", name)       ("literal", value)             ("dot",)
"""

from __future__ import annotations

import json
import re
from typing import Any

from sampan.errors import InvalidArgument

__all__ = ["Node", "Operand", "Pipeline", "parse"]

Operand = tuple[Any, ...]
Pipeline = tuple[list[str], bool, list[list[Operand]]]
Node = tuple[Any, ...]

_TOKEN = re.compile(
    r"""
      (?P<space>\s+)
    | (?P<string>"(?:\\.|[^"\\\n])*")
    | (?P<raw>`[^`]*`)
    | (?P<character>'(?:\\.|[^'\\])')
    | (?P<number>[+-]?(?:0[xX][0-9a-fA-F]+|[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?))
    | (?P<field>(?:\.[A-Za-z_]\w*)+)
    | (?P<variable>\$\w*(?:\.[A-Za-z_]\w*)*)
    | (?P<word>[A-Za-z_]\w*)
    | (?P<sign>:=|[=|(),.])
    """,
    re.VERBOSE,
)
_REFUSED = ("define", "template", "block")


class _Action:
    """One ``{{…}}``: its tokens as (kind, text, whether space came before)."""

    def __init__(self, tokens: list[tuple[str, str, bool]], line: int) -> None:
        self.tokens = tokens
        self.line = line
        self.place = 0

    def peek(self) -> tuple[str, str, bool]:
        return self.tokens[self.place] if self.place < len(self.tokens) else ("end", "", True)

    def next(self) -> tuple[str, str, bool]:
        token = self.peek()
        self.place += 1
        return token

    def take(self, text: str) -> bool:
        if self.peek()[1] == text and self.peek()[0] in ("sign", "word"):
            self.place += 1
            return True
        return False

    def wrong(self, what: str) -> InvalidArgument:
        return InvalidArgument(f"template: :{self.line}: {what}")


def parse(text: str) -> list[Node]:
    """A template as nodes; raises InvalidArgument where it is malformed."""
    parts = _split(text)
    position = 0

    def block(opener: str) -> tuple[list[Node], _Action | None]:
        """Nodes up to the ``end`` or ``else`` that closes ``opener``."""
        nonlocal position
        nodes: list[Node] = []
        while position < len(parts):
            part = parts[position]
            position += 1
            if isinstance(part, str):
                if part:
                    nodes.append(("text", part))
                continue
            kind, word, _ = part.peek()
            if kind == "word" and word in ("end", "else"):
                if not opener:
                    raise part.wrong(f"unexpected {{{{{word}}}}}")
                return nodes, part
            nodes.append(action(part, opener))
        if opener:
            raise InvalidArgument(f"template: unexpected EOF: {opener} has no {{{{end}}}}")
        return nodes, None

    def action(part: _Action, opener: str) -> Node:
        kind, word, _ = part.peek()
        if kind == "word" and word in ("if", "range", "with"):
            part.next()
            return control(part, word, opener)
        if kind == "word" and word in ("break", "continue"):
            part.next()
            if "range" not in opener:
                raise part.wrong(f"{{{{{word}}}}} outside {{{{range}}}}")
            finished(part)
            return (word,)
        if kind == "word" and word in _REFUSED:
            raise part.wrong(f"{word} is not supported")
        pipeline = _pipeline(part)
        finished(part)
        return ("value", pipeline)

    def control(part: _Action, word: str, opener: str) -> Node:
        pipeline = _pipeline(part)
        finished(part)
        within = f"{opener} {word}".strip()
        body, closer = block(within)
        otherwise: list[Node] = []
        assert closer is not None
        if closer.take("else"):
            kind, also, _ = closer.peek()
            if kind == "word" and also in ("if", "with") and word != "range":
                closer.next()
                return (word, pipeline, body, [control(closer, also, opener)])
            finished(closer)
            otherwise, closer = block(within)
            assert closer is not None
            if not closer.take("end"):
                raise closer.wrong("expected {{end}}, found {{else}}")
        else:
            closer.take("end")
        finished(closer)
        return (word, pipeline, body, otherwise)

    def finished(part: _Action) -> None:
        if part.place < len(part.tokens):
            raise part.wrong(f"unexpected {part.peek()[1]!r}")

    return block("")[0]


def _split(text: str) -> list[str | _Action]:
    """Texts and actions in turn, trimmed where the marks say so, without comments."""
    parts: list[str | _Action] = []
    position = 0
    trim = False
    while True:
        begin = text.find("{{", position)
        plain = text[position:] if begin < 0 else text[position:begin]
        if trim:
            plain = plain.lstrip(" \t\r\n")
        if begin < 0:
            parts.append(plain)
            return parts
        line = text.count("\n", 0, begin) + 1
        position = begin + 2
        if re.match(r"-\s", text[position:]):
            plain = plain.rstrip(" \t\r\n")
            position += 1
        parts.append(plain)
        comment = re.compile(r"\s*/\*.*?\*/(\s-)?\}\}", re.DOTALL).match(text, position)
        if comment:
            position, trim = comment.end(), comment[1] is not None
            continue
        tokens, position, trim = _tokens(text, position, line)
        action = _Action(tokens, line)
        if not tokens:
            raise action.wrong("missing value for command")
        parts.append(action)


def _tokens(text: str, position: int, line: int) -> tuple[list[tuple[str, str, bool]], int, bool]:
    tokens: list[tuple[str, str, bool]] = []
    spaced = True
    while True:
        if text.startswith("}}", position):
            return tokens, position + 2, False
        if spaced and text.startswith("-}}", position):
            return tokens, position + 3, True
        match = _TOKEN.match(text, position)
        if match is None:
            if position >= len(text):
                raise InvalidArgument(f"template: :{line}: unclosed action")
            if text[position] in "\"`'":
                raise InvalidArgument(f"template: :{line}: unterminated quoted string")
            raise InvalidArgument(f"template: :{line}: unexpected {text[position]!r} in command")
        kind = match.lastgroup or ""
        position = match.end()
        if kind != "space":
            tokens.append((kind, match.group(), spaced))
        spaced = kind == "space"


def _pipeline(part: _Action) -> Pipeline:
    names: list[str] = []
    assigns = False
    if part.peek()[0] == "variable":
        names, assigns = _declared(part)
    commands = [_command(part)]
    while part.take("|"):
        commands.append(_command(part))
    return names, assigns, commands


def _declared(part: _Action) -> tuple[list[str], bool]:
    """``$x :=``, ``$i, $x :=`` or ``$x =``; nothing is taken where none of them follows."""
    begin = part.place
    names = [part.next()[1]]
    if part.take(","):
        kind, name, _ = part.next()
        if kind != "variable":
            raise part.wrong(f"unexpected {name!r} after the comma")
        names.append(name)
    for sign in (":=", "="):
        if part.take(sign):
            return names, sign == "="
    part.place = begin
    return [], False


def _command(part: _Action) -> list[Operand]:
    operands: list[Operand] = []
    while True:
        kind, text, _ = part.peek()
        if kind == "end" or text in ("|", ")"):
            break
        operands.append(_operand(part))
    if not operands:
        raise part.wrong("missing value for command")
    return operands


def _operand(part: _Action) -> Operand:
    kind, text, _ = part.next()
    if kind == "sign" and text == "(":
        inner = _pipeline(part)
        if not part.take(")"):
            raise part.wrong("unclosed left paren")
        return ("chain", inner, _attached(part))
    if kind == "sign" and text == ".":
        return ("dot",)
    if kind == "field":
        return ("field", tuple(text[1:].split(".")))
    if kind == "variable":
        name, *fields = text.split(".")
        return ("variable", name, tuple(fields))
    if kind == "word":
        if text in ("true", "false", "nil"):
            return ("literal", {"true": True, "false": False, "nil": None}[text])
        return ("function", text)
    if kind in ("string", "raw", "number", "character"):
        return ("literal", _literal(part, kind, text))
    raise part.wrong(f"unexpected {text!r} in operand")


def _attached(part: _Action) -> tuple[str, ...]:
    """``.Field`` right behind a closing parenthesis."""
    kind, text, spaced = part.peek()
    if kind == "field" and not spaced:
        part.next()
        return tuple(text[1:].split("."))
    return ()


def _literal(part: _Action, kind: str, text: str) -> object:
    if kind == "raw":
        return text[1:-1]
    if kind == "number":
        try:
            return int(text, 0)
        except ValueError:
            return float(text)
    body = text[1:-1] if kind == "string" else text[1:-1].replace('"', '\\"')
    try:
        decoded = str(json.loads(f'"{_json_escapes(body)}"'))
    except ValueError:
        raise part.wrong(f"malformed {kind} constant: {text}") from None
    return decoded if kind == "string" else ord(decoded)


def _json_escapes(body: str) -> str:
    """Go's escapes that JSON lacks."""

    def one(match: re.Match[str]) -> str:
        code = match[0][1:]
        if code in ("a", "v", "'"):
            return {"a": "\\u0007", "v": "\\u000b", "'": "'"}[code]
        if code[0] == "x":
            return f"\\u00{code[1:]}"
        if code[0] == "U":
            return json.dumps(chr(int(code[1:], 16)))[1:-1]
        return f"\\u{int(code, 8):04x}" if code[0].isdigit() else match[0]

    body = re.sub(r"\\(?:x[0-9a-fA-F]{2}|U[0-9a-fA-F]{8}|[0-7]{3}|.)", one, body)
    return body.replace("\t", "\\t")
