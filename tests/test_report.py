"""The report page: everything in one file, warnings first, sound in a real browser."""

import base64
import contextlib
import json
import os
import re
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import make_cache
from support_sweep import points_of, trivial_recipe, write_caches
from trustq.cli import app
from typer.testing import CliRunner

from trustq.errors import TrustqError
from trustq.experiments import plan_sweep, repair, run_sweep
from trustq.recipes import load_recipe
from trustq.report.page import MOST_SETS, write_report
from trustq.report.plots import draw_legend, new_canvas, save_plot
from trustq.results import write_part
from trustq.store import write_cache

CHROMIUM = shutil.which("chromium")
EVIL = "<script>window.evil = 1</script>"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    caches = write_caches(folder, rows=120, separation=1.2, dataset=f"toy {EVIL}")
    arms = '["none", "random", "self_confidence@in_sample", "self_confidence@crossfit"]'
    recipe = trivial_recipe(folder, caches, head='["lda"]', arms=arms, draws="2", rounds="2")
    run_sweep(plan_sweep(points_of(recipe), results=folder / "r"), results=folder / "r", jobs=1)
    done = CliRunner().invoke(
        app, ["report", str(folder / "r"), "--out", str(folder / "report.html")]
    )
    assert done.exit_code == 0, done.output
    return folder / "report.html"


def test_warnings_stand_before_everything_else(page: Path) -> None:
    text = page.read_text("utf-8")
    warnings = text[text.index('role="alert"') : text.index("<main>")]
    assert "IN-SAMPLE: labels were scored by a model that was trained on them" in warnings
    assert "UNDERPOWERED over backbones: with n = 2 no difference can have a" in warnings
    assert re.search(r"\d+ runs failed; they are listed below\.", warnings)
    assert "LEAKY" not in warnings
    assert text.index('role="alert"') < text.index("<table")


def test_a_line_of_classes_is_one_class_of_an_arm_and_budget(page: Path) -> None:
    text = page.read_text("utf-8")
    table = text[text.index("<h2>Classes</h2>") :]
    head, body = table[: table.index("</table>")].split("<tbody>")
    names = re.findall(r"<button[^>]*>(.*?)</button>", head)
    assert names[2:4] == ["head", "arm"]
    assert names[4:] == ["budget", "class", "recall", "precision", "f1", "auroc", "n"]
    lines = [re.findall(r"<td>(.*?)</td>", line) for line in body.split("</tr>")[:-1]]
    # Without a purchase, and three arms with two budgets each; over caches and draws.
    places = [tuple(line[3:6]) for line in lines]
    assert len(set(places)) == len(places) == 3 * (1 + 3 * 2)
    assert {line[5] for line in lines} == set("abc") and {line[-1] for line in lines} == {"4"}
    assert all(0 <= float(figure) <= 1 for line in lines for figure in line[6:10])


def test_nothing_is_fetched_and_nothing_of_the_results_is_markup(page: Path) -> None:
    text = page.read_text("utf-8")
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", text)
    assert "@import" not in text and "url(" not in text
    assert EVIL not in text and "&lt;script&gt;window.evil" in text
    assert text.count("<script>") == 1
    pictures = re.findall(r"data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)", text)
    assert len(pictures) == 5
    assert all(b"<svg" in base64.b64decode(picture) for picture in pictures)


def test_leaks_unknown_exposures_and_missing_calibration_are_said(tmp_path: Path) -> None:
    cells = {
        "key": np.array(["a", "b"]),
        "exposure": np.array(["unknown", "finetuned-clean"]),
        "leaky": np.array([False, True]),
        "calibrator": np.array([None, "temperature"], dtype=object),
        "calibration_labels": np.array([None, "observed labels of 9 rows"], dtype=object),
        "score": np.array(["none", "random"]),
    }
    write_part(tmp_path, {"runs": cells}, part="p")
    write_report(tmp_path, tmp_path / "p.html")
    text = (tmp_path / "p.html").read_text("utf-8")
    for said in (
        "LEAKY: the backbone was trained on other labels",
        "What the backbone has seen was not stated: every figure may be optimistic. (1 of 2 runs)",
        "NOISY CALIBRATION LABELS: the calibrator was not fitted on reference labels. (1 of 2",
        "Not calibrated: there were no validation rows to fit a calibrator on. (1 of 2 runs)",
        "2 runs on 0 caches",
    ):
        assert said in text.replace("&#39;", "'")


