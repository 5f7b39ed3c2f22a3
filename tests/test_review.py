"""A review keeps every answer, gives nothing away, and says what may be said of the rest."""

import http.client
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import cohen_kappa_score
from support import ClosingHandler

from trustq.audit import audit_labels, open_source
from trustq.audit.apply import apply_answers, read_answers
from trustq.audit.folder import read_audit_folder
from trustq.errors import TrustqError
from trustq.report.audit import write_audit
from trustq.review import Answer, Journal, consensus, krippendorff_alpha, open_review
from trustq.review.agreement import cohen_kappa
from trustq.review.images import ReviewImages
from trustq.review.journal import read_journal, standing
from trustq.review.one_file import merge_answers, write_one_file
from trustq.review.server import LONGEST_BODY, ReviewServer
from trustq.statistics.confidence_sequence import share_bound

CHROMIUM = shutil.which("chromium")
CLASSES = ("nevus", "melanoma", "keratosis", "</script><b>", 'a "quoted", name')


def make_audit(
    folder: Path, *, n: int = 400, images: int = 60, classes: tuple[str, ...] = CLASSES
) -> tuple[Path, np.ndarray]:
    """An audit of embeddings with a fifth of wrong labels; returns its folder and the truth."""
    rng, width = np.random.default_rng(0), max(8, len(classes))
    truth = rng.integers(0, len(classes), n)
    features = rng.normal(size=(n, width)) + 4 * np.eye(width)[truth]
    observed, wrong = truth.copy(), rng.random(n) < 0.2
    observed[wrong] = (observed[wrong] + 1) % len(classes)
    ids = np.array([f"img_{i:05d}" for i in range(n)])
    source = folder / "embeddings.npz"
    np.savez(source, features=features.astype("f4"), labels=observed, sample_ids=ids)
    with np.load(source) as arrays:
        np.savez(source, **dict(arrays), classes=np.array(classes))
    (folder / "images").mkdir()
    for i in range(images):
        picture = np.full((40, 60, 3), 40 * truth[i], np.uint8)
        Image.fromarray(picture).save(folder / "images" / f"{ids[i]}.png")
    audit = audit_labels([open_source(source)])
    where = {"root": str(folder / "images")} if images else {}
    write_audit(audit, folder / "audit", images=where)
    return folder / "audit", truth


def said(sample_id: str, *labels: str, rater: str = "ada", kind: str = "label", n: int = 0) -> Any:
    return Answer(f"{rater}-{sample_id}-{kind}-{n}", rater, sample_id, kind, labels)


