"""The Lightning model: training, length, resume, checkpoints, normalisation, arguments."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.models import get_model
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import Logger
from omegaconf import OmegaConf
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms as v1
from torchvision.transforms.v2 import Compose, Normalize, Resize

from anomalib_scrd import ScaleAwareCRD
from anomalib_scrd.training import own_length
from anomalib_scrd.training.pre_processing import normalisation
from anomalib_scrd.training.schedule import cosine_with_warmup
from tests.models import build_engine, build_model, build_quick_model

PUBLISHED = {"preset": "published"}
PLAIN = {"restore": 0.0, "contrast": 0.0}
RATIO = {"loss": PLAIN | {"ratio": 0.1}}


class Recorder(Callback):
    """Keeps every loss, and what was logged."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.logged: dict = {}

    def on_train_batch_end(self, trainer: Trainer, _module: object, outputs: dict, *_: object) -> None:
        self.losses.append(outputs["loss"].item())
        self.logged.update(trainer.callback_metrics)


@pytest.mark.parametrize(
    "arguments", [{}, {"loss": PLAIN}, RATIO, PUBLISHED], ids=["default", "plain", "ratio", "published"]
)
def test_training_lowers_the_loss_and_leaves_the_teacher_alone(
    arguments: dict, tiny_data: Callable, tmp_path: Path
) -> None:
    model = build_model(**arguments, optimiser={"learning_rate": 3e-3})
    before = {name: value.clone() for name, value in model.model.teacher.state_dict().items()}
    buffers = dict(model.model.named_buffers())
    recorder = Recorder()
    # eight epochs of three steps, with the one validation that all end with
    engine = build_engine(tmp_path, max_steps=24, check_val_every_n_epoch=8, callbacks=[recorder], log_every_n_steps=1)
    engine.fit(model, datamodule=tiny_data())
    assert sum(recorder.losses[-4:]) < sum(recorder.losses[:4])
    assert all(torch.equal(value, before[name]) for name, value in model.model.teacher.state_dict().items())
    # DDP broadcasts the tensors that it has found at the start: a buffer is filled, never replaced.
    assert [name for name, buffer in model.model.named_buffers() if buffer is not buffers[name]] == []
    plain = arguments == {"loss": PLAIN}
    terms = ("pull", "scale_weight", *(() if plain else ("push",)))
    assert {"train_loss", *(f"{term}/layer{k}" for term in terms for k in (1, 2, 3))} <= set(recorder.logged)
    assert ("contrast" in recorder.logged) == (not arguments)
    assert ("ratio" in recorder.logged) == (bool(arguments) and not plain)


class Rows(Logger):
    """Keeps every row that Lightning writes."""

    name, version = "rows", 0

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, float]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append(metrics)

    def log_hyperparams(self, *_args: object, **_kwargs: object) -> None:
        pass


