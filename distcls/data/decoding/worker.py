"""The main function of a decoding process, which parallel.py starts and sends chunks to."""

from __future__ import annotations

from multiprocessing.connection import Connection
from typing import Any

from distcls.data.decoding.parallel import Job


def main(fd: int) -> None:
    """Read a Job and then (start, stop) pairs from the connection until None.

    Each is answered with (number of images, the job's result) or with the OSError that stopped the job. If the
    parent is gone, the connection ends, and so does this process.
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
