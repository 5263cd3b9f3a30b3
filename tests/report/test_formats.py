"""Terminal, Markdown, LaTeX, CSV, JSON and image files of one report."""

import csv
import io
import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib
import pytest
from fake_runs import fake_run, fake_sweep
from rich.console import Console

from fgcli.report.compose import compose
from fgcli.report.data import as_csv, as_json
from fgcli.report.document import TWO, Document, Figure
from fgcli.report.figure_file import FORMATS
from fgcli.report.latex import latex
from fgcli.report.markdown import markdown
from fgcli.report.page import as_html
from fgcli.report.plots import _draw, draw_all
from fgcli.report.terminal import show
from fgcli.spectra.table_file import shipped_table, write_table

ESCAPES = "\x1b[31mred\x1b]0;title\x07\x9b1m"
HOSTILE = "a|b & c_d <script>alert(1)</script> $x$ \\y"


@pytest.fixture
def document(sweep_folder: Path) -> Document:
    (sweep_folder / "trials" / "wperp-width64-seed1" / "result.json").unlink()
    return compose([sweep_folder])


@pytest.fixture
def hostile(tmp_path: Path) -> Document:
    fake_run(tmp_path / "run", method=HOSTILE, width=64)
    return compose([tmp_path / "run"])


def printed(document: Document, width: int, **how: object) -> str:
    console = Console(width=width, file=io.StringIO(), **how)  # pyright: ignore[reportArgumentType]
    show(document, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_terminal_has_tables_and_sparklines(document):
    text = printed(document, 120)
    assert "│ W̃⊥ │   0.370 [0.350, 0.390] (2 of 3) │           0.680 ± 0.075 │" in text
    assert "Unfinished: W̃⊥, width 64 (seed 1" in text
    assert "W̃ᵀ  ▁▇  0.310 → 0.620 ± 0.050 at width 128" in text
    assert " a band" not in text + markdown(document), "none is drawn"
    assert "Mean over seeds ± 95 % t-interval, drawn as a band." in as_html(document)
    assert "and a band from one number to the other, as two are too few" in as_html(document)


def test_columns_that_do_not_fit_stand_below(document):
    lines = printed(document, 50).splitlines()
    heads = [line for line in lines if line.startswith("┃")]
    assert [head.split("┃")[2].strip() for head in heads] == ["width 64", "width 128"]


@pytest.mark.parametrize("width", [20, 30])
def test_a_narrow_terminal_gets_lists(document, hostile, width):
    text = printed(document, width)
    assert max(map(len, text.splitlines())) <= width + 4  # a combining tilde is a character of no width
    assert "0.370 [0.350, 0.390]" in " ".join(text.split())
    assert "│" not in text
    assert printed(hostile, width)


def test_what_a_run_does_not_have_is_not_named(tmp_path: Path) -> None:
    fake_run(tmp_path / "mlp", width=64, bias=False)
    fake_run(tmp_path / "own", width=None, bias=None, model="nets:Net")
    found = compose([tmp_path])
    wide, narrow = printed(found, 150), printed(found, 40)
    assert "model nets:Net\n" in narrow
    assert "model mlp, width 64, bias false" in " ".join(narrow.split())
    assert "  train accuracy: 0.600" in narrow
    row = next(line for line in wide.splitlines() if line.startswith("│") and "nets:Net" in line)
    assert [cell.strip() for cell in row.split("│")[2:5]] == ["nets:Net", "–", "–"]
    for text in (wide, narrow, markdown(found), latex(found), as_html(found)):
        assert "nets:Net" in text
        assert "None" not in text.replace(as_json(found), "")


def test_the_best_is_bold_and_no_color_is_kept_to(document, monkeypatch):
    colored = printed(document, 120, force_terminal=True, color_system="standard")
    assert "\x1b[1m0.680 ± 0.075\x1b[0m" in colored
    assert ("Bold:" in colored, "Bold:" in printed(document, 120)) == (True, False)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in printed(document, 120, force_terminal=True)


def test_nothing_that_a_terminal_obeys_comes_from_a_run(tmp_path):
    recipe = f"title: {json.dumps(ESCAPES)}\ngrid: {{methods: [{{label: {json.dumps(ESCAPES)}, method: wt}}]}}\n"
    folder = fake_sweep(tmp_path / "sweep", recipe, lambda trial: None)
    row = {"trial": "31mred-0-title-1m-seed0", "exit_code": 1, "last_lines": [ESCAPES]}
    (folder / "failed.jsonl").write_text(json.dumps(row) + "\n")
    document = compose([folder])
    for text in (printed(document, 120), printed(document, 30), markdown(document), latex(document)):
        assert not set(text) & set("\x1b\x07\x9b")
        assert "31mred" in text


def test_markdown(document, hostile):
    text = markdown(document)
    two = r"**0.370 \[0.350, 0.390\] (2 of 3)**<br>+0.060 \[+0.050, +0.070\], p 0.11"
    assert f"| W̃⊥ | {two} | **0.680 ± 0.075**<br>" in text
    assert "| W̃ᵀ | 128 | 0.620 ± 0.050 |  |" in text.replace("|  | W̃ᵀ", "| W̃ᵀ")
    row = next(line for line in markdown(hostile).splitlines() if line.startswith("| a"))
    assert row.startswith(r"| a\|b &amp; c\_d &lt;script&gt;alert(1)&lt;/script&gt; $x$ \\y | 0.600 | ")


def test_latex(document, hostile):
    text = latex(document)
    assert (
        r"\ensuremath{\tilde{W}}\ensuremath{^\perp} & \begin{tabular}[t]{@{}r@{}}\textbf{0.370 {[}0.350, 0.390]" in text
    )
    assert r"\footnotesize paper 0.900 outside\end{tabular}" in text
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 1
    assert r"a\textbar{}b \& c\_d \ensuremath{<}script\ensuremath{>}" in latex(hostile)
    assert r"\$x\$ \textbackslash{}y & 0.600" in latex(hostile)


def test_csv_has_a_line_for_every_number(document):
    rows = list(csv.DictReader(io.StringIO(as_csv(document))))
    cells = [row for row in rows if row["item"] == "Tab. 3"]
    assert [(row["label"], row["axes"]) for row in cells] == [
        ("W̃ᵀ", "width=64"), ("W̃ᵀ", "width=128"), ("W̃⊥", "width=64"), ("W̃⊥", "width=128"),
    ]  # fmt: skip
    row = cells[2]
    assert float(row["mean"]) == pytest.approx(0.37)
    assert (row["n"], row["missing"], row["pairs"]) == ("2", "wperp-width64-seed1", "2")
    assert float(row["difference"]) == pytest.approx(0.06)
    # Differences 0.05 and 0.07: t = 6 with one degree of freedom, of which F(t) = 1/2 + atan(t) / π
    assert float(row["p"]) == pytest.approx(1 - 2 * math.atan(6) / math.pi)
    assert cells[0]["inside"] == "true"
    assert cells[1]["inside"] == "false"
    assert len([row for row in rows if row["item"] == "Curves"]) == 2 * 4
    assert all(row["runs"] for row in rows)


def test_csv_is_no_formula(tmp_path):
    fake_run(tmp_path / "run", method="=1+1")
    assert all(row["label"] == "'=1+1" for row in csv.DictReader(io.StringIO(as_csv(compose([tmp_path / "run"])))))


def test_json_has_the_same_numbers_with_the_notes(document):
    content = json.loads(as_json(document))
    (section,) = content["sections"]
    assert [(item["kind"], item["title"]) for item in section["items"]] == [
        ("table", "Tab. 3"), ("figure", "Fig. 2"), ("figure", "Curves"),
    ]  # fmt: skip
    assert section["items"][0]["records"][1]["mean"] == pytest.approx(0.62)
    assert section["items"][0]["notes"][0] == "Mean ± 95 % t-interval over seeds, n = 3."
    assert section["items"][0]["notes"][1] == TWO
    assert content["problems"] == []


def test_figure_files_are_the_same_bytes_each_time_and_leave_the_plot_room_beside_a_long_label(tmp_path):
    fake_run(tmp_path / "run", method=4 * HOSTILE)
    hostile = compose([tmp_path / "run"])
    (section,) = hostile.sections
    document = replace(hostile, sections=(replace(section, items=section.items[:2]),))
    assert draw_all(document, tmp_path / "a") == 1
    assert draw_all(document, tmp_path / "b") == 1
    first = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()}
    assert sorted(first) == [f"01-test-accuracy-over-epochs.{suffix}" for suffix in ("pdf", "png", "svg")]
    assert b"<script>" not in first["01-test-accuracy-over-epochs.svg"]


