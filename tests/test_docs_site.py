"""The site: every code block of its pages runs, links hold, and it needs nothing of the network."""

import doctest
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from support_docs import import_docs
from trustq.cli.reference import reference

from trustq.recipes.schema import ExtractRecipe, SweepRecipe, declared
from trustq.results.schema import TABLES
from trustq.results.views import derived_views

ROOT = Path(__file__).resolve().parents[1]


@cache
def _made() -> dict[str, str]:
    return dict(generate.pages())


blocks = import_docs("blocks")
generate = import_docs("generate")
PAGES = sorted(blocks.PAGES.rglob("*.md"))
READ = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *(ROOT / name / "README.md" for name in ("cache", "cli")),
    *sorted((ROOT / "experiments").rglob("*.md")),
    *sorted((ROOT / "findings").rglob("*.md")),
    *sorted((ROOT / "tests" / "benchmarks").glob("*.md")),
    *PAGES,
]


def test_a_block_that_cannot_run_here_says_why_and_its_options_exist() -> None:
    with pytest.raises(Exception, match="No such option"):
        blocks.check_options(["repair", "x.npz", "--bugdet", "5"])
    with pytest.raises(Exception, match="no command"):
        blocks.check_options(["data", "prepair"])
    blocks.check_options(["repair", "x.npz", "--budget", "5"])


def test_the_cookbook_has_thirty_questions_each_with_a_query_and_an_answer() -> None:
    text = (blocks.PAGES / "how-to" / "sql.md").read_text("utf-8")
    questions = re.split(r"^### (\d+)\. ", text, flags=re.M)
    assert [int(number) for number in questions[1::2]] == list(range(1, 31))
    for asked in questions[2::2]:
        assert asked.count("```sql") == 1 and "<!-- answer -->\n\n| " in asked, asked


def test_the_generated_reference_holds_every_command_setting_column_and_view() -> None:
    made = _made()
    for command in re.findall(r"^## (trustq.*)$", reference(), flags=re.M):
        assert f"\n## {command}\n" in made["reference/command-line.md"]
    for part in (ExtractRecipe, SweepRecipe):
        for setting in declared(part):
            assert f"| `{setting.name}` |" in made["reference/settings.md"]
    schema = made["reference/results.md"]
    for table, columns in TABLES.items():
        section = schema.split(f"### {table}\n")[1].split("\n##")[0]
        assert re.findall(r"^\| `(\w+)` \|", section, flags=re.M) == list(columns)
    assert set(generate.VIEWS) == set(derived_views())
    # A comment that runs on over two lines, one above its column, one of columns that tables share.
    assert "of rows; all of a round sum to 1" in schema
    assert "which labels were used, or why none" in schema
    assert schema.count("0 is before any purchase") == 2


def test_the_python_reference_shows_what_is_imported_with_its_examples() -> None:
    import trustq

    page = _made()["reference/python.md"]
    for name in trustq.__all__:
        assert f"## tq.{name}\n" in page
    assert page.count("```pycon") > 20 and "trustq.api" not in page.split("## tq.metrics")[0]


def test_the_examples_of_the_generator_hold() -> None:
    assert doctest.testmod(generate).failed == 0


def test_the_glossary_is_in_order_and_names_each_word_once() -> None:
    text = (blocks.PAGES / "glossary.md").read_text("utf-8")
    words = re.findall(r"^(\S.*)\n:   ", text, flags=re.M)
    assert len(words) > 40 and len(set(words)) == len(words)
    assert [word.lower() for word in words] == sorted(word.lower() for word in words)


@pytest.mark.parametrize("page", READ, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_between_files_hold(page: Path) -> None:
    made = _made()
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.S)
    for target in re.findall(r"!?\[[^\]]*\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        if found.is_relative_to(blocks.PAGES):
            there = found.relative_to(blocks.PAGES).as_posix()
            written = made.get(there) or (found.read_text("utf-8") if found.is_file() else "")
            assert written or there in generate.files(), f"{page}: {target}"
        else:
            assert found.exists(), f"{page}: {target}"
            written = found.read_text("utf-8") if found.suffix == ".md" else ""
        if anchor:
            assert anchor in _anchors(written), f"{page}: {target}"


def _anchors(text: str) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", text, flags=re.M)
    plain = [re.sub(r"[^\w\s-]", "", head.lower()).strip() for head in heads]
    return {re.sub(r"\s", "-", head) for head in plain}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("material") is None:
        pytest.skip("needs mkdocs-material, of the dev extra")
    folder = tmp_path_factory.mktemp("docs") / "site"
    config = str(ROOT / "docs" / "mkdocs.yml")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-f", config]
    built = subprocess.run(
        [*command, "-d", str(folder)],
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    loads = re.compile(
        r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"?https?:[^>]*>"
        r"|<link\b[^>]*rel=\"?(?:stylesheet|preconnect|icon)[^>]*href=\"?https?:[^>]*>"
    )
    for page in pages:
        assert not loads.findall(page.read_text("utf-8")), page


@pytest.mark.parametrize("page", ["index.html", "experiments/label-repair/index.html"])
def test_search_finds_words_on_a_page_that_is_opened_from_a_disk(site: Path, page: str) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None or importlib.util.find_spec("playwright") is None:
        pytest.skip("needs Chromium and playwright")
    from playwright.sync_api import sync_playwright

    asked: list[str] = []
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        shown = opened.new_page(viewport={"width": 1400, "height": 900})
        shown.on("request", lambda request: asked.append(request.url))
        shown.goto((site / page).as_uri())
        shown.wait_for_load_state("load")
        # Opening the field starts the search's script; what it has read already it answers.
        shown.keyboard.press("/")
        ready = "document.querySelector('.md-search-result__meta').innerText.includes('Type')"
        shown.wait_for_function(ready, timeout=60_000)
        shown.keyboard.type("temperature")
        found = shown.locator(".md-search-result__item")
        found.first.wait_for(state="attached", timeout=60_000)
        assert found.count() >= 5
        opened.close()
    assert all(url.startswith(("file:", "data:", "blob:")) for url in asked)
