"""The registry's OpenAPI document as a judge of its answers.

``House`` holds every answer against it: the status is one that the operation knows, the fields it
promises are there, the body is of a type and of a form that it says. Of a 4xx or 5xx that the
operation does not name, the form.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import re
import urllib.parse
from typing import TYPE_CHECKING, Any

from sampan.api.distribution.routes import PATHS

if TYPE_CHECKING:
    from email.message import Message

    from jsonschema import Draft202012Validator

__all__ = ["METHODS", "document", "faults", "routes", "template"]

METHODS = ("get", "head", "put", "post", "patch", "delete")
_URI = "urn:registry"


@functools.cache
def document() -> dict[str, Any]:
    place = importlib.resources.files("sampan.api.distribution")
    found: dict[str, Any] = json.loads(place.joinpath("openapi.json").read_bytes())
    return found


def template(pattern: str) -> str:
    """A path of the server's table, or of the document, with nothing in its braces."""
    named = re.sub(r"\{[^{}]*\}", "{}", pattern)
    return re.sub(r"\([^()]*\)|\[\^/\]\+", "{}", named).replace("?", "").replace("\\", "")


@functools.cache
def routes() -> dict[str, str]:
    """The document's paths by the table's."""
    known = {template(path): path for path in document()["paths"]}
    return {
        path.pattern.pattern: known[template(path.pattern.pattern)]
        for path in PATHS
        if template(path.pattern.pattern) in known
    }


def _resolved(value: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in value:
        found: Any = document()
        for key in value["$ref"].removeprefix("#/").split("/"):
            found = found[key]
        value = found
    return value


def _operation(method: str, path: str) -> dict[str, Any] | None:
    for one in PATHS:
        if one.pattern.fullmatch(path):
            item = document()["paths"][routes()[one.pattern.pattern]]
            found: dict[str, Any] | None = item.get(method.lower())
            return found
    return None


@functools.cache
def _validator(schema: str) -> Draft202012Validator:
    """``schema`` is JSON, so that it can be a key."""
    from jsonschema import Draft202012Validator
    from referencing import Registry
    from referencing.jsonschema import DRAFT202012

    resource = DRAFT202012.create_resource({"components": document()["components"]})
    registry: Registry[Any] = Registry().with_resource(_URI, resource)
    here = json.loads(schema.replace('"#/', f'"{_URI}#/'))
    return Draft202012Validator(here, registry=registry)


def _wrong(schema: dict[str, Any], value: object, what: str) -> list[str]:
    found = _validator(json.dumps(schema)).iter_errors(value)
    return [f"{what}: {error.json_path}: {error.message[:300]}" for error in found]


def faults(method: str, path: str, status: int, headers: Message, body: bytes) -> list[str]:
    """Where an answer is not what the document says; ``path`` is the request's."""
    path = urllib.parse.unquote(path.partition("?")[0])
    operation = _operation(method, path)
    if operation is None:
        operation = {"responses": {"default": {"$ref": "#/components/responses/Error"}}}
    responses = operation["responses"]
    said = responses.get(str(status)) or (responses.get("default") if status >= 400 else None)
    if said is None:
        return [f"{method} {path}: {status} is not in the document"]
    said = _resolved(said)
    wrong = []
    for name, header in said.get("headers", {}).items():
        there, value = _resolved(header), headers.get(name)
        if value is None:
            wrong += [f"{name} is missing"] if there.get("required") else []
        else:
            wrong += _wrong(there["schema"], value, name)
    kinds = said.get("content", {})
    if method != "HEAD" and (body or kinds):
        wrong += _body(kinds, headers, body)
    return [f"{method} {path} {status}: {one}" for one in wrong]


def _body(kinds: dict[str, Any], headers: Message, body: bytes) -> list[str]:
    media_type = (headers.get("Content-Type") or "").partition(";")[0].strip().lower()
    kind = kinds.get(media_type, kinds.get("*/*"))
    if kind is None:
        return [f'"{media_type}" is not in the document']
    if "schema" not in kind or not (media_type == "application/json" or "+json" in media_type):
        return []
    if headers.get("Content-Encoding") == "gzip":
        return []
    return _wrong(kind["schema"], json.loads(body), "the body")
