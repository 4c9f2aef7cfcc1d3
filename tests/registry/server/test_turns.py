"""A turn at an upload that ends in the moment in which it is taken up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sampan.registry.server.backends import Where
from sampan.registry.server.core import Registry
from sampan.registry.server.errors import UploadUnknown
from sampan.registry.server.place import Place


def test_an_upload_that_was_committed_as_it_was_found_keeps_no_descriptor(tmp_path: Path) -> None:
    registry = Registry(Place(Where(str(tmp_path)), serving=True))
    uploads = registry.uploads
    try:
        begun = uploads.begin("app")
        # As if this process had not known it: its row was read just before it went.
        uploads.forget(begun.identifier)
        found = uploads.find("app", begun.identifier)
        uploads.cancel(begun)
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(UploadUnknown):
            uploads.take(found)
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        registry.close()
