"""Settings beside files: of many that write them, one wins; the others compare."""

import threading
from pathlib import Path

import pytest

from configures.base import current_name
from utils.artifacts import JsonFile
from utils.errors import UserError
from utils.files import create_text
from utils.recorded_settings import configured_of, differences, record_or_compare


def test_the_same_settings_are_agreed_on(tmp_path: Path) -> None:
    settings = {"ratios": (0.3, 1.0), "seed": 0, "pairs": ((2, 0.5),)}
    for _ in range(2):
        record_or_compare(JsonFile(tmp_path / "new" / "settings.json", "anew"), settings)
    with pytest.raises(UserError, match=r"new was made with other settings \(seed: 0 there, 1 now\): .* with: anew"):
        record_or_compare(JsonFile(tmp_path / "new" / "settings.json", "anew"), {**settings, "seed": 1})


@pytest.mark.parametrize("name", ["gen_000_exp_0_pop.npy", "round_00.pth"])
def test_files_that_lost_their_settings_are_not_gone_on_with(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    with pytest.raises(UserError, match=rf"missing .*settings\.json: nobody knows what {name} was made with; .*: anew"):
        record_or_compare(JsonFile(tmp_path / "settings.json", "anew"), {"seed": 0})
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_differences_list_what_only_one_has() -> None:
    assert differences({"a": 1, "b": 2}, {"b": 3, "c": None}) == (
        "b: 2 there, 3 now; c: none there, None now; a: 1 there, none now"
    )
    assert differences({"a": [1]}, {"a": [1]}) == ""


def test_recorded_settings_of_an_earlier_version_have_the_names_of_now(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    current_name.cache_clear()
    file = JsonFile(tmp_path / "settings.json", "anew")
    file.save({"seed": 0, "keep_every": 3})
    record_or_compare(file, {"seed": 0, "checkpoint_every": 3})
    file.save({"seed": 0, "keep_every": 3})
    with pytest.raises(UserError, match=r"\(checkpoint_every: 3 there, 4 now\)"):
        record_or_compare(file, {"seed": 0, "checkpoint_every": 4})
    assert configured_of({"keep_every": 3, "epochs": 4}) == {"checkpoint_every": 3, "epochs": 4}
    assert capsys.readouterr().err == "setting keep_every is now called checkpoint_every\n"


def test_of_many_that_start_together_with_other_settings_one_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    for attempt in range(30):
        path.unlink(missing_ok=True)
        start, agreed = threading.Barrier(4), []

        def try_it(seed: int, start: threading.Barrier = start, agreed: list[int] = agreed) -> None:
            start.wait()
            try:
                record_or_compare(JsonFile(path, "anew"), {"seed": seed})
            except UserError:
                return
            agreed.append(seed)

        threads = [threading.Thread(target=try_it, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(agreed) == 1, attempt
        assert [file.name for file in tmp_path.iterdir()] == ["settings.json"]


def test_where_there_are_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    assert create_text(tmp_path / "a", "first")
    assert not create_text(tmp_path / "a", "second")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a", "first")]


def test_the_configurations_settings_are_written_and_not_compared(tmp_path):
    file = JsonFile(tmp_path / "settings.json", "anew")
    for epochs in (3, 4):
        record_or_compare(file, {"seed": 0}, {"epochs": epochs, "milestones": (1, 2)})
    assert file.load() == {"seed": 0, "configured": {"epochs": 3, "milestones": [1, 2]}}
    assert configured_of(file.load()["configured"] | {"batch_size": "many"}) == {"epochs": 3, "milestones": (1, 2)}
