"""ResCNN on the digits 0 to 4 of SVHN: as SimCNN, but for what depends on the network."""

from dataclasses import replace

from configures.simcnn_svhn_5 import config as simcnn

config = replace(
    simcnn,
    model="rescnn",
    sensitive_layers=(1, 3, 4, 5, 7),
    active_ratios_sensitive=(0.3, 0.4, 0.5),
    active_ratios=(0.2, 0.3),
    gamma=0.9,
    weak_model="rescnn_tiny",
)
