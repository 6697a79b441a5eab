"""The contract with other projects: a test for each row of the table in `anomalib_scrd/integration/README.md`.

What a version may have moved is imported within the test of its row, and so is the model, which no test needs but
those of its own: whatever is gone, the other rows are still tested.
"""

import inspect
import re
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType

import anomalib.data
import anomalib.models
import openvino
import pytest
import timm
import torch
from anomalib.data import AnomalibDataModule, Folder, get_datamodule
from anomalib.models import AnomalibModule, get_model, list_models
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics import Metric

import anomalib_scrd.integration

TABLE = Path(anomalib_scrd.integration.__file__).with_name("README.md")


def test_every_row_has_a_test() -> None:
    rows = re.findall(r"^\| (H\d+) \|", TABLE.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == [f"H{number}" for number in range(1, len(rows) + 1)]
    for row in rows:
        assert any(name.startswith(f"test_{row.lower()}_") for name in globals()), f"{row} has no test"


def test_h1_allowed_modules() -> None:
    allowed = anomalib.models.ALLOWED_MODULES
    assert isinstance(allowed, set), "H1: ALLOWED_MODULES is no set of module names any more"
    assert "anomalib.models" in allowed
    assert "ALLOWED_MODULES" in inspect.getsource(get_model), "H1: get_model no longer reads ALLOWED_MODULES"


def test_h2_models_are_direct_subclasses() -> None:
    from anomalib_scrd import ScaleAwareCRD

    assert ScaleAwareCRD in AnomalibModule.__subclasses__(), "H2: the model is no direct subclass any more"

    class Passing(AnomalibModule):
        pass

    assert "passing" in list_models(), "H2: list_models no longer finds direct subclasses"


def test_h3_classes_are_attributes(monkeypatch: pytest.MonkeyPatch) -> None:
    class Found(Exception):  # noqa: N818
        pass

    def found(**_: object) -> None:
        raise Found

    monkeypatch.setattr(anomalib.models, "SomeModel", found, raising=False)
    monkeypatch.setattr(anomalib.data, "SomeData", found, raising=False)
    for function, name in ((get_model, "SomeModel"), (get_datamodule, "SomeData")):
        with pytest.raises(Found):
            function({"class_path": name, "init_args": {}})


def test_h4_local_names_are_saved() -> None:
    class Changing(AnomalibModule):
        trainer_arguments = learning_type = None

        def __init__(self, value: object) -> None:
            value = f"not {value}"
            super().__init__(evaluator=False, post_processor=False, visualizer=False)

    assert dict(Changing("given").hparams) == {"value": "not given"}, "H4: hyper-parameters are no longer local names"


def test_h5_data(tiny_data: Callable[..., Folder]) -> None:
    from anomalib.data.datasets.base import AnomalibDataset
    from anomalib.data.utils.synthetic import SyntheticAnomalyDataset

    data = tiny_data(val_split_mode="none")
    data.setup()
    assert hasattr(data.train_data, "_samples"), "H5: AnomalibDataset._samples is gone"
    assert "_samples" in inspect.getsource(AnomalibDataset.samples.fget)
    assert not hasattr(data, "val_data"), "H5: a data module without validation images has val_data"
    assert hasattr(AnomalibDataModule, "_create_val_split"), "H5: _create_val_split is gone"
    assert "_cleanup" in inspect.getsource(SyntheticAnomalyDataset.__del__), "H5: _cleanup is gone"


def test_h6_thresholds_of_the_post_processor() -> None:
    from anomalib.post_processing import PostProcessor

    post_processor = PostProcessor()
    for part in ("image", "pixel"):
        assert isinstance(getattr(post_processor, f"_{part}_threshold", None), torch.Tensor), f"H6: _{part}_threshold"
        metric = getattr(post_processor, f"_{part}_threshold_metric", None)
        assert isinstance(metric, Metric), f"H6: _{part}_threshold_metric is gone"


class Failing:
    def __init__(self) -> None:
        from anomalib_scrd.integration.command_line import short_errors

        with short_errors():
            msg = "the reason"
            raise ValueError(msg)


def test_h7_jsonargparse_tells_that_it_builds() -> None:
    common: ModuleType = import_module("jsonargparse._common")
    assert hasattr(common, "parent_parser"), "H7: the context variable is gone"
    assert common.parent_parser.get() is None, "H7: a parser is known where none builds anything"

    for exits in (True, False):
        parser = ArgumentParser(prog="tool", exit_on_error=exits)
        parser.add_subclass_arguments(Failing, "thing")
        with pytest.raises(SystemExit if exits else ValueError, match="the reason") as caught:
            parser.instantiate_classes(parser.parse_object({"thing": {"class_path": f"{__name__}.Failing"}}))
        assert not exits or str(caught.value) == "tool: error: the reason", "H7: the parser is no longer available"
    with pytest.raises(ValueError, match="the reason"):
        Failing()


def test_h8_length_of_a_training() -> None:
    class Asked(LightningModule):
        @property
        def trainer(self) -> Trainer:
            return self._trainer

        @trainer.setter
        def trainer(self, trainer: Trainer) -> None:
            asked.append(trainer.max_epochs)
            self._trainer = trainer

        def setup(self, stage: str) -> None:
            asked.append((self.trainer.max_epochs, self.trainer.max_steps))
            self.trainer.fit_loop.max_epochs, self.trainer.fit_loop.epoch_loop.max_steps = -1, 7
            raise KeyError(stage)

        def training_step(self) -> None:
            pass

        def configure_optimizers(self) -> None:
            pass

    asked: list[object] = []
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    with pytest.raises(KeyError):
        trainer.fit(Asked(), train_dataloaders=[1])
    assert asked == [None, (1000, -1)], "H8: Lightning fills a length in at another time, or another one"
    assert (trainer.max_epochs, trainer.max_steps) == (-1, 7), "H8: the length can no longer be set"


def test_h9_loaders_start_after_the_hooks(tiny_data: Callable[..., Folder], tmp_path: Path) -> None:
    from tests.models import build_engine, build_model

    events: list[str] = []
    model = build_model(layers=["layer1", "layer2"])
    data = tiny_data()
    loader = data.train_dataloader

    # an epoch's order is drawn where its iterator begins
    class Watched(DataLoader):
        def __iter__(self) -> object:
            events.append("loader")
            return super().__iter__()

    def watched() -> DataLoader:
        made = loader()
        return Watched(made.dataset, batch_size=4, shuffle=True, collate_fn=made.collate_fn)

    data.train_dataloader = watched

    configure = model.configure_optimizers

    def configure_optimizers() -> object:
        events.append("optimisers")
        return configure()

    model.configure_optimizers = configure_optimizers

    class Hooks(Callback):
        def on_train_epoch_start(self, *_: object) -> None:
            events.append("epoch")

    build_engine(tmp_path, max_epochs=3, limit_val_batches=0, callbacks=[Hooks()], logger=False).fit(
        model, datamodule=data
    )
    assert events == ["optimisers", "loader", "epoch", "epoch", "loader", "epoch", "loader"], (
        "H9: the order of hooks changed"
    )


def test_h10_log_every_n_steps() -> None:
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, log_every_n_steps=7)
    assert getattr(trainer, "log_every_n_steps", None) == 7, "H10: trainer.log_every_n_steps is gone"


