"""A bucket of S3-compatible storage: what is asked of it, and what its failures are called.

botocore makes, signs, sends and repeats the requests; docs/decisions/0027. It is loaded with the
first bucket. Objects are named below the prefix of the address.
"""

from __future__ import annotations

import base64
import contextlib
import re
import urllib.parse
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from sampan.errors import InvalidArgument, NotFound
from sampan.registry.server.errors import Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sampan.registry.server.storage.parts import Part

__all__ = ["Address", "Bucket", "Download", "Listed", "parse"]

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_NO_NAME = re.compile(r"\.\.|^[0-9]+(?:\.[0-9]+){3}$")
_PREFIX = re.compile(r"(?:[A-Za-z0-9_-][A-Za-z0-9._-]*/)*")
_ENDPOINT = re.compile(r"https?://[^/?#@\s]+")
_CONNECTIONS = 64
_ATTEMPTS = 3
_CONNECT_SECONDS = 5
_READ_SECONDS = 60
_GONE = ("404", "NoSuchKey", "NoSuchUpload", "InvalidPart", "InvalidPartOrder")
"""The last two: another's part stands where ours was, or none."""


class Address(NamedTuple):
    """Without an ``endpoint`` it is AWS's. ``public`` is the endpoint as clients reach it."""

    bucket: str
    prefix: str = ""
    endpoint: str = ""
    region: str = ""
    public: str = ""

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"


class Listed(NamedTuple):
    """An object, or a multipart upload (whose ``size`` is not told)."""

    name: str
    size: int
    identifier: str = ""


class Download(NamedTuple):
    size: int
    stream: Any


def parse(text: str) -> Address:
    """``s3://BUCKET[/PREFIX][?endpoint=URL&region=NAME&public=URL]``. Raises InvalidArgument."""
    url = urllib.parse.urlsplit(text)
    prefix = url.path.lstrip("/")
    if prefix and not prefix.endswith("/"):
        prefix += "/"
    if url.scheme != "s3" or "@" in url.netloc or not _PREFIX.fullmatch(prefix):
        raise InvalidArgument(
            "--storage: expected s3://BUCKET[/PREFIX][?endpoint=URL&region=NAME], without keys: "
            "they are taken from the environment or ~/.aws"
        )
    if not _NAME.fullmatch(url.netloc) or _NO_NAME.search(url.netloc):
        raise InvalidArgument(
            f'--storage: "{url.netloc}" is no bucket\'s name: it has 3 to 63 lower-case letters, '
            "digits, dots and hyphens, begins and ends with a letter or a digit, has no two dots "
            "in a row and is no IP address"
        )
    given = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
    for name, value in given.items():
        if name not in ("endpoint", "region", "public"):
            raise InvalidArgument(f"--storage: there is no {name}: use endpoint, region, public")
        if name != "region" and not _ENDPOINT.fullmatch(value):
            raise InvalidArgument(f"--storage: {name}={value}: expected https://HOST[:PORT]")
    return Address(url.netloc, prefix, **given)


