"""Members of one or several strong models and the rule that makes them comparable, as one network given pixels."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from composing.rule import LinearRule
from patching.joined import Joined
from patching.members import Form, Member


class ComposedClassifier(Joined):
    """Modules, or whole models, of strong models as one classifier.

    Example: `ComposedClassifier(members, rule, ("cat", "dog"))(pixels).argmax(1)`, pixels (n, side, side, 3) uint8.

    Args:
        members: their outputs, one after the other, belong to the classes that they name.
        rule: outputs (n, classes), in the order of the classes -> scores (n, classes).
        classes: their names.
    """

    kind = "composed"
    order: Tensor
    member_forms: list[Form]

    def __init__(self, members: Sequence[Member], rule: LinearRule, classes: Sequence[str]) -> None:
        super().__init__()
        self.members, self.rule, self.classes = nn.ModuleList(members), rule, tuple(classes)
        self.member_forms = [member.form for member in members]
        of_outputs = [target for member in members for target in member.classes]
        if sorted(of_outputs) != list(range(len(self.classes))) or len(rule.bias) != len(of_outputs):
            raise ValueError(f"expected one output of each of {len(self.classes)} classes, given {of_outputs}")
        self.register_buffer("order", torch.tensor(np.argsort(of_outputs)), persistent=False)
        self.eval()

    @property
    def forms(self) -> dict[str, Form]:
        """The forms of images by the inputs' names: `pixels`, or `pixels_32`, `pixels_64` of several sides.

        Members whose images have the same side and come to it in the same way share an input.
        """
        distinct = list({(form.side, form.resize): form for form in self.member_forms}.values())
        if len(distinct) == 1:
            return {"pixels": distinct[0]}
        is_ambiguous = len({form.side for form in distinct}) < len(distinct)
        return {f"pixels_{form.side}{f'_{form.resize}' if is_ambiguous else ''}": form for form in distinct}

    def forward(self, *pixels: Tensor) -> Tensor:
        """Scores (n, classes) of `inputs`: the largest one decides. Pixels are (n, side, side, 3) uint8, RGB."""
        given = {(form.side, form.resize): values for form, values in zip(self.forms.values(), pixels, strict=True)}
        forms = [(form.side, form.resize) for form in self.member_forms]
        outputs = [member(given[form]) for member, form in zip(self.members, forms, strict=True)]
        return self.rule.forward(torch.cat(outputs, 1).index_select(1, self.order))
