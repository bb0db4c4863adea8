"""The learned calibration: convex, shrunk towards the weak model, and better where the module knows something."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from patching.learned import (
    FOLDS,
    FORMS,
    change,
    fit,
    fit_linear_map,
    fold_of_each,
    free_directions,
    held_out_answers,
    prepared,
    standardise,
    unstandardise,
)
from patching.rules import Given, Learned


def weak_and_module(n: int, seed: int = 0):
    """An over-confident weak model that knows little of the last class, and a module that knows more."""
    random = np.random.default_rng(seed)
    labels = random.integers(4, size=n)
    logits = random.normal(size=(n, 4)) + 2.0 * (labels[:, None] == np.arange(4)) * np.array([1, 1, 1, 0.2])
    output = 5 + 3 * random.normal(size=n) + 6 * (labels == 3)
    return torch.tensor(4 * logits, dtype=torch.float32), torch.tensor(output, dtype=torch.float32), labels


def target_recall(rule, logits, output, labels):
    predictions = rule(logits, output[:, None]).argmax(1).numpy()
    return (predictions[labels == 3] == 3).mean()


def test_module_helps_on_images_that_the_fit_did_not_see():
    logits, output, labels = weak_and_module(600)
    rule, control = (
        Learned.fit(Given(logits, outputs[:, None], labels, (logits.shape[1] - 1,))) for outputs in (output, 0 * output)
    )
    new_logits, new_output, new_labels = weak_and_module(600, seed=1)
    without = target_recall(control, new_logits, torch.zeros(600), new_labels)
    assert target_recall(rule, new_logits, new_output, new_labels) > without + 0.1
    losses = [fitted.found_by["loss_cross_validated"] for fitted in (rule, control)]
    assert losses[0] < losses[1] < control.found_by["loss_before"]
    assert not control.weight[:, 4].any()


def test_same_data_same_rule_and_a_useless_module_is_left_alone():
    logits, _, labels = weak_and_module(300)
    constant = torch.full((300,), 7.0)
    first, again = (fit_linear_map(logits, constant[:, None], labels, [3]) for _ in range(2))
    assert torch.equal(first.weight, again.weight) and torch.equal(first.bias, again.bias)
    assert first.weight[:, 4].abs().max() < 1e-6
    assert torch.isfinite(first.bias).all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("with_module", [True, False])
def test_gradient_vanishes_at_the_fit_and_other_points_are_worse(form, with_module):
    logits, output, labels = weak_and_module(80)
    logits, target = logits.double(), torch.tensor(labels)
    features, _ = standardise(logits, output.double()[:, None])
    directions = free_directions(4, form, [3], None if with_module else [])
    parameters = fit(logits, features, target, directions, ridge=0.01)

    def loss(parameters):
        scores = logits + features @ change(directions, parameters).T
        return F.cross_entropy(scores, target) + 0.005 * parameters.square().sum()

    (gradient,) = torch.autograd.grad(loss(parameters.requires_grad_()), parameters)
    assert gradient.abs().max() < 1e-5
    nearby = [parameters + 0.05 * torch.randn(len(parameters)) for _ in range(5)]
    assert all(loss(other) > loss(parameters) for other in nearby)
    changed = change(directions, torch.ones(len(directions)).double())
    assert bool(changed[-1, 4]) is with_module and not changed[:-1, 4].any()


def test_a_stiff_ridge_leaves_the_weak_model_as_it_is():
    logits, output, labels = weak_and_module(80)
    features, scale = standardise(logits.double(), output.double()[:, None])
    directions = free_directions(4, "vector", [3])
    parameters = fit(logits.double(), features, torch.tensor(labels), directions, ridge=1e9)
    weight, bias = unstandardise(change(directions, parameters), scale)
    torch.testing.assert_close(weight[:, :4], torch.eye(4).double(), atol=1e-6, rtol=0)
    assert weight[:, 4].abs().max() < 1e-6 and bias.abs().max() < 1e-6


def test_a_two_class_fit_equals_scikit_learns():
    """With one other class at logit 0 the fit is a logistic regression of the module's output."""
    random = np.random.default_rng(0)
    labels = random.integers(2, size=200)
    output = torch.tensor(random.normal(size=200) + labels)
    logits = torch.zeros(200, 2, dtype=torch.float64)
    features, scale = standardise(logits, output[:, None])
    ridge = 0.01
    parameters = fit(logits, features, torch.tensor(labels), free_directions(2, "few", [1]), ridge)
    weight, _ = unstandardise(change(free_directions(2, "few", [1]), parameters), scale)
    standardised = features[:, 2:].numpy()  # output, ones: sklearn then penalises the bias as the fit does
    expected = LogisticRegression(C=1 / (ridge * 200), fit_intercept=False, tol=1e-10).fit(standardised, labels)
    assert float(weight[1, 2] * scale[2][0]) == pytest.approx(expected.coef_[0, 0], rel=1e-4)


