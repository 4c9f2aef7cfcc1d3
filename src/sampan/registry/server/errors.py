"""Refusals with the codes of the OCI distribution specification 1.1 ("Error Codes")."""

from __future__ import annotations

from sampan.errors import (
    InvalidArgument,
    NotFound,
    PermissionDenied,
    SampanError,
    Unauthenticated,
    Unavailable,
)

__all__ = [
    "BadUpstream",
    "BlobUnknown",
    "Denied",
    "DigestInvalid",
    "ManifestBlobUnknown",
    "ManifestInvalid",
    "ManifestTooLarge",
    "ManifestUnknown",
    "NameInvalid",
    "NameUnknown",
    "RangeInvalid",
    "Refusal",
    "SizeInvalid",
    "TooManyRequests",
    "Unauthorized",
    "Unreachable",
    "Unsupported",
    "UploadInvalid",
    "UploadUnknown",
    "WrongPassword",
]


class Refusal(SampanError):
    """``code`` is the specification's, ``detail`` what is machine-readable about it."""

    code = "UNSUPPORTED"

    def __init__(self, message: str, detail: object = None) -> None:
        super().__init__(message)
        self.detail = detail


class BadUpstream(Refusal):
    """The registry that this one is a cache of sent something wrong."""

    status = 502
    code = "UNAVAILABLE"


class BlobUnknown(Refusal, NotFound):
    code = "BLOB_UNKNOWN"


class DigestInvalid(Refusal, InvalidArgument):
    code = "DIGEST_INVALID"


class ManifestBlobUnknown(Refusal, NotFound):
    """A manifest names what its repository does not have; ``detail`` is the digests."""

    code = "MANIFEST_BLOB_UNKNOWN"


class ManifestInvalid(Refusal, InvalidArgument):
    code = "MANIFEST_INVALID"


class ManifestTooLarge(ManifestInvalid):
    status = 413


class ManifestUnknown(Refusal, NotFound):
    code = "MANIFEST_UNKNOWN"


class NameInvalid(Refusal, InvalidArgument):
    code = "NAME_INVALID"


class NameUnknown(Refusal, NotFound):
    code = "NAME_UNKNOWN"


class SizeInvalid(Refusal, InvalidArgument):
    code = "SIZE_INVALID"


class UploadUnknown(Refusal, NotFound):
    code = "BLOB_UPLOAD_UNKNOWN"


class UploadInvalid(Refusal, InvalidArgument):
    code = "BLOB_UPLOAD_INVALID"


class RangeInvalid(UploadInvalid):
    """The bytes do not continue where the upload is; ``offset`` is where that is."""

    status = 416

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.offset = offset


class TooManyRequests(Refusal):
    """``after`` is how many seconds to wait."""

    status = 429
    code = "TOOMANYREQUESTS"

    def __init__(self, message: str, after: int) -> None:
        super().__init__(message)
        self.after = after


class Unauthorized(Refusal, Unauthenticated):
    code = "UNAUTHORIZED"


class WrongPassword(Unauthorized):
    """``account`` is the one it was for, where there is one of that name."""

    def __init__(self, message: str, account: str) -> None:
        super().__init__(message)
        self.account = account


class Denied(Refusal, PermissionDenied):
    code = "DENIED"


class Unsupported(Refusal):
    """Something this registry does not do, or not with this object as it is."""

    status = 405


class Unreachable(Refusal, Unavailable):
    """The bucket or the database does not answer, or not now: nothing is lost, ask again."""

    code = "UNAVAILABLE"
