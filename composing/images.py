"""The images that a composed classifier is fitted and judged on: none that a strong model was trained on."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from composing.sources import Source, spelled_alike
from dataset.images import Images
from dataset.splits import is_among, load_evaluation_parts
from models.strong_model import image_order, load_strong_split
from patching.members import Form
from patching.own_weak_model import with_labels_of
from utils.errors import UserError
from utils.progress import say

PARTS = ("valid", "test")
InForms = dict[Form, Images]  # the same images in the form of each source


def datasets_of(sources: Sequence[Source], given: str | None) -> list[str]:
    """Whose images they are: the dataset that is given, or those of the strong models."""
    return [given] if given else list(dict.fromkeys(source.config.image_source for source in sources))


def load_images(sources: Sequence[Source], classes: Sequence[str], given: str | None) -> dict[str, InForms]:
    """Part -> the images of the composed classes, labelled in their order.

    Raises UserError for a dataset that lacks a class, or a class without images.
    """
    datasets = datasets_of(sources, given)
    of_datasets = [_of_dataset(dataset, sources, classes, given) for dataset in datasets]
    found: dict[str, InForms] = {}
    for part in PARTS:
        found[part] = of_datasets[0][part]
        for of_dataset in of_datasets[1:]:
            found[part] = {form: _joined(images, of_dataset[part][form]) for form, images in found[part].items()}
        labels = next(iter(found[part].values())).labels
        if len(absent := np.setdiff1d(np.arange(len(classes)), labels)):
            raise UserError(
                f"class {classes[absent[0]]} has no {part} images in {', '.join(datasets)} that no strong model was "
                "trained on: add some, or give others with --images"
            )
    return found


def _of_dataset(
    dataset: str, sources: Sequence[Source], classes: Sequence[str], given: str | None
) -> dict[str, InForms]:
    firsts = {source.config.name: source for source in sources}.values()
    own = [source for source in sources if source.config.image_source == dataset]
    # The first form decides which images of a folder validate: the one by which its own models were trained.
    forms = list(dict.fromkeys(source.form for source in (*own, *sources)))
    orders = (image_order(source.stage.artifacts) for source in own)
    order = next((each for each in orders if each is not None), None)
    plain = [(form.side, form.resize, form.normalisation) for form in forms]
    have, of_forms = load_evaluation_parts(dataset, plain, order)
    if given is None:  # they have the strong models' names
        have = tuple(next((each.called[name] for each in own if name in each.called), name) for name in have)
    _check_have(classes if given else [name for source in own for name in source.names], have, dataset)
    found = {
        part: {form: with_labels_of(each[part], have, classes)[0] for form, each in zip(forms, of_forms, strict=True)}
        for part in PARTS
    }
    for source in firsts:
        train = load_strong_split(source.config, source.stage.artifacts).train
        for part, in_forms in found.items():
            seen = is_among(in_forms[source.form], train)
            if seen.any():
                say(f"left out: {seen.sum():,} {part} images of {dataset} that {source.config.name} was trained on")
            found[part] = {form: images.take(np.flatnonzero(~seen)) for form, images in in_forms.items()}
    return found


def _check_have(names: Sequence[str], images_have: Sequence[str], dataset: str) -> None:
    """Raises UserError for a class that a dataset has no images of, with the nearest name that it has."""
    for name in names:
        if name not in images_have:
            alike = [each for each in images_have if spelled_alike(each, name)]
            raise UserError(
                f"the images of {dataset} have no class {name}, but {', '.join(images_have)}: --class_map "
                f"{(alike or ['NEW'])[0]}={name} says what the images call it; or give --images NAME of a dataset "
                "with images of all classes"
            )


def _joined(images: Images, others: Images) -> Images:
    pixels, labels = (np.concatenate(pair) for pair in ((images.pixels, others.pixels), (images.labels, others.labels)))
    return replace(images, pixels=pixels, labels=labels)