class StopAfter(Callback):
    """Stops a training at the end of a batch, as a time limit does."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        self.batches -= 1
        trainer.should_stop = self.batches == 0


@pytest.mark.parametrize(
    ("every", "accumulate", "stop_after", "logged"),
    [
        (2, 1, None, [1, 3, 5, 7]),  # batches whose rows are written; an epoch has 3
        (4, 1, None, [3, 7]),
        (1, 2, None, [1, 2, 4, 5, 7, 8]),  # a step at the end of each epoch, whatever it has accumulated
        (2, 2, None, [2, 5, 8]),
        (4, 1, 6, [3, 5]),
        (0, 1, None, []),
    ],
)
def test_rows_of_a_logger_hold_the_values_of_their_own_step(
    every: int, accumulate: int, stop_after: int | None, logged: list[int], tiny_data: Callable, tmp_path: Path
) -> None:
    model, rows, terms = build_quick_model(), Rows(), []
    model.loss.register_forward_hook(lambda _m, _a, output: terms.append(output))
    build_engine(
        tmp_path,
        max_epochs=3,
        logger=rows,
        log_every_n_steps=every,
        accumulate_grad_batches=accumulate,
        limit_val_batches=0,
        callbacks=[] if stop_after is None else [StopAfter(stop_after)],
    ).fit(model, datamodule=tiny_data())
    written = [row for row in rows.rows if "train_loss_step" in row]
    assert [row["train_loss_step"] for row in written] == [terms[batch].total.item() for batch in logged]
    for row, batch in zip(written, logged, strict=True):
        assert row["contrast"] == terms[batch].contrast.item()
        for name, values in (("pull", terms[batch].pull), ("scale_weight", terms[batch].weights)):
            assert [row[f"{name}/layer{k}"] for k in (1, 2)] == values.tolist()


@pytest.mark.parametrize("length", [{"max_steps": 3}, {"max_epochs": 2}])
def test_a_given_length_wins(length: dict, tiny_data: Callable, tmp_path: Path) -> None:
    engine = build_engine(tmp_path, limit_val_batches=0, **length)
    engine.fit(build_quick_model(), datamodule=tiny_data())
    assert engine.trainer.global_step == length.get("max_steps", 6)


def without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace the compiler, which takes minutes; gives the names of what is compiled."""
    compiled: list[str] = []
    real = torch.compile

    def eager(module: torch.nn.Module, mode: str | None = None) -> object:
        assert mode is None
        compiled.append(type(module).__name__)
        return real(module, backend="eager")

    monkeypatch.setattr(torch, "compile", eager)
    return compiled


def assert_ordinary(model: ScaleAwareCRD) -> None:
    for module in (model.model, model.model.teacher, model.loss):
        assert model.compiled(module) is module
        assert module._compiled_call_impl is None
    assert not any("_orig_mod" in name for name in model.state_dict())


@pytest.mark.parametrize("cache", [0.0, 1.0])
def test_a_compiled_training_is_the_same_and_leaves_an_ordinary_model(
    cache: float, monkeypatch: pytest.MonkeyPatch, tiny_data: Callable, tmp_path: Path
) -> None:
    compiled = without_a_compiler(monkeypatch)
    losses = []
    for switch in (False, True):
        recorder = Recorder()
        seed_everything(0)
        # Adam's first steps have the gradient's sign: at the default's rate they enlarge rounding.
        model = build_quick_model(compile_model=switch, feature_cache=cache, optimiser={"learning_rate": 1e-4})
        build_engine(tmp_path / str(switch), max_steps=4, limit_val_batches=0, callbacks=[recorder]).fit(
            model, datamodule=tiny_data()
        )
        losses.append(recorder.losses)
    assert compiled == ["ScaleAwareCRDModel", "Teacher", "ScaleAwareContrastiveLoss"]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert len(losses[0]) == 4
    assert_ordinary(model)


def test_a_training_that_fails_leaves_an_ordinary_model(
    monkeypatch: pytest.MonkeyPatch, tiny_data: Callable, tmp_path: Path
) -> None:
    class Fail(Callback):
        def on_train_batch_end(self, *_: object) -> None:
            msg = "stop"
            raise RuntimeError(msg)

    compiled = without_a_compiler(monkeypatch)
    model = build_quick_model(compile_model=True)
    with pytest.raises(RuntimeError, match="stop"):
        build_engine(tmp_path, max_steps=4, callbacks=[Fail()]).fit(model, datamodule=tiny_data())
    assert len(compiled) == 3  # the model, its teacher and the loss
    assert_ordinary(model)


@pytest.mark.parametrize("plain", [False, True])
def test_a_thousand_epochs_that_were_given_are_no_missing_length(
    plain: bool, tiny_data: Callable, tmp_path: Path
) -> None:
    # the number that Lightning fills in where none was given
    class Stop(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
            trainer.should_stop = True

    for folder, length in (("given", {"max_epochs": 1000}), ("none", {})):
        settings = {"limit_val_batches": 0, "callbacks": [Stop()]} | length
        if plain:
            trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, **settings)
            trainer.fit(build_quick_model(), datamodule=tiny_data())
        else:
            engine = build_engine(tmp_path / folder, **settings)
            engine.fit(build_quick_model(), datamodule=tiny_data())
            trainer = engine.trainer
        wanted = (1000, -1) if length else (-1, sum(own_length.CYCLES))
        assert (trainer.max_epochs, trainer.max_steps) == wanted


