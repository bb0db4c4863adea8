"""ResNet-20 on CIFAR-10: as the quarter-width SimCNN, but for its training and its sensitive layers."""

from dataclasses import replace

from configures.simcnn_x0_25_cifar10 import config as simcnn

config = replace(
    simcnn,
    model="resnet20",
    epochs=20,
    learning_rate=0.15,
    sensitive_layers=(),
    active_ratios=(0.7, 0.8, 0.9),  # every layer is sensitive
    mask_step_size=0.002,
    poor_learning_rate=0.05,
)
