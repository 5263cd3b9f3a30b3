"""The HTML page: what is in it, and what a browser makes of it."""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from fake_runs import ENVIRONMENT, fake_run

from fgcli.report.compose import compose
from fgcli.report.page import as_html

ATTACK = "<script>alert(1)</script>"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture
def page(sweep_folder: Path, tmp_path: Path) -> str:
    """A sweep that a run with a hostile name joins, and what is no run."""
    runs = tmp_path / "runs"
    fake_run(runs / "attack", method=ATTACK, environment={"git_commit": ATTACK, "command": ["fg", ATTACK]})
    (runs / "not <b>a run").mkdir()
    odd = sweep_folder / "trials" / "wperp-width64-seed1"
    (odd / "result.json").unlink()
    (odd / "environment.json").write_text(json.dumps({**ENVIRONMENT, "command": 5}))
    return as_html(compose([sweep_folder, runs]))


def test_nothing_is_loaded_from_outside(page):
    assert not re.search(r"https?:|//\w|\bsrc=|@import|url\(|<link|<iframe|<img|<object", page)
    assert "default-src 'none'" in page


def test_what_runs_say_is_only_text(page):
    assert ATTACK not in page
    assert page.count("<script>") == 1
    assert "<b>a" not in page
    assert html.escape(ATTACK) in page


def test_every_number_leads_to_its_runs_with_recipe_and_environment(page):
    anchors = set(re.findall(r'\bid="(\w+)"', page))
    targets = re.findall(r'href="#(\w+)"', page)
    assert set(targets) <= anchors
    cell = re.search(r'<a href="#(g\d+)">0\.370 \[0\.350, 0\.390\] \(2 of 3\)</a>', page)
    assert cell is not None
    start = page.index(f'id="{cell[1]}"')
    group = page[start : page.index("</article>", start)]
    assert "<h4>W̃⊥, width 64</h4>" in group
    assert group.count("method: wperp\n") == 3
    assert "unfinished: stopped or still running, at step 32" in group
    (environment,) = set(re.findall(r'href="#(E\d+)"', group))
    assert "<dd>A processor, 2 cores (cpu)</dd>" in page[page.index(f'id="{environment}"') :]
    assert len(re.findall(r'<a href="#g\d+"><path class="marker"', page)) == 5 + 3 * 4


def test_the_same_page_each_time(page, sweep_folder, tmp_path):
    assert as_html(compose([sweep_folder, tmp_path / "runs"])) == page


PROBE = """
<script>
const seen = { alerts, errors, width: document.documentElement.scrollWidth, view: innerWidth };
seen.background = getComputedStyle(document.body).backgroundColor;
const table = document.querySelector("table.sortable");
const first = () => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent);
seen.before = first();
const button = table.querySelectorAll("th button")[2];
button.click(); seen.up = first(); button.click(); seen.down = first();
const strip = document.querySelector(".strip");
strip.dispatchEvent(new PointerEvent("pointermove", { clientX: 50, clientY: 50 }));
seen.readout = document.getElementById("readout").textContent;
seen.shown = !document.getElementById("readout").hidden;
seen.title = document.title;
const figures = [...document.querySelectorAll("article")].filter((one) => one.querySelector("svg"));
const box = (one, what) => one.querySelector(what).getBoundingClientRect();
seen.under = figures.every((one) => box(one, ".notes").top >= box(one, "svg").bottom);
document.documentElement.dataset.seen = JSON.stringify(seen);
</script>
"""
WATCH = "<script>const alerts = [], errors = []; window.alert = (a) => alerts.push(a);"
WATCH += " addEventListener('error', (event) => errors.push(event.message));"
WATCH += " addEventListener('securitypolicyviolation', (event) => errors.push(event.violatedDirective));</script>"
FLAGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
FLAGS += " --disable-component-update --disable-sync --hide-scrollbars"


def in_chromium(page: str, folder: Path, size: str, scheme: int) -> dict[str, object]:
    """What the page and the probe say in headless Chromium."""
    assert CHROMIUM is not None
    file = folder / "page.html"
    probed = page.replace('<meta name="viewport"', f'{WATCH}<meta name="viewport"').replace(
        "</body>", f"{PROBE}</body>"
    )
    file.write_text(probed, encoding="utf-8")
    own = [f"--user-data-dir={folder / 'profile'}", f"--window-size={size}"]
    own += [f"--blink-settings=preferredColorScheme={scheme}", "--dump-dom", file.as_uri()]
    environment = {**os.environ, "HOME": str(folder)}
    done = subprocess.run(
        [CHROMIUM, *FLAGS.split(), *own], capture_output=True, text=True, timeout=60, check=True, env=environment
    )
    found = re.search(r'data-seen="([^"]*)"', done.stdout)
    assert found, done.stderr
    return json.loads(html.unescape(found[1]))


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt-get install chromium)")
@pytest.mark.parametrize(
    ("size", "scheme", "background"), [("390,800", 0, "rgb(20, 22, 26)"), ("1280,900", 1, "rgb(251, 250, 247)")]
)
def test_in_a_browser(page, tmp_path, size, scheme, background):
    seen = in_chromium(page, tmp_path, size, scheme)
    assert (seen["alerts"], seen["errors"]) == ([], [])
    assert seen["title"] == "Accuracy by width"
    assert seen["under"], "the notes of a figure"
    assert seen["background"] == background  # dark and light
    assert seen["width"] == seen["view"]  # nothing hangs over the edge: wide tables scroll within themselves
    assert seen["before"] == seen["up"] == ["W̃ᵀ", "W̃⊥", ATTACK]  # by width 128, at which the last has no run
    assert seen["down"] == ["W̃⊥", "W̃ᵀ", ATTACK]
    assert seen["shown"]
    assert (
        seen["readout"]
        == f"width 64\n{ATTACK}  0.500\nW̃⊥  0.370 [0.350, 0.390]\nW̃ᵀ, published  0.330\nW̃ᵀ  0.310 ± 0.025"
    )
