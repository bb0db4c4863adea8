"""Figures: the numbers behind them, what they say in words, and the files that they are saved as."""

import dataclasses
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from conftest import TOP, run_program
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from matplotlib import font_manager

from configures.base import load
from models.training import Epoch
from patching.metrics import scores_of_target_class
from report import fonts
from report.figures import HEAT, Drawing, as_svg, readable_on, remove_drawings, save_drawing
from report.figures_of_accuracy import confusion_figure, outputs_figure, separation
from report.figures_of_model import importance_figure, sensitivity_figure, training_figure
from report.figures_of_patching import ChangedImages, changed_images_figure, effects_figure, patch_figure, spread
from report.figures_of_search import course_figure, kept_figure
from report.figures_of_trade_off import is_of_the_paper
from report.words import Effect
from search.genetic.log import Generation
from search.gradient.log import Round
from search.methods import METHODS

CLASSES = ("cat", "dog", "ship")
SVG = "{http://www.w3.org/2000/svg}svg"


def epoch(number: int, valid: float) -> Epoch:
    return Epoch(number, 0.1, 2.0 / (number + 1), 0.5, valid, 3.0)


def generation(number: int, accuracy: float) -> Generation:
    return Generation(number, accuracy, 0.4, 0.9 * accuracy + 0.04, 0.6, 0.2, 50, 1000, (0, 1, 2), 5.0)


def kept_of(names: list[str]) -> Drawing:
    return kept_figure(np.eye(len(names), dtype=bool), [slice(0, len(names))], ["0"], names, "t")


def drawings(names: tuple[str, ...] = CLASSES) -> dict[str, Drawing]:
    """Every figure once, of small numbers."""
    random, n, title = np.random.default_rng(0), len(names), " ".join(names[:3])
    masks = random.random((n, 12)) < 0.6
    strong = 10 * np.eye(n, dtype=np.int64)
    composed = strong.copy()
    strong[:2, :2], composed[:2, :2] = [[8, 2], [1, 9]], [[6, 4], [1, 9]]
    counts = {"strong model": strong, "composed model": composed}
    before = scores_of_target_class(np.array([[5, 1], [4, 2]]), 1)
    after = scores_of_target_class(np.array([[4, 2], [1, 5]]), 1)
    labels, changed = np.array([0, 0, 1, 1]), (np.array([0, 0, 0, 1]), np.array([1, 0, 1, 1]))
    images = random.integers(0, 255, (4, 32, 32, 3), np.uint8)
    changes = ChangedImages(names[1], 4, names[:2], images, labels, *changed)
    sure = {name: Effect(10.0, low, 20.0, low > 0) for name, low in (("f1", 1.0), ("others_accuracy", -30.0))}
    costs = (12, 4_000_000, 5000), np.array([[6, 2_000_000, 1000]] * n)
    curves = {"0": np.array([[0.1, 0.2], [0.5, 0.9], [1, 0.9]]), "1=3": np.array([[0.1, 0.88], [0.5, 0.9], [1, 0.9]])}
    outputs = ([random.normal(2, 1, 20) for _ in names], [random.normal(0, 1, 40) for _ in names])
    return {
        "training": training_figure([epoch(0, 0.4), epoch(1, 0.8), epoch(2, 0.7)], 1, title),
        "importance": importance_figure({"0": random.random((n, 4)), "1=3": random.random((n, 8))}, names, title),
        "sensitivity": sensitivity_figure(curves, ["0"], 0.05, title),
        "search": course_figure([generation(0, 0.5), generation(1, 0.75)], METHODS["genetic"].course, 1, title),
        "kept": kept_figure(masks, [slice(0, 4), slice(4, 12)], ["0", "1"], names, title, costs),
        "confusion": confusion_figure(counts, names, title),
        "outputs": outputs_figure(*outputs, names, "others", title),
        "patch": patch_figure({name: {"before": before, "min_max": after} for name in names}, title),
        "changed_images": changed_images_figure([changes], title),
        "effects": effects_figure(dict.fromkeys(names, sure), title),
    }


@pytest.fixture(scope="module")
def drawn() -> dict[str, Drawing]:
    return drawings()


