"""Train the overly simple weak models: one per target class, which is the last of its classes.

    python experiments/patch/patch_for_weak_model/train.py --model simcnn_x0_25 --dataset digits_5
    python experiments/patch/patch_for_weak_model/train.py --model simcnn --dataset cifar10 --target_class 3

The checkpoints are data/patch/weak/MODEL_DATASET/target_class_C/epoch_E.pth: the best and the last epoch, every tenth
(`checkpoint_every`) and those that --keep_epochs names. An interrupted training goes on when the same command is typed
again. Method: Qi et al., ASE 2022 (arXiv 2209.06116).
"""

import global_configure  # noqa: F401  (finds our packages before others of their names)
from patching.weak_models import WeakKind
from patching.weak_training import train_from_command_line
from utils.errors import run


def main() -> None:
    train_from_command_line(__doc__, WeakKind.SIMPLE)


if __name__ == "__main__":
    run(main)