@pytest.mark.parametrize("strategy", [SingleDeviceStrategy, DDPStrategy])
def test_h11_decisions_of_all_processes(strategy: type) -> None:
    parameters = list(inspect.signature(strategy.reduce_boolean_decision).parameters)
    assert parameters == ["self", "decision", "all"], "H11: reduce_boolean_decision has changed"
    assert SingleDeviceStrategy("cpu").reduce_boolean_decision(True, all=False) is True


def test_h12_loaders_that_were_passed() -> None:
    class Looking(LightningModule):
        def setup(self, stage: str) -> None:
            seen.append(self.trainer.fit_loop._data_source.instance)
            raise KeyError(stage)

        def training_step(self) -> None:
            pass

        def configure_optimizers(self) -> None:
            pass

    seen: list[object] = []
    loader, trainer = [1], Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, max_steps=1)
    with pytest.raises(KeyError):
        trainer.fit(Looking(), train_dataloaders=loader)
    assert seen == [loader], "H12: a loop's _data_source no longer holds the loaders"
    loops = (trainer.fit_loop.epoch_loop.val_loop, trainer.validate_loop, trainer.test_loop, trainer.predict_loop)
    assert all(hasattr(loop._data_source, "instance") for loop in loops), "H12: a loop has no _data_source"


def test_h13_times_of_validations() -> None:
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, max_steps=1)
    assert "val_check_batch" in inspect.getsource(type(trainer.fit_loop.epoch_loop)), "H13: val_check_batch is gone"
    assert isinstance(trainer.fit_loop.total_batch_idx, int), "H13: total_batch_idx is gone"
    assert callable(trainer.fit_loop.epoch_loop.val_loop.run), "H13: the validation loop cannot be run"
    assert ModelCheckpoint()._last_global_step_saved == 0, "H13: ModelCheckpoint._last_global_step_saved is gone"


def test_h14_error_of_batch_norm() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        nn.BatchNorm2d(3).train()(torch.zeros(1, 3, 1, 1))


def test_h15_loading_of_a_module() -> None:
    seen: list[str] = []

    class Own(nn.Linear):
        def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: object, **kwargs: object) -> None:
            seen.append(prefix)
            super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    model = nn.Sequential(Own(1, 1))
    model.load_state_dict(model.state_dict())
    assert seen == ["0."], "H15: load_state_dict no longer calls _load_from_state_dict"


def test_h16_feature_maps_of_timm() -> None:
    network = timm.create_model("resnet18", features_only=True, feature_cls="getter", out_indices=[1, 2])
    assert isinstance(network.get_submodule("model"), nn.Module), "H16: the getter has no `model`"
    entry = timm.create_model("resnet18").feature_info[1]
    assert (entry["module"], entry["num_chs"], entry["reduction"]) == ("layer1", 64, 4), "H16: feature_info changed"


