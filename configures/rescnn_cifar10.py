"""ResCNN on CIFAR-10, at the published width and settings: as SimCNN, but for what depends on the network."""

from dataclasses import replace

from configures.simcnn_cifar10 import config as simcnn

config = replace(
    simcnn,
    model="rescnn",
    sensitive_layers=(0, 1, 3, 4, 5, 7),
    active_ratios_sensitive=(0.5, 0.6, 0.7),
    active_ratios=(0.2, 0.3, 0.4),
    weak_model="rescnn_weak",
)
