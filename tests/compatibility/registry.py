"""Which client did what at our registry, as the registry's access log saw it: the same records as
those of the daemon's operations, and ``docs/registry-clients.md`` written from them.

Nobody's word is taken for it: a client has pushed when the registry has stored a manifest that the
client sent by its own name (User-Agent). What a test has to do for a client that cannot do it goes
by the name of ``<client> by hand``.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from pathlib import Path

from tests.compatibility.page import Records, line, named
from tests.compatibility.record import Watched, recorder, unquoted

__all__ = ["BY_HAND", "PAGE", "Visits", "render"]

PAGE = Path(__file__).parents[2] / "docs" / "registry-clients.md"
BY_HAND = " by hand"

_LINE = re.compile(
    rb"msg=request client=\S+ user=\S+ method=(\w+) path=(\"(?:[^\"\\]|\\.)*\"|\S+) "
    rb"status=(\d+) ms=\S+ agent=(\"(?:[^\"\\]|\\.)*\"|\S*)"
)
_STEPS = (
    ("push", "PUT", r"/v2/.+/manifests/[^/]+", (201,)),
    ("mount", "POST", r"/v2/.+/blobs/uploads/", (201,)),
    ("list", "GET", r"/v2/.+/tags/list", (200,)),
    ("pull", "GET", r"/v2/.+/blobs/[^/]+", (200, 206)),
    ("delete", "DELETE", r"/v2/.+/(?:manifests|blobs)/[^/]+", (202,)),
    ("search", "GET", r"/v1/search|/v2/_catalog", (200,)),
    ("token", "(?:GET|POST)", r"/token", (200,)),
)
_CLIENTS = (
    ("docker/20.", "docker 20.10's daemon"),
    ("skopeo/", "skopeo"),
    ("containers/", "podman"),
    ("Buildah/", "buildah"),
    ("oras-py/", "ORAS's Python SDK"),
    ("Sampan/", "our own"),
)
_AGENT = re.compile(r"([^/ ]+)/([0-9][0-9A-Za-z.]*)")
_HEAD = """\
# The registry's clients

Written by `make compatibility` from what our registry's access log said while the tests ran; not by
hand. A step counts when the client itself, by the name it gives, was answered as the step should
be: *push*, a manifest stored; *mount*, a blob taken from another repository (or sent whole in one
request); *list*, tags listed; *pull*, blobs sent; *token*, a token given for a password or to
nobody. What a client has no way to do, a test did for it: *by hand*.
"""


def step_of(method: str, path: str, status: int) -> str:
    """What a request was; nothing where it was none of the steps, or was refused."""
    for name, methods, pattern, statuses in _STEPS:
        if status in statuses and re.fullmatch(methods, method) and re.fullmatch(pattern, path):
            return name
    return ""


def client_of(agent: str) -> tuple[str, str]:
    """Name, and what it calls itself; ``("", "")`` for programs that are not in the table."""
    if agent.endswith(BY_HAND):
        return agent.removesuffix(BY_HAND), BY_HAND.strip()
    name = next((name for start, name in _CLIENTS if agent.startswith(start)), "")
    match = _AGENT.match(agent)
    return (name, f"{match[1]} {match[2]}" if match else "") if name else ("", "")


class Visits(Watched):
    """A registry's access log; ``seen`` are the steps of each client since the registry began."""

    def __init__(self, log: Path) -> None:
        super().__init__(f"registry {log}", log)
        self.seen: dict[str, set[str]] = defaultdict(set)

    def _note(self, data: bytes) -> None:
        for method, path, status, agent in _LINE.findall(data):
            client, version = client_of(unquoted(agent))
            step = step_of(method.decode(), unquoted(path), int(status))
            if client and step:
                self.seen[client].add(step)
                recorder.add("registry", step, client, version)

    def of(self, client: str) -> set[str]:
        """The steps of one client so far."""
        self.collect()
        return self.seen[client]


def render(records: Records) -> str:
    """The page's text."""
    steps: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    tests: dict[str, set[str]] = defaultdict(set)
    for test, found in records.items():
        for kind, step, client, versions in found:
            if kind == "registry":
                steps[client][step].update(versions)
                tests[client].add(test)
    names = [name for name, *_ in _STEPS]
    lines = [_HEAD, line("client", "calls itself", *names, "checked by"), line(*["---"] * 10)]
    for _, client in _CLIENTS:
        if client not in steps:
            continue
        done = steps[client]
        versions = sorted(set().union(*done.values()) - {BY_HAND.strip()})
        cells = [
            "" if not done[name] else "by hand" if done[name] == {BY_HAND.strip()} else "yes"
            for name in names
        ]
        lines.append(line(client, ", ".join(versions), *cells, named(tests[client], Counter())))
    return "\n".join(lines) + "\n"
