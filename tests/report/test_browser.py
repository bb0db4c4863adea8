"""The report page in headless Chromium: at the width of a phone and of a desk nothing overflows or logs an error."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from report import page
from report.figures_of_patching import effects_figure
from report.figures_of_search import kept_figure
from report.page import Note, Paragraph, Picture, Section, Table, Tiles, html_page
from report.words import Effect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed; Debian's package is chromium"),
]
# Unfolds everything; then no box may reach out of the page but in what scrolls, no figure out of its card, and no part
# of the page may overlap the next.
MEASURE = """
addEventListener("load", () => {
  for (const each of document.querySelectorAll("details")) each.open = true;
  const faults = [];
  const all = [...document.body.querySelectorAll("*")];
  for (const each of all) {
    const box = each.getBoundingClientRect();
    const scrolls = each.closest(".wide") && !each.matches(".wide");
    if (box.width && box.right > innerWidth + 1 && !scrolls) faults.push(`too wide: ${each.tagName} ${box.right}`);
  }
  for (const each of document.images) {
    if (!each.complete || !each.naturalWidth) faults.push("not drawn");
    if (each.getBoundingClientRect().width > each.parentElement.clientWidth) faults.push("cut");
  }
  for (const each of document.querySelectorAll("section, .tiles > div, .card, figure, nav")) {
    const next = each.nextElementSibling?.getBoundingClientRect();
    const box = each.getBoundingClientRect();
    if (next?.height && next.top < box.bottom - 1 && next.left < box.right - 1) faults.push(`overlap: ${each.id}`);
  }
  const boxes = [...document.querySelectorAll("input")];
  for (const each of boxes) { each.value = "class 7"; each.dispatchEvent(new Event("input")); }
  const left = [...document.querySelectorAll("tbody tr:not([hidden]) th")].map((th) => th.innerText);
  const named = left.filter((name) => /^class/.test(name));
  document.body.dataset.seen = JSON.stringify({faults, width: innerWidth, filters: boxes.length, named});
});
"""


def page_text() -> str:
    """A page with one block of each kind, of 30 classes, one of which has a long name."""
    names = [f"class {number}" for number in range(29)] + ["a_class_of_a_name_that_is_long_" * 4]
    effects = {"f1": Effect(2.0, 1.0, 3.0, True), "others_accuracy": Effect(-1.0, -2.0, -0.5, True)}
    rows = [[name, "12.5", effects["f1"], effects["others_accuracy"], "0.0"] for name in names]
    masks = np.random.default_rng(0).random((len(names), 12)) < 0.5
    kept = kept_figure(masks, [slice(0, 5), slice(5, 12)], ["0", "1"], names, "kept")
    command = "`python train.py --model simcnn --set " + "weak_classes=a,b,c,d,e,f,g," * 8 + "`"
    blocks = [
        Paragraph("A paragraph."),
        Tiles([("The module helps", "1 of 30", "patches")] * 5),
        Note(f"run: {command}"),
        Picture("effects", effects_figure(dict.fromkeys(names, effects), "effects"), "reading"),
        Table("A table", ("class", "F1", "module adds", "others", "p"), rows),
    ]
    folded = [Picture("kept", kept, "reading"), Table("Commands", ("stage", "command"), [("training", command)])]
    parts = [Section("kept", "Kept", folded, folded=True)]
    return html_page("A title", "about", Section("answer", "Results", blocks), parts, f"Make it again: {command}")


def seen_by_chromium(text: str, width: int, folder: Path) -> tuple[dict, list[str]]:
    """What MEASURE found in a page that many pixels wide, and what the browser logged."""
    path = folder / "page.html"
    path.write_text(text, encoding="utf-8")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom", "--enable-logging=stderr"]
    options += [f"--user-data-dir={folder / 'profile'}", f"--window-size={width},900", "--virtual-time-budget=4000"]
    done = subprocess.run([CHROMIUM, *options, path.as_uri()], capture_output=True, text=True, timeout=300, check=True)
    (found,) = re.findall('data-seen="([^"]*)"', done.stdout)
    return json.loads(html.unescape(found)), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.parametrize("width", [500, 1400])
def test_the_page_in_a_browser(width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "SCRIPT", page.SCRIPT + MEASURE)
    text = page_text()
    seen, logged = seen_by_chromium(text, width, tmp_path)
    assert not logged and seen["faults"] == [], (logged, seen)
    assert seen["width"] == width and seen["filters"] == 3 and set(seen["named"]) == {"class 7"}
    fault = f'<span style="display: inline-block; width: {width + 9}px">wide</span><script>not_ours()</script>'
    broken = text.replace("A paragraph.", fault)
    if width == 500:  # what the test would see of a fault
        seen, logged = seen_by_chromium(broken, width, tmp_path)
        assert any("too wide: SPAN" in fault for fault in seen["faults"]) and logged
