"""Requests made from the API's document, by schemathesis, against a real daemon.

Each operation gets requests that the document allows and requests that it does not. Whatever comes:
no 5xx (but 501 and 503, our refusals by name), an answer's head in time, JSON as the document says,
and a daemon that lives. The daemon is in a network namespace of its own: whatever address a request
makes it ask, nobody is there. Identifiers are a container's, an image's, a volume's or an exec's
that exist in half of the requests; no container is started but those that were made here.
"""

from __future__ import annotations

import io
import tarfile
import time
import urllib.parse
from typing import TYPE_CHECKING, Any

import requests
import schemathesis
from docker.transport import UnixHTTPAdapter
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.core.result import Ok

from tests.compatibility.document import document, faults

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.daemon_fixture import Daemon

__all__ = ["Fuzzer", "operations"]

HEAD_SECONDS = 15.0
"""Until an answer begins; what it may well take longer (a stop's time-out) is bounded."""
_BODY_SECONDS = 2.0
_BODY_BYTES = 4 * 1024 * 1024
_HOST = "http://localhost"
_BASE = f"{_HOST}/v1.51"
_FINE = (501, 503)
# Streams without an end of their own: their answers' heads are looked at.
_ENDLESS = {
    "ContainerAttach", "ContainerAttachWebsocket", "ContainerLogs", "ContainerStats",
    "ContainerWait", "ExecStart", "SystemEvents",
}  # fmt: skip

_SEEDED = {"Container", "Distribution", "Exec", "Image", "Network", "Volume"}

for _kind in ("application/x-tar", "application/octet-stream"):
    schemathesis.openapi.media_type(_kind, st.binary(max_size=2000))


def operations() -> Iterator[Any]:
    """The document's operations."""
    schema = schemathesis.openapi.from_dict(document() or {})
    for found in schema.get_all_operations():
        assert isinstance(found, Ok), found
        yield found.ok()


class Fuzzer:
    """One daemon and what there is in it for requests to hit."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.session = requests.Session()
        self.session.mount(_HOST, UnixHTTPAdapter(f"http+unix://{daemon.socket}", timeout=60))
        self.session.headers["User-Agent"] = "schemathesis/4"
        self.requests = 0
        self.statuses: dict[int, int] = {}

    def close(self) -> None:
        self.session.close()

    # -- what is there -----------------------------------------------------------------------------

    def seed(self) -> dict[str, list[str]]:
        """Identifiers by the document's path parameters and tags; made where they are missing."""
        daemon = self.daemon
        running = ""
        there = set()
        for one in daemon.get("/containers/json", all=1).json():
            name = one["Names"][0]
            if name == "/seed" and one["State"] == "running":
                running = one["Id"]
            elif name != "/made" or one["State"] != "created":
                daemon.delete(f"/containers/{one['Id']}", force=1, v=1)
                continue
            there.add(name)
        if not running:
            running = daemon.run("sleep", "600", name="seed", OpenStdin=True)
        if "/made" not in there:
            daemon.create("true", name="made")
        if daemon.get("/images/seed:1/json").status != 200:
            out = io.BytesIO()
            with tarfile.open(fileobj=out, mode="w") as archive:
                archive.addfile(tarfile.TarInfo("file"), io.BytesIO())
            daemon.request(
                "POST", "/images/create?fromSrc=-&repo=seed&tag=1", out.getvalue(),
                headers={"Content-Type": "application/x-tar"},
            )  # fmt: skip
        daemon.post("/volumes/create", {"Name": "seed"})
        instance = daemon.post(f"/containers/{running}/exec", {"Cmd": ["true"]}).json()["Id"]
        return {
            "Container": [running, "seed", "made"],
            "Exec": [instance],
            "Image": ["seed:1", "host"],
            "Distribution": ["seed:1"],
            "Volume": ["seed"],
            "Network": ["none", "host", "bridge"],
        }

    # -- one operation -----------------------------------------------------------------------------

    def run(self, operation: Any, examples: int, *, derandomize: bool = True) -> None:
        """Raises AssertionError with the request that shows what is wrong."""
        tag = (operation.tags or [""])[0]
        if operation.path.endswith("/exec"):
            tag = "Container"
        names = self.seed().get(tag, []) if tag in _SEEDED else []

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
            if names and "{" in operation.path and data.draw(st.booleans()):
                parameter = operation.path.partition("{")[2].partition("}")[0]
                fixed["path_parameters"] = {parameter: data.draw(st.sampled_from(names))}
            strategy = operation.as_strategy(generation_mode=mode, **fixed)
            self.one(data.draw(strategy), data)

        check()

    def one(self, case: Any, data: st.DataObject) -> None:
        """Send a request, and judge the answer."""
        name = case.operation.definition.raw.get("operationId")
        if name in ("ContainerStop", "ContainerRestart"):
            case.query = {**(case.query or {}), "t": 0}
        if name == "ContainerCreate" and isinstance(case.body, dict) and data.draw(st.booleans()):
            case.body |= {"Image": "host", "Cmd": ["true"], "Entrypoint": None}
        arguments = case.as_transport_kwargs(base_url=_BASE)
        before = time.monotonic()
        try:
            answer = self.session.request(
                **{**arguments, "timeout": HEAD_SECONDS, "stream": True, "allow_redirects": False}
            )
        except requests.exceptions.InvalidHeader:
            return  # no client could send it
        except requests.exceptions.ConnectionError as error:
            if "Remote end closed" in str(error) or "timed out" in str(error):
                raise AssertionError(f"{_shown(arguments)}: {error}") from error
            raise
        with answer:
            self.requests += 1
            self.statuses[answer.status_code] = self.statuses.get(answer.status_code, 0) + 1
            seconds = time.monotonic() - before
            body = b"" if name in _ENDLESS and answer.status_code < 400 else _read(answer)
            self.judge(case, arguments, answer, body, seconds)

    def judge(
        self, case: Any, arguments: dict[str, Any], answer: Any, body: bytes, seconds: float
    ) -> None:
        said = f"{_shown(arguments)}: {answer.status_code} in {seconds:.1f} s: {body[:500]!r}"
        assert answer.status_code < 500 or answer.status_code in _FINE, said
        assert seconds < HEAD_SECONDS, said
        if answer.status_code >= 400 and case.method.upper() != "HEAD":
            assert answer.headers["Content-Type"].startswith("application/json"), said
        if body:
            path = urllib.parse.unquote(urllib.parse.urlsplit(arguments["url"]).path)
            media_type = answer.headers.get("Content-Type", "")
            wrong = faults(case.method.upper(), path, answer.status_code, media_type, body)
            assert not wrong, f"{said}: {wrong[:3]}"


def _read(answer: Any) -> bytes:
    """What comes, of a bounded answer all of it."""
    deadline = time.monotonic() + _BODY_SECONDS
    found = b""
    for part in answer.iter_content(65536):
        found += part
        if len(found) > _BODY_BYTES or time.monotonic() > deadline:
            return b""
    return found


def _shown(arguments: dict[str, Any]) -> str:
    known = {key: value for key, value in arguments.items() if value and key != "cookies"}
    return repr(known)[:3000]