def test_resumed_run_equals_the_uninterrupted_one(tiny_data: Callable, tmp_path: Path) -> None:
    """Weights, batch norm, calibration and the sequence of synthetic anomalies go on where they stopped."""

    data = tiny_data()
    data.setup()
    # in order: the shuffling is Lightning's to restore, the synthetic anomalies are this model's
    loader = DataLoader(data.train_data, batch_size=4, shuffle=False, collate_fn=data.train_data.collate_fn)

    def fit(folder: str, epochs: int, checkpoint: str | None = None) -> tuple[ScaleAwareCRD, str]:
        engine = build_engine(tmp_path / folder, max_epochs=epochs, limit_val_batches=0)
        # No schedule, because it depends on the length.
        model = build_quick_model(seed=7, optimiser={"schedule": "none", "learning_rate": 1e-3})
        engine.fit(model, train_dataloaders=loader, ckpt_path=checkpoint)
        return model, engine.best_model_path

    whole, _ = fit("whole", 2)
    _, checkpoint = fit("half", 1)
    resumed, _ = fit("rest", 2, checkpoint)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=2e-3, atol=2e-4, equal_nan=True, msg=name)
    assert resumed._batches_seen == 6


def test_checkpoint_holds_all_and_fetches_nothing(
    tiny_data: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # get_model takes no objects, and a validation at the default size takes long
    size = ScaleAwareCRD.configure_pre_processor((64, 64))
    monkeypatch.setattr(ScaleAwareCRD, "configure_pre_processor", staticmethod(lambda _=None: size))
    model = get_model(
        {
            "class_path": "ScaleAwareCRD",
            "init_args": {
                "backbone": "resnet18",
                "layers": ["layer1", "layer2"],
                "pre_trained": False,
                "student": {"depth": [1, 1]},
                "noise": {"size": [0.1, 0.2], "strength": [0.1, 0.3]},
                "optimiser": {"betas": [0.9, 0.99]},
                "scoring": {"sigma": 3.0},
                "visualizer": False,
            },
        },
    )
    engine = build_engine(tmp_path, max_steps=2)
    engine.fit(model, datamodule=tiny_data())
    torch.load(engine.best_model_path, weights_only=True)

    checkpoint = torch.load(engine.best_model_path, weights_only=True)
    checkpoint["hyper_parameters"]["pre_trained"] = checkpoint["anomalib_scrd"]["pre_trained"] = True
    torch.save(checkpoint, tmp_path / "hub.ckpt")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "nowhere"))
    loaded = ScaleAwareCRD.load_from_checkpoint(tmp_path / "hub.ckpt")
    assert loaded.hparams["pre_trained"] is True
    assert loaded.hparams["layers"] == ["layer1", "layer2"]
    assert loaded.hparams["noise"]["strength"] == [0.1, 0.3]
    assert loaded.hparams["optimiser"]["betas"] == [0.9, 0.99]
    image = torch.rand(2, 3, 64, 64)
    expected, result = model.cpu().eval()(image), loaded.eval()(image)
    assert torch.equal(result.pred_score, expected.pred_score)
    assert torch.equal(result.anomaly_map, expected.anomaly_map)


def test_omegaconf_lists_become_plain() -> None:
    model = build_model(layers=OmegaConf.create(["layer1", "layer3"]), noise=OmegaConf.create({"size": [0.1, 0.3]}))
    assert type(model.hparams["layers"]) is list
    assert type(model.hparams["noise"]["size"]) is list


def test_normalisation_is_found_wherever_it_is() -> None:
    assert normalisation(None) is None
    assert normalisation(Resize((32, 32))) is None
    nested = Compose(
        [Resize((32, 32)), Compose([Normalize([0.5] * 3, [0.5, 0.25, 0.2])]), Normalize([0.1, 0.2, 0.3], [2, 2, 2])]
    )
    found = normalisation(nested)
    torch.testing.assert_close(found.std, torch.tensor([1.0, 0.5, 0.4]))
    torch.testing.assert_close(found.mean, torch.tensor([0.55, 0.55, 0.56]))


