"""A server under load: valid and bad requests at once, and its throughput beside the bare model.

    python tests/benchmarks/load_study.py MODEL IMAGES [--requests 10000] [--bad 1000]

Three processes: this one sends, one serves (`trustq serve`, rate limit off), and one does decode,
preprocess and ONNX Runtime alone with the same threads. Bare runs alternate with the server in
blocks, so that a busy machine slows both; shares are of throughput within one block pair. The
sender shares the server's cores, which counts against it by the clock: what it takes is stated.
"""

import argparse
import io
import json
import random
import selectors
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np

SENDERS = 16
MOST_BARE = 200  # images of a bare block
BAD = ("oversized", "truncated", "wrong type", "cut short", "slow")


def bare(folder: str, paths: list[str], threads: int, together: int, *, keep: bool) -> None:
    """Answer lines `n` on stdin by the seconds that n images take, `together` in a run.

    Decoded as one writes it with Pillow, without a look at EXIF; preprocessed and run as the server
    does it.
    """
    from concurrent.futures import ThreadPoolExecutor

    from PIL import Image

    from trustq.core.freed_memory import keep_freed_memory
    from trustq.deploy.graph import INPUT, OUTPUTS
    from trustq.deploy.model import load_model

    if keep:
        keep_freed_memory(most_bytes=1 << 26)
    model = load_model(folder, threads=1)
    data = [Path(path).read_bytes() for path in paths]

    def pixels_of(i: int) -> np.ndarray:
        image = Image.open(io.BytesIO(data[i % len(data)])).convert("RGB")
        return np.asarray(model.preprocessing.fitted_in_steps(image))

    def some(first: int) -> None:
        pixels = np.stack([pixels_of(i) for i in range(first, first + together)])
        images = model.preprocessing.network_input(pixels)
        model.session.run(list(OUTPUTS), {INPUT: images})

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(some, range(0, 32, together)))
        print("ready", flush=True)
        for line in sys.stdin:
            started = time.monotonic()
            list(pool.map(some, range(0, int(line), together)))
            print(time.monotonic() - started, flush=True)


class _Sender:
    """A connection that has one request under way."""

    def __init__(self, port: int) -> None:
        self.connection = socket.create_connection(("127.0.0.1", port), timeout=120)
        self.sent = 0.0
        self._found = b""

    def send(self, request: bytes) -> None:
        self._found, self.sent = b"", time.monotonic()
        self.connection.sendall(request)

    def receive(self) -> int | None:
        """Read what is there; the status once the answer is whole."""
        part = self.connection.recv(65536)
        if not part:
            raise ConnectionError("an answer was cut short")
        self._found = self._found + part if self._found else part
        return _status(self._found)


def request_of(image: bytes) -> bytes:
    """A valid request, whole."""
    length = len(image)
    head = b"POST /api/analyze HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % length
    return head + image


def _status(found: bytes) -> int | None:
    """The status of an answer that is whole, else None."""
    end = found.find(b"\r\n\r\n")
    if end < 0:
        return None
    at = found.find(b"content-length: ", 0, end) + 16
    assert at > 16
    length = int(found[at : found.index(b"\r\n", at)])
    return int(found[9:12]) if len(found) >= end + 4 + length else None


