"""Draw the README's picture of the idea: docs/idea_light.svg and docs/idea_dark.svg.

python experiments/results/draw_idea.py
"""

from collections.abc import Sequence
from pathlib import Path

import global_configure  # noqa: F401  (finds our packages before others of their names)
from models.opening import OneLineParser
from report.figures import INK, INK_ON_DARK
from utils.files import save_text

DOCS = Path(__file__).resolve().parents[2] / "docs"
# Colours of lines and letters, of dropped kernels, of the module, and of the weak CNN, on a light and a dark page.
COLOURS = {
    "light": {"ink": INK, "dropped": "#c3c8ce", "module": "#0173b2", "weak": "#b86e00"},
    "dark": {"ink": INK_ON_DARK, "dropped": "#5b626b", "module": "#56b4e9", "weak": "#f0b041"},
}
WIDTH, HEIGHT, MIDDLE = 945, 322, 166
CELL, PITCH, LAYER = 15, 20, 34  # a kernel's side; between kernels of a layer; between layers
LAYERS = ("1011", "011011", "100101", "01101010")  # of the strong CNN, a letter a kernel: 1 = the module keeps it
KEPT = tuple("1" * layer.count("1") for layer in LAYERS)
WEAK = ("ww", "www")
FILL = {"0": "dropped", "1": "module", "w": "weak"}
PROSE = (
    "Three steps. A strong CNN of several classes, with some of its kernels marked: those that the class dog needs. "
    "These kernels, cut out as a smaller network, the module, whose only output is dog. The module next to a weak CNN "
    "that is bad at dog: a fitted rule combines the outputs of both into an answer: cat, frog or dog."
)


def idea(colours: dict[str, str]) -> str:
    """The picture as SVG, with these colours by their roles."""

    def text(x: float, y: float, words: str, role: str = "ink", size: int = 15, more: str = "") -> str:
        return f'<text x="{x}" y="{y}" font-size="{size}" fill="{colours[role]}"{more}>{words}</text>'

    def heading(x: float, words: str) -> str:
        return text(x, 24, words, size=18, more=' font-weight="bold"')

    def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
        line = f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{colours["ink"]}" stroke-width="1.5"'
        return f'{line} marker-end="url(#end)"/>'

    def network(x: float, middle: float, layers: Sequence[str]) -> list[str]:
        cells = []
        for number, layer in enumerate(layers):
            top = middle - (len(layer) - 1) * PITCH / 2 - CELL / 2
            cells += [
                f'<rect x="{x + number * LAYER}" y="{top + place * PITCH}" width="{CELL}" height="{CELL}" rx="3" '
                f'fill="{colours[FILL[letter]]}"/>'
                for place, letter in enumerate(layer)
            ]
        return cells

    def end(x: float, layers: Sequence[str]) -> float:
        return x + (len(layers) - 1) * LAYER + CELL

    strong, module, weak = 80, 410, 666
    upper, lower, rule = MIDDLE - 56, MIDDLE + 50, 832
    bold = ' font-weight="bold"'
    parts = [
        heading(0, "1. A strong CNN"),
        text(0, MIDDLE + 5, "image"),
        arrow(52, MIDDLE, strong - 6, MIDDLE),
        *network(strong, MIDDLE, LAYERS),
        arrow(end(strong, LAYERS) + 6, MIDDLE, 224, MIDDLE),
        *(
            text(231, MIDDLE + 5 + 22 * place, words)
            for place, words in ((-2, "bird"), (-1, "cat"), (1, "frog"), (2, "..."))
        ),
        text(231, MIDDLE + 5, "dog", "module", more=bold),
        text(0, HEIGHT - 12, "Blue: the kernels that dog needs"),
        arrow(278, MIDDLE, 316, MIDDLE),
        heading(330, "2. One module"),
        text(330, MIDDLE + 5, "image"),
        arrow(382, MIDDLE, module - 6, MIDDLE),
        *network(module, MIDDLE, KEPT),
        arrow(end(module, KEPT) + 6, MIDDLE, 554, MIDDLE),
        text(561, MIDDLE + 5, "dog", "module", more=bold),
        text(330, HEIGHT - 12, "Cut out: a smaller network"),
        heading(622, "3. Next to the weak CNN"),
        text(622, MIDDLE + 5, "image"),
        arrow(650, MIDDLE - 12, weak + 30, upper + 6),
        arrow(650, MIDDLE + 14, weak + 14, lower),
        *network(weak + 38, upper, WEAK),
        *network(weak + 21, lower, KEPT),
        arrow(end(weak + 38, WEAK) + 6, upper, rule - 2, MIDDLE - 18),
        arrow(end(weak + 21, KEPT) + 6, lower - 10, rule - 2, MIDDLE + 18),
        f'<rect x="{rule}" y="{MIDDLE - 28}" width="48" height="56" rx="6" fill="none" stroke="{colours["ink"]}" '
        'stroke-width="1.5"/>',
        text(rule + 24, MIDDLE + 5, "rule", more=' text-anchor="middle"'),
        arrow(rule + 50, MIDDLE, 902, MIDDLE),
        text(908, MIDDLE - 17, "cat"),
        text(908, MIDDLE + 5, "frog"),
        text(908, MIDDLE + 27, "dog", "module", more=bold),
        text(weak + 38, upper - 40, "weak CNN, bad at dog", "weak"),
        text(weak + 21, lower + 58, "module of dog", "module"),
        text(622, HEIGHT - 12, "It corrects the answers about dog"),
    ]
    marker = (
        '<defs><marker id="end" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0L8 4L0 8z" fill="{colours["ink"]}"/></marker></defs>'
    )
    start = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-4 0 {WIDTH + 8} {HEIGHT}" role="img" aria-label="{PROSE}" '
        "font-family=\"system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif\">"
    )
    return "\n".join([start, marker, *parts, "</svg>", ""])


def main() -> None:
    OneLineParser(__doc__).parse_args()
    for theme, colours in COLOURS.items():
        path = DOCS / f"idea_{theme}.svg"
        save_text(path, idea(colours))
        print(f"saved {path}")


if __name__ == "__main__":
    main()
