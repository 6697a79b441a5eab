"""The pre-processing of training steps is anomalib's, without numbers that travel to the device each time."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import Callback
from torchvision.transforms import v2

from anomalib_scrd.training.pre_processing import TrainingPreProcessor
from tests.models import build_engine, build_quick_model

STEPS = [v2.Resize((24, 24)), v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]


@pytest.mark.parametrize("transform", [None, v2.Compose(STEPS), STEPS[1]])
def test_batches_are_anomalibs(transform: v2.Transform | None) -> None:
    images, masks = torch.rand(3, 3, 32, 32), torch.rand(3, 32, 32) > 0.5
    found = []
    for kind, starts in ((PreProcessor, False), (TrainingPreProcessor, False), (TrainingPreProcessor, True)):
        processor, batch = kind(transform), ImageBatch(image=images, gt_mask=masks)
        if starts:
            processor.on_train_start(None, build_quick_model())
        processor.on_train_batch_start(None, None, batch, 0)
        found.append(batch)
        assert processor.checkpoint_config() == PreProcessor(transform).checkpoint_config()
    for batch in found[1:]:
        assert torch.equal(batch.image, found[0].image)
        assert torch.equal(batch.gt_mask, found[0].gt_mask)


def test_the_copy_lasts_as_long_as_a_training(tiny_data: Callable, tmp_path: Path) -> None:
    model, seen = build_quick_model(), []

    class Look(Callback):
        def on_train_batch_start(self, *_: object) -> None:
            (copied,) = model.pre_processor._copies
            seen.append(type(copied.transforms[-1].mean))

    build_engine(tmp_path, max_steps=2, limit_val_batches=0, callbacks=[Look()], logger=False).fit(model, tiny_data())
    assert seen == [torch.Tensor] * 2
    assert model.pre_processor._copies == []
    assert isinstance(model.pre_processor.transform.transforms[-1].mean, list)
