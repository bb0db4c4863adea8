"""Train the poorly fitted weak models: the strong architecture without dropout, momentum, weight decay, augmentation.

    python experiments/patch/patch_for_poor_model/train.py --model simcnn_x0_25 --dataset digits_5
    python experiments/patch/patch_for_poor_model/train.py --model simcnn --dataset cifar10 --keep_epochs 84,169

A late epoch is overfitted, an early one underfitted. The checkpoints are
data/patch/poor/MODEL_DATASET/target_class_C/epoch_E.pth: the best and the last epoch, every tenth
(`checkpoint_every`) and those that --keep_epochs names; what they take on the disk is said, and refused where it does
not fit, before the start. An interrupted training goes on when the same command is typed again. Method: Qi et al., ASE
2022 (arXiv 2209.06116).
"""

import global_configure  # noqa: F401  (finds our packages before others of their names)
from patching.weak_models import WeakKind
from patching.weak_training import train_from_command_line
from utils.errors import run


def main() -> None:
    train_from_command_line(__doc__, WeakKind.POOR)


if __name__ == "__main__":
    run(main)
