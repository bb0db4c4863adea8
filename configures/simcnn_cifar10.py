"""SimCNN on CIFAR-10, at the published width and settings."""

from configures.base import Config

config = Config(
    model="simcnn",
    dataset="cifar10",
    num_classes=10,
    mirror=True,
    sensitive_layers=(0, 1, 2, 3, 4, 5, 6),
    weak_model="simcnn_weak",
    weak_source="cifar100",
    weak_classes=("apple", "baby", "bed", "bicycle", "bottle", "bridge", "camel", "clock", "rose"),
    weak_train_images=500,
    weak_test_images=100,
)
