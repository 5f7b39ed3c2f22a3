"""The server refuses before it decodes, bears slow and broken senders, and answers as the page."""

import io
import json
import shutil
import socket
import struct
import subprocess
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support import ClosingHandler
from support_deploy import Packaged, find_web_runtime
from trustq.cli import app
from typer.testing import CliRunner

pytest.importorskip("onnxruntime")
pytest.importorskip("httpx")
uvicorn = pytest.importorskip("uvicorn")

import httpx  # noqa: E402

import trustq as tq  # noqa: E402
from trustq.deploy import server as serving  # noqa: E402
from trustq.deploy.image_checks import check_look, look_at  # noqa: E402
from trustq.deploy.server import ServeSettings, Service, listening, uvicorn_config  # noqa: E402
from trustq.deploy.triage import Rules, decide  # noqa: E402
from trustq.deploy.uploads import Refused, opened_image, parts_of  # noqa: E402
from trustq.deploy.web_runtime import add_web_runtime  # noqa: E402
from trustq.deploy.whole_answers import WholeAnswer  # noqa: E402
from trustq.errors import InputError, NotFound  # noqa: E402

PAGE = Path(serving.__file__).parent / "page"
CHROMIUM = shutil.which("chromium")


class Running:
    """A server on a free port, in a thread."""

    def __init__(self, folder: Path, settings: ServeSettings) -> None:
        self.service = Service(folder, settings)
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self.address = f"http://127.0.0.1:{self.port}"
        self._server = uvicorn.Server(uvicorn_config(self.service))
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True
        )
        self._thread.start()
        end = time.monotonic() + 30
        while not self._server.started:
            assert time.monotonic() < end
            time.sleep(0.01)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=10)
        self.service.close()
        self._socket.close()


@pytest.fixture(name="running", scope="module")
def _running(packaged: Packaged) -> Iterator[Running]:
    settings = ServeSettings(
        per_minute=0, workers=1, receive_seconds=0.6, header_seconds=0.5, waiting=64
    )
    running = Running(packaged.folder, settings)
    yield running
    running.stop()


@pytest.fixture(name="patient", scope="module")
def _patient(packaged: Packaged) -> Iterator[Running]:
    running = Running(packaged.folder, ServeSettings(per_minute=0, workers=1))
    yield running
    running.stop()


def image_bytes(packaged: Packaged, row: int = 0) -> bytes:
    return packaged.manifest.image_path(row).read_bytes()