@pytest.mark.parametrize(
    ("name", "said", "num_rows"),
    [
        ("training", "Validation accuracy is best at epoch 1, 80.0 %, where training accuracy is 50.0 %", 3),
        ("importance", "mean correlation", 3 * (4 + 8)),
        ("sensitivity", "Conv 0 falls first: at 10.0 % of its kernels accuracy is more than 5 percentage points", 6),
        ("search", "the best ensemble's accuracy on the search's validation images from 50.0 % to 75.0 %", 2),
        ("kept", "50.0 % of the strong model's FLOPs and 20.0 % of its parameters; all 3 side by side have 1.5", 3 * 5),
        ("confusion", "83.3 % of 30 images correct; most frequent error: cat classified as dog (4 times)", 18),
        ("outputs", "separates its class from other images with a mean AUC of", 6),
        ("patch", "With min_max, F1 is 76.9 %, before 44.4 %; compared with before it changes by +32.5 percentage", 6),
        ("changed_images", "Of 4 answers to test images the patches correct 1 and spoil 1", 2),
        ("effects", "F1 of the target class: significant gain in 3 of 3, significant loss in 0.", 6),
    ],
)
def test_a_figure_says_its_finding_and_carries_its_numbers(
    drawn: dict[str, Drawing], name: str, said: str, num_rows: int
) -> None:
    drawing = drawn[name]
    assert said in drawing.finding.replace("\N{NO-BREAK SPACE}", " ")
    lines = drawing.as_csv().splitlines()
    assert lines[0] == ",".join(drawing.columns)
    assert len(lines) == num_rows + 1 and all(len(row) == len(drawing.columns) for row in drawing.rows)


def test_no_axis_of_percentages_goes_beyond_100(drawn: dict[str, Drawing]) -> None:
    ends = {}
    for name, drawing in drawn.items():
        for axes in drawing.figure.axes:
            of_panel = "x" if name == "patch" else "y"  # of panels whose title says what they show
            labels = (("x", axes.get_xlabel()), ("y", axes.get_ylabel()), (of_panel, axes.get_title()))
            for which, label in labels:
                if "in %" in label or "% of the" in label:
                    ends[name, which, label] = max(getattr(axes, f"get_{which}lim")())
    assert len(ends) > 7 and max(ends.values()) == 100, ends


def test_all_kernels_are_counted_and_not_those_of_the_layers_shown() -> None:
    """Of layers that are cut alike one is shown, and those that cannot be cut are not shown at all."""
    masks = np.array([[1, 0, 1, 0, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1, 1, 1]], bool)  # the layers 0 and 1 are tied
    drawing = kept_figure(masks, [slice(0, 2)], ["0=1"], ["cat", "dog"], "t")
    assert f"Modules keep {100 * masks.mean():.1f} % of all kernels on average" in drawing.finding
    assert [row for row in drawing.rows if row[1] == "all"] == [("cat", "all", 6, 8), ("dog", "all", 4, 8)]


def test_what_no_module_is_of_is_not_marked_as_chosen() -> None:
    generations = [generation(0, 0.5), generation(1, 0.75)]
    rounds = [Round(number, 0.5, 0.5, 0.4, 10, 9, 8, 1, 1.0) for number in range(2)]
    for method, rows, row in (("genetic", generations, "generation"), ("gradient", rounds, "round")):
        drawings = [course_figure(rows, METHODS[method].course, chosen, "t") for chosen in (1, None)]
        chosen, none = (drawing.finding for drawing in drawings)
        assert f"From {row} 0 to the chosen {row} 1 of 1" in chosen and f"to {row} 1: " in none
        assert "chosen" not in none


def test_a_patch_is_compared_with_the_control_without_a_module() -> None:
    before, after = (scores_of_target_class(np.array(counts), 1) for counts in ([[5, 1], [4, 2]], [[4, 2], [1, 5]]))
    weak_models = {"cat": {"before": before, "learned": after, "control": after}}
    finding = patch_figure(weak_models, "t", "control").finding
    assert "with control it changes by +0.0 percentage points, and is higher for 0 of 1 target class" in finding


