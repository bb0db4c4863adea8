"""ResNet-20 on CIFAR-10: batch norm, strides and additions, at a size for a machine without a GPU."""

from configures.base import Config

config = Config(
    model="resnet20",
    dataset="cifar10",
    num_classes=10,
    mirror=True,
    epochs=20,
    schedule="one_cycle",
    learning_rate=0.15,
    weight_decay=5e-4,
    active_ratios=(0.7, 0.8, 0.9),
    rank_scale=1.0,
    population=40,
    parents=20,
    elites=8,
    generations=40,
    search_images=2000,
    sensitivity_images=2000,
    accuracy_thresholds=((2, 0.90), (4, 0.80), (8, 0.70), (10, 0.65)),
    mask_distillation=0.9,
    weak_model="simcnn_weak",
    weak_source="cifar100",
    weak_classes=("apple", "baby", "bed", "bicycle", "bottle", "bridge", "camel", "clock", "rose"),
    weak_train_images=500,
    weak_test_images=100,
    poor_epochs=60,
    poor_batch_size=32,
    poor_learning_rate=0.05,
)
