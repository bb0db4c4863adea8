"""Tell a run as one web page: what was modularized, how well, how small, and what patching did; with all figures.

    python scripts/make_report.py --model simcnn_x0_25 --dataset digits
    python scripts/make_report.py --model simcnn_x0_25 --dataset digits --modules gradient_tuned

Writes data/MODEL_DATASET/report/index.html, which needs no network and no server, and every figure as PNG, SVG and CSV
in report/figures. It can be made at any time: what has not run is left out, and named in a fold at the end. Its last
section has the commands that made the files, with the settings that the stages recorded.
"""

import time
from datetime import datetime, timezone

import global_configure  # noqa: F401  (finds our packages before others of their names)
from models.opening import open_stage, stage_parser
from modules.module_sets import add_modules_option, read_set
from report import files as report_files
from report.answer import answer_section
from report.data import ReportData
from report.figures import remove_drawings, save_drawing
from report.page import Note, html_page
from report.sections import report_sections
from utils.errors import run
from utils.files import save_text
from utils.progress import progress


def main() -> None:
    start = time.perf_counter()
    parser = stage_parser(__doc__)
    add_modules_option(parser)
    arguments = parser.parse_args()
    stage = open_stage(arguments)
    if arguments.modules is not None:
        read_set(stage.config, stage.artifacts, arguments.modules)  # before a page without it replaces the last one
    data = ReportData(stage, arguments.modules)
    answer, sections = answer_section(data), report_sections(data)
    shown = [] if arguments.modules is None else ["--modules", arguments.modules]
    now = datetime.now(timezone.utc)
    page = html_page(
        f"{stage.config.model} on {stage.config.dataset}: modules and patches",
        f"Report on data/{stage.config.name}, made {now:%Y-%m-%d %H:%M} UTC.",
        answer,
        sections,
        f"Make it again with `{stage.artifacts.command('scripts/make_report.py', *shown)}`. Every figure is also in "
        "the folder `figures`, as PNG, SVG and CSV. Method: Qi et al., Patching Weak Convolutional Neural "
        "Network Models through Modularization and Composition, ASE 2022 (arXiv 2209.06116).",
    )
    folder = report_files.folder(stage.artifacts)
    remove_drawings(folder / "figures")  # a figure of an earlier report must not be taken for one of this report
    pictures = [picture for part in (answer, *sections) for picture in part.pictures]
    for picture in progress(pictures, "saving figures"):
        save_drawing(picture.drawing, folder / "figures" / picture.name)
    save_text(folder / "index.html", page)
    notes = [block.text for part in (answer, *sections) for block in part.blocks if isinstance(block, Note)]
    for text in dict.fromkeys(notes):
        print(text)
    print(f"{len(pictures)} figures in {time.perf_counter() - start:.0f} s; saved {folder / 'index.html'}")


if __name__ == "__main__":
    run(main)
