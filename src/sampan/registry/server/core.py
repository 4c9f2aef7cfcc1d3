"""The door to a registry: everything it does, over one place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.registry.server import pulls
from sampan.registry.server.collection import Collector
from sampan.registry.server.links import Links
from sampan.registry.server.manifests import Manifests
from sampan.registry.server.retention import Retention
from sampan.registry.server.uploads import Uploads

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sampan.registry.server.collection import Removed
    from sampan.registry.server.place import Place
    from sampan.registry.server.retention import Outcome

__all__ = ["Registry"]


class Registry:
    """``links`` for blobs, ``uploads``, ``manifests``; lists and search take ``place``."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.links = Links(place)
        self.uploads = Uploads(place, self.links)
        self.manifests = Manifests(place, self.links)

    def tend(self, counted: Mapping[tuple[str, str], int]) -> None:
        """For the server, now and then: with the pulls since the last time."""
        pulls.note(self.place, counted)
        self.place.note_time()
        self.uploads.forget_expired()

    def retain(self) -> list[Outcome]:
        """Remove what the policy's retention lets go; that."""
        removed: list[Outcome] = []
        Retention(self.place, self.place.policy, removed.append).apply()
        return removed

    def collect(self, upload_seconds: float) -> list[Removed]:
        """What was removed; nothing while another server collects."""
        removed: list[Removed] = []
        with self.place.database.alone("collection") as alone:
            if alone:
                Collector(self.place, removed.append, upload_seconds=upload_seconds).run()
        return removed

    def close(self) -> None:
        self.place.close()
