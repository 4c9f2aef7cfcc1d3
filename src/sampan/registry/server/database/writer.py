"""One thread that writes: it takes the closures that wait as one transaction, each in a savepoint
of its own, so that one fsync serves every push that came meanwhile.
"""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from sampan.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from sampan.registry.server.database.base import Transaction

__all__ = ["Session", "Writer"]

T = TypeVar("T")

_BATCH = 128


class Session(Protocol):
    """A connection to a database, as the writer's thread drives it."""

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """What its calls raise."""
        ...

    @property
    def active(self) -> bool:
        """There is a transaction. Some failures, a full disk first of all, end it whole."""
        ...

    def begin(self, durable: bool) -> Transaction: ...

    def execute(self, statement: str) -> object: ...

    def explain(self, error: BaseException) -> BaseException:
        """What a failure is called towards whoever wanted to write."""
        ...

    def recover(self) -> None:
        """After a failed transaction: whatever is needed before the next."""
        ...


class _Job:
    """A closure, and the promise of its result."""

    __slots__ = ("durable", "future", "result", "work")

    def __init__(self, work: Callable[[Transaction], Any], durable: bool) -> None:
        self.work = work
        self.durable = durable
        self.future: Future[Any] = Future()
        self.result: Any = None


class _Savepoint:
    """One job's part of a transaction: what it raises undoes that part, and is the job's alone."""

    def __init__(self, session: Session, job: _Job) -> None:
        self._session = session
        self._job = job

    def __enter__(self) -> None:
        self._session.execute("SAVEPOINT job")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if self._session.active:
            if error is not None:
                self._session.execute("ROLLBACK TO job")
            self._session.execute("RELEASE job")
        if error is not None:
            self._job.future.set_exception(self._session.explain(error))
        return error is not None


class Writer:
    """The thread, and its queue."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="registry-writer", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[Transaction], T], *, durable: bool = True) -> Future[T]:
        job = _Job(work, durable)
        with self._lock:
            if self._closed:
                raise Unavailable("the registry is closed")
            self._queue.put(job)
        return job.future

    def close(self) -> bool:
        """Finish what is queued; False where that was done before."""
        with self._lock:
            if self._closed:
                return False
            self._closed = True
            self._queue.put(None)
        self._thread.join()
        return True

    def _work(self) -> None:
        open_ = True
        while open_:
            first = self._queue.get()
            if first is None:
                return
            batch = [first]
            while len(batch) < _BATCH and not self._queue.empty():
                job = self._queue.get()
                if job is None:
                    open_ = False
                    break
                batch.append(job)
            self._commit(batch)

    def _commit(self, batch: list[_Job]) -> None:
        session = self._session
        try:
            transaction = session.begin(any(job.durable for job in batch))
            for job in batch:
                with _Savepoint(session, job):
                    job.result = job.work(transaction)
                if not session.active:
                    raise session.errors[0]("a failure has undone the whole transaction")
            session.execute("COMMIT")
        except session.errors as error:
            session.recover()
            explained = session.explain(error)
            for job in batch:
                if not job.future.done():
                    job.future.set_exception(explained)
            return
        for job in batch:
            if not job.future.done():
                job.future.set_result(job.result)
