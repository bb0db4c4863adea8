"""The training loop: its schedule, its resume to the last bit, its choice of the best epoch, its refusals."""

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from conftest import assert_near, random_images
from torch import nn

from dataset.images import normalise
from models.evaluation import accuracy, count_right, predict
from models.simcnn import SimCNN
from models.training import Epoch, Training, TrainingSettings, batch_sizes, learning_rate_at, train
from utils.artifacts import CheckpointFile
from utils.errors import UserError

CPU = torch.device("cpu")
SETTINGS = TrainingSettings(
    epochs=4,
    batch_size=8,
    learning_rate=0.02,
    schedule="one_cycle",
    momentum=0.9,
    weight_decay=1e-3,
    augmented=True,
    mirror=True,
)
TRAIN, VALID = random_images(30, 3), random_images(11, 3, seed=2)


def new_model(seed: int = 0) -> SimCNN:
    torch.manual_seed(seed)
    return SimCNN(3, 1 / 32).to(memory_format=torch.channels_last)


def train_it(
    settings: TrainingSettings = SETTINGS, model: nn.Module | None = None, seed: int = 0, **more: Any
) -> tuple[nn.Module, Training]:
    model = model or new_model()
    return model, train(model, TRAIN, VALID, settings, device=CPU, dtype=torch.float32, seed=seed, **more)


def without_seconds(history: list[Epoch]) -> list[Epoch]:
    return [replace(epoch, seconds=0) for epoch in history]


