"""Train the overly simple weak models: one per target class, which is the last of its classes.

    python experiments/patch/patch_for_weak_model/train.py --model simcnn_x0_25 --dataset digits_5
    python experiments/patch/patch_for_weak_model/train.py --model simcnn --dataset cifar10 --target_class 3

The checkpoints are data/patch/weak/MODEL_DATASET/target_class_C/epoch_E.pth: the best and the last epoch, every tenth
(`keep_every`) and those that --keep_epochs names. An interrupted training goes on when the same command is typed
again. Method: Qi et al., ASE 2022 (arXiv 2209.06116).
"""

import global_configure  # noqa: F401  (finds our packages before others of their names)
from dataset.target_classes import chosen_classes
from engines.opening import chosen_engine
from models.opening import open_stage
from models.trained_on import image_order
from models.training import TrainingSettings
from patching.data import load_patch_data
from patching.weak_models import WeakKind
from patching.weak_training import train_weak_models, weak_training_arguments
from utils.errors import run


def main() -> None:
    arguments = weak_training_arguments(__doc__, WeakKind.SIMPLE)
    stage = open_stage(arguments)
    config = stage.config
    target_classes = chosen_classes([arguments.target_class], config)
    data = load_patch_data(config, image_order(stage.artifacts))
    settings = TrainingSettings(
        epochs=config.weak_epochs,
        batch_size=config.weak_batch_size,
        learning_rate=config.weak_learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        augmented=config.weak_augmented,
        mirror=config.mirror,
    )
    print(f"weak model: {config.weak_model}")

    with chosen_engine(arguments, stage.device) as engine:
        train_weak_models(stage, WeakKind.SIMPLE, target_classes, data, settings, fresh=arguments.fresh, engine=engine)


if __name__ == "__main__":
    run(main)