def test_a_folder_without_cells_has_no_report(tmp_path: Path) -> None:
    write_part(tmp_path, {"samples": {"sample_id": np.array(["a"])}}, part="p")
    with pytest.raises(TrustqError) as caught:
        write_report(tmp_path, tmp_path / "p.html")
    assert str(caught.value) == f"{tmp_path} holds no runs to report. Run a sweep first."
    assert not (tmp_path / "p.html").exists()


class Browser:
    """A headless Chromium, spoken to through its debugging pipe."""

    def __init__(self, profile: Path) -> None:
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        assert CHROMIUM is not None
        flags = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run
            --disable-background-networking --disable-component-update --disable-sync
            --remote-debugging-pipe""".split()  # noqa: SIM905
        # Chromium reads descriptor 3 and writes 4; dash knows no descriptors above 9.
        script = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        self.process = subprocess.Popen(
            ["bash", "-c", script, "bash", CHROMIUM, *flags, f"--user-data-dir={profile}"],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._buffer, self._number, self.events = b"", 0, list[Any]()
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session: str | None = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    _session = None

    def send(self, method: str, **params: Any) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def wait_for(self, event: str) -> None:
        while not any(seen.get("method") == event for seen in self.events):
            self.events.append(self._receive())

    def value(self, expression: str) -> Any:
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def _receive(self) -> Any:
        until = time.monotonic() + 120
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(until - time.monotonic(), 0))
            data = os.read(self._read, 1 << 20) if ready else b""
            assert data, "Chromium does not answer"
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def close(self) -> None:
        import signal

        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._read)
        os.close(self._write)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("needs chromium (Debian: apt-get install chromium)")
    opened = Browser(tmp_path / "profile")
    yield opened
    opened.close()


def test_a_browser_shows_it_sorts_it_and_complains_of_nothing(
    page: Path, browser: Browser, tmp_path: Path
) -> None:
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.send("Emulation.setDeviceMetricsOverride", **phone)
    browser.send("Page.navigate", url=page.as_uri())
    browser.wait_for("Page.loadEventFired")
    assert "Before you believe a number" in browser.value("document.body.innerText")
    # On a phone only tables scroll sideways, not the page; every picture is there.
    assert browser.value("document.documentElement.scrollWidth") <= 390
    shown = "[...document.images].every(i => i.complete && i.naturalWidth > 0)"
    assert browser.value(shown) and browser.value("document.images.length") == 5
    # A click on a heading sorts, a second click turns the order.
    column = "[...document.querySelectorAll('th')].findIndex(h => h.innerText == 'accuracy')"
    cells = f"[...document.querySelectorAll('main table')[0].tBodies[0].rows].map(r => parseFloat(r.cells[{column}].innerText))"  # noqa: E501
    click = f"document.querySelectorAll('th button')[{column}].click()"
    browser.value(click)
    up = browser.value(cells)
    assert up == sorted(up) and len(up) > 3
    browser.value(click)
    assert browser.value(cells) == up[::-1] or sorted(browser.value(cells)) == up
    assert browser.value("document.querySelectorAll('th')[" + column + "].ariaSort") == "descending"
    assert browser.value("window.evil") is None
    picture = base64.b64decode(browser.send("Page.captureScreenshot")["data"])
    (tmp_path / "screenshot.png").write_bytes(picture)
    assert picture.startswith(b"\x89PNG") and len(picture) > 10_000
    assert browser.send("Page.printToPDF")["data"]
    troubles = [
        event
        for event in browser.events
        if event.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded")
        or (
            event.get("method") == "Runtime.consoleAPICalled"
            and event["params"]["type"] in ("error", "warning")
        )
    ]
    assert troubles == []


def test_the_page_of_one_cache_without_calibration_is_made(tmp_path: Path) -> None:
    split = np.array(["train", "test"])[np.arange(60) // 2 % 2]
    write_cache(tmp_path / "c.h5", make_cache(n=60, d=4, split=split))
    recipe = trivial_recipe(tmp_path, tmp_path / "c.h5", draws="1", budgets='["3"]')
    run_sweep(plan_sweep(points_of(recipe), results=tmp_path / "r"), results=tmp_path / "r", jobs=1)
    write_report(tmp_path / "r", tmp_path / "p.html")
    text = (tmp_path / "p.html").read_text("utf-8")
    assert "Not calibrated: there were no validation rows" in text
    assert "Uncalibrated figures of test rows" in text


def test_a_page_of_many_settings_draws_the_first_and_says_so(tmp_path: Path) -> None:
    settings = ["noise=symmetric:0.2", "arms=none", "folds=2", "head=centroid"]
    cache = make_cache()
    for share in range(1, MOST_SETS + 3):  # other settings of trust, each a set of its own
        asked = load_recipe(settings=[*settings, f"sweep.trusted=0.{share:02d}"], part="sweep")
        repair([cache], recipe=asked, results=tmp_path / "r")
    write_report(tmp_path / "r", tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text("utf-8")
    assert "2 further settings are not drawn here" in text
    captions = re.findall(r"<figcaption>Reliability[^:]*: (.*?)</figcaption>", text)
    assert len(captions) == MOST_SETS


def test_a_long_table_shows_its_first_rows_and_is_searched_whole(
    page: Path, browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trustq.report.page.SHOWN_AT_ONCE", 5)
    monkeypatch.setattr("trustq.report.page.MOST_ROWS", 12)
    write_report(page.parent / "r", tmp_path / "capped.html")
    text = (tmp_path / "capped.html").read_text("utf-8")
    classes = text[text.index("<h2>Classes</h2>") :].partition("</section>")[0]
    assert classes.count("<tr>") == 1 + 5
    said = "The page has the first 12 of 21 rows; <code>trustq sql</code> has all"
    assert said in classes and EVIL not in text
    browser.send("Page.navigate", url=(tmp_path / "capped.html").as_uri())
    browser.wait_for("Page.loadEventFired")
    assert browser.value("document.documentElement.scrollWidth") <= browser.value("innerWidth")
    find = "[...document.querySelectorAll('h2')].find(h => h.innerText == 'Classes').parentNode"
    browser.value(f"window.part = {find}; part.querySelector('details').open = true")
    lines = "[...part.querySelectorAll('tbody tr')].map(r => r.innerText.split('\\t')[5])"
    assert browser.value(lines) == ["a", "b", "c", "a", "b"]
    browser.value("part.querySelector('button.more').click()")
    assert len(browser.value(lines)) == 10
    search = "{const i = part.querySelector('input'); i.value = WORDS; "
    search += "i.dispatchEvent(new Event('input')); 1}"
    browser.value(search.replace("WORDS", "'toy no'"))
    assert browser.value("part.querySelector('[role=status]').innerText").endswith("of 12")
    browser.value(search.replace("WORDS", "'nowhere'"))
    assert browser.value(lines) == []
    assert browser.value("window.evil") is None


def test_two_pages_of_the_same_results_differ_in_their_time_alone(
    page: Path, tmp_path: Path
) -> None:
    write_report(page.parent / "r", tmp_path / "again.html")
    first, second = (
        re.sub(r"written [^.]*\.", "", path.read_text("utf-8"), count=1)
        for path in (page, tmp_path / "again.html")
    )
    assert first == second


def test_an_svg_is_what_matplotlib_lays_out_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(name: str) -> bytes:
        figure, axes = new_canvas()
        axes.plot([0, 1000], [0, 1e-3], label="a line")
        axes.scatter(np.linspace(0, 1000, 9), np.zeros(9), rasterized=True)
        axes.set_title("A title")
        axes.set_ylabel("a label")
        figure.suptitle("Over all")
        draw_legend(axes)
        engine = figure.get_layout_engine()
        save_plot(figure, tmp_path / name)
        assert figure.get_layout_engine() is engine and figure.dpi == 200
        return (tmp_path / name).read_bytes()

    ours = save("ours.svg")
    monkeypatch.setattr("trustq.report.plots._laid_out", lambda *_: contextlib.nullcontext())
    assert save("theirs.svg") == ours
