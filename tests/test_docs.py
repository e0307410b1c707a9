"""The documentation is true: every block is run, every generated part is current, every link leads somewhere."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest

import aigw_core.testing
from aigw_core.facts import OpenRecord, Outcome, UsageFact
from aigw_core.usage.meter import UsageStatus
from docs.generator import DOCS, PARTS, pages, parts_of, redrawn
from docs.generator.bounds import without_reason
from tests.blocks import BlockError, blocks_of, run_page
from tests.sources import ROOT, modules

README: Final = ROOT / "README.md"
OTHER_TEXTS: Final = (README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md")


def _place(path: Path) -> str:
    return str(path.relative_to(ROOT))


# Blocks


@pytest.mark.parametrize("path", [*OTHER_TEXTS, *pages()], ids=_place)
def test_blocks_do_what_the_page_says(path: Path, tmp_path: Path) -> None:
    text = path.read_text()
    if "curl " in text and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    run_page(text, tmp_path)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("```bash\nfalse\n```\n", "exit code 1, not 0"),
        ("<!-- run: fails 2 -->\n```bash\nexit 3\n```\n", "exit code 3, not 2"),
        ("<!-- run: prints b -->\n```bash\necho a\n```\n", "no 'b' in"),
        ("```python\nassert 1 == 2\n```\n", "AssertionError"),
        ("<!-- run: serve -->\n```bash\npython -m aigw_asyncio --config missing.toml\n```\n", "cannot be read"),
    ],
)
def test_a_block_that_fails_is_noticed(block: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BlockError, match=re.escape(message)):
        run_page(block, tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "```\nuntold\n```\n",
        "```ruby\n1\n```\n",
        "```javascript\n1\n```\n",
        "<!-- run: guess -->\n```bash\ntrue\n```\n",
        "<!-- run: prints a -->\n\n```bash\ntrue\n```\n",
    ],
)
def test_a_block_that_nobody_can_run_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"runner|run this"):
        blocks_of(text)


# The two commands of the README. Their last part runs above (the demo) or is this very run (the suite); the parts
# before it install, and run in .ci/run, where they stand word for word.


def _commands() -> list[list[list[str]]]:
    """Each command as its parts between ``&&``, each part as its words."""
    blocks = [block for block in blocks_of(README.read_text()) if block.mark("install") is not None]
    return [[shlex.split(part) for part in block.text.split("&&")] for block in blocks]


def test_readme_has_two_commands_of_one_line() -> None:
    demo, suite = _commands()
    venv, python = ["python3", "-m", "venv", ".venv"], ".venv/bin/python"
    assert demo == [venv, [python, "-m", "pip", "install", "-q", "."], [python, "-m", "aigw_asyncio", "--demo"]]
    assert suite == [
        venv,
        [python, "-m", "pip", "install", "-q", "-e", ".[dev]"],
        [python, "-m", "pytest", "-q", "-n", "4", "--dist", "worksteal"],
    ]


def test_ci_runs_the_commands_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    demo, suite = (block.text for block in blocks_of(README.read_text()) if block.mark("install") is not None)
    *prepare, test = (part.strip() for part in suite.split("&&"))
    assert " && ".join(prepare) in script
    assert script.rstrip().endswith(test)
    assert demo.rpartition("&& ")[0].strip().removesuffix(" &&").replace(".venv", '"$demo/.venv"') in script


# Generated parts


@pytest.mark.parametrize("path", pages(), ids=_place)
def test_generated_parts_are_current(path: Path) -> None:
    assert redrawn(path.read_text()) == path.read_text(), "run: python -m docs.generator"


def test_every_part_has_its_page() -> None:
    found = [part for path in pages() for part in parts_of(path.read_text())]
    assert sorted(found) == sorted(PARTS)


def test_every_bound_says_why() -> None:
    assert without_reason() == []


# Tables that are written by hand


def _first_cells(text: str, heading: str) -> list[str]:
    """The first cells of the table under a heading, without the code marks."""
    section = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    return [row.split(" | ")[0].removeprefix("| ").strip("`") for row in rows[2:]]


def _fact() -> UsageFact:
    record = OpenRecord("0", "", 1, 1, None, 1, "openai", "chat_completions", "/v1/chat/completions", None, None)
    return UsageFact(record, Outcome.COMPLETE, "final")


def test_facts_page_describes_every_field_in_order() -> None:
    text = (DOCS / "reference" / "facts.md").read_text()
    named = [name.strip("`") for cell in _first_cells(text, "Fields") for name in cell.split(", ")]
    assert named == list(_fact().as_dict())


def test_facts_page_describes_every_end() -> None:
    text = (DOCS / "reference" / "facts.md").read_text()
    assert _first_cells(text, "Outcomes") == [outcome.value for outcome in Outcome]
    assert _first_cells(text, "Usage status") == [status.value for status in UsageStatus]
    ends = text.partition("## How it ended\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"`(\w+)`", ends)) - set(Outcome) - set(UsageStatus) == {"upstream_status", "drain"}


def test_facts_page_describes_every_flag_and_token_class() -> None:
    text = (DOCS / "reference" / "facts.md").read_text()
    sources = {module.name: module.text for module in modules("aigw_core")}
    added = {flag for source in sources.values() for flag in re.findall(r'flags\.add\("(\w+)"\)', source)}
    assert set(_first_cells(text, "Flags")) == added | {"usage_truncated"}
    classes = [name.strip("`") for cell in _first_cells(text, "Token classes") for name in cell.split(", ")]
    assert [name for name in classes if f'"{name}"' not in sources["aigw_core.usage.tokens"]] == []


# The reference


def test_everything_that_is_promised_is_in_the_reference() -> None:
    """By a directive of its own, or in that of its module, which shows what has a docstring."""
    pages_of_it = sorted((DOCS / "reference").glob("api-*.md"))
    directives = [name for path in pages_of_it for name in re.findall(r"^::: (\S+)$", path.read_text(), re.MULTILINE)]
    assert len(directives) == len(set(directives))
    missing = []
    for package in (aigw_core, aigw_core.testing):
        for name in package.__all__:
            promised = getattr(package, name)
            module = promised.__name__ if isinstance(promised, ModuleType) else getattr(promised, "__module__", None)
            in_its_module = module in directives and bool(promised.__doc__)
            by_itself = any(d.startswith(package.__name__) and d.endswith(f".{name}") for d in directives)
            if not by_itself and not in_its_module:
                missing.append(name)
    assert sorted(missing) == ["Effect", "ExchangeEffect", "Script"], "these are aliases, shown with their modules"
    assert {"aigw_core.effects", "aigw_core.testing.commands"} <= set(directives)


# Links and the index


@pytest.mark.parametrize("path", [*OTHER_TEXTS, *pages()], ids=_place)
def test_links_lead_somewhere(path: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if target.startswith(("https://", "http://")):
            continue
        name, _, anchor = target.partition("#")
        linked = path.parent / name if name else path
        if not linked.exists() or (anchor and anchor not in _anchors(linked)):
            broken.append(target)
    assert broken == []


def _anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_in_an_index() -> None:
    indexes = [path for path in pages() if path.name == "README.md"]
    linked = {
        (index.parent / target.partition("#")[0]).resolve()
        for index in indexes
        for target in re.findall(r"\]\(([^)\s]+)\)", index.read_text())
    }
    assert [_place(path) for path in pages() if path not in indexes and path not in linked] == []
