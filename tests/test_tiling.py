"""Tiles cover the image, their maps join without seams, and training, checkpoint and exports use the same tiles."""

from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.callbacks import TilerConfigurationCallback
from anomalib.data import Folder
from anomalib.data.utils.tiler import Tiler
from anomalib.engine import Engine
from PIL import Image
from torch.testing import assert_close

from anomalib_scrd import ScaleAwareCRD
from anomalib_scrd.edge.__main__ import main
from anomalib_scrd.edge.journal import read_records
from anomalib_scrd.tiling import Tiling
from tests.models import build_model

SIZE, TILE, STRIDE = (96, 128), 64, 48


@pytest.mark.parametrize("size", [(96, 128), (65, 64), (64, 201), (40, 100), (10, 20)])
@pytest.mark.parametrize("tiling", [Tiling((64, 64), (48, 32)), Tiling((64, 64), (64, 64)), Tiling((33, 50), (1, 50))])
def test_cut_and_joined_images_are_unchanged(size: tuple[int, int], tiling: Tiling) -> None:
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    tiles, places = tiling.cut(images), tiling.places(*size)
    assert len(tiles) == 2 * len(places)
    for index, (row, column) in enumerate(places):  # all of the first image first
        assert_close(tiles[index], images[0, :, row : row + tiling.size[0], column : column + tiling.size[1]])
    assert_close(tiling.join(tiles, *size), images)
    starts = sorted({row for row, _ in places})
    assert max(np.diff(starts), default=0) <= tiling.stride[0]
    assert starts[-1] == max(0, size[0] - tiling.size[0])


def test_join_is_a_weighted_mean() -> None:
    """Against loops over pixels."""
    tiling = Tiling((5, 6), (3, 4))
    places = tiling.places(9, 11)
    maps = np.random.default_rng(0).random((len(places), 1, 5, 6))
    total, share = np.zeros((9, 11)), np.zeros((9, 11))
    for tile, (top, left) in zip(maps[:, 0], places, strict=True):
        for row in range(5):
            for column in range(6):
                weight = min(row + 1, 5 - row) * min(column + 1, 6 - column)
                total[top + row, left + column] += weight * tile[row, column]
                share[top + row, left + column] += weight
    assert_close(tiling.join(torch.from_numpy(maps), 9, 11)[0, 0], torch.from_numpy(total / share))


