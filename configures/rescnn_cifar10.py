"""ResCNN on CIFAR-10, at the published width and settings."""

from configures.base import Config

config = Config(
    model="rescnn",
    dataset="cifar10",
    num_classes=10,
    mirror=True,
    sensitive_layers=(0, 1, 3, 4, 5, 7),
    active_ratios_sensitive=(0.5, 0.6, 0.7),
    active_ratios=(0.2, 0.3, 0.4),
    weak_model="rescnn_weak",
    weak_source="cifar100",
    weak_classes=("apple", "baby", "bed", "bicycle", "bottle", "bridge", "camel", "clock", "rose"),
    weak_train_images=500,
    weak_test_images=100,
)
