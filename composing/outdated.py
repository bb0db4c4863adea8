"""Whether a composed classifier's record is of the strong models and module sets that are there now."""

from composing.report import ComposedRecord
from models import files as model_files
from patching.on_disk import set_checksum
from utils.artifacts import Artifacts
from utils.files import sha256_of


def source_checksums(artifacts: Artifacts, modules: str) -> dict[str, str]:
    """What a record says of a source's strong model and module set as they are now; empty for one that is not there."""
    strong = model_files.entire_model(artifacts).path
    return {
        "strong_model_sha256": sha256_of(strong) if strong.exists() else "",
        "modules_sha256": set_checksum(artifacts, modules) if modules else "",
    }


def changed_sources(artifacts: Artifacts, record: ComposedRecord) -> list[str]:
    """The labels of the sources whose strong model or module set is not the one that a record is of any more.

    Sources of which an earlier version recorded no strong model are left out.
    """
    found = []
    for label, source in record.sources.items():
        if "strong_model_sha256" in source:
            of_source = Artifacts(artifacts.root_dir, source.get("model"), source.get("dataset"))
            now = source_checksums(of_source, source.get("modules", ""))
            if any(source.get(name) != value for name, value in now.items()):
                found.append(label)
    return found
