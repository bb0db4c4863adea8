"""The loss of a module: it takes the place of the strong model's logit of its class."""

import pytest
import torch
import torch.nn.functional as F

from search.gradient.goal import BINARY, Goal, unexplained

IMAGES, CLASSES, TARGET = 40, 4, 2


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return 5 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_what_is_unexplained_is_the_squared_error_as_a_share_of_the_variance() -> None:
    strong = drawn(50, 1, seed=1) + 3
    assert unexplained(strong, strong, 1) == 0
    torch.testing.assert_close(unexplained(strong.mean().expand(50, 1), strong, 1), torch.tensor(1.0))
    torch.testing.assert_close(unexplained(strong[:1] + 2, strong[:1], 1), torch.tensor(4.0))  # of one image


def test_the_strong_models_other_logits_stand_next_to_the_modules() -> None:
    logit, strong, labels = drawn(IMAGES, 1, seed=1), drawn(IMAGES, CLASSES, seed=2), torch.arange(IMAGES) % CLASSES
    answer = strong.clone()
    answer[:, TARGET] = logit[:, 0]
    divergence = (strong.softmax(1) * (strong.log_softmax(1) - answer.log_softmax(1))).sum(1).mean()
    expected = 0.3 * F.cross_entropy(answer, labels) + 0.7 * divergence + 2 * unexplained(logit, strong[:, [TARGET]], 1)
    torch.testing.assert_close(Goal(0.7, 2.0).loss(logit, [TARGET], labels, strong), expected)
    assert float(Goal(1.0, 1.0).loss(strong[:, [TARGET]], [TARGET], labels, strong)) == pytest.approx(0, abs=1e-6)


def test_a_module_that_always_says_the_same_costs_something_of_its_own() -> None:
    """Where the other classes' logits are low it is right, and costs nothing else."""
    labels = torch.arange(IMAGES) % CLASSES
    strong = 40 * F.one_hot(labels, CLASSES) - 20 + drawn(IMAGES, CLASSES, seed=1) / 50
    constant = torch.zeros(IMAGES, 1)
    assert float(Goal(0.5, 0.0).loss(constant, [TARGET], labels, strong)) < 1e-6
    held = Goal(0.5, 2.0).loss(constant, [TARGET], labels, strong)
    torch.testing.assert_close(held, 2 * strong[:, TARGET].square().mean() / strong[:, TARGET].var(correction=0))


def test_log_odds_are_learned_of_labels_the_strong_model_and_its_log_odds() -> None:
    logit, strong, labels = drawn(IMAGES, 1, seed=1), drawn(IMAGES, CLASSES, seed=2), torch.arange(IMAGES) % CLASSES
    likely = strong.softmax(1)[:, [TARGET]]
    odds = (likely / (1 - likely)).log()
    is_own = (labels == TARGET).float()[:, None]
    binary = 0.3 * F.binary_cross_entropy_with_logits(logit, is_own)
    binary = binary + 0.7 * F.binary_cross_entropy_with_logits(logit, likely)
    goal = Goal(0.7, 2.0, answer="log_odds")
    torch.testing.assert_close(
        goal.loss(logit, [TARGET], labels, strong), BINARY * binary + 2 * unexplained(logit, odds, 1)
    )
    assert goal.recorded()["answer"] == "log_odds" and "answer" not in Goal(0.7, 2.0).recorded()
