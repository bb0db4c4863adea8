"""The command `cnn-modules` knows every stage script, runs it as `python` does, and refuses other names in one line."""

import subprocess
import sys
from pathlib import Path

from conftest import TOP, environment
from test_layout import STAGES

from cnn_modules_cli import scripts


def command(*words: str, root_dir: Path) -> subprocess.CompletedProcess[str]:
    """`cnn-modules`, as pip's script of that name runs it, from another folder than the project's."""
    code = [sys.executable, "-c", "import sys, cnn_modules_cli; sys.argv[0] = 'cnn-modules'; cnn_modules_cli.main()"]
    env = environment(root_dir, PYTHONPATH=str(TOP), COLUMNS="80")
    return subprocess.run([*code, *words], cwd=root_dir, env=env, capture_output=True, text=True, check=False)


def test_every_stage_has_a_name_and_a_line(root_dir):
    named = scripts()
    assert sorted(named.values()) == sorted(TOP / script for script in STAGES)
    listed = command(root_dir=root_dir).stdout.splitlines()[2:]
    firsts = [line.split() for line in listed if not line.startswith(" ")]
    assert [name for name, *_ in firsts] == list(named)
    assert all(len(words) > 3 for words in firsts) and max(map(len, listed)) <= 80
    assert {"train", "patch_for_weak_model/train", "patch_weak_model"} <= named.keys()


def test_the_script_runs_with_its_options_and_exit_code(root_dir):
    done = command("split_images", "no_such_folder", "new.zip", root_dir=root_dir)
    same = [sys.executable, str(TOP / "scripts" / "split_images.py"), "no_such_folder", "new.zip"]
    direct = subprocess.run(same, cwd=root_dir, env=environment(root_dir), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (direct.returncode, direct.stdout, direct.stderr)
    assert done.returncode == 2 and "no_such_folder" in done.stderr


def test_another_name_is_one_line(root_dir):
    done = command("patch_weak_models", root_dir=root_dir)
    expected = "error: no script patch_weak_models: did you mean patch_weak_model? cnn-modules lists all scripts\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)