def claiming_png(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        sealed = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", sealed)

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content


def test_an_answer_is_what_the_model_says(running: Running, packaged: Packaged) -> None:
    model = tq.load_model(packaged.folder)
    for row in (0, 1, 9):
        data = image_bytes(packaged, row)
        kind = "image/png" if row % 2 else "image/jpeg"
        posted = httpx.post(f"{running.address}/api/analyze", content=data)
        form = httpx.post(f"{running.address}/api/analyze", files={"file": ("photo", data, kind)})
        assert posted.status_code == form.status_code == 200 and posted.json() == form.json()
        found = posted.json()
        expected = model.run(model.pixels(data, reduced=False)[None]).probabilities[0]
        assert np.abs(np.array(list(found["probabilities"].values())) - expected).max() < 1e-6
        wanted = "probabilities conditions triage_categories risk_score urgency_tier recommendation"
        assert set(found) >= {*wanted.split(), "confidence", "disclaimer"}
        assert len(found["conditions"]) == 3 and "not a diagnosis" in found["disclaimer"]
    batch = httpx.post(
        f"{running.address}/api/analyze/batch",
        files=[("files", ("a", image_bytes(packaged))), ("files", ("b", b"nothing"))],
    ).json()["answers"]
    assert [one["name"] for one in batch] == ["a", "b"]
    assert batch[0]["risk_tier"] and batch[1]["status"] == 415


def test_images_that_wait_run_together_and_each_gets_its_own_answer(
    patient: Running, packaged: Packaged, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    as_it_is = serving.answers_for

    def slow(images: Any, model: Any) -> Any:
        sizes.append(len(images))
        time.sleep(0.05)  # meanwhile the others arrive
        return as_it_is(images, model)

    monkeypatch.setattr(serving, "answers_for", slow)
    rows = [row % 12 for row in range(40)]
    bodies = [image_bytes(packaged, row) if row != 5 else b"\xff\xd8\xff\xe0" for row in rows]
    with ThreadPoolExecutor(16) as pool:
        posts = pool.map(
            lambda body: httpx.post(f"{patient.address}/api/analyze", content=body), bodies
        )
        answers = list(posts)
    model = tq.load_model(packaged.folder)
    for row, found in zip(rows, answers, strict=True):
        if row == 5:
            assert found.status_code == 400  # a damaged one among them is refused alone
            continue
        image = model.pixels(image_bytes(packaged, row), reduced=False)[None]
        expected = model.run(image).probabilities[0]
        stated = np.array(list(found.json()["probabilities"].values()))
        assert np.abs(stated - expected).max() < 1e-6
    assert max(sizes) == 4 and sum(sizes) == len(rows) - rows.count(5)


def test_a_failed_run_is_an_error_of_those_who_asked_and_of_no_later_one(
    patient: Running, packaged: Packaged, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(images: Any, model: Any) -> Any:
        raise RuntimeError("no memory")

    with monkeypatch.context() as patched:
        patched.setattr(serving, "answers_for", failing)
        found = httpx.post(f"{patient.address}/api/analyze", content=image_bytes(packaged))
        assert found.status_code == 500 and "no memory" not in found.text
    found = httpx.post(f"{patient.address}/api/analyze", content=image_bytes(packaged))
    assert found.status_code == 200 and patient.service._inside == 0


def test_an_address_that_cannot_be_listened_on_is_refused_with_a_way_out(
    running: Running, packaged: Packaged
) -> None:
    for host, port, why in (
        ("127.0.0.1", running.port, r"address already in use\. Another program listens there"),
        ("192.0.2.1", 0, r"cannot assign requested address\. Give 127\.0\.0\.1"),
        ("no.such.host.invalid", 0, "is not an address of this machine"),
    ):
        with pytest.raises(InputError, match=why):
            listening(host, port)
    own = listening("127.0.0.1", 0)
    assert own.getsockname()[1] > 0
    own.close()
    words = ("serve", str(packaged.folder), "--port", str(running.port))
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 1 and "Stop with" not in found.stderr
    assert "choose another --port, or 0 for any free one" in found.stderr


def test_files_that_are_no_certificate_are_refused(packaged: Packaged, tmp_path: Path) -> None:
    service = Service(packaged.folder)
    (tmp_path / "a.pem").write_text("nothing")
    for name, why in (("a.pem", "are not a certificate and its key as PEM"), ("b", "no such file")):
        with pytest.raises(InputError if name == "a.pem" else NotFound, match=why):
            uvicorn_config(service, certificate=tmp_path / name, key=tmp_path / name)
    service.close()


@pytest.mark.parametrize(
    "words",
    [("serve", "--port", "99999"), ("serve", "--workers", "-1"), ("review", "--port", "-1")],
)
def test_ports_and_workers_out_of_range_are_usage_errors(words: tuple[str, ...]) -> None:
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 2 and "Input should be" in found.stderr


def test_a_server_leaves_the_log_handlers_of_its_process_open(packaged: Packaged) -> None:
    handler = ClosingHandler()
    Running(packaged.folder, ServeSettings()).stop()
    assert not handler.closed


def test_requests_that_are_refused_say_why(running: Running, packaged: Packaged) -> None:
    data = image_bytes(packaged)
    large = data + b"\0" * 10_000_001
    gif = io.BytesIO()
    Image.new("P", (4, 4)).save(gif, "GIF")
    cases = {
        "empty": (b"", 400),
        "text named as jpeg": (b"hello", 415),
        "gif": (gif.getvalue(), 415),
        "truncated header": (data[:40], 400),
        "truncated": (data[: len(data) * 3 // 4], 400),
        "too large": (large, 413),
        "too wide": (claiming_png(4001, 10), 413),
        "a bomb": (claiming_png(60_000, 60_000), 413),
        "no pixels behind the header": (claiming_png(64, 64), 400),
    }
    for name, (body, status) in cases.items():
        found = httpx.post(
            f"{running.address}/api/analyze", content=body, headers={"content-type": "image/jpeg"}
        )
        assert found.status_code == status, name
        assert found.json()["error"].endswith("."), name
    broken = b"--x\r\nContent-Disposition: form-data; name=f; filename=a\r\n\r\nhalf"
    found = httpx.post(
        f"{running.address}/api/analyze",
        content=broken,
        headers={"content-type": "multipart/form-data; boundary=x"},
    )
    assert (found.status_code, "cut short" in found.json()["error"]) == (400, True)
    assert httpx.get(f"{running.address}/api/analyze").status_code == 405


def test_limits_hold_before_a_decoder_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def decoder(*_: object) -> None:
        raise AssertionError("a pixel was decoded")

    from PIL import ImageFile

    monkeypatch.setattr(ImageFile.ImageFile, "load", decoder)
    for body, status in ((claiming_png(9000, 9000), 413), (b"BM6", 415), (b"\xff\xd8\xff", 400)):
        with pytest.raises(Refused) as error:
            opened_image(body)
        assert error.value.status == status


def test_a_stated_length_is_refused_before_it_is_sent(running: Running) -> None:
    with socket.create_connection(("127.0.0.1", running.port), timeout=5) as connection:
        connection.sendall(
            b"POST /api/analyze HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n"
        )
        assert connection.recv(64).startswith(b"HTTP/1.1 413")


def test_a_body_without_length_is_cut_at_the_limit(running: Running) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(200):
            yield b"\xff\xd8\xff" + b"\0" * 100_000

    try:
        found = httpx.post(f"{running.address}/api/analyze", content=endless(), timeout=10)
        assert found.status_code == 413
    except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
        pass  # hung up while it was sending


def test_slow_senders_are_cut_off(running: Running, packaged: Packaged) -> None:
    data = image_bytes(packaged)
    head = f"POST /api/analyze HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", running.port), timeout=5) as connection:
        connection.sendall(head.encode() + data[:100])
        answer = b""
        while part := connection.recv(4096):
            answer += part
        assert answer.startswith(b"HTTP/1.1 408") and b"did not arrive within 0.6 s" in answer
    for begun in (b"", b"POST /api/analyze HTTP/1.1\r\nHost: x\r\nX-Slow: "):
        with socket.create_connection(("127.0.0.1", running.port), timeout=5) as connection:
            connection.sendall(begun) if begun else None
            assert connection.recv(64) == b""  # closed without a word
    # Headers that never end are refused by their length, before their time is up.
    with socket.create_connection(("127.0.0.1", running.port), timeout=5) as connection:
        connection.sendall(b"GET /api/health HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 70_000)
        assert b"headers of the request are too long" in connection.recv(4096)
    assert httpx.get(f"{running.address}/api/analyze").status_code == 405
    # A second request of one connection has no more time than the first.
    with socket.create_connection(("127.0.0.1", running.port), timeout=5) as connection:
        connection.sendall(b"GET /api/health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET /api/health HTTP/1.1\r\nHos")
        ended = b"more"
        while ended:
            ended = connection.recv(4096)
    assert httpx.get(f"{running.address}/api/health").status_code == 200


class Written:
    """A transport that keeps what is written to it."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes) -> None:
        self.parts.append(data)

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed


def test_head_and_body_of_an_answer_are_written_as_one() -> None:
    for rest, expected in (
        ([b"body"], [b"head body"]),
        ([b"some ", b"more"], [b"head some ", b"more"]),
        ([b"b" * 70_000], [b"head ", b"b" * 70_000]),  # a copy would cost more than a call
        ([], [b"head "]),  # closed before a body came
    ):
        written, cycle = Written(), SimpleNamespace(response_started=False)
        whole = WholeAnswer(written, cycle)
        whole.write(b"100 Continue")
        assert written.parts == [b"100 Continue"]
        cycle.response_started = True
        for part in (b"head ", *rest):
            whole.write(part)
        whole.close()
        assert written.parts[1:] == expected and whole.is_closing()


def test_answers_without_a_body_and_long_ones_arrive(running: Running, packaged: Packaged) -> None:
    script = httpx.get(f"{running.address}/app.js")
    assert script.status_code == 200 and script.content == (PAGE / "app.js").read_bytes()
    assert httpx.head(f"{running.address}/app.js", timeout=5).status_code == 200
    data = image_bytes(packaged)
    with socket.create_connection(("127.0.0.1", running.port), timeout=5) as connection:
        connection.sendall(
            b"POST /api/analyze HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
            b"Content-Length: %d\r\n\r\n" % len(data)
        )
        assert connection.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(data)
        answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"}")


def test_too_many_at_once_get_503_and_then_go_on(packaged: Packaged) -> None:
    settings = ServeSettings(per_minute=0, workers=1, waiting=1, receive_seconds=5)
    running = Running(packaged.folder, settings)
    try:
        data = image_bytes(packaged)
        holders = []
        head = f"POST /api/analyze HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
        for _ in range(2):  # room for one worker and one that waits
            connection = socket.create_connection(("127.0.0.1", running.port), timeout=10)
            connection.sendall(head.encode())
            holders.append(connection)
        time.sleep(0.3)
        found = httpx.post(f"{running.address}/api/analyze", content=data)
        assert found.status_code == 503 and found.headers["retry-after"] == "2"
        for connection in holders:
            connection.sendall(data)
            assert connection.recv(64).startswith(b"HTTP/1.1 200")
            connection.close()
        assert httpx.post(f"{running.address}/api/analyze", content=data).status_code == 200
        health = httpx.get(f"{running.address}/api/health").json()
        assert health["answered"] == {"200": 3, "503": 1}
    finally:
        running.stop()


def test_one_sender_is_limited_and_told_when_to_come_back(packaged: Packaged) -> None:
    running = Running(packaged.folder, ServeSettings(per_minute=3, workers=1))
    try:
        data = image_bytes(packaged)
        found = [httpx.post(f"{running.address}/api/analyze", content=data) for _ in range(4)]
        assert [one.status_code for one in found] == [200, 200, 200, 429]
        assert 1 <= int(found[3].headers["retry-after"]) <= 21
        assert "try again in" in found[3].json()["error"]
        assert httpx.get(f"{running.address}/api/health").status_code == 200
    finally:
        running.stop()


def test_other_hosts_are_refused_where_hosts_are_named(packaged: Packaged) -> None:
    running = Running(packaged.folder, ServeSettings(hosts=("ward.example",), workers=1))
    try:
        assert httpx.get(f"{running.address}/api/health").status_code == 421
        headers = {"host": "ward.example:8000"}
        assert httpx.get(f"{running.address}/api/health", headers=headers).status_code == 200
    finally:
        running.stop()


def test_nothing_of_an_image_is_written(
    running: Running, packaged: Packaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import builtins

    opened: list[str] = []
    real = builtins.open

    def watched(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if any(letter in mode for letter in "wax+"):
            opened.append(str(file))
        return real(file, mode, *rest, **options)

    monkeypatch.setattr(builtins, "open", watched)
    form = {"file": ("photo.jpg", image_bytes(packaged) + b"\0" * 3_000_000)}
    assert httpx.post(f"{running.address}/api/analyze", files=form).status_code == 200
    assert opened == []


def test_parts_of_a_form_are_found_whatever_they_hold() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        contents = [rng.bytes(int(rng.integers(0, 300))) for _ in range(3)]
        body = b"".join(
            b'--bnd\r\nContent-Disposition: form-data; name="f"; filename="%d"\r\n\r\n%b\r\n'
            % (i, content)
            for i, content in enumerate(contents)
        )
        found = parts_of(body + b"--bnd--\r\n", 'multipart/form-data; boundary="bnd"')
        assert found == [(str(i), content) for i, content in enumerate(contents)]
        with pytest.raises(Refused):
            parts_of(body[: len(body) // 2], "multipart/form-data; boundary=bnd")


def test_the_description_of_the_api_names_what_it_answers(running: Running) -> None:
    described = httpx.get(f"{running.address}/openapi.json").json()
    assert described["openapi"].startswith("3.1") and "/api/analyze" in described["paths"]
    responses = described["paths"]["/api/analyze"]["post"]["responses"]
    assert set(responses) == {"200", "400", "408", "413", "415", "429", "503"}


# The page's scripts are the server's rules.


def run_node(script: str, given: Any) -> Any:
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node")
    done = subprocess.run(
        [node, "--input-type=module", "-e", script],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


READ = "import fs from 'fs'; const given = JSON.parse(fs.readFileSync(0, 'utf8'));\n"


def test_the_page_resizes_as_pillow_does_to_the_bit() -> None:
    from trustq.data.preprocessing import Preprocessing

    rng = np.random.default_rng(0)
    cases, expected = [], []
    sizes = [(200, 150, 64), (33, 90, 48), (47, 47, 96), (640, 481, 32), (32, 32, 32)]
    for aspect in ("squash", "crop", "pad"):
        for interpolation in ("bilinear", "bicubic", "lanczos", "nearest"):
            for width, height, size in sizes[: 5 if aspect == "squash" else 3]:
                pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
                own = Preprocessing(size, interpolation, (0.5, 0.31, 0.7), (0.2,) * 3, aspect)
                image = Image.fromarray(pixels)
                expected.append(np.asarray(own.fitted_in_steps(image)).ravel().tolist())
                given = {"width": width, "height": height, "data": pixels.ravel().tolist()}
                cases.append([given, own.attribute])
    script = (
        READ
        + f"import {{ fitted }} from '{PAGE.as_uri()}/pixels.js';\n"
        + (
            "console.log(JSON.stringify(given.map(([image, how]) => Array.from(fitted("
            "{ ...image, data: Uint8Array.from(image.data) }, how).data))));"
        )
    )
    assert run_node(script, cases) == expected


def test_the_page_decides_and_checks_as_the_server() -> None:
    from test_deploy import photo, rules_of

    rng = np.random.default_rng(0)
    rules: Rules = rules_of()
    rows = [
        (p.tolist(), float(d))
        for p, d in zip(rng.dirichlet(np.full(7, 0.2), 500), rng.uniform(0, 6, 500), strict=True)
    ]
    script = (
        READ
        + f"import {{ decide }} from '{PAGE.as_uri()}/triage.js';\n"
        + ("console.log(JSON.stringify(given.rows.map(([p, d]) => decide(p, d, given.rules))));")
    )
    found = run_node(script, {"rows": rows, "rules": rules.attribute})
    for (probs, distance), theirs in zip(rows, found, strict=True):
        own = decide(np.array(probs), distance, rules)
        for name, value in vars(own).items():
            there = theirs[name]
            same = list(value) == there if isinstance(value, tuple) else value == there
            assert same or abs(value - there) < 1e-12, name
    images = [photo(0), photo(1, dark=0.3), photo(2, blurred=True)]
    for width, height in ((257, 90), (383, 2), (601, 447), (1023, 41), (1301, 77), (35, 2050)):
        smooth = photo(3, blurred=True).resize((width, height))
        images += [smooth, Image.effect_noise((width, height), 90).convert("RGB")]
    given = [
        {"width": i.width, "height": i.height, "data": np.asarray(i).ravel().tolist()}
        for i in images
    ]
    script = (
        READ
        + f"import {{ checkLook, lookAt }} from '{PAGE.as_uri()}/pixels.js';\n"
        + (
            "console.log(JSON.stringify(given.map((image) => checkLook(lookAt("
            "{ ...image, data: Uint8Array.from(image.data) }), ['skin']))));"
        )
    )
    for image, theirs in zip(images, run_node(script, given), strict=True):
        own = check_look(look_at(image), left_out=("skin",))
        assert (own.score, own.band, list(own.fired)) == (
            theirs["score"],
            theirs["band"],
            theirs["fired"],
        )
        assert np.allclose(list(own.look), list(theirs["look"].values()))


# In a browser, without a network.


@pytest.fixture(name="offline_model", scope="module")
def _offline_model(packaged: Packaged, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if CHROMIUM is None:
        pytest.skip("needs chromium (Debian: apt-get install chromium)")
    source = find_web_runtime(tmp_path_factory.mktemp("npm"))
    if source is None:
        pytest.skip("needs npm, and a registry that has onnxruntime-web")
    folder = tmp_path_factory.mktemp("offline") / "model"
    shutil.copytree(packaged.folder, folder)
    assert "runs the model in the browser" in add_web_runtime(folder, source)
    return folder


def test_a_phone_answers_without_a_network_as_the_server(
    offline_model: Path, packaged: Packaged, tmp_path: Path
) -> None:
    from playwright.sync_api import sync_playwright

    running = Running(offline_model, ServeSettings(per_minute=0, workers=1))
    rows, answers = [], []
    for row in range(12):
        image = image_bytes(packaged, row)
        answered = httpx.post(f"{running.address}/api/analyze", content=image).json()
        # The image that a cut was chosen by lies on either side of it, by the last bits.
        if len(rows) < 3 and answered["confidence"]["distance_to_cut"] > 1e-3:
            rows.append(row)
            answers.append(answered)
    assert len(rows) == 3
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True)
            page = context.new_page()
            errors: list[str] = []
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.goto(f"{running.address}/")
            _until(page, "document.documentElement.dataset.ready === 'true'")
            running.stop()  # no network: the server is gone, and the browser is told so
            context.set_offline(True)
            page.reload()
            _until(page, "document.documentElement.dataset.ready === 'true'")
            assert page.is_visible("#disclaimer") and not page.is_visible("#ask")
            page.click("#accept")
            for row, expected in zip(rows, answers, strict=True):
                page.set_input_files("#upload", packaged.manifest.image_path(row))
                _until(page, "document.documentElement.dataset.answered")
                found = json.loads(page.evaluate("document.documentElement.dataset.answered"))
                own, theirs = (
                    np.array(list(one["probabilities"].values())) for one in (found, expected)
                )
                assert np.abs(own - theirs).max() < 1e-3
                for name in ("risk_tier", "urgency_tier", "reasons", "recommendation"):
                    assert found[name] == expected[name]
                assert found["image"]["score"] == expected["image"]["score"]
                assert page.inner_text("#urgency").startswith(expected["urgency"])
                said = page.inner_text("#conditions")
                assert " 0 %" not in said and "100 %" not in said
                page.evaluate("document.documentElement.dataset.answered = ''")
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= 390
            page.screenshot(path=tmp_path / "phone.png", full_page=True)
            assert errors == []
            browser.close()
    finally:
        running.stop()


def _until(page: Any, condition: str) -> None:
    end = time.monotonic() + 60
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        time.sleep(0.01)
