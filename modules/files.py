"""The files of what is measured on the strong model, and of its module sets."""

from pathlib import Path

from utils.artifacts import ArrayFile, Artifacts, CheckpointFile, JsonFile, Role


def kernel_importance(artifacts: Artifacts) -> ArrayFile:
    """(classes, K) float32."""
    path = artifacts.folder / "kernel_importance" / "avg_L1.npy"
    return ArrayFile(path, artifacts.command("preprocess/kernel_importance_analyzer.py"), "float32")


def importance_settings(artifacts: Artifacts) -> JsonFile:
    """What the importance was measured with."""
    importance = kernel_importance(artifacts)
    return JsonFile(importance.path.with_name("settings.json"), importance.made_by)


def importance_role(artifacts: Artifacts) -> Role:
    """Measuring the kernels' importance."""
    return artifacts.role("the kernel importance", "importance", artifacts.folder / "kernel_importance" / "*")


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


def sets_folder(artifacts: Artifacts) -> Path:
    """`modules`, with a folder for each module set."""
    return artifacts.folder / "modules"


def latest_set(artifacts: Artifacts) -> JsonFile:
    """The name of the most recent module set."""
    return JsonFile(sets_folder(artifacts) / "latest.json", search_command(artifacts))


def module_outputs(artifacts: Artifacts, target_class: int, module_set: str) -> ArrayFile:
    """(valid images of the class,) float32."""
    path = artifacts.folder / "module_outputs" / module_set / f"class_{target_class}.npy"
    return ArrayFile(path, artifacts.command("preprocess/module_output_collector.py"), "float32")


def module(folder: Path, target_class: int, made_by: str) -> CheckpointFile:
    """A module's state_dict, in the folder of its set."""
    return CheckpointFile(folder / f"class_{target_class}.pth", made_by)


def module_kernels(folder: Path, target_class: int, made_by: str) -> ArrayFile:
    """(K,) bool, True = kept, in the folder of its set."""
    return ArrayFile(folder / f"class_{target_class}_kernels.npy", made_by, "bool")


def search_command(artifacts: Artifacts) -> str:
    """The commands that make a module set, for messages."""
    return f"{artifacts.command('module_gradient_search.py')}, or scripts/run_module_search.py"
