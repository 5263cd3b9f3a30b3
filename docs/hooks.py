"""What `make docs` adds to the pages in this folder: pages made from the code, links, and mathematics as MathML.

Mathematics is written as LaTeX between dollars and turned into MathML here, which browsers draw by themselves: the site
needs no script and no font for it, and nothing from the network.
"""

import json
import re
from html import escape, unescape
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from typer.main import get_command

from fgcli.app import app
from fgcli.commands.recipe_schema import options_table, schema_text, table
from fgcli.extend.options import EngineOptions
from fgcli.extend.registry import load_registry

ROOT = Path(__file__).resolve().parents[1]
KINDS = (".md", ".py", ".jsonl", ".svg")
MEASURED = sorted(path for path in (ROOT / "benchmarks").rglob("*.*") if path.suffix in KINDS)
OUTSIDE = ["CHANGELOG.md", "CONTRIBUTING.md", *(path.relative_to(ROOT).as_posix() for path in MEASURED)]
"""Files of the site that lie outside of docs/ in the repository."""
NOTEBOOK, NOTEBOOK_PAGE = "tutorial/notebook.ipynb", "tutorial/notebook.md"


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages."""
    made = {"reference/cli.md": cli_page(), "reference/recipe.md": recipe_page(), "reference/api.md": api_page()}
    made[NOTEBOOK_PAGE] = notebook_page(ROOT / "docs" / NOTEBOOK)
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    for name in OUTSIDE:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fill in the tables of options, and lead links within the repository to the pages of the site."""
    here = page.file.src_uri if page.file.src_uri in OUTSIDE else f"docs/{page.file.src_uri}"
    markdown = re.sub(r"<!-- options: ([\w-]+) -->", lambda found: options_of(found[1]), markdown)
    return re.sub(r"\]\(([^)#\s]+)", lambda found: f"]({linked(here, found[1])}", markdown)


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Turn what arithmatex has marked as mathematics into MathML."""

    def convert_all(found: re.Match[str]) -> str:
        latex = unescape(found[1] or found[2])
        made = convert(latex, display="inline" if found[1] else "block")
        if "\\" in made:
            raise PluginError(f"{page.file.src_uri}: not all of this could be made MathML: {latex}")
        return made

    html = re.sub(r"(?<=[\d)]) ± (?=\d)", "\u00a0±\u00a0", html)  # an interval is not divided between lines
    inline = r'<span class="arithmatex">\\\((.*?)\\\)</span>'
    display = r'<div class="arithmatex">\\\[(.*?)\\\]</div>'
    return re.sub(f"{inline}|{display}", convert_all, html, flags=re.DOTALL)


def linked(here: str, target: str) -> str:
    """A link of a file of the repository, as the page of the site has it."""
    if ":" in target:
        return target
    goal = normpath(PurePosixPath(here).parent / target)
    if goal == "README.md":
        goal = "index.md"
    page, here = goal.removeprefix("docs/"), here.removeprefix("docs/")
    if page == NOTEBOOK and here != NOTEBOOK_PAGE:
        page = NOTEBOOK_PAGE
    return relpath(page, PurePosixPath(here).parent)


def cli_page() -> str:
    """Every command with its arguments and flags."""
    group: Any = get_command(app)
    context = group.make_context("fgcli", ["train"], resilient_parsing=True)
    parts = ["# Commands", "", "`fgcli COMMAND --help` prints the same. `fg` is the same command.", ""]
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        parts += [f"## {name}", "", str(command.help or ""), ""]
        for panel, records in command.panels(context).items():
            # As HTML: within backquotes, a table would keep the backslash before each bar.
            rows = [(f"<code>{escape(flag)}</code>", escape(meaning, quote=False)) for flag, meaning in records]
            parts += [f"**{panel}**", "", table(("flag", "meaning"), rows), ""]
    return "\n".join(parts)


def recipe_page() -> str:
    """Every key of a recipe."""
    head = "`fgcli recipes schema` prints the same. [Recipes](../recipes.md) explains it."
    return f"# Recipe schema\n\n{head}\n\n{schema_text()}"


def notebook_page(file: Path) -> str:
    """A notebook's cells with what they printed."""
    parts: list[str] = []
    for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        parts += [f"```text\n{''.join(output['text'])}```" for output in cell.get("outputs", [])]
    return "\n\n".join([*parts, f"[The notebook as a file]({file.name})", ""])


def api_page() -> str:
    """Every public name, in the groups of docs/plugins.md."""
    stub = (ROOT / "fgcli" / "__init__.pyi").read_text(encoding="utf-8")
    homes = {name: module for module, name in re.findall(r"^from ([\w.]+) import (\w+) as", stub, re.M)}
    text = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    section = text[text.index("## What is public") : text.index("## From contract 1 to 2")]
    parts = ["# Python API", "", "Import each name from `fgcli`, those of the last group from `fgcli.testing`.", ""]
    for group, names in re.findall(r"^\| (.*) \| (`.*`) \|$", section, re.M):
        parts += [f"## {group[0].upper()}{group[1:]}", ""]
        for name in re.findall(r"`(\w+)`", names):
            parts += [f"::: {homes.get(name, 'fgcli.testing')}.{name}", ""]
    return "\n".join(parts)


def options_of(method: str) -> str:
    """The options of a method, without those that the engine has for all; of `engine`, these."""
    if method == "engine":
        return options_table(EngineOptions)
    options = load_registry().method(method)[1].options
    own = set(options.model_fields) - set(EngineOptions.model_fields)
    return options_table(options, set(EngineOptions.model_fields)) if own else "It has no options of its own."
