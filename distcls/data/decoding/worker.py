"""The body of a decoding process: parallel.py starts it and hands it chunks."""

from __future__ import annotations

from multiprocessing.connection import Connection
from typing import Any

from distcls.data.decoding.parallel import Job


def main(fd: int) -> None:
    """Reads a Job and then (start, stop) after (start, stop) from the connection; None ends it.

    Answers each with (images, what the job says of them), or with the OSError that stopped it. A parent
    that is gone shows as the end of the connection, and ends this process too.
    """
    with Connection(fd) as connection:
        try:
            job: Job = connection.recv()
            while (chunk := connection.recv()) is not None:
                connection.send(_answer(job, *chunk))
            connection.send(None)
        except (EOFError, ConnectionError):
            return


def _answer(job: Job, start: int, stop: int) -> tuple[int, Any] | OSError:
    try:
        return stop - start, job.do_chunk(start, stop)
    except OSError as error:
        return error
