"""What gradient searches are after: the losses, and the images of a step."""

import pytest
import torch
import torch.nn.functional as F

from search.gradient.goals import ComposedAnswer, OwnLogit, unexplained

IMAGES, CLASSES = 40, 4


def drawn(seed: int) -> torch.Tensor:
    return 5 * torch.randn(IMAGES, CLASSES, generator=torch.Generator().manual_seed(seed))


def test_a_batch_has_its_share_of_the_class() -> None:
    labels = torch.tensor([0, 1, 2, 1, 2, 0, 2, 0, 1, 0] * 10)
    chosen = OwnLogit(1, 0.4).choose(labels, 20, torch.Generator().manual_seed(1))
    assert len(chosen) == len(set(chosen.tolist())) == 20
    assert (labels[chosen] == 1).sum() == 8
    assert {0, 2} < set(labels[chosen].tolist())
    few = OwnLogit(1, 0.4).choose(labels[:5], 20, torch.Generator().manual_seed(1))
    assert sorted(few.tolist()) == [0, 1, 2, 3, 4]


def test_what_is_unexplained_is_the_squared_error_as_a_share_of_the_variance() -> None:
    strong = torch.randn(50, 2, generator=torch.Generator().manual_seed(1)) * 7 + 3
    assert torch.equal(unexplained(strong, strong), torch.zeros(2))
    torch.testing.assert_close(unexplained(strong.mean(0).expand(50, 2), strong), torch.ones(2))
    torch.testing.assert_close(unexplained(strong[:1] + 2, strong[:1]), torch.full((2,), 4.0))  # of one image
    loss = OwnLogit(1, 0.4).loss(2 * strong[:, 1:], torch.zeros(50), strong)
    torch.testing.assert_close(loss, strong[:, 1].square().mean() / strong[:, 1].var(correction=0))


def test_the_composed_model_learns_from_labels_and_from_the_strong_model() -> None:
    logits, strong, labels = drawn(1), drawn(2), torch.arange(IMAGES) % CLASSES
    divergence = (strong.softmax(1) * (strong.log_softmax(1) - logits.log_softmax(1))).sum(1).mean()
    expected = 0.3 * F.cross_entropy(logits, labels) + 0.7 * divergence
    torch.testing.assert_close(ComposedAnswer(CLASSES, 0.7, 0.0).loss(logits, labels, strong), expected)
    assert float(ComposedAnswer(CLASSES, 1.0, 1.0).loss(strong, labels, strong)) == pytest.approx(0, abs=1e-6)


def test_a_module_that_always_says_the_same_costs_something_of_its_own() -> None:
    """Where all others say no it is right in company, and costs nothing else."""
    labels = torch.arange(IMAGES) % CLASSES
    strong = 40 * F.one_hot(labels, CLASSES) - 20 + drawn(1) / 10
    constant = strong.clone()
    constant[:, 0] = 0
    alone, held = ComposedAnswer(CLASSES, 0.5, 0.0), ComposedAnswer(CLASSES, 0.5, 2.0)
    assert float(alone.loss(constant, labels, strong)) < 1e-6
    of_constant = strong[:, 0].square().mean() / strong[:, 0].var(correction=0)
    torch.testing.assert_close(held.loss(constant, labels, strong), 2 * of_constant / CLASSES)
    constant.requires_grad_()
    held.loss(constant, labels, strong).backward()
    assert constant.grad[:, 0].abs().min() > 0 and constant.grad[:, 1:].abs().max() < 1e-6


def test_the_images_of_a_step_are_of_all_classes() -> None:
    labels = torch.arange(IMAGES)
    goal = ComposedAnswer(CLASSES, 0.5, 1.0)
    chosen = [goal.choose(labels, 12, torch.Generator().manual_seed(seed)).tolist() for seed in (1, 1, 2)]
    assert len(set(chosen[0])) == 12 and chosen[0] == chosen[1] != chosen[2]
    assert goal.classes == (0, 1, 2, 3)
