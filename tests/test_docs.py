"""The pages of the documentation: links lead somewhere, tables fit a screen, references follow the code."""

import ast
import re
import runpy
from functools import cache
from pathlib import Path

import pytest
import torch

from lookalike.label_free import of_targets

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
WIDEST_TABLE = 160


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@cache
def prose(page: Path) -> str:
    """A page without its code blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


@cache
def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
        anchor = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        found.add(next(a for n in range(99) if (a := f"{anchor}-{n}" if n else anchor) not in found))
    return found


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{name(page)} links to {target}"
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there), f"{name(page)} links to {target}; its anchors: {sorted(anchors(there))}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_tables_fit_a_screen(page: Path) -> None:
    wide = [line for line in prose(page).splitlines() if line.startswith("|") and len(line) > WIDEST_TABLE]
    assert not wide, f"{name(page)}: {len(wide)} lines of tables above {WIDEST_TABLE} columns: {wide[0]}"


def test_the_readme_is_one_page() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_every_page_is_in_the_index_and_the_navigation() -> None:
    docs = ROOT / "docs"
    pages = {str(p.relative_to(docs)) for p in docs.rglob("*.md")} - {"index.md"}
    index = set(re.findall(r"\]\(([\w/-]+\.md)", (docs / "index.md").read_text()))
    navigation = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text())) - {"index.md"}
    assert pages == index == navigation


@pytest.mark.parametrize("page", ["methods", "commands"])
def test_references_follow_the_code(page: str) -> None:
    """`python docs/make_reference.py` writes them again."""
    made = runpy.run_path(str(ROOT / "docs" / "make_reference.py"))
    assert (ROOT / "docs" / "reference" / f"{page}.md").read_text() == made["formatted"](made[page]())


def test_the_metrics_of_every_method_are_explained() -> None:
    """The keys that `metrics` and what it calls return."""
    root = ROOT / "src" / "lookalike"
    page = (ROOT / "docs/reference/metrics.md").read_text()
    found = set(of_targets(torch.eye(32), torch.eye(32), 1.0))
    for file in (root / "methods").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name == "metrics":
                found |= {key.value for each in ast.walk(node) if isinstance(each, ast.Dict) for key in each.keys
                          if isinstance(key, ast.Constant)}  # fmt: skip
    assert {"target_information", "teacher_distance", "embedding_correlation"} < found
    assert {name for name in found if f"`{name}`" not in page} == set()


def test_every_name_in_src_of_a_page_and_its_heading_exists() -> None:
    """Messages that name a page, and perhaps a heading of it."""
    for file in (ROOT / "src").rglob("*.py"):
        for path, anchor in re.findall(r"docs/([\w/-]+\.md)(?:#([\w-]+))?", file.read_text()):
            page = ROOT / "docs" / path
            assert page.is_file(), f"{file.name} names docs/{path}"
            assert not anchor or anchor in anchors(page), f"{file.name} names docs/{path}#{anchor}"
