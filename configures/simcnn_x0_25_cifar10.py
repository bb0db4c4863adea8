"""A quarter-width SimCNN on CIFAR-10, sized for a machine without a GPU."""

from dataclasses import replace

from configures.simcnn_cifar10 import config as full_width

config = replace(
    full_width,
    model="simcnn_x0_25",
    epochs=60,
    schedule="one_cycle",
    learning_rate=0.025,
    weight_decay=5e-4,
    sensitive_layers=(0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
    active_ratios_sensitive=(0.7, 0.8, 0.9),
    active_ratios=(0.2, 0.3, 0.4),
    rank_scale=1.0,
    population=40,
    parents=20,
    elites=8,
    generations=40,
    search_images=2000,
    sensitivity_images=2000,
    accuracy_thresholds=((2, 0.90), (4, 0.80), (8, 0.70), (10, 0.65)),
    mask_distillation=0.9,
    poor_epochs=60,
    poor_batch_size=32,
    poor_learning_rate=0.02,
)
