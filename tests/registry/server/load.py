"""A load on a registry that keeps account: what was acknowledged must be there whatever dies when.

Each worker has a repository of its own, so it alone decides what its tags stand for; layers are
shared by all, so that deletions and collections meet pushes of the same blobs.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
from typing import Any

from tests.registry.registries import sha256
from tests.registry.server.house import House

__all__ = ["Load", "Worker"]

_SHARED = [bytes([65 + n]) * (2000 * (n + 1)) for n in range(6)]
_TAGS = ("a", "b", "c")
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class Worker:
    """Pushes, moves and deletes until it is told to stop; ``tags`` are what is acknowledged.

    After a failure the tag at hand may be as before or as it was to become: ``either``.
    """

    def __init__(self, house: House, number: int, seed: int) -> None:
        self.house = house
        self.name = f"load/{number}"
        self.random = random.Random(seed * 1000 + number)
        self.stopping = threading.Event()
        self.tags: dict[str, str | None] = dict.fromkeys(_TAGS)
        self.either: dict[str, str | None] = {}
        self.pushed = 0
        self.errors: list[str] = []
        self.thread = threading.Thread(target=self._work, daemon=True)

    def _work(self) -> None:
        try:
            while not self.stopping.is_set():
                tag = self.random.choice(_TAGS)
                if self.tags[tag] is not None and self.random.random() < 0.4:
                    self._delete(tag)
                else:
                    self._push(tag)
        except (OSError, http.client.HTTPException):
            return  # the server was killed
        except AssertionError as error:
            self.errors.append(str(error))

    def _request(self, method: str, path: str, body: bytes = b"", **fields: str) -> tuple[int, Any]:
        answer = self.house.request(method, f"/v2/{self.name}/{path}", body, **fields)
        assert answer.status < 500, answer
        return answer.status, answer

    def _blob(self, data: bytes) -> dict[str, Any]:
        digest = sha256(data)
        if self._request("HEAD", f"blobs/{digest}")[0] != 200:
            status, answer = self._request("POST", "blobs/uploads/")
            assert status == 202, answer
            where = answer.headers["Location"].partition("/blobs/")[2]
            half = len(data) // 2
            assert self._request("PATCH", f"blobs/{where}", data[:half])[0] == 202
            status, answer = self._request("PUT", f"blobs/{where}?digest={digest}", data[half:])
            assert status == 201, answer
        return {"mediaType": "application/x", "digest": digest, "size": len(data)}

    def _push(self, tag: str) -> None:
        layers = [*self.random.sample(_SHARED, 2), self.random.randbytes(500)]
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": self._blob(b"{}"),
                "layers": [self._blob(layer) for layer in layers],
            }
        ).encode()
        self.either = {tag: sha256(manifest)}
        status, answer = self._request("PUT", f"manifests/{tag}", manifest, Content_Type=MANIFEST)
        if status == 404:
            # Its lease was over before we came so far, on a machine that has much to do.
            assert answer.codes == ["MANIFEST_BLOB_UNKNOWN"]
        else:
            assert status == 201, answer
            self.tags[tag] = sha256(manifest)
            self.pushed += 1
        self.either = {}

    def _delete(self, tag: str) -> None:
        self.either = {tag: None}
        assert self._request("DELETE", f"manifests/{self.tags[tag]}")[0] == 202
        self.tags[tag] = None
        self.either = {}

    def verify(self) -> None:
        """Hold the registry against the account, and take what it has where both are right."""
        for tag in _TAGS:
            status, answer = self._request("GET", f"manifests/{tag}")
            found = answer.headers["Docker-Content-Digest"] if status == 200 else None
            allowed = [self.tags[tag], *([self.either[tag]] if tag in self.either else [])]
            assert found in allowed, f"{self.name}:{tag} is {found}, not one of {allowed}"
            self.tags[tag] = found
            if found is None:
                continue
            document = answer.json()
            for one in (document["config"], *document["layers"]):
                status, blob = self._request("GET", f"blobs/{one['digest']}")
                assert status == 200, f"{self.name}:{tag}: {one['digest']}: {blob}"
                assert sha256(blob.body) == one["digest"]
        self.either = {}


class Load:
    """Some workers on one house, which is killed and started again under them."""

    def __init__(self, house: House, workers: int, seed: int) -> None:
        self.house = house
        self.seed = seed
        self.workers = [Worker(house, number, seed) for number in range(workers)]

    def start(self) -> None:
        """Threads anew, with the accounts as they are."""
        self.seed += 1
        fresh = []
        for number, old in enumerate(self.workers):
            worker = Worker(self.house, number, self.seed)
            worker.tags, worker.pushed = old.tags, old.pushed
            worker.thread.start()
            fresh.append(worker)
        self.workers = fresh

    def join(self) -> None:
        started = [worker for worker in self.workers if worker.thread.ident is not None]
        for worker in started:
            worker.stopping.set()
        for worker in started:
            worker.thread.join(120)
            assert not worker.thread.is_alive()
            assert not worker.errors, worker.errors

    @property
    def pushed(self) -> int:
        """What was acknowledged so far. A worker that has found something wrong says so here."""
        for worker in self.workers:
            assert not worker.errors, worker.errors
        return sum(worker.pushed for worker in self.workers)

    def verify(self) -> None:
        for worker in self.workers:
            worker.verify()
