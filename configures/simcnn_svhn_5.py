"""SimCNN on the digits 0 to 4 of SVHN; the weak models know 6 to 9 and one of them."""

from configures.base import FIRST_FIVE_DIGITS, LAST_FOUR_DIGITS, Config

config = Config(
    model="simcnn",
    dataset="svhn_5",
    num_classes=5,
    source="svhn",
    classes=FIRST_FIVE_DIGITS,
    sensitive_layers=(0, 1, 2, 3, 4, 5, 6),
    active_ratios_sensitive=(0.4, 0.5, 0.6, 0.7),
    active_ratios=(0.3, 0.4),
    population=50,
    parents=25,
    elites=10,
    generations=100,
    mutation=0.1,
    accuracy_thresholds=((2, 0.95), (4, 0.90), (5, 0.85)),
    gamma=0.95,
    weak_model="simcnn_tiny",
    weak_classes=LAST_FOUR_DIGITS,
)
