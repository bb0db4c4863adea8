"""Names at the ends of lines that lie close together are read one by one."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from report.figures_of_trade_off import apart


@given(st.lists(st.floats(0, 100), max_size=12), st.floats(0.1, 5))
def test_heights_keep_their_order_and_stand_apart(heights: list[float], least: float) -> None:
    moved = apart(heights, least)
    order = np.argsort(heights, kind="stable")
    assert all(after >= before for before, after in zip(heights, moved, strict=True))
    assert (np.diff(np.array(moved)[order]) >= least - 1e-9).all()


def test_what_stands_apart_stays() -> None:
    assert apart([80.0, 20.0, 50.0], 2.0) == [80.0, 20.0, 50.0]
    assert apart([5.0, 5.0, 4.0], 2.0) == [6.0, 8.0, 4.0]