class Load:
    """Sends requests from many threads and keeps what came back."""

    def __init__(self, port: int, images: list[bytes]) -> None:
        self.port = port
        self.images = images
        self.requests = [request_of(image) for image in images]
        self.valid: Counter[int] = Counter()
        self.bad: Counter[tuple[str, int]] = Counter()
        self.seconds: list[float] = []
        self.lock = threading.Lock()

    def run_valid(self, n: int) -> float:
        """Send n valid requests, SENDERS at once, from this thread alone; seconds it took.

        What it costs is the least there is: senders share the server's cores.
        """
        connections = [_Sender(self.port) for _ in range(min(SENDERS, n))]
        started = time.monotonic()
        n_sent = n_back = 0
        with selectors.DefaultSelector() as waiting:
            for sender in connections:
                waiting.register(sender.connection, selectors.EVENT_READ, sender)
                sender.send(random.choice(self.requests))
                n_sent += 1
            while n_back < n:
                for key, _ in waiting.select():
                    sender = key.data
                    if (status := sender.receive()) is None:
                        continue
                    self.valid[status] += 1
                    self.seconds.append(time.monotonic() - sender.sent)
                    n_back += 1
                    if n_sent < n:
                        sender.send(random.choice(self.requests))
                        n_sent += 1
        took = time.monotonic() - started
        for sender in connections:
            sender.connection.close()
        return took

    def run(self, kinds: list[str]) -> float:
        """Send one request of each kind (blank: a valid one), SENDERS at once; seconds it took."""
        left = iter(kinds)
        started = time.monotonic()
        senders = [threading.Thread(target=self._send_all, args=(left,)) for _ in range(SENDERS)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        return time.monotonic() - started

    def _send_all(self, left: "object") -> None:
        sender: _Sender | None = None
        while True:
            with self.lock:
                kind = next(left, None)  # type: ignore[call-overload]
                place = random.randrange(len(self.images))
            if sender is not None and (kind is None or kind):
                # Servers close connections that are idle; a bad request may take its time.
                sender.connection.close()
                sender = None
            if kind is None:
                return
            if kind:
                status = self._bad(kind, self.images[place])
                with self.lock:
                    self.bad[kind, status] += 1
                continue
            started = time.monotonic()
            try:
                sender = sender or _Sender(self.port)
                sender.send(self.requests[place])
                while (status := sender.receive()) is None:
                    pass
            except OSError:
                status, sender = -1, None
            with self.lock:
                self.valid[status] += 1
                self.seconds.append(time.monotonic() - started)

    def _bad(self, kind: str, image: bytes) -> int:
        """The status of a bad request, 0 where the server hung up without one."""
        body, stated, wait = image, len(image), 0.0
        if kind == "oversized":
            stated = 50_000_000
            body = b""
        elif kind == "truncated":
            body = image[: len(image) // 2]
            stated = len(body)
        elif kind == "wrong type":
            body = b"%PDF-1.7 " + image[:2000]
            stated = len(body)
        elif kind == "cut short":
            body = image[: len(image) // 2]
        else:
            body, wait = image[:100], 60.0
        head = f"POST /api/analyze HTTP/1.1\r\nHost: x\r\nContent-Length: {stated}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            try:
                connection.sendall(head.encode() + body)
                if kind == "cut short":
                    connection.shutdown(socket.SHUT_WR)
                connection.settimeout(wait or 30)
                line = connection.recv(64)
            except OSError:
                return 0
            return int(line.split()[1]) if line.startswith(b"HTTP") else 0


def resident(pid: int) -> float:
    """Megabytes of memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def cpu_seconds(pid: int) -> float:
    """Processor seconds, user and system, that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("images", type=Path)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--bad", type=int, default=1000)
    parser.add_argument("--blocks", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--together", type=int, default=1, help="Images of a bare run.")
    parser.add_argument("--keep", action="store_true", help="Bare keeps freed memory, too.")
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    paths = sorted(map(str, asked.images.glob("*.jpg")))[:200]
    if asked.bare:
        bare(asked.model, paths, asked.threads, asked.together, keep=asked.keep)
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = "from trustq.cli import app; app()"
    options = ["--rate-limit", "0", "--port", str(port), "--workers", str(asked.threads)]
    server = subprocess.Popen([sys.executable, "-c", program, "serve", asked.model, *options])
    own = [__file__, asked.model, str(asked.images), "--bare", "--threads", str(asked.threads)]
    own += ["--together", str(asked.together), *(["--keep"] if asked.keep else [])]
    alone = subprocess.Popen(
        [sys.executable, *own], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert alone.stdin is not None and alone.stdout is not None
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.2)
        assert alone.stdout.readline().strip() == "ready"
        report(asked, port, server.pid, alone, [Path(path).read_bytes() for path in paths])
    finally:
        server.terminate()
        alone.terminate()


def report(
    asked: argparse.Namespace,
    port: int,
    pid: int,
    alone: "subprocess.Popen[str]",
    images: list[bytes],
) -> None:
    """Run valid blocks beside bare ones, then all bad requests among valid ones; print JSON."""
    assert alone.stdin is not None and alone.stdout is not None
    random.seed(0)
    load = Load(port, images)
    mixed = asked.requests // 2
    per_block = (asked.requests - mixed) // asked.blocks
    load.run_valid(64)  # warm
    load.valid.clear()
    load.seconds.clear()
    memory = [resident(pid)]
    shares, wall, processor, sending = [], [], [], []
    for _ in range(asked.blocks):
        used, sender = [cpu_seconds(pid)], time.process_time()
        served = load.run_valid(per_block)
        sending.append((time.process_time() - sender) / per_block)
        used.append(cpu_seconds(pid))
        before = cpu_seconds(alone.pid)
        n_bare = min(per_block, MOST_BARE)
        alone.stdin.write(f"{n_bare}\n")
        alone.stdin.flush()
        bare_seconds = float(alone.stdout.readline())
        bare_used = cpu_seconds(alone.pid) - before
        wall.append(per_block / served)
        # Each by the image.
        shares.append(bare_seconds / n_bare / (served / per_block))
        processor.append(bare_used / n_bare / ((used[1] - used[0]) / per_block))
        memory.append(resident(pid))
    clean = list(load.seconds)
    kinds = [""] * mixed + [BAD[i % len(BAD)] for i in range(asked.bad)]
    random.shuffle(kinds)
    load.run(kinds)
    memory.append(resident(pid))
    found = {
        "valid": {str(status): n for status, n in sorted(load.valid.items())},
        "bad": {f"{kind}: {status}": n for (kind, status), n in sorted(load.bad.items())},
        "requests_per_second": round(statistics.median(wall), 1),
        "throughput_share_of_bare_wall": [round(s, 3) for s in quartiles(shares)],
        "throughput_share_of_bare_processor": [round(s, 3) for s in quartiles(processor)],
        "sender_ms_of_a_request": round(1000 * statistics.median(sending), 3),
        "p50_ms": round(1000 * float(np.quantile(clean, 0.5)), 1),
        "p99_ms": round(1000 * float(np.quantile(clean, 0.99)), 1),
        "p99_ms_among_bad": round(1000 * float(np.quantile(load.seconds[len(clean) :], 0.99)), 1),
        "megabytes": [round(m, 1) for m in memory],
    }
    print(json.dumps(found, indent=1))


def quartiles(values: list[float]) -> list[float]:
    """Quartiles, the median in the middle."""
    return [float(np.quantile(values, q)) for q in (0.25, 0.5, 0.75)]


if __name__ == "__main__":
    main()