@pytest.mark.parametrize(
    ("transform", "std"),
    [
        (v1.Normalize([0.5] * 3, [0.5, 0.25, 0.2]), [0.5, 0.25, 0.2]),
        (v1.Compose([v1.Resize((32, 32)), v1.Normalize([0.5] * 3, [0.5, 0.25, 0.2])]), [0.5, 0.25, 0.2]),
        (nn.Sequential(Resize((32, 32)), Normalize([0.5] * 3, [0.5, 0.25, 0.2])), [0.5, 0.25, 0.2]),
        (Compose([nn.Sequential(v1.Normalize([0], [0.5])), Normalize([0] * 3, [0.5, 0.25, 0.2])]), [0.25, 0.125, 0.1]),
        (Normalize([0.3], [0.5]), [0.5]),
        (nn.Sequential(Resize((32, 32))), None),
    ],
)
def test_normalisation_of_every_kind(transform: nn.Module, std: list | None) -> None:
    found = normalisation(transform)
    assert (found is None) == (std is None)
    if found is not None:
        assert found.std.tolist() == pytest.approx(std)
        image = torch.rand(2, 3, 32, 32)
        torch.testing.assert_close(found(image), transform(image))
        torch.testing.assert_close(found.undo(transform(image)), image)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_single_smallest_image_is_refused_by_name(compiled: bool) -> None:
    model = build_model(loss=PLAIN)
    model.log = lambda *_args, **_kwargs: None
    model._trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    model.on_fit_start()
    model.train()
    if compiled:
        model.model.compile(backend="eager")
    with pytest.raises(ValueError, match=r"batch of 1 image of 32 x 32 pixels .*larger images, or a train_batch_size"):
        model.training_step(ImageBatch(image=torch.rand(1, 3, 32, 32)))
    for shape in ((2, 3, 32, 32), (1, 3, 33, 32)):
        assert torch.isfinite(model.training_step(ImageBatch(image=torch.rand(shape))))


FORM = {"loss": PLAIN | {"ratio": 0.1}, "noise": {"kind": "simplex", "share": 0.25}, "seed": 3}


@pytest.mark.parametrize("std", [None, [0.5, 0.25, 0.2]])
def test_strength_is_in_units_of_the_image(std: list | None) -> None:
    """In normalised space the patch is 1 / std times as strong, whatever the pre-processor is."""
    steps = [Resize((64, 64))] + ([] if std is None else [Normalize([0.1, 0.2, 0.3], std)])
    seen = []
    model = build_model(
        pre_processor=PreProcessor(Compose(steps)),
        loss=PLAIN | {"ratio": 0.1},
        noise={"kind": "simplex", "share": 0.25},
        seed=3,
    )
    model.model.register_forward_pre_hook(lambda _m, args: seen.append(args[1] - args[0][:1]))
    model.log = model.log_dict = lambda *_args, **_kwargs: None
    model._trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    model.on_fit_start()
    model.train()
    model.training_step(ImageBatch(image=torch.rand(4, 3, 64, 64)))
    plain = seen[0] * (torch.ones(3) if std is None else torch.tensor(std)).view(1, 3, 1, 1)
    reference_model = build_model(
        pre_processor=PreProcessor(Resize((64, 64))),
        loss=PLAIN | {"ratio": 0.1},
        noise={"kind": "simplex", "share": 0.25},
        seed=3,
    )
    reference_model.model.register_forward_pre_hook(lambda _m, args: seen.append(args[1] - args[0][:1]))
    reference_model.log = reference_model.log_dict = lambda *_args, **_kwargs: None
    reference_model._trainer = model._trainer
    reference_model.on_fit_start()
    reference_model.train()
    reference_model.training_step(ImageBatch(image=torch.zeros(4, 3, 64, 64)))
    assert seen[1].abs().max() > 0.05
    torch.testing.assert_close(plain, seen[1], atol=1e-5, rtol=1e-4)


