"""What is measured on the strong model, and the modules that a search leaves.

Of a module for a patch the same files stand in its own place: `Artifacts.for_patch`.
"""

from pathlib import Path

from modules.earlier_versions import EarlierSource as SourceNetwork
from modules.for_patch import ModuleForPatch
from modules.modularization import Modularization
from utils.artifacts import ArrayFile, Artifacts, ArtifactsForPatch, CheckpointFile, JsonFile, RecordFile, Role


def kernel_importance(artifacts: Artifacts) -> ArrayFile:
    """(classes, K) float32."""
    path = artifacts.folder / "kernel_importance" / "avg_L1.npy"
    return ArrayFile(path, artifacts.command("preprocess/kernel_importance_analyzer.py"), "float32")


def importance_settings(artifacts: Artifacts) -> JsonFile:
    """What the importance was measured with."""
    importance = kernel_importance(artifacts)
    return JsonFile(importance.path.with_name("settings.json"), importance.made_by)


def sensitivity_role(artifacts: Artifacts) -> Role:
    """Measuring the layers' sensitivity."""
    return artifacts.role("the layer sensitivity", "sensitivity", artifacts.folder / "layer_sensitivity" / "layer_*")


def layer_sensitivity(artifacts: Artifacts, layer: int) -> ArrayFile:
    """(ratios, 2) float32: ratio, accuracy of the composed model."""
    path = artifacts.folder / "layer_sensitivity" / f"layer_{layer:02d}.npy"
    return ArrayFile(path, artifacts.command("scripts/run_layer_sensitivity_analyzer.py"), "float32")


def sensitivity_settings(artifacts: Artifacts) -> JsonFile:
    """The strong model, importance and images that the curves were measured with."""
    path = artifacts.folder / "layer_sensitivity" / "settings.json"
    return JsonFile(path, artifacts.command("scripts/run_layer_sensitivity_analyzer.py", "--fresh"))


def module(artifacts: Artifacts, target_class: int) -> CheckpointFile:
    """The extracted module's state_dict."""
    path = artifacts.folder / "modules" / f"class_{target_class}.pth"
    return CheckpointFile(path, _search(artifacts))


def module_kernels(artifacts: Artifacts, target_class: int) -> ArrayFile:
    """(K,) bool, True = kept."""
    path = artifacts.folder / "modules" / f"class_{target_class}_kernels.npy"
    return ArrayFile(path, _search(artifacts), "bool")


def fine_tuning_state(artifacts: Artifacts) -> CheckpointFile:
    """Everything that lets an interrupted fine-tuning go on; there only while one is not done."""
    return CheckpointFile(artifacts.folder / "modules" / "fine_tuning.pth", _search(artifacts))


def source_network(artifacts: Artifacts) -> RecordFile[SourceNetwork]:
    """Which network the modules were cut from, and the checksums of their files; written first and last."""
    path = artifacts.folder / "modules" / "network.json"
    return RecordFile(path, _search(artifacts), SourceNetwork)


def report(artifacts: Artifacts) -> RecordFile[Modularization]:
    """What is known of the modules."""
    path = artifacts.folder / "modules" / "report.json"
    return RecordFile(path, _search(artifacts), Modularization)


def report_for_patch(artifacts: ArtifactsForPatch) -> RecordFile[ModuleForPatch]:
    """What is known of a module for a patch."""
    path = artifacts.folder / "modules" / "report.json"
    return RecordFile(path, artifacts.command("module_gradient_search.py"), ModuleForPatch)


def sets_folder(artifacts: Artifacts) -> Path:
    """`modules`, with a folder for each module set."""
    return artifacts.folder / "modules"


def latest_set(artifacts: Artifacts) -> JsonFile:
    """The name of the most recent module set."""
    return JsonFile(sets_folder(artifacts) / "latest.json", _search(artifacts))


def module_outputs(artifacts: Artifacts, target_class: int, module_set: str = "") -> ArrayFile:
    """(valid images of the class,) float32."""
    path = artifacts.folder / "module_outputs" / module_set / f"class_{target_class}.npy"
    return ArrayFile(path, artifacts.command("preprocess/module_output_collector.py"), "float32")


def _search(artifacts: Artifacts) -> str:
    command = artifacts.command("module_gradient_search.py")
    return command if isinstance(artifacts, ArtifactsForPatch) else f"{command}, or scripts/run_module_search.py"