# What a user may have set, for pages of another look, for LaTeX, and for a backend that is not there.
CONFIGURATION = """text.usetex: True
axes.facecolor: black
savefig.bbox: tight
savefig.transparent: True
figure.dpi: 30
svg.fonttype: none
axes.prop_cycle: cycler("color", ["red"])
backend: TkAgg
"""


@pytest.mark.slow
def test_figures_do_not_depend_on_the_configuration_of_matplotlib(tmp_path, sweep_folder):
    drawn: list[dict[str, bytes]] = []
    shipped, fonts = shipped_table(), Path(matplotlib.get_cachedir())
    (tmp_path / "config").mkdir()
    for file in fonts.glob("fontlist-*.json"):  # which takes seconds to make
        shutil.copy(file, tmp_path / "config")
    sigma = shipped.options.sigmas[0]
    few = replace(shipped, options=replace(shipped.options, sigmas=(sigma,)), fits=shipped.fits[:1])
    write_table(few, tmp_path / "table.json")
    table = ["fit-ns-coeffs", "--sigma", str(sigma), "--out", str(tmp_path / "table.json"), "--plot", "ns.svg"]
    both = f"for line in {['report', str(sweep_folder), '--figures', '.']}, {table}: app(line, standalone_mode=False)"
    for name, settings, backend in (("plain", "", None), ("own", CONFIGURATION, "no such backend")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "matplotlibrc").write_text(settings)
        environment = {**os.environ, "MPLCONFIGDIR": str(tmp_path / "config"), "PYTHONPATH": os.getcwd()}
        if backend is not None:
            environment["MPLBACKEND"] = backend
        command = [sys.executable, "-c", f"from fgcli.app import app\n{both}"]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        drawn.append({path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in FORMATS})
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 7


def test_a_label_that_begins_with_an_underscore_is_in_the_legend(tmp_path):
    fake_run(tmp_path / "run", method="_private")
    figure = next(item for item in compose([tmp_path / "run"]).items if isinstance(item, Figure))
    assert [text.get_text().strip() for text in _draw(figure).legends[0].get_texts()] == ["_private"]