@pytest.mark.slow
def test_every_figure_is_saved_as_png_svg_and_csv(drawn: dict[str, Drawing], tmp_path: Path) -> None:
    for name, drawing in drawn.items():
        save_drawing(drawing, tmp_path / name)
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        text = (tmp_path / f"{name}.svg").read_text(encoding="utf-8")
        assert ElementTree.fromstring(text).tag == SVG  # noqa: S314 - our own file
        assert "prefers-color-scheme: dark" in text and "http" not in text.replace("http://www.w3.org", "").replace(
            "http://purl.org", ""
        ).replace("http://creativecommons.org", "").replace("https://matplotlib.org", "")
        assert (tmp_path / f"{name}.csv").read_text(encoding="utf-8") == drawing.as_csv()
    assert len(list(tmp_path.iterdir())) == 3 * len(drawn)
    mine = [tmp_path / name for name in ("mine.svg", "notes.csv", "notes.svg")]
    for path in mine:
        path.write_text("a user's")
    remove_drawings(tmp_path)
    assert sorted(tmp_path.iterdir()) == mine


@pytest.mark.slow
def test_the_same_numbers_give_the_same_bytes() -> None:
    def curve(accuracy: float) -> Drawing:
        return training_figure([epoch(0, 0.4), epoch(1, accuracy)], 1, "t")

    assert as_svg(curve(0.8).figure) == as_svg(curve(0.8).figure) != as_svg(curve(0.7).figure)


def test_drawing_leaves_the_settings_of_matplotlib_alone() -> None:
    before = dict(matplotlib.rcParams)
    as_svg(kept_of(["cat", "dog"]).figure)
    assert dict(matplotlib.rcParams) == before


def test_texts_on_a_heat_map_contrast_enough_everywhere() -> None:
    def luminance(color: tuple[float, ...]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color[:3]]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    for share in np.linspace(0, 1, 256):
        background = matplotlib.colormaps[HEAT](share)
        text = {"black": 0.0, "white": 1.0}[readable_on(background)]
        low, high = sorted((luminance(background), text))
        assert (high + 0.05) / (low + 0.05) >= 4.5  # what WCAG 2.2 asks for


values = arrays.arrays(np.float32, st.integers(1, 12), elements=st.integers(-3, 3).map(float))


@given(values, values)
def test_separation_is_the_share_of_pairs_in_the_right_order(own: np.ndarray, others: np.ndarray) -> None:
    pairs = [(mine > other) + (mine == other) / 2 for mine in own for other in others]
    assert separation(own, others) == pytest.approx(np.mean(pairs))


@given(st.integers(0, 50), st.integers(1, 10))
def test_spread_takes_some_of_the_places_in_their_order(length: int, count: int) -> None:
    places = np.arange(length) * 2
    chosen = spread(places, count)
    assert len(chosen) == min(length, count) and set(chosen) <= set(places) and (np.diff(chosen) > 0).all()
    if length and count > 1:
        assert chosen[0] == places[0] and chosen[-1] == places[-1]


def test_gained_and_lost_images_are_those_whose_answer_became_right_and_wrong() -> None:
    labels, before, after = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 0, 1, 1]), np.array([1, 0, 2, 1, 2])
    case = ChangedImages("ship", 5, CLASSES, np.zeros((5, 32, 32, 3), np.uint8), labels, before, after)
    assert case.gained.tolist() == [1, 4] and case.lost.tolist() == [0]
    drawing = changed_images_figure([case], "t")
    assert [row[drawing.columns.index("image")] for row in drawing.rows] == [1, 4, 0]


@pytest.mark.slow
def test_figures_bear_one_module_many_classes_and_nothing_won() -> None:
    names = [f"class number {number}" for number in range(21)]
    many = np.eye(21, dtype=np.int64)
    images = np.zeros((9, 32, 32, 3), np.uint8)
    for drawing in (
        confusion_figure({"strong model": many}, names, "t"),
        kept_of(names),
        outputs_figure([np.ones(1)], [np.ones(1)], ["cat"], "others", "t"),
        sensitivity_figure({"0": np.array([[1.0, 0.9]])}, [], 0.05, "t"),
        importance_figure({"0": np.zeros((2, 1))}, ["a", "b"], "t"),
        changed_images_figure([ChangedImages("cat", 9, CLASSES, images, *[np.zeros(9, np.int64)] * 3)], "t"),
    ):
        drawing.figure.draw_without_rendering()
        assert drawing.finding.endswith(".")


ODD_NAMES = ("$5 to $10", "A$AP_$", "$\\frac{1}$", "_hidden", "a\\b", "50 %", "{", "^_^", "#", "$", "<b>&amp;", "é")


@pytest.mark.slow
def test_names_of_classes_are_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matplotlib.mathtext.MathTextParser.parse", lambda *_, **__: pytest.fail("read as mathematics"))
    for drawing in drawings(ODD_NAMES).values():
        ElementTree.fromstring(drawing.svg)  # noqa: S314 - our own file


