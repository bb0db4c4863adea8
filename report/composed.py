"""The composed classifiers that a strong model is a source of, as tables."""

from collections.abc import Iterator

from composing import files as composing_files
from composing.report import HEADINGS
from report.data import ReportData
from report.page import Block, Table


def composed_blocks(data: ReportData) -> Iterator[Block]:
    """A table of each one: its methods, with intervals and costs. Raises UserError where a record is damaged."""
    for file in composing_files.records(data.artifacts):
        record = file.load()
        if all(source.get("configuration") != data.config.name for source in record.sources.values()):
            continue
        yield Table(
            f"{file.path.stem}: {record.task}, {len(record.classes)} classes ({', '.join(record.classes)}) of "
            f"{', '.join(record.sources)}; {record.images.get('test')} test images. Differences are in percentage "
            "points, with 95 % intervals; FLOPs are of an image, as a share of the strong models' together.",
            ("method", *HEADINGS[1:]),
            record.rows,
        )