@pytest.mark.parametrize("backbone", ["wide_resnet50_2", "tf_efficientnet_lite0", "convnext_tiny", "pvt_v2_b0"])
def test_h17_networks_on_the_meta_device(backbone: str) -> None:
    with torch.device("meta"):
        network = timm.create_model(backbone)
    assert all(value.device.type == "meta" for value in network.parameters()), "H17: weights are not on the meta device"


def test_h18_fixed_input_size() -> None:
    config = timm.create_model("swin_tiny_patch4_window7_224").pretrained_cfg
    assert (config.get("fixed_input_size"), config.get("input_size")) == (True, (3, 224, 224)), "H18: pretrained_cfg"


def test_h19_a_module_that_is_being_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_way.py").write_text("import sys; during = sys.modules[__name__].__spec__._initializing")
    monkeypatch.syspath_prepend(tmp_path)
    module = import_module("half_way")
    assert module.during is True, "H19: the import system no longer marks modules that are being imported"
    assert not getattr(module.__spec__, "_initializing", False)
    del sys.modules["half_way"]


def test_h20_makers_of_openvino_cores() -> None:
    import nncf.openvino.engine

    made = inspect.getsource(openvino.compile_model)
    assert "core = Core()" in made, "H20: openvino.compile_model makes its core by another name"
    assert openvino.compile_model.__globals__ is vars(openvino._ov_api), "H20: compile_model is not in _ov_api any more"
    assert "ov.Core()" in inspect.getsource(nncf.openvino.engine), "H20: NNCF makes its cores by another name"


def test_h21_tiler_of_a_callback() -> None:
    from anomalib.callbacks import TilerConfigurationCallback

    from anomalib_scrd import ScaleAwareCRD

    model = ScaleAwareCRD(backbone="resnet18", pre_trained=False, visualizer=False)
    TilerConfigurationCallback(enable=True, tile_size=[64, 96], stride=[32, 48]).setup(None, model, "fit")
    found = model.model.tiling
    assert found is not None, "H21: the callback no longer sets model.tiler"
    assert (found.size, found.stride) == ((64, 96), (32, 48)), "H21: Tiler has other names"


def test_h22_the_started_loader(tiny_data: Callable[..., Folder], tmp_path: Path) -> None:
    from tests.models import build_engine, build_model

    seen: list[tuple[int, bool]] = []

    class Hooks(Callback):
        def on_train_start(self, trainer: Trainer, _module: object) -> None:
            fetcher = trainer.fit_loop._data_fetcher
            assert (fetcher.fetched, fetcher.done) == (0, False), "H22: the loader has been read before on_train_start"
            assert len(fetcher.combined_loader.flattened) == 1
            first, index, _ = next(fetcher.iterator)
            assert (len(first.image), index) == (4, 0), "H22: the loader's iterator gives something else"
            fetcher.iterator = iter([(first, 0, 0)] * 3)

        def on_train_batch_start(self, trainer: Trainer, _module: object, batch: object, _index: int) -> None:
            assert len(batch.image) == 4, "H22: the iterator cannot be replaced any more"

        def on_train_epoch_start(self, trainer: Trainer, _module: object) -> None:
            loop = trainer.fit_loop
            seen.append((trainer.current_epoch, not loop.is_resuming and not loop.epoch_loop.restarting))

    build_engine(tmp_path, max_epochs=2, limit_val_batches=0, callbacks=[Hooks()], logger=False).fit(
        build_model(layers=["layer1", "layer2"], scoring={"held_out": 0.0}), datamodule=tiny_data()
    )
    assert seen == [(0, True), (1, True)], "H22: the loop's state has changed"


def test_h23_a_loader_without_its_workers() -> None:
    loader = DataLoader(range(8), batch_size=2, num_workers=2, prefetch_factor=4, timeout=60)
    loader.num_workers, loader.prefetch_factor, loader.timeout = 0, None, 0  # refused if torch no longer allows it
    batches = iter(loader)
    assert not hasattr(batches, "_workers"), "H23: worker processes start all the same"
    assert torch.equal(torch.cat(list(batches)), torch.arange(8))


def test_h24_inputs_of_an_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from anomalib.models.components.base import AnomalibModule as Base

    from tests.models import build_model

    def export(**arguments: object) -> None:
        seen.update(arguments)
        raise KeyError

    seen: dict = {}
    monkeypatch.setattr(torch.onnx, "export", export)
    model = build_model(layers=["layer1", "layer2"])
    with pytest.raises(KeyError):
        Base.to_onnx(model, tmp_path)
    images, *others = seen["args"]
    assert images.shape[:2] == (2, 3), "H24: the first argument of an export is no batch of images"
    assert {float(other) for other in others} <= {0.5}, "H24: an export has more inputs than images and sensitivities"
    inspect.signature(model.forward).bind(*seen["args"])  # fails with more arguments than the model takes
    assert seen["dynamo"] is True, "H24: exports are by another exporter"
    assert len(seen["dynamic_shapes"]) == len(seen["args"]), "H24: shapes are given in another form"