def test_added_classes_begin_with_their_shares_of_the_images():
    """Of a weak model that says nothing: the cross-entropy is the entropy of the labels."""
    counts = np.array([10, 10, 60, 20])
    labels = np.repeat(np.arange(4), counts)
    found = fit_linear_map(np.zeros((100, 2)), np.zeros((100, 2)), labels, [2, 3])
    shares = counts / 100
    assert found.loss_before == pytest.approx(-(shares * np.log(shares)).sum())


def test_folds_spread_every_class_evenly():
    labels = np.repeat([0, 1, 2], [50, 23, 5])
    folds = fold_of_each(labels, seed=0)
    for label in range(3):
        counts = np.bincount(folds[labels == label], minlength=FOLDS)
        assert counts.max() - counts.min() <= 1
    assert not np.array_equal(folds, fold_of_each(labels, seed=1))


def test_a_target_class_that_no_validation_image_has():
    logits, output, labels = weak_and_module(100)
    keep = labels != 3
    rule = Learned.fit(Given(logits[keep], output[keep, None], labels[keep], (logits.shape[1] - 1,)))
    scores = rule(logits, output[:, None])
    assert torch.isfinite(scores).all()
    assert (scores.argmax(1) == 3).float().mean() < 0.1


@pytest.mark.parametrize("form", FORMS)
def test_two_modules_move_their_own_classes_wherever_these_stand(form):
    """The fit of reordered classes and modules is the reordered fit."""
    logits, output, labels = weak_and_module(300)
    second = torch.tensor(2 * np.random.default_rng(1).normal(size=300) + 5 * (labels == 1))
    outputs = torch.stack([output.double(), second], 1)
    order = [2, 3, 1, 0]  # now class 3 is in column 1, and class 1 in column 2

    def scores(logits, outputs, labels, targets):
        features, _ = standardise(logits.double(), outputs)
        directions = free_directions(4, form, targets)
        changed = change(directions, fit(logits.double(), features, torch.tensor(labels), directions, ridge=0.01))
        own = changed[:, 4:-1].clone()
        own[targets, [0, 1]] = 0
        assert (changed[targets, [4, 5]] > 0.1).all() and not own.any()
        return logits + features @ changed.T

    found = scores(logits, outputs, labels, [3, 1])
    moved = scores(logits[:, order], outputs.flip(1), np.argsort(order)[labels], [2, 1])
    torch.testing.assert_close(moved, found[:, order], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("with_module", [True, False])
def test_held_out_answers_are_those_of_fits_without_the_image(with_module):
    logits, output, labels = weak_and_module(120)
    outputs = with_module * output[:, None]
    found = held_out_answers(logits, outputs, labels, [3])
    chosen = fit_linear_map(logits, outputs, labels, [3])
    directions = free_directions(4, chosen.form, [3], None if with_module else [])
    data = prepared(logits, outputs, labels, [3], seed=0)
    for fold in range(FOLDS):
        inside, outside = data.folds != fold, data.folds == fold
        parameters = fit(data.logits[inside], data.features[inside], data.labels[inside], directions, chosen.ridge)
        scores = data.logits[outside] + data.features[outside] @ change(directions, parameters).T
        assert (scores.argmax(1).numpy() == found[outside.numpy()]).mean() > 0.95  # from another start of the fit
