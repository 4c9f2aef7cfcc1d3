"""The Engine API's own document as a judge of answers: swagger 2.0, read as JSON Schema (draft 4).

The document (v1.51) is not ours and not in this repository: it is looked for as
``shared/specs/docker-api/v1.51.yaml`` beside the work tree or above it, and where it is not found
nothing is judged. Swagger's ``x-nullable`` becomes a null that is allowed; a ``$ref`` stands alone.
An optional property may be null too: dockerd writes its absent lists, maps and pointers so, which
the document does not say.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.compatibility.tables import operation_of

# Imported where the document is at hand only: the machine of the v2 lane has none of these.
if TYPE_CHECKING:
    from jsonschema import Draft4Validator
    from referencing import Registry

__all__ = ["document", "faults"]

_URI = "urn:engine-api"
_RELATIVE = Path("shared/specs/docker-api/v1.51.yaml")


@functools.cache
def document() -> dict[str, Any] | None:
    """The document as it is written; None where there is none."""
    for parent in Path(__file__).resolve().parents:
        path = parent / _RELATIVE
        if path.is_file():
            import yaml

            with path.open(encoding="utf-8") as file:
                loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
                found: dict[str, Any] = yaml.load(file, loader)
                return found
    return None


def _converted(value: Any) -> Any:
    if isinstance(value, list):
        return [_converted(item) for item in value]
    if not isinstance(value, dict):
        return value
    if isinstance(value.get("$ref"), str):
        found: dict[str, Any] = {"$ref": value["$ref"].replace("#", f"{_URI}#", 1)}
    else:
        found = {key: _converted(item) for key, item in value.items() if key != "example"}
        if isinstance(value.get("properties"), dict):
            required = value.get("required", ())
            for name in found["properties"].keys() - set(required):
                found["properties"][name] = _or_null(found["properties"][name])
    if value.get("x-nullable") is True:
        return _or_null(found)
    return found


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


@functools.cache
def _registry() -> Registry[Any]:
    from referencing import Registry
    from referencing.jsonschema import DRAFT4

    swagger = document() or {}
    definitions = _converted({"definitions": swagger.get("definitions", {})})
    resource = DRAFT4.create_resource(definitions)
    registry: Registry[Any] = Registry().with_resource(_URI, resource)
    return registry


@functools.cache
def _responses(method: str, path: str) -> dict[int, Any]:
    swagger = document() or {"paths": {}}
    item = swagger["paths"].get(path)
    if item is None:  # the document names some parameters otherwise than the table
        item = swagger["paths"].get(path.replace("{id}", "{name}"), {})
    operation = item.get(method.lower(), {})
    return {int(status): value for status, value in operation.get("responses", {}).items()}


@functools.cache
def _validator(method: str, path: str, status: int) -> Draft4Validator | None:
    from jsonschema import Draft4Validator

    response = _responses(method, path).get(status)
    schema = None if response is None else response.get("schema")
    if response is None and status >= 400:
        schema = {"$ref": "#/definitions/ErrorResponse"}
    if schema is None or schema.get("type") in ("file", "string"):
        return None
    return Draft4Validator(_converted(schema), registry=_registry())


def _values(body: bytes) -> list[Any]:
    """The answer's JSON, or each line's where it is a stream of them."""
    try:
        return [json.loads(body)]
    except ValueError:
        return [json.loads(line) for line in body.splitlines() if line.strip()]


def faults(method: str, path: str, status: int, media_type: str, body: bytes) -> list[str]:
    """Where an answer is not what the document says; ``path`` is the request's, decoded."""
    if document() is None or method == "HEAD" or not media_type.startswith("application/json"):
        return []
    if path.startswith("/v1.") and not path.startswith("/v1.51/"):
        return []
    operation = operation_of(method, path)
    if operation is None or not body:
        return []
    validator = _validator(method, operation.path, status)
    if validator is None:
        return []
    return [
        f"{operation.name} {status}: {error.json_path}: {error.message}"
        for value in _values(body)
        for error in validator.iter_errors(value)
    ]
