"""The pictures of terminal and report in docs/screenshots, made anew.

    fgcli bench demo --out runs/demo
    python docs/screenshots.py runs/demo

The terminal's is what `fgcli report` prints, as an SVG. The page's is taken by Chromium, which must be installed.
"""

import re
import shutil
import subprocess
import sys
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from fgcli.report.compose import compose
from fgcli.report.page import as_html
from fgcli.report.terminal import show

FOLDER = Path(__file__).parent / "screenshots"
WIDTH, HEIGHT = 1300, 1000
COLUMNS = 100


def main(sweep: Path) -> None:
    """Both pictures of a sweep's report."""
    document = compose([sweep], None)
    FOLDER.mkdir(exist_ok=True)
    console = Console(record=True, width=COLUMNS, file=StringIO(), force_terminal=True)
    show(document, console)
    picture = console.export_svg(title=f"fgcli report {sweep}", unique_id="terminal")
    picture = re.sub(r"@font-face \{.*?\}", "", picture, flags=re.DOTALL)  # nothing is fetched
    (FOLDER / "terminal.svg").write_text(picture, encoding="utf-8")
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        sys.exit("the page's picture needs Chromium")
    with TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        page.write_text(as_html(document), encoding="utf-8")
        flags = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={WIDTH},{HEIGHT}"]
        picture = f"--screenshot={FOLDER / 'report.png'}"
        subprocess.run([browser, *flags, picture, page.as_uri()], check=True, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