def assert_same_weights(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


class Deep(nn.Module):
    """Batch norm of maps of one pixel; other outputs when it is trained, as GoogLeNet has them."""

    def __init__(self, answer: Callable[[torch.Tensor], Any] = lambda logits: logits) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.fc, self.answer = nn.Conv2d(3, 8, 32), nn.BatchNorm2d(8), nn.Linear(8, 3), answer

    def forward(self, x: torch.Tensor) -> Any:
        logits = self.fc(self.norm(self.conv(x)).relu().flatten(1))
        return self.answer(logits) if self.training else logits


class Outputs(NamedTuple):
    logits: torch.Tensor
    auxiliary: torch.Tensor | None


class Featured(Deep):
    """In training and in evaluation: the first output that is as wide as the classes is meant."""

    def forward(self, x: torch.Tensor) -> Any:
        logits = super().forward(x)
        return {"features": torch.cat([logits, logits], 1), "logits": logits}


@pytest.mark.parametrize(
    ("model", "num_classes"),
    [
        (Deep(lambda logits: Outputs(logits, logits * 2)), None),
        (Deep(lambda logits: (logits, logits * 2)), None),
        (Deep(lambda logits: {"maps": logits[:, :, None], "logits": logits, "auxiliary": [logits * 2]}), None),
        (Featured(), 3),
    ],
)
def test_of_several_outputs_the_logits_are_trained_and_counted(model: nn.Module, num_classes: int | None) -> None:
    expected = train_it(model=Deep())[1]
    found = train_it(model=copy.deepcopy(model), num_classes=num_classes)[1]
    assert_same_weights(found.best_weights, expected.best_weights)
    assert without_seconds(found.history) == without_seconds(expected.history)


@pytest.mark.parametrize("without", [torch.no_grad(), torch.inference_mode()])
def test_logits_without_a_gradient_are_one_line(without: Any) -> None:
    model = Deep()
    model.forward = without(model.forward)
    with pytest.raises(UserError, match="the network's logits have no gradient in training mode"):
        train_it(model=model)


def fail(logits: torch.Tensor) -> torch.Tensor:
    raise ValueError("too\nsmall")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda logits: {"loss": logits.mean()}, r"no logits \(n, classes\) in training mode: give them as its first"),
        (fail, r"does not train on a batch of 8 images of 32 pixels: too \(.*: raise Value"),
    ],
)
def test_a_network_that_cannot_be_trained_is_refused(answer: Callable[[torch.Tensor], Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train_it(model=Deep(answer))


def test_no_batch_has_a_single_image() -> None:
    assert batch_sizes(30, 8) == [8, 8, 8, 6]
    assert batch_sizes(17, 8) == [8, 9]
    assert batch_sizes(16, 8) == [8, 8]
    assert batch_sizes(9, 16) == [9]
    assert (batch_sizes(1, 8), batch_sizes(3, 1)) == ([1], [1, 1, 1])
    train_it(replace(SETTINGS, batch_size=29), model=Deep())


class Stop(Exception):
    """Stands in for a killed process."""


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [0, 1, 2])
def test_resume_gives_the_same_bits(
    tmp_path: Path, stop_after: int, no_progress_lines: None, capsys: pytest.CaptureFixture[str]
) -> None:
    whole_model, whole = train_it()
    file = CheckpointFile(tmp_path / "state.pth", "python train.py")

    def stop(epoch: Epoch, _: nn.Module) -> None:
        if epoch.number == stop_after + 1:  # in the middle of an epoch, as far as the state knows
            raise Stop

    with pytest.raises(Stop):
        train_it(state_file=file, after_epoch=stop)
    torch.manual_seed(99)  # another process has other random numbers behind it
    capsys.readouterr()
    model, training = train_it(model=new_model(seed=7), state_file=file)
    assert capsys.readouterr().out == f"resuming after epoch {stop_after}\n"
    assert without_seconds(training.history) == without_seconds(whole.history)
    assert training.best_epoch == whole.best_epoch
    assert_same_weights(model.state_dict(), whole_model.state_dict())
    assert_same_weights(training.best_weights, whole.best_weights)
    _, again = train_it(state_file=file)  # a finished training is not trained on
    assert again.history == training.history


def test_another_number_of_threads_is_said_when_it_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, settings = CheckpointFile(tmp_path / "state.pth", "python train.py"), replace(SETTINGS, epochs=2)
    words = "results differ slightly from those of an uninterrupted training (threads: 1 there, 2 now)"

    def interrupted(epoch: Epoch, _: torch.nn.Module) -> None:
        if epoch.number == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    with pytest.raises(KeyboardInterrupt):
        train_it(settings, state_file=file, after_epoch=interrupted)
    state = file.load()
    assert state["made_on"]["threads"] == 1 and state["made_on"]["torch"] == str(torch.__version__)
    for threads, recorded, is_said in ((1, state, False), (2, {**state, "made_on": 3}, False), (2, state, True)):
        file.save(recorded)
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        train_it(settings, state_file=file)
        assert (words in capsys.readouterr().out) == is_said
    train_it(settings, state_file=file)  # it is over
    assert words not in capsys.readouterr().out


def test_the_seed_decides() -> None:
    first, again, other = (train_it(replace(SETTINGS, epochs=1), seed=seed)[0].state_dict() for seed in (0, 0, 1))
    assert_same_weights(first, again)
    assert not torch.equal(first["convs.0.weight"], other["convs.0.weight"])


def test_each_epoch_sees_every_image_once_in_an_order_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []

    def record(pixels: torch.Tensor, **_: Any) -> torch.Tensor:
        seen.extend(image.numpy().tobytes() for image in pixels)
        return pixels

    monkeypatch.setattr("models.training.augment", record)
    train_it(replace(SETTINGS, epochs=2))
    first, second = seen[: len(TRAIN)], seen[len(TRAIN) :]
    assert sorted(first) == sorted(second) == sorted(image.tobytes() for image in TRAIN.pixels)
    assert first != second


def test_it_learns() -> None:
    settings = TrainingSettings(epochs=25, batch_size=10, learning_rate=0.02, momentum=0.9)
    torch.manual_seed(0)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))  # has one minimum
    _, training = train_it(settings, model)
    assert training.history[-1].train_accuracy > 0.9
    assert training.history[-1].train_loss < 0.5 * training.history[0].train_loss


def test_one_step_by_hand() -> None:
    """SGD with momentum and weight decay on the whole training set, in one batch and without dropout."""
    settings = TrainingSettings(
        epochs=2, batch_size=1000, learning_rate=0.1, milestones=(1,), momentum=0.9, weight_decay=0.01
    )
    torch.manual_seed(0)
    model = SimCNN(3, 1 / 32, dropout=0.0)
    by_hand = copy.deepcopy(model)
    train_it(settings, model)
    velocity = [torch.zeros_like(p) for p in by_hand.parameters()]
    for rate in (0.1, 0.01):
        by_hand.zero_grad()
        images = normalise(torch.tensor(TRAIN.pixels), TRAIN.normalisation)
        loss = nn.functional.cross_entropy(by_hand(images), torch.tensor(TRAIN.labels))
        loss.backward()
        with torch.no_grad():
            for parameter, speed in zip(by_hand.parameters(), velocity, strict=True):
                speed.mul_(0.9).add_(parameter.grad + 0.01 * parameter)
                parameter.sub_(rate * speed)
    for name, value in by_hand.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-3, atol=1e-5)