class Bucket:
    """Every method may be called by any thread. Raises NotFound, Unreachable."""

    def __init__(self, address: Address) -> None:
        self.address = address
        try:
            import botocore.exceptions
            import botocore.session
            from botocore.config import Config
        except ImportError as error:
            raise InvalidArgument(
                f"--storage {address}: this needs botocore: pip install 'sampan[s3]'"
            ) from error
        self._client_error = botocore.exceptions.ClientError
        self._error = botocore.exceptions.BotoCoreError
        config = Config(
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=_READ_SECONDS,
            retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
            max_pool_connections=_CONNECTIONS,
            signature_version="s3v4",
            # What S3 does not demand, its relatives often do not know; MD5 is sent by us.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": "path" if address.endpoint else "auto"},
        )
        session = botocore.session.get_session()
        region = address.region or session.get_config_variable("region") or "us-east-1"

        def client(endpoint: str) -> Any:
            return session.create_client(
                "s3", region_name=region, endpoint_url=endpoint or None, config=config
            )

        with self._explained("use"):
            self._client = client(address.endpoint)
            self._public = client(address.public) if address.public else self._client

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._client_error as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            text = f"{self.address}: cannot {what}: {code} {_said(error)}".rstrip()
            if code in _GONE and what != "reach the bucket":
                raise NotFound(text) from error
            raise Unreachable(text) from error
        except (self._error, OSError) as error:
            raise Unreachable(f"{self.address}: cannot {what}: {error}") from error

    def _at(self, name: str) -> dict[str, str]:
        return {"Bucket": self.address.bucket, "Key": self.address.prefix + name}

    def check(self) -> None:
        with self._explained("reach the bucket"):
            self._client.head_bucket(Bucket=self.address.bucket)

    def close(self) -> None:
        self._client.close()
        self._public.close()

    # -- objects -----------------------------------------------------------------------------------

    def put(self, name: str, body: IO[bytes] | bytes, md5: bytes) -> None:
        """The bucket holds the bytes against their MD5."""
        with self._explained(f"store {name}"):
            self._client.put_object(**self._at(name), Body=body, ContentMD5=_base64(md5))

    def size(self, name: str) -> int:
        with self._explained(f"look at {name}"):
            return int(self._client.head_object(**self._at(name))["ContentLength"])

    def get(self, name: str, offset: int = 0) -> Download:
        """From ``offset``, which must be within the object, to its end."""
        part = {"Range": f"bytes={offset}-"} if offset else {}
        with self._explained(f"read {name}"):
            found = self._client.get_object(**self._at(name), **part)
        return Download(int(found["ContentLength"]), found["Body"])

    def read(self, download: Download, count: int) -> bytes:
        with self._explained("read"):
            return bytes(download.stream.read(count))

    def delete(self, name: str) -> None:
        """Whether it was there or not."""
        with self._explained(f"delete {name}"):
            self._client.delete_object(**self._at(name))

    def list(self, prefix: str) -> Iterator[Listed]:
        with self._explained("list"):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.address.bucket, Prefix=self.address.prefix + prefix
            )
            for page in pages:
                for one in page.get("Contents", ()):
                    yield Listed(one["Key"][len(self.address.prefix) :], int(one["Size"]))

    def url(self, name: str, seconds: float) -> str:
        """For a GET by whoever has it."""
        with self._explained("sign"):
            return str(
                self._public.generate_presigned_url(
                    "get_object", Params=self._at(name), ExpiresIn=max(1, int(seconds))
                )
            )

    # -- multipart uploads -------------------------------------------------------------------------

    def begin(self, name: str) -> str:
        """The multipart upload's identifier."""
        with self._explained(f"begin {name}"):
            return str(self._client.create_multipart_upload(**self._at(name))["UploadId"])

    def part(self, name: str, identifier: str, number: int, body: IO[bytes], md5: bytes) -> str:
        """Its ETag."""
        with self._explained(f"store part {number} of {name}"):
            found = self._client.upload_part(
                **self._at(name),
                UploadId=identifier,
                PartNumber=number,
                Body=body,
                ContentMD5=_base64(md5),
            )
        return str(found["ETag"])

    def complete(self, name: str, identifier: str, parts: Sequence[Part]) -> None:
        """Raises NotFound where these are not the parts that are there."""
        listed = [{"PartNumber": n, "ETag": part.etag} for n, part in enumerate(parts, 1)]
        with self._explained(f"complete {name}"):
            self._client.complete_multipart_upload(
                **self._at(name), UploadId=identifier, MultipartUpload={"Parts": listed}
            )

    def abort(self, name: str, identifier: str) -> bool:
        """Whether there was such a multipart upload."""
        try:
            with self._explained(f"abort {name}"):
                self._client.abort_multipart_upload(**self._at(name), UploadId=identifier)
        except NotFound:
            return False
        return True

    def multiparts(self, prefix: str) -> Iterator[Listed]:
        pages = self._client.get_paginator("list_multipart_uploads").paginate(
            Bucket=self.address.bucket, Prefix=self.address.prefix + prefix
        )
        try:
            with self._explained("list uploads"):
                for page in pages:
                    for one in page.get("Uploads", ()):
                        name = one["Key"][len(self.address.prefix) :]
                        yield Listed(name, 0, one["UploadId"])
        except NotFound:
            return  # what some servers say when there is none

    def parts_size(self, name: str, identifier: str) -> int:
        """Bytes of the parts that have come."""
        with self._explained(f"list parts of {name}"):
            pages = self._client.get_paginator("list_parts").paginate(
                **self._at(name), UploadId=identifier
            )
            return sum(int(one["Size"]) for page in pages for one in page.get("Parts", ()))


def _said(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Message", ""))


def _base64(md5: bytes) -> str:
    return base64.b64encode(md5).decode()
