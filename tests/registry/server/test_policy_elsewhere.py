"""The policy where rows are in PostgreSQL and blobs in a bucket: the same SQL, another database."""

from __future__ import annotations

from pathlib import Path

from sampan.registry.server.backends import Where
from sampan.registry.server.checking import check
from sampan.registry.server.place import Place
from sampan.registry.server.policy.policy import read_policy
from sampan.registry.server.retention import Outcome, Retention
from tests.registry.registries import sha256
from tests.registry.server.buckets import Bucket
from tests.registry.server.clusters import Cluster
from tests.registry.server.house import House


def test_quotas_immutable_tags_and_retention(
    root: Path, tmp_path: Path, cluster: Cluster, bucket: Bucket
) -> None:
    path = tmp_path / "policy"
    path.write_text(
        '[[quota]]\nrepositories = ["pg/*"]\nsize = "10KB"\n'
        '[[immutable]]\nrepositories = ["pg/fixed"]\n'
        '[[retention]]\nrepositories = ["pg/*"]\nkeep-last = 1\nuntagged = "1d"\n'
    )
    house = House(root, "--policy", str(path))
    where = Where(str(root), bucket.address("policy"), cluster.make())
    house.where += ("--database", where.database, "--storage", where.storage)
    house.start()
    try:
        house.push("pg/box", "a", b"a" * 3000)
        house.push("pg/box", "b", b"b" * 3000)
        upload = house.begin("pg/box")
        assert house.request("PATCH", upload, b"c" * 5000).codes == ["DENIED"]
        house.push("free/box", "a", b"m" * 9000)
        mount = f"?mount={sha256(b'm' * 9000)}&from=free/box"
        assert house.request("POST", f"/v2/pg/box/blobs/uploads/{mount}").codes == ["DENIED"]
        house.push("pg/fixed", "v", b"1")
        assert house.put_manifest("pg/fixed", "v", house.image("pg/fixed", b"2")).status == 403
        place = Place(where, serving=False)
        try:
            gone: list[Outcome] = []
            Retention(place, read_policy(str(path)), gone.append).apply()
            assert [(one.repository, one.tag) for one in gone] == [("pg/box", "a"), ("pg/box", "")]
            assert list(check(place)) == []
        finally:
            place.close()
    finally:
        house.close()