def test_the_queue_holds_the_list_in_order_and_random_rows_among_it(tmp_path: Path) -> None:
    folder, _ = make_audit(tmp_path, images=0)
    session = open_review(folder, random_share=0.25)
    audit, queue, sampled = session.audit, session.queue, session.sampled
    listed = [row for row in queue.tolist() if audit.listed[row]]
    assert sorted(listed) == sorted(audit.order.tolist())
    # In its order, but for the random ones that are shown ahead.
    ahead = session.plan.queue(audit).ahead
    assert len(ahead) == max(np.ceil(len(sampled) / 2), len(audit.order) // 4)
    assert [row for row in listed if row not in ahead] == [
        row for row in audit.order.tolist() if row not in ahead
    ]
    assert len(sampled) == np.ceil(len(listed) / 3)
    assert not audit.listed[sampled].any()
    # In the order of the draw, half of the beginning until they are through, in random places.
    assert [row for row in queue.tolist() if not audit.listed[row]] == sampled.tolist()
    places = np.flatnonzero(~audit.listed[queue])
    assert len(sampled) < places.max() < 2.5 * len(sampled)
    assert len(set(np.diff(places).tolist())) > 2
    session.close()
    again = open_review(folder)
    assert (again.queue == queue).all()
    again.close()


def test_another_random_share_is_refused_once_there_are_answers(tmp_path: Path) -> None:
    folder, _ = make_audit(tmp_path, images=0)
    session = open_review(folder, random_share=0.1)
    session.answer(said("img_00001", "nevus"))
    session.close()
    with pytest.raises(TrustqError, match="1 answer to a review with a random share of 0.1"):
        open_review(folder, random_share=0.2)
    open_review(folder).close()  # the lock was let go


def test_a_journal_keeps_whole_lines_and_counts_an_event_once(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    journal = Journal(path, classes=CLASSES)
    assert journal.add(said("a", "nevus"))
    assert not journal.add(said("a", "nevus"))
    assert journal.add(said("b", "melanoma", "nevus"))
    journal.close()
    path.write_bytes(path.read_bytes() + b'{"event": "torn')
    assert len(read_journal(path)) == 2
    journal = Journal(path, classes=CLASSES)
    assert journal.add(said("c", kind="unsure"))
    journal.close()
    kept = read_journal(path)
    assert [a.sample_id for a in kept] == ["a", "b", "c"]
    assert kept[1].labels == ("melanoma", "nevus")


def test_two_processes_never_write_one_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "answers.jsonl", classes=CLASSES)
    with pytest.raises(TrustqError, match="is open in another process"):
        Journal(tmp_path / "answers.jsonl", classes=CLASSES)
    journal.close()


def test_answers_that_are_none_are_refused_and_change_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "answers.jsonl", classes=CLASSES)
    for bad, why in (
        (said("a", "nevi"), "unknown class 'nevi'"),
        (said("a", kind="maybe"), "unknown kind"),
        (said("a"), "with 0 labels"),
        (said("a", "nevus", "nevus"), "names one label twice"),
        (said("a" * 3000, "nevus"), "expected 1 to 2000"),
    ):
        with pytest.raises(TrustqError, match=why):
            journal.add(bad)
    journal.close()
    assert read_journal(tmp_path / "answers.jsonl") == []


def test_the_last_answer_of_a_rater_stands() -> None:
    answers = [said("a", "nevus"), said("a", "melanoma", n=1), said("b", "nevus")]
    answers += [said("b", kind="undo"), said("a", "nevus", rater="bo")]
    kept = standing(answers)
    assert {key: found.labels for key, found in kept.items()} == {
        ("ada", "a"): ("melanoma",),
        ("bo", "a"): ("nevus",),
    }
    assert consensus(kept)["a"].labels == ()  # a tie: ask one more
    answers.append(said("a", "nevus", rater="cy"))
    assert consensus(standing(answers))["a"].labels == ("nevus",)


def test_kappa_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    first = rng.integers(0, 4, 300)
    second = np.where(rng.random(300) < 0.6, first, rng.integers(0, 4, 300))
    ours, n = cohen_kappa(
        {str(i): str(v) for i, v in enumerate(first)},
        {str(i): str(v) for i, v in enumerate(second)},
    )
    assert n == 300
    assert ours == pytest.approx(cohen_kappa_score(first, second), abs=1e-9)


def test_alpha_of_published_data() -> None:
    # Krippendorff (2011), four observers with missing values: nominal alpha .743.
    observers = [
        "1 2 3 3 2 1 4 1 2 * * *",
        "1 2 3 3 2 2 4 1 2 5 * 3",
        "* 3 3 3 2 3 4 2 2 5 1 *",
        "1 2 3 3 2 4 4 1 2 5 1 *",
    ]
    columns = zip(*(line.split() for line in observers), strict=True)
    alpha = krippendorff_alpha([[v for v in column if v != "*"] for column in columns])
    assert alpha == pytest.approx(0.743, abs=5e-4)


