"""The files that the stages hand to each other: their names, types and makers, in one place."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils import files
from utils.errors import DamagedFile


@dataclass(frozen=True)
class ArrayFile:
    """A `.npy` file of the contract."""

    path: Path
    dtype: str
    made_by: str

    def exists(self) -> bool:
        """Whether it is there, and so whole."""
        return self.path.exists()

    def check_is_there(self) -> None:
        """Raises UserError, naming the command that makes it, where it is not."""
        if not self.exists():
            raise files.missing(self.path, self.made_by)

    def save(self, array: np.ndarray) -> None:
        """Write it whole; the dtype is the contract's."""
        files.save_array(self.path, array.astype(self.dtype, copy=False))

    def load(self, *shape: int | None) -> np.ndarray:
        """Its checked content; None = any length along that axis."""
        return files.load_array(self.path, dtype=self.dtype, shape=shape, made_by=self.made_by)

    def load_if_whole(self, *shape: int | None) -> np.ndarray | None:
        """Its checked content, or None where it is not there; for what is made again: a damaged file is removed."""
        if not self.exists():
            return None
        try:
            return self.load(*shape)
        except DamagedFile:
            self.path.unlink(missing_ok=True)
            print(f"damaged, so removed and made again: {self.path}", flush=True)
            return None


@dataclass(frozen=True)
class CheckpointFile:
    """A `.pth` file of the contract."""

    path: Path
    made_by: str

    def exists(self) -> bool:
        """Whether it is there, and so whole."""
        return self.path.exists()

    def check_is_there(self) -> None:
        """Raises UserError, naming the command that makes it, where it is not."""
        if not self.exists():
            raise files.missing(self.path, self.made_by)

    def save(self, state: dict[str, Any]) -> None:
        """Write it whole."""
        files.save_checkpoint(self.path, state)

    def load(self) -> dict[str, Any]:
        """Its checked content, on the CPU."""
        return files.load_checkpoint(self.path, self.made_by)


@dataclass(frozen=True)
class Role:
    """Work that one process at a time may do."""

    name: str  # for people
    lock: Path
    writes: tuple[Path, ...] = ()  # patterns of the names of files that nobody else writes


