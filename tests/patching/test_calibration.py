"""A patch does not depend on the scale and shift of the logits, and knows probabilities where it is given them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, log_softmax, softmax

from dataset.images import Normalisation
from patching.as_reported import TOLERANCE, Reported
from patching.calibration import fitted_scale, log_probabilities, probability_floor
from patching.from_arrays import fit_patch, patch
from patching.members import Form, Member
from patching.patched_model import PatchedModel
from patching.report import BEFORE, NO_MODULE, PatchedWeakModel
from patching.rules import Given, Learned, MinMax
from patching.saving import save_as_reported
from utils.errors import UserError

LOGITS = "logits"  # instead of the floor of probabilities
SURE = 1e-2  # difference of scores from which on rounding does not decide


def weak_model(images: int, seed: int, classes: int = 5, target: int = 3, knows: float = 2.5):
    """Logits of a model that hardly ever answers one class, the output of its module, and labels."""
    random = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    logits = random.normal(size=(images, classes)) + 2.5 * (labels[:, None] == np.arange(classes))
    logits[:, target] -= 3
    return logits, {target: 5 * random.normal(size=images) + 5 * knows * (labels == target)}, labels


def f1_of(report: PatchedWeakModel) -> list[float]:
    """F1 of the target class before, after, and, where there is that control, without a module."""
    return [report.scores(method).f1 for method in (BEFORE, "learned", NO_MODULE) if method in report.methods]


def same_decisions(scores: np.ndarray, others: np.ndarray) -> bool:
    """Whether two sequences of scores (images, classes) have the same largest ones, except near ties."""
    ordered = np.sort(scores, 1)
    is_sure = ordered[:, -1] - ordered[:, -2] > SURE
    return is_sure.mean() > 0.9 and np.array_equal(scores.argmax(1)[is_sure], others.argmax(1)[is_sure])


@pytest.mark.slow
@settings(max_examples=6)
@given(
    seed=st.integers(0, 1000),
    power=st.integers(-6, 8),
    shift=st.sampled_from([0.0, 1.0, 1e3]),
    knows=st.sampled_from([0.0, 1.0, 3.0]),
    classes=st.integers(3, 5),
    others_may_lose=st.sampled_from([None, 0.0, 0.02]),
    of_module=st.tuples(st.integers(-6, 8), st.sampled_from([0.0, -1e3, 1e6])),
)
def test_scale_and_shift_cancel(seed, power, shift, knows, classes, others_may_lose, of_module):
    """Logits times a positive factor plus a constant for each image, and outputs likewise, give the same patch."""
    target = classes - 1
    (weak, module, labels), test = (weak_model(n, seed + n, classes, target, knows) for n in (120, 200))
    random = np.random.default_rng(seed)
    factor, offset = 10.0 ** of_module[0], 10.0 ** of_module[0] * of_module[1]

    def moved(logits: np.ndarray, outputs: dict[int, np.ndarray]) -> tuple[np.ndarray, dict[int, np.ndarray]]:
        shifts = shift * random.normal(size=(len(logits), 1))
        return 10.0**power * (logits + shifts), {k: factor * output + offset for k, output in outputs.items()}

    found = patch(weak, module, labels, auto=True, others_may_lose=others_may_lose)
    again = patch(*moved(weak, module), labels, auto=True, others_may_lose=others_may_lose)
    for one, other in zip(found.judged, again.judged, strict=True):
        is_sure = abs(one.gain - 1.645 * one.error) > 1e-4
        assert one.helps == other.helps or not is_sure
        assert other.gain == pytest.approx(one.gain, abs=1e-4)
    if (found.rule is None) == (again.rule is None):
        assert same_decisions(found(*test[:2]), again(*moved(*test[:2])))


def test_log_probabilities_and_probabilities_are_the_same_weak_model(capsys):
    (weak, module, labels), test = weak_model(100, 0), weak_model(300, 1)
    expected = fit_patch(weak, module, labels)(*test[:2])
    for form in (
        lambda logits: log_softmax(logits, 1),
        lambda logits: softmax(logits, 1),
        lambda logits: softmax(logits, 1).astype(np.float32),
        lambda logits: 100 * softmax(logits, 1),
    ):
        scores = fit_patch(form(weak), module, labels)(form(test[0]), test[1])
        assert same_decisions(expected, scores)
    assert not capsys.readouterr().out
    patch(softmax(weak, 1), module, labels)
    assert capsys.readouterr().out == "the weak model gives probabilities: the patch is fitted on their logarithms\n"


def saturated(logits: np.ndarray) -> np.ndarray:
    probabilities = softmax(30 * logits, 1).astype(np.float16)
    assert (probabilities == 0).any()
    return probabilities


@pytest.mark.parametrize(
    ("form", "floor"),
    [
        (lambda logits: softmax(logits, 1).astype(np.float32), None),
        (lambda logits: softmax(logits, 1).astype(np.float16), None),
        (lambda logits: softmax(logits, 1).round(2), 0.005),
        (lambda logits: (100 * softmax(logits, 1)).round(), 0.5),
        (lambda logits: np.eye(5)[logits.argmax(1)], 0.5),
        (lambda logits: np.eye(5, dtype=int)[logits.argmax(1)], 0.5),
        (saturated, None),
        (lambda logits: logits, LOGITS),
        (lambda logits: log_softmax(logits, 1), LOGITS),
        (expit, LOGITS),  # a sigmoid for each class: between 0 and 1, but the sums are others
        (lambda logits: logits - logits.min(1, keepdims=True), LOGITS),
        (lambda logits: softmax(logits, 1) - 0.1, LOGITS),
    ],
)
def test_probabilities_are_recognised_and_other_scores_taken_as_logits(form, floor):
    (weak, module, labels), test = weak_model(200, 0), weak_model(300, 1)
    found = probability_floor(form(weak))
    if floor == LOGITS:
        assert found is None
    else:
        assert 0 < found <= form(weak)[form(weak) > 0].min() and (floor is None or found == floor)
    patched = fit_patch(form(weak), module, labels)
    before, after = f1_of(patched.report(form(test[0]), *test[1:]))
    assert after > before + 0.3 and np.isfinite(patched(form(test[0]), test[1])).all()


def test_a_patch_of_probabilities_wants_probabilities_and_one_of_logits_wants_logits():
    weak, module, labels = weak_model(60, 0)
    of_logits, of_probabilities = fit_patch(weak, module, labels), fit_patch(softmax(weak, 1), module, labels)
    with pytest.raises(UserError, match=r"weak_logits: expected probabilities, .* fitted on, given logits"):
        of_probabilities(weak, module)
    with pytest.raises(UserError, match=r"weak_logits: expected logits, .* fitted on, given probabilities"):
        of_logits(softmax(weak, 1), module)
    one = of_logits(np.eye(5)[:1], {3: module[3][:1]})  # a single image of logits may look so
    assert one.shape == (1, 5)


@pytest.mark.parametrize(
    "change",
    [
        lambda logits: np.where(np.arange(5) == 3, -1e9, logits),
        lambda logits: np.where(np.arange(5) == 3, np.finfo(np.float32).min, logits).astype(np.float32),
        lambda logits: np.where(np.arange(5) == 3, np.finfo(np.float64).min, logits),
        lambda logits: np.where(np.arange(5) == 3, 0, logits),
        lambda logits: np.where(np.arange(len(logits))[:, None] < 3, -1e6 * logits, logits),
        lambda logits: np.round(logits).astype(np.int64),
        lambda logits: np.round(9 * logits + 100).astype(np.uint8),
        lambda logits: -logits,
        lambda logits: 0 * logits,
    ],
    ids=["masked", "float32", "float64", "constant", "outliers", "int", "uint8", "anti-correlated", "all equal"],
)
@pytest.mark.filterwarnings("error")
def test_odd_logits_are_patched(change):
    (weak, module, labels), test = weak_model(300, 0, knows=5), weak_model(300, 1, knows=5)
    patched = fit_patch(change(weak), module, labels)
    assert np.isfinite(patched(change(test[0]), test[1])).all()
    _, after = f1_of(patched.report(change(test[0]), *test[1:]))
    assert after > 0.8


def test_outliers_of_a_module_are_cut_off():
    (weak, module, labels), test = weak_model(600, 0, knows=5), weak_model(300, 1, knows=5)
    spoilt = {3: np.where(np.arange(600) < 3, 1e6, module[3])}
    _, after = f1_of(fit_patch(weak, spoilt, labels).report(*test))
    assert after > 0.85


@pytest.mark.parametrize("share_right", [0.0, 0.2, 0.6, 0.9, 1.0])
def test_a_scale_is_finite_and_relative(share_right):
    """Where all images are right, or none is, the least cross-entropy has an infinite scale, or 0."""
    random = np.random.default_rng(0)
    labels = random.integers(4, size=200)
    answers = np.where(np.arange(200) < 200 * share_right, labels, (labels + 1) % 4)
    logits = 3.0 * np.eye(4)[answers] + 0.1 * random.normal(size=(200, 4))
    found = fitted_scale(logits, labels)
    assert 0.01 < found < 10
    assert fitted_scale(1e5 * logits, labels) == pytest.approx(found / 1e5, rel=1e-5)
    if 0.25 < share_right < 1:  # of two kinds of images, right by 3 and wrong by 3: the softmax gives that share
        right = float(log_probabilities(torch.tensor(logits), found).exp().max(1).values.mean())
        assert right == pytest.approx(share_right, abs=0.02)


@given(st.integers(0, 1000), st.floats(1e-3, 1e3), st.floats(-1e3, 1e3))
def test_log_probabilities_do_not_know_a_shift(seed, scale, shift):
    logits = torch.tensor(np.random.default_rng(seed).normal(size=(4, 3)))
    found = log_probabilities(logits, scale)
    torch.testing.assert_close(found, log_probabilities(logits + shift, scale), atol=1e-6, rtol=1e-6)
    assert (found.argmax(1) == logits.argmax(1)).all() and (found > -42).all()
    torch.testing.assert_close(found, log_probabilities(torch.softmax(logits * scale, 1), 1.0, 1e-300))


def test_a_rule_fitted_by_an_earlier_version_is_one_of_logits():
    values = {"weight": [[1.0, 0.0, 0.0], [0.0, 2.0, 3.0]], "bias": [0.5, -1.0], "form": "few", "ridge": 0.1}
    rule = Learned.from_json(values)
    assert (
        rule(torch.tensor([[5.0, 7.0]]), torch.tensor([[10.0]])).tolist() == [[5.5, 43.0]] and rule.to_json() == values
    )
    with pytest.raises(ValueError, match="scale, low and high together"):
        Learned.from_json(values | {"scale": 1.0})


@pytest.mark.slow
def test_what_is_saved_takes_the_same_logarithms(tmp_path):
    torch.manual_seed(0)
    form = Form(8, "stretch", Normalisation((0.5, 0.5, 0.5), (0.2, 0.2, 0.2)))
    linear = torch.nn.Linear(3 * 8 * 8, 5)
    linear.requires_grad_(False).weight.mul_(30)  # some probabilities are 0 in float32
    weak = Member(torch.nn.Sequential(torch.nn.Flatten(), linear, torch.nn.Softmax(1)), form, range(5))
    module = Member(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 1)), form, [3])
    pixels = np.random.default_rng(0).integers(256, size=(120, 8, 8, 3), dtype=np.uint8)
    labels = np.arange(120) % 5
    with torch.inference_mode():
        said, outputs = weak(torch.tensor(pixels)).numpy(), {3: module(torch.tensor(pixels))[:, 0].numpy()}
    patched = fit_patch(said, outputs, labels)
    assert (said == 0).any() and patched.rule.probability_floor is not None
    expected = patched(said, outputs)
    assert len(np.unique(expected.argmax(1))) > 1
    model = PatchedModel(weak, [module], patched.rule, "abcde")
    for name in ("saved_calibrated.py", "saved.onnx"):
        save_as_reported(model, tmp_path / name, Reported({"pixels": pixels}, expected, TOLERANCE))


def test_a_range_of_a_weak_model_of_probabilities_takes_them_as_they_are():
    weak, module, labels = weak_model(60, 0, target=4)
    probabilities, output = (torch.tensor(values, dtype=torch.float32) for values in (softmax(weak, 1), module[4]))
    scores, of_logits = (
        MinMax.fit(Given(given.numpy(), output[:, None].numpy(), labels, (4,)))(given, output[:, None])
        for given in (probabilities, torch.tensor(weak).float())
    )
    torch.testing.assert_close(scores[:, :4], probabilities[:, :4])
    torch.testing.assert_close(scores, of_logits)
