"""The pages that a user reads: README, CONTRIBUTING and docs/, their blocks and their links."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Page:
    """A page in Markdown, by its path in the repository."""

    name: str
    text: str

    @property
    def files(self) -> dict[str, str]:
        """The files that it shows, by the titles of their blocks."""
        return dict(re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```$', self.text, re.MULTILINE | re.DOTALL))

    def blocks(self, language: str) -> list[str]:
        """Its blocks of a language that have no title."""
        return re.findall(rf"^```{language}\n(.*?)^```$", self.text, re.MULTILINE | re.DOTALL)

    @property
    def links(self) -> list[str]:
        """What its links and images lead to."""
        return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```$", "", self.text, flags=re.MULTILINE | re.DOTALL))

    @property
    def anchors(self) -> set[str]:
        """Those of its headings, as GitHub and mkdocs make them."""
        text = re.sub(r"^```.*?^```$", "", self.text, flags=re.MULTILINE | re.DOTALL)
        titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def _read(path: Path) -> Page:
    return Page(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8"))


FILES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = {page.name: page for page in map(_read, FILES)}
BENCHMARKS = {page.name: page for page in map(_read, sorted((ROOT / "benchmarks").glob("*.md")))}