@dataclass(frozen=True)
class Artifacts:
    """All files of one model and dataset below `root_dir/data`."""

    root_dir: Path
    model: str
    dataset: str
    assignments: tuple[str, ...] = ()  # the `--set NAME=VALUE` of this run, which hints repeat

    @property
    def folder(self) -> Path:
        """`data/MODEL_DATASET`."""
        return self.root_dir / "data" / f"{self.model}_{self.dataset}"

    def command(self, script: str, *more: str) -> str:
        """The command line of a stage for this model and dataset, with the settings of this run."""
        sets = [f"--set {shlex.quote(assignment)}" for assignment in self.assignments]
        return " ".join(["python", script, "--model", self.model, "--dataset", self.dataset, *sets, *more])

    # Who may write: one process each. Beside the folder, which is set aside as a whole.
    @property
    def locks_folder(self) -> Path:
        """The locks of all stages of this model and dataset."""
        return self.root_dir / "data" / "locks" / f"{self.model}_{self.dataset}"

    def _role(self, name: str, lock: str, *writes: Path) -> Role:
        return Role(f"{name} of {self.model}_{self.dataset}", self.locks_folder / f"{lock}.lock", writes)

    @property
    def training_role(self) -> Role:
        """Training the strong model."""
        names = ("entire_model.pth", "training_state.pth", "training_log.csv")
        return self._role("the training", "training", *(self.folder / name for name in names))

    @property
    def sensitivity_role(self) -> Role:
        """Measuring the layers' sensitivity."""
        return self._role("the layer sensitivity", "sensitivity", self.folder / "layer_sensitivity" / "layer_*")

    @property
    def launcher_role(self) -> Role:
        """Starting a recorder and its explorers."""
        return self._role("the module search", "module_search")

    @property
    def recorder_role(self) -> Role:
        """Scoring the generations, and writing the modules."""
        names = ("gen_*_fitness.npy", "search_log.csv", "end.json")
        return self._role(
            "the recorder", "recorder", *(self.search_folder / name for name in names), self.folder / "modules" / "*"
        )

    def explorer_role(self, target_class: int) -> Role:
        """Evolving one class's population."""
        pattern = self.search_folder / f"gen_*_exp_{target_class}_*"
        return self._role(f"the explorer of class {target_class}", f"explorer_{target_class}", pattern)

    @property
    def gradient_role(self) -> Role:
        """Learning the kernel masks by gradient."""
        return self._role("the gradient search", "gradient_search", self.gradient_folder / "*")

    def weak_training_role(self, kind: str, target_class: int) -> Role:
        """Training one weak model."""
        name = f"the training of the {kind} model of target class {target_class}"
        return self._role(name, f"{kind}_{target_class}", self.weak_model_folder(kind, target_class) / "*")

    # The strong model
    @property
    def entire_model(self) -> CheckpointFile:
        """The strong model's state_dict."""
        return CheckpointFile(self.folder / "entire_model.pth", self.command("train.py"))

    @property
    def training_state(self) -> CheckpointFile:
        """Everything that lets an interrupted training go on."""
        return CheckpointFile(self.folder / "training_state.pth", self.command("train.py"))

    @property
    def training_log(self) -> Path:
        """One row an epoch."""
        return self.folder / "training_log.csv"

    # What is measured on it
    @property
    def kernel_importance(self) -> ArrayFile:
        """(classes, K) float32."""
        script = "preprocess/kernel_importance_analyzer.py"
        return ArrayFile(self.folder / "kernel_importance" / "avg_L1.npy", "float32", self.command(script))

    def layer_sensitivity(self, layer: int) -> ArrayFile:
        """(ratios, 2) float32: ratio, accuracy of the composed model."""
        path = self.folder / "layer_sensitivity" / f"layer_{layer:02d}.npy"
        return ArrayFile(path, "float32", self.command("scripts/run_layer_sensitivity_analyzer.py"))

    @property
    def importance_settings(self) -> Path:
        """What the importance was measured with."""
        return self.kernel_importance.path.with_name("settings.json")

    @property
    def sensitivity_settings(self) -> Path:
        """The strong model, importance and images that the curves were measured with."""
        return self.folder / "layer_sensitivity" / "settings.json"

    # The module search
    @property
    def search_folder(self) -> Path:
        """`ga`: what the recorder and the explorers write to each other."""
        return self.folder / "ga"

    @property
    def search_settings(self) -> Path:
        """Settings, seed and strong model that the search's files were made with."""
        return self.search_folder / "settings.json"

    @property
    def search_end(self) -> Path:
        """Written by the recorder when the search is over: its last generation."""
        return self.search_folder / "end.json"

    @property
    def search_log(self) -> Path:
        """One row a generation."""
        return self.search_folder / "search_log.csv"

    def population(self, generation: int, target_class: int) -> ArrayFile:
        """(population, genes) uint8."""
        path = self.search_folder / f"gen_{generation:03d}_exp_{target_class}_pop.npy"
        return ArrayFile(path, "uint8", self.command("module_explorer.py", "--target_class", str(target_class)))

    def outputs(self, generation: int, target_class: int) -> ArrayFile:
        """(population, valid images) float32."""
        path = self.search_folder / f"gen_{generation:03d}_exp_{target_class}_outputs.npy"
        return ArrayFile(path, "float32", self.command("module_explorer.py", "--target_class", str(target_class)))

    def fitness(self, generation: int) -> ArrayFile:
        """(classes, population) float64."""
        path = self.search_folder / f"gen_{generation:03d}_fitness.npy"
        back = ("--fresh",) if generation == 0 else ("--checkpoint", str(generation - 1))
        return ArrayFile(path, "float64", self.command("module_recorder.py", *back))

    # The gradient search
    @property
    def gradient_folder(self) -> Path:
        """`gradient`: what the gradient search goes on from."""
        return self.folder / "gradient"

    @property
    def gradient_settings(self) -> Path:
        """Settings, seed and strong model that the search's files were made with."""
        return self.gradient_folder / "settings.json"

    @property
    def gradient_log(self) -> Path:
        """One row a round."""
        return self.gradient_folder / "search_log.csv"

    @property
    def gradient_state(self) -> CheckpointFile:
        """Everything that lets an interrupted round go on."""
        return CheckpointFile(self.gradient_folder / "state.pth", self.command("module_gradient_search.py"))

    def gradient_round(self, number: int) -> CheckpointFile:
        """The search's state after a round."""
        path = self.gradient_folder / f"round_{number:02d}.pth"
        return CheckpointFile(path, self.command("module_gradient_search.py"))

    def gradient_kernels(self, number: int) -> ArrayFile:
        """(classes, K) bool, True = kept, of all modules after a round."""
        path = self.gradient_folder / f"round_{number:02d}_kernels.npy"
        return ArrayFile(path, "bool", self.command("module_gradient_search.py"))

    def gradient_logit_maps(self, number: int) -> ArrayFile:
        """(classes, 2) float32: scale and bias of each module's logit after a round."""
        path = self.gradient_folder / f"round_{number:02d}_logit_maps.npy"
        return ArrayFile(path, "float32", self.command("module_gradient_search.py"))

    # The modules
    def module(self, target_class: int) -> CheckpointFile:
        """The extracted module's state_dict."""
        path = self.folder / "modules" / f"class_{target_class}.pth"
        return CheckpointFile(path, self.command("module_recorder.py"))

    def module_kernels(self, target_class: int) -> ArrayFile:
        """(K,) bool, True = kept."""
        path = self.folder / "modules" / f"class_{target_class}_kernels.npy"
        return ArrayFile(path, "bool", self.command("module_recorder.py"))

    @property
    def modules_report(self) -> Path:
        """What the recorder found, as JSON."""
        return self.folder / "modules" / "report.json"

    def module_outputs(self, target_class: int) -> ArrayFile:
        """(valid images of the class,) float32."""
        path = self.folder / "module_outputs" / f"class_{target_class}.npy"
        return ArrayFile(path, "float32", self.command("preprocess/module_output_collector.py"))

    @property
    def flops_table(self) -> Path:
        """What every network costs, as CSV; a Markdown file of the same name stands beside it."""
        return self.folder / "flops.csv"

    @property
    def report_folder(self) -> Path:
        """`report`: index.html, and the figures beside it."""
        return self.folder / "report"

    # The weak models; `kind` is `weak` (overly simple) or `poor` (poorly fitted)
    def weak_models_folder(self, kind: str) -> Path:
        """One folder per target class, and the tables over all of them."""
        return self.root_dir / "data" / "patch" / kind / f"{self.model}_{self.dataset}"

    def weak_model_folder(self, kind: str, target_class: int) -> Path:
        """The checkpoints and reports of one weak model."""
        return self.weak_models_folder(kind) / f"target_class_{target_class}"

    def weak_model_command(self, kind: str, target_class: int) -> str:
        """What trains one weak model."""
        script = f"experiments/patch/patch_for_{kind}_model/train.py"
        return self.command(script, "--target_class", str(target_class))

    def weak_model(self, kind: str, target_class: int, epoch: int) -> CheckpointFile:
        """A weak model's state_dict after an epoch, counted from 0."""
        path = self.weak_model_folder(kind, target_class) / f"epoch_{epoch}.pth"
        return CheckpointFile(path, self.weak_model_command(kind, target_class))

    def weak_model_state(self, kind: str, target_class: int) -> CheckpointFile:
        """Everything that lets an interrupted training go on; removed when the training is over."""
        path = self.weak_model_folder(kind, target_class) / "training_state.pth"
        return CheckpointFile(path, self.weak_model_command(kind, target_class))

    def weak_model_settings(self, kind: str, target_class: int) -> Path:
        """What a weak model is trained with, as JSON."""
        return self.weak_model_folder(kind, target_class) / "settings.json"

    def weak_model_log(self, kind: str, target_class: int) -> Path:
        """One row an epoch; written when the training is over."""
        return self.weak_model_folder(kind, target_class) / "training_log.csv"

    def patch_report(self, kind: str, target_class: int, epoch: int, calibration: str) -> Path:
        """Every metric before and after one patch, as JSON."""
        return self.weak_model_folder(kind, target_class) / f"patch_epoch_{epoch}_{calibration}.json"

    def patch_table(self, kind: str, epoch: str, calibration: str) -> Path:
        """The patches of all target classes, as CSV; a Markdown file of the same name stands beside it."""
        return self.weak_models_folder(kind) / f"patch_all_epoch_{epoch}_{calibration}.csv"
