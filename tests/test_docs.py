"""The pages in docs/ run as they stand there, each from top to bottom, and show what their code printed."""

from __future__ import annotations

import doctest
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

DOCS = Path(__file__).parents[1] / "docs"
sys.path.insert(0, str(DOCS))

import make_pages  # noqa: E402

PAGES = sorted(DOCS.rglob("*.md"))


def anonymous(drawing: str) -> str:
    """A drawing without the ids of nodes, and without gradients, whose last digits differ between machines."""
    return re.sub(r'#\d+|-(id|from|to)="\d+"|stroke-width="[\d.]+"|gradient [\d.e-]+', "", drawing).rstrip("\n")


def name_of(page: Path) -> str:
    return page.relative_to(DOCS).as_posix()


@pytest.mark.parametrize("page", make_pages.pages(), ids=name_of)
def test_the_code_of_a_page_runs_and_prints_what_it_says(page: Path) -> None:
    pytest.importorskip("matplotlib")
    for block in make_pages.run(page):
        same = block.shown is None or doctest.OutputChecker().check_output(block.shown, block.printed, doctest.ELLIPSIS)
        assert same, f"the page shows {block.shown!r}, but it is {block.printed!r}: python docs/make_pages.py {page}"
        if isinstance(block.figure, str):
            kept = (page.parent / block.picture).read_text(encoding="utf-8")
            assert anonymous(block.figure) == anonymous(kept), "python docs/make_pages.py makes it anew"
        else:
            assert not block.picture or hasattr(block.figure, "savefig")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_pictures_and_links_of_a_page_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for picture in re.findall(r"!\[[^\]]*\]\((.*?)\)", text):
        assert 0 < (page.parent / picture).stat().st_size < 100_000
    for link in re.findall(r"[^!]\[[^\]]*\]\((?!http)([^)#]+)", text):
        assert (page.parent / link).exists(), link


def test_jax_finds_the_losses_gradients_and_weights_of_the_page_for_its_users() -> None:
    jax = pytest.importorskip("jax", reason="the page's step in JAX needs JAX")
    page = (DOCS / "from_jax.md").read_text(encoding="utf-8")
    ours: dict[str, Any] = {}
    theirs: dict[str, Any] = {}
    for language, space in (("python", ours), ("py", theirs)):
        (code,) = re.findall(rf"```{language}\n(.*?)```", page, re.S)
        exec(compile(code, "from_jax.md", "exec"), space)
    x, target, h = ours["x"], ours["target"], jax.numpy.zeros((16, 8))
    params, losses = jax.tree.map(jax.numpy.asarray, ours["before"]), []
    for t in range(0, 100, 20):
        params, h, loss = theirs["step"](params, h, x[t : t + 20], target[t : t + 20])
        losses.append(loss)
    gradients, _ = jax.grad(theirs["loss_of"], has_aux=True)(params, jax.numpy.zeros((16, 8)), x, target)
    np.testing.assert_allclose(losses, ours["losses"], rtol=1e-5)
    for name, weight in ours["weights"].items():
        np.testing.assert_allclose(params[name], weight.numpy(), atol=1e-6)
        np.testing.assert_allclose(gradients[name], ours["gradients"][name].numpy(), atol=1e-6)


def test_each_picture_of_the_flow_comes_from_the_code_before_it() -> None:
    page = (DOCS / "flow.md").read_text(encoding="utf-8")
    made = [picture for _, _, picture in make_pages.BLOCK.findall(page) if picture]
    assert made == re.findall(r"\((images/.*?)\)", page)


def test_every_chapter_is_in_the_contents_and_names_its_programs() -> None:
    contents = (DOCS / "tutorial" / "index.md").read_text(encoding="utf-8")
    chapters = sorted((DOCS / "tutorial").glob("[0-9]*.md"))
    assert re.findall(r"\((\d\d_.*?)\)", contents) == [chapter.name for chapter in chapters]
    named = [p for c in chapters for p in re.findall(r"`examples/learn/(.*?)`", c.read_text(encoding="utf-8"))]
    assert named == sorted(path.name for path in (DOCS.parent / "examples" / "learn").glob("[0-9]*.py"))


def test_every_exercise_has_a_solution_and_every_chapter_a_link_to_its_own() -> None:
    solutions = (DOCS / "tutorial" / "solutions.md").read_text(encoding="utf-8")
    sections = re.split(r"^## ", solutions, flags=re.M)[1:]
    chapters = sorted((DOCS / "tutorial").glob("[0-9]*.md"))
    for number, (chapter, section) in enumerate(zip(chapters, sections, strict=True), start=1):
        text, title = chapter.read_text(encoding="utf-8"), section.splitlines()[0]
        asked = re.findall(r"^\*\*(.*?)\*\*", text.partition("\n## Exercises\n")[2], re.M)
        assert asked == [f"{number}.{n}" for n in range(1, len(asked) + 1)]
        assert 2 <= len(asked) <= 3
        assert re.findall(rf"^\*\*({number}\..*?)\*\*", section, re.M) == asked
        assert text.startswith(f"# {title}\n")
        anchor = re.sub(r"[^a-z0-9 ]", "", title.lower()).replace(" ", "-")
        assert text.endswith(f"[Solutions](solutions.md#{anchor})\n")
