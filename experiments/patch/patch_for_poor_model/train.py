"""Train the poorly fitted weak models: the strong architecture without dropout, momentum, weight decay, augmentation.

    python experiments/patch/patch_for_poor_model/train.py --model simcnn_x0_25 --dataset digits_5
    python experiments/patch/patch_for_poor_model/train.py --model simcnn --dataset cifar10 --keep_epochs 84,169

A late epoch is overfitted, an early one underfitted. The checkpoints are
data/patch/poor/MODEL_DATASET/target_class_C/epoch_E.pth: the best and the last epoch, every tenth (`keep_every`) and
those that --keep_epochs names; what they take on the disk is said, and refused where it does not fit, before the start.
An interrupted training goes on when the same command is typed again. Method: Qi et al., ASE 2022 (arXiv 2209.06116).
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
    arguments = weak_training_arguments(__doc__, WeakKind.POOR)
    stage = open_stage(arguments)
    config = stage.config
    target_classes = chosen_classes([arguments.target_class], config)
    data = load_patch_data(config, image_order(stage.artifacts))
    settings = TrainingSettings(
        epochs=config.poor_epochs, batch_size=config.poor_batch_size, learning_rate=config.poor_learning_rate
    )
    print(f"weak model: {config.model}, poorly fitted")

    with chosen_engine(arguments, stage.device) as engine:
        train_weak_models(stage, WeakKind.POOR, target_classes, data, settings, fresh=arguments.fresh, engine=engine)


if __name__ == "__main__":
    run(main)
