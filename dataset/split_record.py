"""What tells one split from another: its classes, and how many images, and which, each part has."""

from dataclasses import dataclass

from dataset.labelled_images import Split, split_fingerprint


@dataclass(frozen=True)
class SplitRecord:
    """What is kept of a split beside a network that learned from it."""

    classes: tuple[str, ...]
    images: dict[str, int]  # of each part: train, valid, test
    images_crc32: dict[str, int]


def record_of(split: Split) -> SplitRecord:
    """What tells this split from others."""
    checksums = split_fingerprint(split)
    return SplitRecord(split.classes, {part: len(getattr(split, part)) for part in checksums}, checksums)


def differences(expected: SplitRecord, given: SplitRecord) -> str:
    """What differs, for an error message; empty where nothing does."""
    found = []
    if given.classes != expected.classes:
        found.append(f"classes: expected {', '.join(expected.classes)}, given {', '.join(given.classes)}")
    for part, count in given.images.items():
        if count != expected.images.get(part):
            found.append(f"{part}: expected {expected.images.get(part, 'no')} images, given {count}")
        elif given.images_crc32[part] != expected.images_crc32.get(part):
            found.append(f"{part}: expected the same {count} images, given others")
    return "; ".join(found)