def test_an_overlap_leaves_no_seams() -> None:
    """Tiles that disagree by 1 join in steps as small as the overlap allows, not in one."""
    tiling = Tiling((64, 64), (32, 32))
    places = tiling.places(128, 128)
    maps = torch.tensor([float((row + column) // 32 % 2) for row, column in places])[:, None, None, None]
    maps = maps.expand(-1, 1, 64, 64)
    joined = tiling.join(maps, 128, 128)[0, 0]
    assert joined.diff(dim=0).abs().max() < 2 / 32
    assert joined.diff(dim=1).abs().max() < 2 / 32
    edge_to_edge = Tiling((64, 64), (64, 64))
    seam = edge_to_edge.join(torch.arange(4.0)[:, None, None, None].expand(-1, 1, 64, 64), 128, 128)
    assert seam.diff(dim=-1).max() == 1


def test_a_tiler_that_removes_borders_is_refused() -> None:
    with pytest.raises(ValueError, match="remove_border_count must be 0, got 3"):
        build_model().model.tiler = Tiler(64, 32, remove_border_count=3)
    with pytest.raises(ValueError, match="1 <= stride <= tile_size"):
        Tiling((64, 64), (64, 65))


def test_tiles_are_predicted_by_themselves() -> None:
    model = build_model().model.eval()
    images = torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = model(images)
        model.tiler = Tiler(TILE, STRIDE)
        predicted = model(images)
        tiles = model.tiles(images)
        model.tiler = None
        alone = [model(tile[None]) for tile in tiles]
        assert_close(model(images).anomaly_map, whole.anomaly_map)
    scores = torch.cat([part.pred_score for part in alone]).reshape(2, -1)
    assert scores.shape[1] == 6
    assert_close(predicted.pred_score, scores.amax(1))
    assert predicted.anomaly_map.shape == whole.anomaly_map.shape


def test_places_of_tiles_are_compared_with_their_image() -> None:
    """The means that are subtracted from the maps of tiles are those of all tiles of an image."""
    model = build_model().model.eval()
    scoring = model.map_and_score
    weight = scoring.map_weights.weight
    weight.copy_(torch.linspace(0.5, 1.5, len(weight)))
    images = torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    images[1] *= 3
    with torch.no_grad():
        model.tiler = Tiler(TILE, STRIDE)
        predicted = model(images).anomaly_map
        tiles = model.tiles(images)
        model.tiler = None
        levels = [scoring.levels_and_score(*model.compared(tile[None])[:2], (TILE, TILE))[0][0] for tile in tiles]
        maps = []
        for image in range(2):
            group = levels[6 * image : 6 * image + 6]
            means = sum(level.mean((1, 2)) for level in group) / 6
            for level in group:
                joined = sum(weight[m] * (level[m] - 0.5 * means[m]) for m in range(len(level)))
                maps.append(scoring.smooth_maps.enlarged(joined[None, None], (TILE, TILE)))
    expected = Tiling((TILE, TILE), (STRIDE, STRIDE)).join(torch.cat(maps), *SIZE)
    assert_close(predicted, expected, atol=1e-4, rtol=1e-4)
    assert (predicted[0].mean() - predicted[1].mean()).abs() > 1e-3


class TestTraining:
    @pytest.fixture(scope="class")
    def root(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        root = tmp_path_factory.mktemp("large")
        rng = np.random.default_rng(0)
        for part, count in (("train", 6), ("good", 3), ("bad", 3)):
            (root / part).mkdir()
            for index in range(count):
                image = 120 + 40 * np.sin(np.arange(SIZE[1]) / 9) + rng.normal(0, 5, SIZE)
                if part == "bad":
                    image[70:80, 90:100] = 250
                Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / part / f"{index}.png")
        return root

    @staticmethod
    def data(root: Path) -> Folder:
        return Folder(
            "large",
            "train",
            root,
            "bad",
            normal_test_dir="good",
            train_batch_size=2,
            eval_batch_size=2,
            num_workers=0,
            val_split_mode="same_as_test",
        )

    @staticmethod
    def model(**arguments: object) -> ScaleAwareCRD:
        return build_model(pre_processor=ScaleAwareCRD.configure_pre_processor(SIZE), **arguments)

    @staticmethod
    def engine(root: Path, *callbacks: object) -> Engine:
        return Engine(
            callbacks=list(callbacks),
            max_steps=3,
            default_root_dir=root,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_progress_bar=False,
        )

    @pytest.fixture(scope="class")
    def trained(self, root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ScaleAwareCRD, Path, set]:
        """A model that anomalib's callback has given tiles, its checkpoint, and the sizes that the teacher saw."""
        model, seen = self.model(layers=["layer1", "layer2"]), set()
        model.model.teacher.register_forward_pre_hook(lambda _, inputs: seen.add(tuple(inputs[0].shape[-2:])))
        callback = TilerConfigurationCallback(enable=True, tile_size=TILE, stride=STRIDE)
        engine = self.engine(tmp_path_factory.mktemp("results"), callback)
        engine.fit(model, datamodule=self.data(root))
        return model, Path(engine.best_model_path), seen

    def test_anomalibs_callback_trains_on_tiles(self, trained: tuple[ScaleAwareCRD, Path, set]) -> None:
        assert trained[2] == {(TILE, TILE)}

    def test_checkpoint_and_export_keep_the_tiles(
        self, trained: tuple[ScaleAwareCRD, Path, set], root: Path, tmp_path: Path
    ) -> None:
        model, checkpoint, _ = trained
        loaded = ScaleAwareCRD.load_from_checkpoint(checkpoint, map_location="cpu").eval()
        assert loaded.model.tiling == Tiling((TILE, TILE), (STRIDE, STRIDE))
        paths = sorted(root.glob("[bg]*/*.png"))
        images = [torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1) / 255 for path in paths]
        with torch.no_grad():
            expected = loaded(torch.stack(images))
        batches = self.engine(tmp_path).predict(model, dataloaders=self.data_loader(root))
        found = {item.image_path: item.pred_score.item() for batch in batches for item in batch}
        for path, score in zip(paths, expected.pred_score, strict=True):
            assert found[str(path)] == pytest.approx(score.item(), abs=1e-5)
        exported = loaded.to_openvino(tmp_path)
        assert main([str(exported), str(root), "--output", str(tmp_path / "scored"), "--quiet"]) == 0
        records = {record.path: record for record in read_records(tmp_path / "scored")}
        for path, score in zip(paths, expected.pred_score, strict=True):
            assert records[path.relative_to(root).as_posix()].score == pytest.approx(score.item(), abs=1e-4)

    def data_loader(self, root: Path) -> object:
        data = self.data(root)
        data.setup()
        return data.test_dataloader()

    def test_tiles_that_do_not_fit_are_refused(self, root: Path, tmp_path: Path) -> None:
        small = TilerConfigurationCallback(enable=True, tile_size=16, stride=8)
        with pytest.raises(ValueError, match="tile_size must be at least 32"):
            self.engine(tmp_path, small).fit(self.model(), datamodule=self.data(root))
        callback = TilerConfigurationCallback(enable=True, tile_size=TILE, stride=TILE)
        with pytest.raises(ValueError, match="feature_cache keeps features of complete images"):
            self.engine(tmp_path, callback).fit(self.model(feature_cache=1.0), datamodule=self.data(root))
