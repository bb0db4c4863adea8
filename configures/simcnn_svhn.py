"""SimCNN on SVHN, at the published width and settings."""

from configures.base import Config

config = Config(
    model="simcnn",
    dataset="svhn",
    num_classes=10,
    sensitive_layers=(0, 1, 2, 3, 4, 5, 6),
    active_ratios_sensitive=(0.4, 0.5, 0.6),
    active_ratios=(0.1, 0.2, 0.3, 0.4),
    mutation=0.1,
    gamma=0.95,
)
