"""What operators are given: everything of one kind replaced in containers, and what is read last where."""

import hypothesis.strategies as st
from hypothesis import given
from torch.fx.immutable_collections import immutable_dict, immutable_list

from models.graph.arguments import read_last, replaced


def test_everything_of_a_kind_is_replaced_in_any_container() -> None:
    given = immutable_list([1, (2, "a", [3.0]), immutable_dict(key=4), None])
    found = replaced(given, int, lambda number: number * 10)
    assert found == [10, (20, "a", [3.0]), {"key": 40}, None]
    assert type(found) is list and type(found[2]) is dict  # torch's cannot be written to


@given(st.lists(st.lists(st.integers(0, 5))))
def test_everything_is_let_go_once_behind_its_last_reader(operands: list[list[int]]) -> None:
    found = read_last(operands)
    assert len(found) == len(operands)
    for step, places in enumerate(found):
        read_later = {place for later in operands[step + 1 :] for place in later}
        assert sorted(places) == sorted(set(operands[step]) - read_later)
