"""What a cache has done since it began, for whoever wants to know whether it is worth its disk."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from sampan.errors import SampanError
from sampan.registry.client.errors import Missing, NotHttp, Transient
from sampan.registry.server.errors import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["HIT", "MISS", "OLD", "SAME", "Count", "Counts"]

HIT = "hit"
"""It was here."""
SAME = "same"
"""A tag's time was over; the other registry says it stands for what is here."""
MISS = "miss"
"""It was fetched."""
OLD = "old"
"""The other registry does not answer: what is here, which may be old."""


class Count(NamedTuple):
    name: str
    kind: str
    text: str
    values: dict[str, float]
    """By labels, as Prometheus has them."""


class Counts:
    """Requests are clients', by what they were about; bytes are of manifests and blobs."""

    def __init__(self) -> None:
        kinds = {"manifest": (HIT, SAME, MISS, OLD), "blob": (HIT, MISS)}
        self.requests = {(kind, how): 0 for kind, all_ in kinds.items() for how in all_}
        self.sent = {HIT: 0, MISS: 0}
        self.fetched = 0
        self.failed = 0
        self.answers = True

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Around a question to the other registry."""
        try:
            yield
        except (Missing, Refusal):  # an answer; or our own word
            self.answers = True
            raise
        except SampanError as error:
            self.failed += 1
            self.answers = not isinstance(error, (Transient, NotHttp))
            raise
        self.answers = True

    def asked(self, kind: str, how: str) -> str:
        """Returns ``how``."""
        self.requests[kind, how] += 1
        return how

    def all(self) -> Iterator[Count]:
        requests = {f'kind="{k}",result="{how}"': n for (k, how), n in self.requests.items()}
        yield Count(
            "requests_total",
            "counter",
            "What clients got: a hit; the same, by the other registry's word; a miss, which was "
            "fetched; or old, while that does not answer.",
            {labels: float(count) for labels, count in requests.items()},
        )
        yield Count(
            "sent_bytes_total",
            "counter",
            "Bytes sent to clients: hits were here, misses came from the other registry.",
            {f'result="{how}"': float(count) for how, count in self.sent.items()},
        )
        yield Count(
            "fetched_bytes_total",
            "counter",
            "Bytes that the other registry sent.",
            {"": float(self.fetched)},
        )
        yield Count(
            "failures_total",
            "counter",
            "Questions that the other registry did not answer as it should.",
            {"": float(self.failed)},
        )
        yield Count(
            "upstream_up",
            "gauge",
            "Whether the other registry answered when it was last asked.",
            {"": float(self.answers)},
        )