def test_plain_distillation_needs_no_noisy_pass() -> None:
    model = build_model(loss=PLAIN)
    seen = []
    model.model.teacher.register_forward_hook(lambda _m, args, _o: seen.append(args[0].shape[0]))
    model.log = model.log_dict = lambda *_args, **_kwargs: None
    model._trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    model.train()
    model.training_step(ImageBatch(image=torch.rand(4, 3, 64, 64)))
    assert seen == [4]


def test_cosine_schedule_in_closed_form() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = cosine_with_warmup(optimizer, cycles=[10], warmup_steps=4)
    rates = []
    for _ in range(10):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert rates[4] == pytest.approx(1.0)
    assert rates[7] == pytest.approx(0.5)
    assert scheduler.get_last_lr()[0] == pytest.approx(0.0)


@pytest.mark.parametrize(("total", "warmup"), [(10, 10), (10, 500), (3, 50), (1, 50), (2, 2), (10, 5)])
def test_cosine_schedule_falls_to_zero_however_long_the_warm_up_is(total: int, warmup: int) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = cosine_with_warmup(optimizer, cycles=[total], warmup_steps=warmup)
    rates = []
    for _ in range(total):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert scheduler.get_last_lr()[0] == pytest.approx(0.0)
    peak = rates.index(max(rates))
    assert peak == total // 2
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


def test_cosine_schedule_steps_with_the_optimiser(tiny_data: Callable, tmp_path: Path) -> None:
    model = build_quick_model(optimiser={"schedule": "cosine", "warmup_steps": 1})
    engine = build_engine(tmp_path, max_steps=4, accumulate_grad_batches=2, limit_val_batches=0)
    engine.fit(model, datamodule=tiny_data(train_batch_size=3))
    assert engine.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-9)


def test_cosine_schedule_of_an_unknown_length_stays_constant(
    tiny_data: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = build_quick_model(optimiser={"schedule": "cosine", "warmup_steps": 2, "learning_rate": 3e-3})
    rates = []

    class Rates(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])
            trainer.should_stop = len(rates) == 4

    caplog.set_level("WARNING", "anomalib_scrd.training.schedule")
    engine = build_engine(tmp_path, max_time="00:00:01:00", limit_val_batches=0, callbacks=[Rates()])
    engine.fit(model, datamodule=tiny_data())
    assert rates == pytest.approx([2e-3, 3e-3, 3e-3, 3e-3])  # each after its step
    messages = [record.getMessage() for record in caplog.records if "max_time" in record.getMessage()]
    assert len(messages) == 1
    assert "give trainer.max_steps or trainer.max_epochs" in messages[0]


@pytest.mark.parametrize("precision", ["bf16-mixed"])
def test_trains_in_half_precision(precision: str, tiny_data: Callable, tmp_path: Path) -> None:
    recorder = Recorder()
    engine = build_engine(tmp_path, max_steps=4, check_val_every_n_epoch=2, precision=precision, callbacks=[recorder])
    engine.fit(build_model(), datamodule=tiny_data())
    assert all(loss == loss and loss < 100 for loss in recorder.losses)  # noqa: PLR0124


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"optimiser": {"learning_rate": 0.0}},
            r"optimiser.learning_rate must be a finite number in \(0, 1\], got 0.0",
        ),
        ({"optimiser": {"betas": [0.9]}}, "betas must be two numbers"),
        ({"optimiser": {"betas": [0.9, 1.0]}}, "betas must be two numbers"),
        ({"optimiser": {"weight_decay": -1.0}}, r"weight_decay must be a finite number in \[0, "),
        ({"optimiser": {"schedule": "linear"}}, "schedule must be one of"),
        ({"optimiser": {"warmup_steps": -1}}, r"warmup_steps must be a whole number in \[0, "),
        ({"noise": {"kind": "pink"}}, "pink"),
        ({"noise": {"size": [0.3, 0.1]}}, "size"),
        ({"noise": {"count": 0}}, "count"),
        ({"loss": {"contrast": -0.1}}, r"contrast must be a finite number in \[0, "),
    ],
)
def test_arguments_out_of_range(arguments: dict, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        build_model(**arguments)
