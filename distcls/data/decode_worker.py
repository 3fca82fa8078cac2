"""The body of a decoding process: parallel_decode.py starts it and hands it chunks."""

from __future__ import annotations

from multiprocessing.connection import Connection

from distcls.data.parallel_decode import DecodeJob, Findings, decode_chunk


def main(fd: int) -> None:
    """Reads a DecodeJob and then (start, stop) after (start, stop) from the connection; None ends it.

    Answers each with (images, Findings), or with the OSError that stopped the writing. A parent
    that is gone shows as the end of the connection, and ends this process too.
    """
    with Connection(fd) as connection:
        try:
            job: DecodeJob = connection.recv()
            while (chunk := connection.recv()) is not None:
                connection.send(_answer(job, *chunk))
            connection.send(None)
        except (EOFError, ConnectionError):
            return


def _answer(job: DecodeJob, start: int, stop: int) -> tuple[int, Findings] | OSError:
    try:
        return stop - start, decode_chunk(job, start, stop)
    except OSError as error:
        return error