def test_step_schedule_by_hand() -> None:
    settings = TrainingSettings(200, 128, 0.01, "step", (60, 120))
    for progress, expected in [(0, 0.01), (59.99, 0.01), (60, 0.001), (119.5, 0.001), (120, 0.0001), (199.9, 0.0001)]:
        assert learning_rate_at(settings, progress) == pytest.approx(expected, rel=1e-12)


def test_one_cycle_schedule_by_hand() -> None:
    settings = TrainingSettings(10, 128, 0.5, "one_cycle", (1, 2))  # milestones are for `step` alone
    for progress, expected in [(0, 0.05), (1, 0.275), (2, 0.5), (4, 0.25 * (1 + math.sqrt(0.5))), (6, 0.25), (10, 0)]:
        assert learning_rate_at(settings, progress) == pytest.approx(expected, abs=1e-12)


def test_the_best_epoch_is_kept() -> None:
    """The first of the best: a later one must be better."""
    seen: list[dict[str, torch.Tensor]] = []
    settings = replace(SETTINGS, epochs=12, learning_rate=0.05)
    _, training = train_it(
        settings, after_epoch=lambda _, model: seen.append({n: v.clone() for n, v in model.state_dict().items()})
    )
    accuracies = [epoch.valid_accuracy for epoch in training.history]
    assert len(set(accuracies)) > 1  # else there is nothing to choose
    assert training.best_epoch == accuracies.index(max(accuracies))
    assert_same_weights(training.best_weights, seen[training.best_epoch])
    model = new_model()
    model.load_state_dict(training.best_weights)
    assert accuracy(predict(model, VALID, CPU), VALID.labels) == max(accuracies)


def test_early_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """With patience 2: the epochs after the best one that bring nothing better are two."""
    accuracies = iter([0.1, 0.3, 0.3, 0.2, 0.9])
    monkeypatch.setattr("models.training.accuracy", lambda *_: next(accuracies))
    _, training = train_it(replace(SETTINGS, epochs=5), patience=2)
    assert [epoch.valid_accuracy for epoch in training.history] == [0.1, 0.3, 0.3, 0.2]
    assert training.best_epoch == 1


def test_nan_stops_with_where(tmp_path: Path) -> None:
    file = CheckpointFile(tmp_path / "state.pth", "python train.py")
    settings = replace(SETTINGS, learning_rate=1e12, schedule="step")
    with pytest.raises(
        UserError, match=r"epoch 0: the training loss is (nan|inf); lower the learning rate, now 1000000000000"
    ):
        train_it(settings, state_file=file)
    assert not file.exists()


def test_weights_that_overflow_in_the_last_step_are_found() -> None:
    """One batch: the loss is finite, and the step after it goes astray."""
    settings = TrainingSettings(epochs=1, batch_size=1000, learning_rate=1e30)
    with pytest.raises(UserError, match="epoch 0: the validation logits are not finite; lower the learning rate"):
        train_it(settings)


