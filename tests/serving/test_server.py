"""`distcls serve` as a process: what it says, how it stops, and what its workers share."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from served import Served, png, stopped_under_load

from distcls.cli import main

pytestmark = [pytest.mark.extras, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def service(run: Path) -> Iterator[Served]:
    with Served(run, "--timeout", "3") as started:
        yield started


def to_the_end(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(10_000), b""))


def test_it_says_where_it_is_and_answers(service: Served) -> None:
    assert service.line.startswith(f"serving digits on http://127.0.0.1:{service.port}, API described at ")
    status, body = service.request("POST", "/predict", png(), content_type="image/png")
    assert status == 200 and len(json.loads(body)["predictions"][0]["topk"]) == 5
    assert b"swagger" in service.request("GET", "/docs")[1]


def test_slow_senders_are_sent_away(service: Served) -> None:
    """Those of headers lose their connection, those of bodies get an answer; others are answered meanwhile."""
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
    slow = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(3)]
    slow[1].sendall(head)
    slow[2].sendall(head + b"Content-Length: 100\r\n\r\nabc")
    began = time.monotonic()
    assert service.request("POST", "/predict", png(), content_type="image/png")[0] == 200
    assert time.monotonic() - began < 2.5
    for connection in slow:
        connection.settimeout(20)
    assert slow[0].recv(1000) == slow[1].recv(1000) == b""
    answer = to_the_end(slow[2])
    assert answer.startswith(b"HTTP/1.1 408 ") and b'{"error":"the request did not arrive within 3 s"}' in answer
    for connection in slow:
        connection.close()


def test_a_client_that_leaves_and_one_that_speaks_no_http_harm_nobody(service: Served) -> None:
    for sent in (b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc", b"\x16\x03\x01\x02\x00"):
        with socket.create_connection(("127.0.0.1", service.port)) as connection:
            connection.sendall(sent)
    assert service.request("POST", "/predict", png(), content_type="image/png")[0] == 200


@pytest.mark.parametrize("words", [[], ["--workers", "2"]], ids=["one process", "two workers"])
def test_sigterm_under_load_loses_no_request_and_leaves_with_0(run: Path, words: list[str]) -> None:
    with Served(run, *words) as service:
        outcomes, code, errors = stopped_under_load(service, clients=16, seconds=1.5)
    assert set(outcomes) == {"200"} and outcomes["200"] > 100
    assert (code, errors) == (0, "")


class Interrupted(Served):
    def stop(self) -> tuple[int, str]:
        """Ctrl-C: the terminal sends it to every process."""
        for process in [*children(self.process.pid), self.process.pid]:
            os.kill(process, signal.SIGINT)
        errors = self.process.communicate(timeout=60)[1]
        return self.process.returncode, errors


def test_ctrl_c_under_load_loses_no_request_although_workers_get_two_signals(run: Path) -> None:
    with Interrupted(run, "--workers", "2") as service:
        outcomes, code, errors = stopped_under_load(service, clients=16, seconds=1.5)
    assert set(outcomes) == {"200"} and outcomes["200"] > 100
    assert (code, errors) == (0, "")


def test_what_is_being_computed_is_answered_and_a_second_signal_leaves_at_once(run: Path) -> None:
    with Served(run, "--timeout", "60") as service, socket.create_connection(("127.0.0.1", service.port)) as sender:
        content = png()
        head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(content)}\r\n\r\n"
        sender.sendall(head.encode())
        time.sleep(0.3)
        service.process.send_signal(signal.SIGTERM)
        time.sleep(2)  # longer than idle connections are kept
        assert service.process.poll() is None
        sender.sendall(content)
        sender.settimeout(20)
        answer = to_the_end(sender)
        assert answer.startswith(b"HTTP/1.1 200 ") and b"connection: close" in answer
        assert service.process.wait(20) == 0
    with Served(run, "--timeout", "60") as service, socket.create_connection(("127.0.0.1", service.port)) as sender:
        sender.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
        time.sleep(0.3)
        for _ in range(2):
            service.process.send_signal(signal.SIGTERM)
            time.sleep(1.3)  # an earlier one would count as the same
        service.process.wait(20)


def test_workers_end_with_a_supervisor_that_is_killed(run: Path) -> None:
    with Served(run, "--workers", "2") as service:
        service.process.kill()
        latest = time.monotonic() + 30
        while accepts(service.port):
            assert time.monotonic() < latest
            time.sleep(0.1)


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionError:
        return False
    return True


def children(process: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def test_workers_share_their_weights_count_together_and_are_replaced(run: Path) -> None:
    with Served(run, "--workers", "2") as service:
        workers = children(service.process.pid)
        assert len(workers) == 2
        answered = 0
        latest = time.monotonic() + 60
        while not all(served_by(worker) for worker in workers) and time.monotonic() < latest:
            for _ in range(20):
                assert service.request("POST", "/predict", png(), content_type="image/png")[0] == 200
                answered += 1
        counted = f'distcls_requests_total{{method="POST",route="/predict",status="200"}} {answered}.0'
        assert counted in service.request("GET", "/metrics")[1].decode()
        for worker in workers:
            assert memory(worker, "Shared") > max(4 * memory(worker, "Private"), 50e6)
        os.kill(workers[0], signal.SIGKILL)
        while (now := children(service.process.pid)) == workers or len(now) < 2:
            assert time.monotonic() < latest
            time.sleep(0.1)
        assert workers[1] in now
        assert service.request("POST", "/predict", png(), content_type="image/png")[0] == 200
        code, errors = service.stop()
    assert code == 0 and f"warning: worker {workers[0]} ended with -9: starting another" in errors


def served_by(process: int) -> bool:
    """True if a process has used time of a processor beyond its start: it answers."""
    return sum(map(int, Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13])) > 20


def memory(process: int, kind: str) -> float:
    """Bytes that a process has for itself ("Private"), or in common with others ("Shared")."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{kind}_"))


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_exported_file_gives_the_answers_of_pytorch(run: Path, service: Served, workers: str) -> None:
    if not (run / "export" / "digits.onnx").exists():
        assert main(["export", str(run)]) == 0
    with Served(run, "--backend", "onnx", "--workers", workers) as other:
        for seed in range(6):
            found = [
                json.loads(one.request("POST", "/predict?topk=10", png(seed), content_type="image/png")[1])
                for one in (service, other)
            ]
            shares = [{c["class"]: c["probability"] for c in one["predictions"][0]["topk"]} for one in found]
            assert shares[0] == pytest.approx(shares[1], abs=1e-5)
        assert b'"platform":"onnxruntime_onnx"' in other.request("GET", "/v2/models/digits")[1]
        assert other.stop()[0] == 0


def test_each_worker_computes_an_exported_file_with_as_many_threads_as_were_asked_for(run: Path) -> None:
    if not (run / "export" / "digits.onnx").exists():
        assert main(["export", str(run)]) == 0
    numbers = []
    for threads in ("2", "4"):
        with Served(run, "--backend", "onnx", "--workers", "2", "--threads", threads) as service:
            assert service.request("POST", "/predict", png(), content_type="image/png")[0] == 200
            # One worker has answered, so it has all its threads; the other may still be starting.
            numbers.append(max(map(num_threads, children(service.process.pid))))
    assert numbers[1] - numbers[0] == 2


def num_threads(process: int) -> int:
    return len(list(Path(f"/proc/{process}/task").iterdir()))


def test_an_exported_file_of_older_weights_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not (run / "export" / "digits.onnx").exists():
        assert main(["export", str(run)]) == 0
    longer = shutil.copytree(run, tmp_path / "digits")
    weights = longer / "model" / "model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(weights).items()}, weights)
    assert main(["serve", str(longer), "--backend", "onnx", "--port", "0"]) == 2
    told = capsys.readouterr().err.replace("\n", " ")
    assert "digits.onnx does not match the run (different: weights_sha256). Export it again: distcls export" in told
