"""ResCNN on SVHN, at the published width and settings."""

from configures.base import Config

config = Config(
    model="rescnn",
    dataset="svhn",
    num_classes=10,
    sensitive_layers=(1, 3, 4, 5, 7),
    active_ratios_sensitive=(0.3, 0.4, 0.5),
    active_ratios=(0.2, 0.3),
    mutation=0.1,
    accuracy_thresholds=((2, 0.95), (4, 0.95), (8, 0.90), (10, 0.85)),
)