@pytest.mark.parametrize("noise", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("grouped", [False, True])
def test_the_stopping_statement_is_wrong_in_at_most_a_twentieth(
    noise: float, grouped: bool
) -> None:
    # 300 reviews a cell here, 2,000 in tests/benchmarks; looks after every answer: the bounds only
    # tighten, so the last ones are wrong if any were.
    rng = np.random.default_rng(2)
    n, failures = 1000, 0
    for _ in range(300):
        wrong = np.zeros(n, dtype=bool)
        if grouped:  # whole groups of 10 are wrong
            wrong.reshape(-1, 10)[rng.permutation(n // 10)[: int(noise * n / 10)]] = True
        else:
            wrong[rng.permutation(n)[: int(noise * n)]] = True
        bound = share_bound(wrong[rng.permutation(n)[:200]], n_rows=n)
        failures += not bound.low <= wrong.sum() <= bound.high
    assert failures <= 300 * 0.05


def test_bounds_of_the_whole_set_are_exact() -> None:
    wrong = np.array([True, False, False, True, False])
    bound = share_bound(wrong, n_rows=5)
    assert (bound.low, bound.high, bound.high_share_of_rest) == (2, 2, 0.0)


def test_what_nobody_could_tell_counts_as_wrong_and_gaps_end_the_sample(tmp_path: Path) -> None:
    folder, truth = make_audit(tmp_path, images=0)
    session = open_review(folder, random_share=0.5)
    ids = [str(session.audit.sample_ids[row]) for row in session.sampled]
    assert session.bound() is None
    session.answer(said(ids[1], CLASSES[0]))
    assert session.bound() is None  # the first of the draw is open
    session.answer(said(ids[0], kind="unsure"))
    bound = session.bound()
    assert bound is not None and bound.n_sampled == 2 and bound.n_wrong >= 1
    session.close()


def test_counts_of_listed_rows_follow_answers_undone_and_given_anew(tmp_path: Path) -> None:
    folder, _ = make_audit(tmp_path, images=0)
    session = open_review(folder, random_share=0.3)
    rng, ids = np.random.default_rng(0), session.audit.sample_ids[session.queue[:40]].tolist()
    kinds = ["label", "label", "unsure", "off-topic", "undo", "skip"]
    for event in range(300):
        sample_id, kind = str(ids[rng.integers(40)]), kinds[rng.integers(6)]
        labels = (CLASSES[rng.integers(len(CLASSES))],) if kind == "label" else ()
        rater = "ab"[rng.integers(2)]
        session.answer(Answer(f"e{event}", rater, sample_id, kind, labels))
    verdicts = [
        session.is_wrong(sample_id, found)
        for sample_id, found in session.consensus().items()
        if session.audit.listed[session.row_of(sample_id)]
    ]
    state = session.state("a")
    assert 10 < state["n_listed_answered"] == len(verdicts) < 40
    assert state["n_listed_wrong"] == verdicts.count(True) > 0
    session.close()
    again = open_review(folder)
    assert again.state("a") == state
    again.close()


def test_the_sheet_of_a_review_is_what_apply_reads(tmp_path: Path) -> None:
    folder, truth = make_audit(tmp_path, images=0)
    session = open_review(folder)
    for row in session.queue[:30].tolist():
        session.answer(said(str(session.audit.sample_ids[row]), CLASSES[truth[row]]))
    session.close()
    audit = read_audit_folder(folder)
    answers = read_answers(folder / "answers.csv", classes=audit.classes)
    assert answers == {
        str(audit.sample_ids[row]): CLASSES[truth[row]] for row in session.queue[:30].tolist()
    }
    assert apply_answers(audit, answers=answers).n_relabelled > 0


# The server, over the wire.


@pytest.fixture(name="server")
def _server(tmp_path: Path) -> Iterator[ReviewServer]:
    folder, _ = make_audit(tmp_path)
    session = open_review(folder)
    server = ReviewServer(session, ReviewImages(session.audit))
    server.start()
    yield server
    server.stop()


def test_a_server_leaves_the_log_handlers_of_its_process_open(tmp_path: Path) -> None:
    handler = ClosingHandler()
    folder, _ = make_audit(tmp_path)
    session = open_review(folder)
    server = ReviewServer(session, ReviewImages(session.audit))
    server.start()
    server.stop()
    assert not handler.closed


def call(
    server: ReviewServer,
    path: str,
    *,
    method: str = "GET",
    body: bytes | None = None,
    **headers: str,
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method, path, body=body, headers=named)
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def test_strangers_are_refused_and_the_server_goes_on(server: ReviewServer) -> None:
    base = f"/{server.session.plan.token}"
    ok = json.dumps(
        {"event": "1", "rater": "a", "sample_id": "img_00001", "kind": "unsure", "labels": []}
    ).encode()
    post: dict[str, Any] = {"method": "POST", "Content_Type": "application/json"}
    assert call(server, f"{base}/")[0] == 200
    assert call(server, f"{base}/", Host="evil.example")[0] == 421
    assert call(server, f"{base}/queue?rater=a", Origin="http://evil.example")[0] == 403
    assert call(server, f"{base}/queue?rater=a", Origin="null")[0] == 403
    assert call(server, "/")[0] == 404
    assert call(server, "/wrong-token/queue?rater=a")[0] == 404
    for path in ("../../../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd", "large/../../x", "large/-1"):
        assert call(server, f"{base}/images/{path}")[0] in (404, 405)
    assert call(server, f"{base}/images/large/99999999")[0] == 404
    assert call(server, f"{base}/queue?rater=")[0] == 400
    assert call(server, f"{base}/answers", method="POST", body=ok)[0] == 415
    assert call(server, f"{base}/answers", body=b"x" * (LONGEST_BODY + 1), **post)[0] == 413
    for bad in (b"", b"[]", b"{}", b"null", b"[" * 5000, b'{"event": 1}', b"\xff\xfe"):
        assert call(server, f"{base}/answers", body=bad, **post)[0] == 400
    strange = json.loads(ok) | {"sample_id": "img_99999"}
    assert call(server, f"{base}/answers", body=json.dumps(strange).encode(), **post)[0] == 400
    assert server.session.journal.answers == []
    status, text = call(server, f"{base}/answers", body=ok, **post)
    assert status == 200 and json.loads(text)["kept"]


def test_a_thousand_requests_at_once_lose_nothing(server: ReviewServer) -> None:
    base = f"/{server.session.plan.token}"
    statuses: list[int] = []

    def send(start: int) -> None:
        for i in range(start, start + 50):
            row = int(server.session.queue[i % len(server.session.queue)])
            fields = {
                "event": f"e{i}",
                "rater": f"rater {i}",
                "sample_id": str(server.session.audit.sample_ids[row]),
                "kind": "label",
                "labels": [CLASSES[0]],
            }
            reply = call(
                server,
                f"{base}/answers",
                method="POST",
                body=json.dumps(fields).encode(),
                Content_Type="application/json",
            )
            statuses.append(reply[0])

    threads = [threading.Thread(target=send, args=(50 * t,)) for t in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 1000
    events = [a.event for a in read_journal(server.session.journal.path)]
    assert sorted(events) == sorted(f"e{i}" for i in range(1000))


def test_images_are_named_by_row_and_sent_small(server: ReviewServer) -> None:
    base = f"/{server.session.plan.token}"
    status, content = call(server, f"{base}/images/small/3")
    assert status == 200 and content[:2] == b"\xff\xd8"
    assert call(server, f"{base}/images/small/399")[0] == 404  # has no file


def test_a_small_plain_jpeg_is_sent_as_it_is_and_no_other(tmp_path: Path) -> None:
    folder, _ = make_audit(tmp_path, images=0)
    audit = read_audit_folder(folder)
    root = tmp_path / "jpeg"
    root.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    saved: list[dict[str, Any]] = [{}, {"exif": exif}, {"icc_profile": b"x" * 200}]
    files = [root / f"{audit.sample_ids[row]}.jpg" for row in range(5)]
    for file, options in zip(files, saved, strict=False):
        Image.fromarray(pixels).save(file, "JPEG", quality=60, **options)
    files[3].write_bytes(files[0].read_bytes()[:-200])
    Image.fromarray(pixels).resize((2500, 400)).save(files[4], "JPEG")
    images = ReviewImages(audit, root=root)
    found = [images.jpeg(row) for row in range(5)]
    assert found[0] == files[0].read_bytes()
    turned, plain, wide = (Image.open(io.BytesIO(found[row] or b"")) for row in (1, 2, 4))
    assert turned.size == (40, 60) and "icc_profile" not in plain.info
    assert wide.size == (1200, 192)
    assert found[3] is None  # cut short


# The page, in a real browser.


@pytest.fixture(name="browser", scope="module")
def _browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("needs chromium (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-sync"]
            + ["--disable-background-networking", "--disable-component-update", "--no-first-run"],
        )
        yield browser
        browser.close()


def until(page: Any, condition: str) -> None:
    """Wait for a condition of the page; its policy forbids what Playwright's own wait evaluates."""
    end = time.monotonic() + 20
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        time.sleep(0.002)


def begin(page: Any, address: str, name: str) -> None:
    page.goto(address)
    if page.locator("#who").evaluate("dialog => dialog.open"):
        page.fill("#name", name)
        page.click("#whoform button")
    until(page, "document.body.dataset.shown !== undefined")


def press(page: Any, key: str) -> float:
    """Press a key and wait for the next image; milliseconds."""
    before = page.evaluate("document.body.dataset.shown")
    started = time.perf_counter()
    page.keyboard.press(key)
    until(page, f"document.body.dataset.shown !== {before!r}")
    return 1000 * (time.perf_counter() - started)


SERVE = """
import sys
from pathlib import Path
from trustq.review import open_review
from trustq.review.images import ReviewImages
from trustq.review.server import ReviewServer
session = open_review(Path(sys.argv[1]))
server = ReviewServer(session, ReviewImages(session.audit))
server.start()
print(server.address, flush=True)
server.wait()
"""


@pytest.fixture(name="serve")
def _serve() -> Iterator[Callable[[Path], tuple[subprocess.Popen[str], str]]]:
    started = []

    def serve(folder: Path) -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(folder)], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    yield serve
    for process in started:
        process.kill()
        process.communicate()


def test_200_answers_by_keys_survive_kills_of_server_and_browser(
    tmp_path: Path, browser: Any, serve: Callable[[Path], tuple[subprocess.Popen[str], str]]
) -> None:
    folder, _ = make_audit(tmp_path, n=1200)
    process, address = serve(folder)
    page = browser.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    begin(page, address, "ada")
    times = []
    for i in range(200):
        if i in (50, 100, 150):
            process.send_signal(signal.SIGKILL)
            process.wait()
            page.keyboard.press("2")  # is sent again until a server is there
            assert page.locator("#banner").is_visible() or page.wait_for_selector("#banner:visible")
            process, again = serve(folder)
            assert again == address
            until(page, "document.getElementById('banner').hidden")
            until(page, f"document.body.dataset.shown === '{i + 1}'")
            continue
        if i == 120:
            page.reload()
            until(page, "document.body.dataset.shown === '120'")
        times.append(press(page, ["Enter", "1", "2", "u"][i % 4]))
    assert errors == []
    page.close()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 0
    answers = read_journal(folder / "answers.jsonl")
    queue = open_review(folder)
    shown = [str(queue.audit.sample_ids[row]) for row in queue.queue[:200]]
    queue.close()
    assert [a.sample_id for a in answers] == shown  # every answer there once, in order
    assert all(not a.saw_guess for a in answers)
    assert (folder / "answers.csv").is_file()
    print(f"p95 from key to next image: {np.percentile(times, 95):.0f} ms")


def test_two_raters_several_labels_undo_and_a_guess_that_is_kept(
    tmp_path: Path, browser: Any
) -> None:
    folder, _ = make_audit(tmp_path)
    session = open_review(folder)
    server = ReviewServer(session, ReviewImages(session.audit))
    server.start()
    try:
        pages = []
        for name in ("ada", "bo"):
            page = browser.new_context().new_page()
            begin(page, server.address, name)
            pages.append(page)
        first, second = pages
        assert not first.locator("#shown").is_visible()
        first.keyboard.press("g")
        assert "The model's guess" in first.locator("#shown").inner_text()
        press(first, "3")
        first.keyboard.press("m")
        first.keyboard.press("1")
        first.keyboard.press("4")
        press(first, "Enter")
        press(first, "5")
        press(first, "z")
        first.fill("#note", 'blurred, "perhaps"')
        first.keyboard.press("Escape")
        press(first, "u")
        press(second, "3")
        kept = session.standing()
        ids = [str(session.audit.sample_ids[row]) for row in session.queue[:3]]
        assert kept["ada", ids[0]].labels == (CLASSES[2],) and kept["ada", ids[0]].saw_guess
        assert kept["ada", ids[1]].labels == (CLASSES[0], CLASSES[3])
        assert kept["ada", ids[2]].kind == "unsure"
        assert kept["ada", ids[2]].note == 'blurred, "perhaps"'
        assert kept["bo", ids[0]].labels == (CLASSES[2],) and not kept["bo", ids[0]].saw_guess
        assert session.consensus()[ids[0]].n_agree == 2
        for page in pages:
            page.close()
    finally:
        server.stop()


def numbers(text: str) -> list[int]:
    """The numbers of the sentence on how many are wrong."""
    sentence = text[text.index("Wrong of all") :].partition(" answers.")[0]
    return [int(found.replace(",", "")) for found in re.findall(r"\d[\d,]*", sentence)]


def test_the_one_file_page_estimates_the_number_wrong_as_the_server_does(
    tmp_path: Path, browser: Any
) -> None:
    folder, truth = make_audit(tmp_path, images=0, n=900)
    session = open_review(folder, random_share=0.3)
    write_one_file(session, ReviewImages(session.audit), tmp_path / "review.html")
    page = browser.new_context(accept_downloads=True, offline=True).new_page()
    begin(page, f"file://{tmp_path / 'review.html'}", "cy")
    assert "is not known before answers" in page.inner_text("#estimate")
    place = {f"img_{i:05d}": i for i in range(len(truth))}
    for at in range(60):
        row = str(session.audit.sample_ids[session.queue[at]])
        press(page, "u" if at % 9 == 4 else str(truth[place[row]] + 1))
        if at in (25, 59):
            with page.expect_download() as download:
                page.click("#save")
            download.value.save_as(tmp_path / f"{at}.jsonl")
            merge_answers(session, tmp_path / f"{at}.jsonl")
            theirs, ours = numbers(page.inner_text("#estimate")), numbers(session.outlook().text)
            assert theirs[0] == ours[0] == 900 and theirs[-1] == ours[-1] == at + 1
            assert theirs[2] == 95 and abs(theirs[1] - ours[1]) <= 1
            width = ours[4] - ours[3]
            assert abs(theirs[3] - ours[3]) < 0.1 * width and abs(theirs[4] - ours[4]) < 0.1 * width
    page.close()
    session.close()


def test_the_one_file_page_gives_answers_back(tmp_path: Path, browser: Any) -> None:
    folder, _ = make_audit(tmp_path)
    session = open_review(folder)
    write_one_file(session, ReviewImages(session.audit), tmp_path / "review.html")
    page = browser.new_context(accept_downloads=True, offline=True).new_page()
    begin(page, f"file://{tmp_path / 'review.html'}", "cy")
    for key in ("1", "2", "Enter", "u", "s"):
        press(page, key)
    page.reload()
    until(page, "document.body.dataset.shown === '5'")
    with page.expect_download() as download:
        page.click("#save")
    download.value.save_as(tmp_path / "back.jsonl")
    page.close()
    assert merge_answers(session, tmp_path / "back.jsonl") == 5
    assert merge_answers(session, tmp_path / "back.jsonl") == 0
    ids = [str(session.audit.sample_ids[row]) for row in session.queue[:4]]
    assert [session.standing()["cy", i].kind for i in ids] == ["label", "label", "label", "unsure"]
    session.close()


def test_two_tabs_of_the_one_file_page_lose_no_answer(tmp_path: Path, browser: Any) -> None:
    folder, _ = make_audit(tmp_path, images=0)
    session = open_review(folder)
    write_one_file(session, ReviewImages(session.audit), tmp_path / "review.html")
    context = browser.new_context(accept_downloads=True, offline=True)
    first, second = context.new_page(), context.new_page()
    for page, name in ((first, "cy"), (second, "di")):
        begin(page, f"file://{tmp_path / 'review.html'}", name)
    press(first, "1")
    press(second, "2")
    press(first, "3")
    with second.expect_download() as download:
        second.click("#save")
    download.value.save_as(tmp_path / "back.jsonl")
    assert merge_answers(session, tmp_path / "back.jsonl") == 3
    context.close()
    session.close()


def test_the_one_file_page_goes_on_where_the_browser_keeps_nothing(
    tmp_path: Path, browser: Any
) -> None:
    folder, _ = make_audit(tmp_path, images=0)
    session = open_review(folder)
    write_one_file(session, ReviewImages(session.audit), tmp_path / "review.html")
    page = browser.new_context(accept_downloads=True, offline=True).new_page()
    page.add_init_script("Storage.prototype.setItem = () => { throw new Error('full'); }")
    begin(page, f"file://{tmp_path / 'review.html'}", "cy")
    press(page, "1")
    press(page, "2")
    assert "Save them before you close the page" in page.inner_text("#banner")
    with page.expect_download() as download:
        page.click("#save")
    download.value.save_as(tmp_path / "back.jsonl")
    page.close()
    assert merge_answers(session, tmp_path / "back.jsonl") == 2
    session.close()


def test_many_labels_are_searched_and_undo_works_on_a_page_opened_anew(
    tmp_path: Path, browser: Any
) -> None:
    names = ("Crème brûlée", "crème", "صورة", *(f"dish {i}" for i in range(60)))
    folder, _ = make_audit(tmp_path, images=0, n=630, classes=names)
    session = open_review(folder)
    server = ReviewServer(session, ReviewImages(session.audit))
    server.start()
    try:
        page = browser.new_context().new_page()
        begin(page, server.address, "ada")
        page.keyboard.press("/")
        page.keyboard.type("creme")
        assert page.locator("#classes button:visible").count() == 2
        press(page, "Enter")  # the same name goes before one that holds it
        ids = [str(session.audit.sample_ids[row]) for row in session.queue[:2]]
        assert session.standing()["ada", ids[0]].labels == ("crème",)
        assert page.locator("#classes button:visible").count() == len(names)
        # A keyboard of another script: the key of "a" gives another letter.
        press_as = "document.dispatchEvent(new KeyboardEvent('keydown', %s))"
        page.evaluate(press_as % "{key: 'ش', code: 'KeyA', bubbles: true}")
        until(page, "document.body.dataset.shown === '2'")
        assert session.standing()["ada", ids[1]].labels == (names[9],)
        page.evaluate(press_as % "{key: 'Enter', repeat: true, bubbles: true}")
        page.reload()
        until(page, "document.body.dataset.shown === '2'")
        press(page, "z")
        assert page.evaluate("document.body.dataset.shown") == "1"
        assert list(session.standing()) == [("ada", ids[0])]
        page.close()
    finally:
        server.stop()


@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_phones_and_screens(
    server: ReviewServer, browser: Any, width: int, scheme: str, tmp_path: Path
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page = context.new_page()
    begin(page, server.address, "ada")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # Everything that answers can be reached and is named.
    for button in page.locator("button:visible").all():
        assert button.inner_text().strip()
    assert page.locator("#image").get_attribute("alt") is not None
    folder = os.environ.get("TRUSTQ_SCREENSHOTS")
    if folder:
        page.screenshot(path=Path(folder) / f"review-{width}-{scheme}.png")
    page.close()
