"""A strong model that comes in whole meets no other one in its folder."""

import os
from pathlib import Path

import pytest

from models import files
from models.strong_model import check_is_free, set_folder_aside
from search.gradient import files as gradient_files
from utils.artifacts import Artifacts
from utils.errors import UserError
from utils.locks import held


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(tmp_path, "net", "set")


@pytest.mark.parametrize("file", [files.entire_model, files.training_state])
def test_a_model_and_a_training_that_would_write_one_are_in_the_way(artifacts: Artifacts, file) -> None:
    check_is_free(artifacts)
    file(artifacts).save({"epoch": 1})
    with pytest.raises(UserError, match=f"{file(artifacts).path.name} is there, .*--fresh sets its folder aside"):
        check_is_free(artifacts)
    set_folder_aside(artifacts)
    check_is_free(artifacts)
    assert (artifacts.folder.with_name("net_set.old_1") / file(artifacts).path.name).exists()


def test_the_folder_is_not_taken_from_a_stage_that_is_at_work(artifacts: Artifacts) -> None:
    artifacts.folder.mkdir(parents=True)
    mine, search = files.training_role(artifacts), gradient_files.of_search(artifacts).role
    with held(mine, search):
        with pytest.raises(UserError, match=f"--fresh sets the folder aside: .*pid {os.getpid()} works"):
            set_folder_aside(artifacts, mine)
        assert artifacts.folder.is_dir()
    with held(mine):
        set_folder_aside(artifacts, mine)
    assert not artifacts.folder.exists()
