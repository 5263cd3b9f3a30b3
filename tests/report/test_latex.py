"""LaTeX output: what it escapes, and what pdfLaTeX makes of it."""

import json
import shutil
import string
import subprocess
from pathlib import Path

import pytest
from fake_runs import SWEEP, accuracy, fake_sweep

from fgcli.report.compose import compose
from fgcli.report.latex import escaped, latex

PDFLATEX = shutil.which("pdflatex")
# booktabs is not in every installation of LaTeX; its rules have the same arguments as these.
PREAMBLE = r"""\documentclass{article}
\IfFileExists{booktabs.sty}{\usepackage{booktabs}}{%
  \newcommand\toprule[1][]{\hline}\newcommand\midrule[1][]{\hline}\newcommand\bottomrule[1][]{\hline}}
\begin{document}
"""
LABELS = ["[10pt]", "*ours", "[", "*", "&", "%", "#", "_", "~", "^", "\\", "{", "}", "$", "--", "''", "?`", "|", "W̃⊥-σ"]
LABELS += [string.printable, "10⁻⁴", "ʲᵏˡ", "é ñ ő ß", "→ ≤ ∞", "\\end{tabular}", "{[}", "\\\\[1cm]"]


def sweep_of(folder: Path, labels: list[str]) -> Path:
    methods = [{"label": label, "method": "wt", "lr": 0.1 + number} for number, label in enumerate(labels)]
    view = {"kind": "table", "title": labels[0], "value": "test_accuracy", "note": labels[1], "baseline": labels[0]}
    recipe = {"grid": {"methods": methods, "seed": [0, 1]}, "views": [view]}
    return fake_sweep(folder, json.dumps(recipe), lambda trial: 0.5 + 0.01 * float(trial.axes["seed"]))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[10pt]", "{[}10pt]"),
        ("*ours", "{*}ours"),
        (r"\&%$#_{}", r"\textbackslash{}\&\%\$\#\_\{\}"),
        ("~^|", r"\textasciitilde{}\textasciicircum{}\textbar{}"),
        ("a--b---c", "a-{}-b-{}-{}-c"),
        ("wperp-ns", "wperp-ns"),
        ("ʲ²", r"\textsuperscript{j}\ensuremath{^{2}}"),
        ("σ̂", r"\ensuremath{\hat{\ensuremath{\sigma}}}"),
    ],
)
def test_what_latex_reads_as_syntax_is_escaped(text: str, expected: str) -> None:
    assert escaped(text) == expected


def test_a_row_that_begins_with_a_bracket_or_a_star_is_no_argument(tmp_path: Path) -> None:
    rows = latex(compose([sweep_of(tmp_path / "s", ["[10pt]", "*ours"])])).splitlines()
    assert [row.split(" & ")[0].strip() for row in rows if "{[}" in row or "{*}" in row][1:3] == ["{[}10pt]", "{*}ours"]


def test_letters_that_pdflatex_lacks_are_named(tmp_path: Path) -> None:
    text = latex(compose([sweep_of(tmp_path / "s", ["中文 é", "wt"])]))
    assert text.splitlines()[1].endswith("pdfLaTeX lacks 中 文")


@pytest.mark.skipif(PDFLATEX is None, reason="no pdflatex (Debian: texlive-latex-base)")
@pytest.mark.parametrize("labels", [None, LABELS])
def test_pdflatex_compiles_it(tmp_path: Path, labels: list[str] | None) -> None:
    folder = tmp_path / "sweep"
    document = compose([fake_sweep(folder, SWEEP, accuracy) if labels is None else sweep_of(folder, labels)])
    (tmp_path / "report.tex").write_text(f"{PREAMBLE}{latex(document)}\\end{{document}}\n", encoding="utf-8")
    command = [str(PDFLATEX), "-interaction=nonstopmode", "-halt-on-error", "report.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "report.pdf").stat().st_size > 10_000
