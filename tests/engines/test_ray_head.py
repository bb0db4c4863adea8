"""A head that comes back in time is no error; one that stays away is one line."""

import socket

import pytest

from engines import on_ray
from engines.on_ray import RayHead
from utils.errors import UserError


def test_a_head_may_be_away_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_ray, "PAUSE", 0.0)
    monkeypatch.setattr(on_ray, "PATIENCE", 60.0)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        head = RayHead("{}:{}".format(*listening.getsockname()))
        head.wait()
    head.check()
    with socket.create_server(("127.0.0.1", int(head.address.rpartition(":")[2]))):
        head.wait()
    monkeypatch.setattr(on_ray, "PATIENCE", 0.0)
    with pytest.raises(UserError, match=r"head of the Ray cluster, 127.0.0.1:\d+, has not answered for 0 s; start a"):
        head.wait()