def test_other_settings_are_refused_with_the_differences(tmp_path: Path) -> None:
    file = CheckpointFile(tmp_path / "state.pth", "python train.py")
    settings = replace(SETTINGS, epochs=1, schedule="step", milestones=(60, 120))
    train_it(settings, state_file=file)
    before = file.path.read_bytes()
    with pytest.raises(UserError) as error:
        train_it(replace(settings, epochs=2, milestones=(60, 100)), state_file=file, seed=1)
    assert str(error.value) == (
        f"{file.path} is of a training with other settings (epochs: 1 there, 2 now; milestones: (60, 120) there, "
        "(60, 100) now; seed: 0 there, 1 now): use the same, or set that folder aside with --fresh"
    )
    assert file.path.read_bytes() == before
    others = replace(TRAIN, labels=(TRAIN.labels + 1) % 3)
    for changed, message in (
        ({"train_images": others}, r"other settings \(images_crc32: \["),
        ({"valid_images": others}, r"other settings \(images_crc32: \["),
        ({"dtype": torch.bfloat16}, r"other settings \(precision: float32 there, bfloat16 now\): use the same"),
    ):
        arguments = {"train_images": TRAIN, "valid_images": VALID, "device": CPU, "dtype": torch.float32, **changed}
        with pytest.raises(UserError, match=message):
            train(new_model(), settings=settings, seed=0, state_file=file, **arguments)
    assert file.path.read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: state.clear(),
        lambda state: state.pop("weights"),
        lambda state: state.pop("history"),
        lambda state: state.update(history=[]),
        lambda state: state.update(history=[{"number": 3}]),
        lambda state: state.update(history=[1]),
        lambda state: state.update(best_epoch=5),
        lambda state: state.update(best_epoch="first"),
        lambda state: state.update(best_weights=3),
        lambda state: state.update(weights={}),
        lambda state: next(iter(state["weights"].values())).fill_(torch.nan),
        lambda state: next(iter(state["best_weights"].values())).fill_(torch.inf),
        lambda state: state.update(weights=None),
        lambda state: state.update(optimizer={}),
        lambda state: state["optimizer"].update(param_groups=[]),
        lambda state: state.update(description=3),
        lambda state: state["weights"].update({"fcs.0.bias": torch.zeros(3)}),
    ],
)
def test_a_state_of_something_else_is_refused(tmp_path: Path, spoil: Any) -> None:
    file = CheckpointFile(tmp_path / "state.pth", "python train.py")
    settings = replace(SETTINGS, epochs=1)
    train_it(settings, state_file=file)
    state = file.load()
    spoil(state)
    file.save(state)
    with pytest.raises(UserError, match=r"cannot use .*state\.pth: .*make it again with: python train\.py"):
        train_it(settings, state_file=file)


def test_bfloat16_keeps_weights_in_float32() -> None:
    model = new_model()
    settings = replace(SETTINGS, epochs=1)
    training = train(model, TRAIN, VALID, settings, device=CPU, dtype=torch.bfloat16, seed=0)
    assert {value.dtype for value in training.best_weights.values()} == {torch.float32}
    exact, rounded = predict(model, VALID, CPU), predict(model, VALID, CPU, torch.bfloat16)
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(rounded, exact, rtol=0.1, atol=0.1 * exact.abs().max().item())


def test_predict_is_the_model_on_every_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.evaluation.EVALUATION_BATCH", 4)  # 11 images: two whole batches and a part
    model = new_model()
    outputs = predict(model, VALID, CPU)
    assert model.training  # as before
    model.eval()
    inputs = normalise(torch.tensor(VALID.pixels), VALID.normalisation)
    expected = [model(inputs[i : i + 1])[0] for i in range(len(VALID))]
    assert_near(outputs, torch.stack(expected).detach())


def test_accuracy_counts_images() -> None:
    logits = torch.tensor([[1.0, 2.0], [3.0, 1.0], [0.0, 5.0]])
    assert count_right(logits, np.array([1, 1, 1])) == 2
    assert accuracy(logits, np.array([1, 0, 1])) == 1.0


def test_outputs_that_are_no_numbers_are_not_counted() -> None:
    for wrong in (math.nan, math.inf):
        with pytest.raises(UserError, match="outputs on 1 of 2 images are NaN or infinite: train it again"):
            count_right(torch.tensor([[0.0, wrong], [1.0, 2.0]]), [0, 1])


def test_the_last_small_batch_counts_as_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The epoch's loss is a mean over images, not over batches."""
    settings = TrainingSettings(epochs=1, batch_size=29, learning_rate=1e-12)
    torch.manual_seed(0)
    model = SimCNN(3, 1 / 32, dropout=0.0)
    _, training = train_it(settings, model)
    logits = predict(model, TRAIN, CPU)
    expected = nn.functional.cross_entropy(logits, torch.tensor(TRAIN.labels)).item()
    assert training.history[0].train_loss == pytest.approx(expected, rel=1e-4)
    assert training.history[0].train_accuracy == accuracy(logits, TRAIN.labels)
    assert asdict(training.history[0])["number"] == 0


def test_images_of_one_batch_may_be_fewer_than_its_size() -> None:
    few = TRAIN.first(2)
    settings = TrainingSettings(epochs=1, batch_size=2**31 - 1, learning_rate=0.01)
    training = train(new_model(), few, few, settings, device=CPU, dtype=torch.float32, seed=0)
    assert len(training.history) == 1
