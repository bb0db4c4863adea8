"""What operators are given: by name, with everything of one kind replaced in containers; what is read last where."""

import hypothesis.strategies as st
import torch
from hypothesis import given
from torch.fx.immutable_collections import immutable_dict, immutable_list

from models.graph.running import read_last
from models.graph.values import Value, replaced, with_arguments

aten = torch.ops.aten


def test_arguments_have_the_names_and_defaults_of_torchs_schema() -> None:
    convolution = Value(0, aten.conv2d.default, ("maps", "weight", None, [2, 2]))
    found = convolution.given
    assert (found.source, found.weight, found.bias, found.stride) == ("maps", "weight", None, [2, 2])
    assert (found.padding, found.dilation, found.groups) == ([0, 0], [1, 1], 1)
    assert Value(0, aten.conv2d.padding, ("maps", "weight")).given.padding == "valid"
    mean = Value(0, aten.mean.dim, ("maps", [1]), {"dtype": torch.float64}).given
    assert (mean.dim, mean.keepdim, mean.dtype) == ([1], False, torch.float64)
    assert vars(Value(0, aten.relu.default, ("maps",)).given) == {"source": "maps"}


def test_arguments_are_changed_by_name() -> None:
    convolution = Value(0, aten.conv2d.default, ("maps", "weight"))
    assert with_arguments(convolution) == (("maps", "weight"), {})
    assert with_arguments(convolution, padding=[1, 1], weight="other") == (
        ("maps", "other", None, [1, 1], [1, 1]),
        {},
    )
    total = Value(0, aten.sum.dim_IntList, ("maps", [1]), {"dtype": torch.float64})
    assert with_arguments(total, dtype=None, dim=[2]) == (("maps", [2]), {"dtype": None})


def test_everything_of_a_kind_is_replaced_in_any_container() -> None:
    given = immutable_list(["a", ("b", 1, [2.0]), immutable_dict(key="c"), None])
    found = replaced(given, str, lambda text: text * 2)
    assert found == ["aa", ("bb", 1, [2.0]), {"key": "cc"}, None]
    assert type(found) is list and type(found[2]) is dict  # torch's cannot be written to


@given(st.lists(st.lists(st.integers(0, 5))))
def test_everything_is_let_go_once_behind_its_last_reader(operands: list[list[int]]) -> None:
    found = read_last(operands)
    assert len(found) == len(operands)
    for step, places in enumerate(found):
        read_later = {place for later in operands[step + 1 :] for place in later}
        assert sorted(places) == sorted(set(operands[step]) - read_later)
