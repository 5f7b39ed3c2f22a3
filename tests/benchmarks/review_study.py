"""The review page with 50,000 listed rows in Chromium: from key to next image, kills, a reload.

    python tests/benchmarks/review_study.py --rows 100000 --listed 50000 --answers 200

Prints a Markdown row: seconds to open the review (by the clock, and of processor time),
percentiles of the time from a key to the frame with the next image, by the page's own clock (what a
person sees) and by the driver's (which asks the page every few milliseconds and waits for its
replies), processor seconds of the server, and whether every answer was kept once though the server
was killed three times and the page reloaded.
"""

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1]))
from test_review import CHROMIUM, SERVE, begin, press, until  # noqa: E402

from trustq.audit import audit_labels, open_source  # noqa: E402
from trustq.report.audit import write_audit  # noqa: E402
from trustq.review import open_review  # noqa: E402
from trustq.review.journal import read_journal  # noqa: E402


def make(folder: Path, rows: int, listed: int, shown: int) -> Path:
    """An audit of probabilities with many suspects; photos of 600 x 450 for those shown first."""
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(7) / 2, rows)
    labels = rng.integers(0, 7, rows)
    ids = np.array([f"img_{i:07d}" for i in range(rows)])
    source = folder / "probs.npz"
    np.savez(source, probs=probs, labels=labels, sample_ids=ids)
    audit = audit_labels([open_source(source)], review=listed)
    images = folder / "images"
    images.mkdir()
    write_audit(audit, folder / "audit", images={"root": str(images)})
    session = open_review(folder / "audit")
    for row in session.queue[:shown].tolist():
        pixels = rng.integers(0, 255, (45, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((600, 450)).save(images / f"{ids[row]}.jpg")
    session.close()
    return folder / "audit"


# Within the page: from the key's event to the frame after the next image was put.
WATCH = """() => {
  window.took = [];
  let pressed = 0;
  addEventListener("keydown", (event) => { pressed = event.timeStamp; }, true);
  new MutationObserver(() => {
    const from = pressed;
    pressed = 0;
    if (from) requestAnimationFrame(() => took.push(performance.now() - from));
  }).observe(document.body, { attributes: true, attributeFilter: ["data-shown"] });
}"""


def serve(folder: Path) -> tuple[subprocess.Popen[str], str, float]:
    """A server in a process of its own, its address, and seconds until it says so."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    return process, address, time.perf_counter() - started


def processor_seconds(process: subprocess.Popen[str]) -> float:
    """User and system time of a running process (Linux)."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


def main() -> None:
    """Run the study once and print its row."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--listed", type=int, default=50_000)
    parser.add_argument("--answers", type=int, default=200)
    parser.add_argument("--pause", type=float, default=0.0, help="Seconds between keys.")
    parser.add_argument("--screenshots", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        audit = make(Path(folder), asked.rows, asked.listed, asked.answers + 60)
        process, address, opened = serve(audit)
        opened_processor = processor_seconds(process)
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page()
        begin(page, address, "ada")
        page.evaluate(WATCH)
        times, kills = [], {asked.answers * i // 4 for i in (1, 2, 3)}
        spent = 0.0
        for i in range(asked.answers):
            time.sleep(asked.pause)
            if i in kills:
                spent += processor_seconds(process)
                process.send_signal(signal.SIGKILL)
                process.wait()
                page.keyboard.press("2")
                page.wait_for_selector("#banner:visible")
                process, _, _ = serve(audit)
                until(page, f"document.body.dataset.shown === '{i + 1}'")
            else:
                times.append(press(page, str(1 + i % 7)))
        seen = sorted(page.evaluate("took"))[: len(times)]  # those of kills wait for a server
        page.reload()
        until(page, f"document.body.dataset.shown === '{asked.answers}'")
        if asked.screenshots:
            for width in (390, 1400):
                for scheme in ("light", "dark"):
                    page.set_viewport_size({"width": width, "height": 844})
                    page.emulate_media(color_scheme=scheme)
                    page.wait_for_timeout(300)
                    page.screenshot(path=asked.screenshots / f"review-{width}-{scheme}.png")
        spent += processor_seconds(process)
        browser.close()
        process.send_signal(signal.SIGTERM)
        process.wait()
        kept = [answer.sample_id for answer in read_journal(audit / "answers.jsonl")]
        once = len(kept) == len(set(kept)) == asked.answers
    print(
        "| rows | listed | answers | open s | of processor | p50 ms | p95 ms | most ms | "
        "driver's p50 | p95 | server s | each once |"
    )
    print("|" + "---|" * 12)
    own, driver = np.percentile(seen, (50, 95, 100)), np.percentile(times, (50, 95))
    print(
        f"| {asked.rows:,} | {asked.listed:,} | {asked.answers} | {opened:.2f} | "
        f"{opened_processor:.2f} | {own[0]:.0f} | {own[1]:.0f} | {own[2]:.0f} | "
        f"{driver[0]:.0f} | {driver[1]:.0f} | {spent:.2f} | {'yes' if once else 'NO'} |"
    )


if __name__ == "__main__":
    main()
