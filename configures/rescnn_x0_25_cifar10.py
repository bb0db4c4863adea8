"""A quarter-width ResCNN on CIFAR-10: as SimCNN, but for what depends on the network."""

from dataclasses import replace

from configures.simcnn_x0_25_cifar10 import config as simcnn

config = replace(
    simcnn,
    model="rescnn_x0_25",
    sensitive_layers=(0, 1, 2, 3, 4, 5, 6, 7, 8),
    mask_distillation=0.5,
    weak_model="rescnn_weak",
    poor_learning_rate=0.01,
)
