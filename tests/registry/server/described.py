"""Requests that schemathesis makes from the registry's description, each operation in turn: such as
it allows, and such as it does not, half of them about things that are there.

Whatever comes: an answer, no 5xx, as the description says (``faults``), nothing of what lies beside
the root; and what ``Fuzzer`` looks at when it is closed.
"""

from __future__ import annotations

import http.client
from typing import TYPE_CHECKING, Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.core.result import Ok

from tests.registry.server.accounts import basic
from tests.registry.server.description import document, faults
from tests.registry.server.fuzz import BLOBS, DIGESTS, KNOWN, SECRET, TAGS, Fuzzer

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Describer", "operations"]

_DEADLINE = 120.0
ACCOUNT = basic("anna", "a:secret")

schemathesis.openapi.media_type("application/octet-stream", st.sampled_from(BLOBS) | st.binary())


def operations() -> Iterator[Any]:
    """Those at the registry's own address."""
    for found in schemathesis.openapi.from_dict(document()).get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()
        if operation.path != "/metrics":
            yield operation


class Describer:
    """Attacks what a ``Fuzzer`` has."""

    def __init__(self, fuzzer: Fuzzer) -> None:
        self._fuzzer = fuzzer
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.headers["User-Agent"] = "schemathesis/4"

    def close(self) -> None:
        self._session.close()

    def _there(self, operation: Any) -> dict[str, list[str]]:
        """Values of parameters that stand for something; an upload of its own for each operation.

        Where one has to log in there is nothing, and everything is asked for all the same.
        """
        found = {"name": KNOWN, "reference": [*TAGS, *DIGESTS], "digest": DIGESTS}
        if "{upload}" in operation.path:
            house = self._fuzzer.house
            answer = house.request("POST", f"/v2/{KNOWN[0]}/blobs/uploads/", Authorization=ACCOUNT)
            assert answer.status == 202, answer
            found["upload"] = [str(answer.headers["Docker-Upload-UUID"])]
            found["name"] = KNOWN[:1]
        return found

    def run(self, operation: Any, examples: int, *, derandomize: bool = True) -> None:
        """Raises AssertionError with the request that shows what is wrong."""
        there = self._there(operation)
        names = [one.name for one in operation.path_parameters]

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=derandomize,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        )
        @given(st.data())
        def check(data: st.DataObject) -> None:
            mode = data.draw(st.sampled_from((GenerationMode.POSITIVE, GenerationMode.NEGATIVE)))
            fixed: dict[str, Any] = {}
            if names and all(name in there for name in names) and data.draw(st.booleans()):
                chosen = {name: data.draw(st.sampled_from(there[name])) for name in names}
                fixed["path_parameters"] = chosen
            case = data.draw(operation.as_strategy(generation_mode=mode, **fixed))
            if data.draw(st.booleans()):
                case.headers = {**(case.headers or {}), "Authorization": ACCOUNT}
            self._one(case)

        check()

    def _one(self, case: Any) -> None:
        house = self._fuzzer.house
        arguments = case.as_transport_kwargs(base_url=f"http://{house.address}")
        arguments |= {"timeout": _DEADLINE, "allow_redirects": False}
        shown = repr({key: value for key, value in arguments.items() if value})[:3000]
        try:
            answer = self._session.request(**arguments)
        except (requests.exceptions.InvalidHeader, requests.exceptions.InvalidURL):
            return  # no client could send it
        except requests.exceptions.RequestException as error:
            raise AssertionError(f"{shown}: {error}") from error
        statuses = self._fuzzer.statuses
        statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
        said = f"{shown}: {answer.status_code}: {answer.content[:500]!r}"
        assert answer.status_code < 500, said
        assert SECRET.encode() not in answer.content, said
        head = http.client.HTTPMessage()
        for name, value in answer.headers.items():
            head[name] = value
        if answer.headers.get("Content-Encoding") == "gzip":
            del head["Content-Encoding"]  # it came unpacked
        method, path = str(arguments["method"]), str(answer.request.path_url)
        wrong = faults(method, path, answer.status_code, head, answer.content)
        assert not wrong, f"{wrong[:3]}: {said}"