def test_a_users_settings_of_matplotlib_change_nothing() -> None:
    def curve() -> str:
        return training_figure([epoch(0, 0.4), epoch(1, 0.8)], 1, "t").svg

    expected = curve()
    theirs = {
        "text.usetex": True,
        "font.family": "serif",
        "font.size": 30,
        "axes.unicode_minus": False,
        "savefig.bbox": "tight",
        "svg.fonttype": "none",
        "figure.autolayout": True,
        "lines.linewidth": 9,
        "axes.formatter.use_mathtext": True,
        "savefig.transparent": True,
        "figure.constrained_layout.use": True,
    }
    with matplotlib.rc_context(theirs):
        assert curve() == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    "backend",
    [
        "module://matplotlib_inline.backend_inline",
        *(pytest.param(other, marks=pytest.mark.long) for other in ("inline", "nonsense", "TkAgg")),
    ],
)
def test_figures_need_no_backend(backend: str, tmp_path: Path) -> None:
    """A notebook's environment names one, which a script's need not have."""
    (tmp_path / "matplotlibrc").write_text("backend: TkAgg\ntext.usetex: True\nfont.size: 40\n")
    code = (
        "import report.figures_of_model, report.figures as f, os, sys\n"
        "figure = f.new_figure(2, 2); f.styled(figure.suptitle)('$5 to $10'); print(len(f.as_png(figure)))\n"
        "assert 'matplotlib.pyplot' not in sys.modules; print(os.environ['MPLBACKEND'])\n"
        "f.styled(lambda: f.heat_map(figure.subplots(), f.np.eye(2), 'ab', 'ab', label='seaborn'))(); f.as_png(figure)"
    )
    env = {"MPLBACKEND": backend, "PYTHONPATH": str(TOP)}
    done = run_program([sys.executable, "-c", code], root=tmp_path, cwd=tmp_path, env=env)
    assert done.exit_code == 0 and not done.stderr, done.stderr
    assert done.stdout.splitlines()[1] == backend


@pytest.fixture
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_said", [])
    fonts.fonts_with.cache_clear()


def test_another_font_is_taken_for_characters_that_the_first_lacks(
    nothing_said: None, capsys: pytest.CaptureFixture[str]
) -> None:
    have = {name: fonts._characters(font_manager.findfont(name)) for name in (fonts.OWN_FONT, "STIXGeneral")}
    elsewhere = sorted(have["STIXGeneral"] - have[fonts.OWN_FONT])[:3]
    assert elsewhere
    figure = kept_of(["cat", "".join(elsewhere)]).figure
    as_svg(figure)
    families = {tuple(text.get_fontfamily()) for text in figure.findobj(matplotlib.text.Text)}
    assert len(families) == 1 and len(families.pop()) > 1
    assert set(elsewhere) <= set().union(
        *(fonts._characters(font_manager.findfont(name)) for name in fonts.fonts_with(frozenset(elsewhere)))
    )
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_characters_that_no_font_has_are_said_once(nothing_said: None, capsys: pytest.CaptureFixture[str]) -> None:
    for drawing in drawings(("\U0010f001", "\U0010f002", "\U0010f003")).values():  # nobody's
        ElementTree.fromstring(drawing.svg)  # noqa: S314 - our own file
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("figures: no installed font has 3 of the characters, such as ") and "install a font" in line


@pytest.mark.parametrize(
    ("model", "dataset", "is_of_it"),
    [
        ("simcnn", "cifar10", True),
        ("rescnn_x0_25", "cifar10", True),
        ("rescnn", "svhn", True),
        ("simcnn", "svhn_5", False),  # five of its classes
        ("resnet20", "cifar10", False),
        ("simcnn_x0_25", "digits", False),
        ("simcnn_x0_25", "digits_5", False),
    ],
)
def test_the_papers_value_is_of_its_networks_and_datasets(model: str, dataset: str, is_of_it: bool) -> None:
    assert is_of_the_paper(load(model, dataset)) == is_of_it


def test_the_network_counts_and_not_the_name_of_the_model() -> None:
    config = load("simcnn", "cifar10")
    assert not is_of_the_paper(dataclasses.replace(config, network="torchvision:resnet18"))
    assert is_of_the_paper(dataclasses.replace(config, dataset="mine", source="cifar10"))
