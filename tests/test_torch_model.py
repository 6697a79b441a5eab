"""The torch model: data flow, sizes, modes, precision, compilation."""

import math

import numpy as np
import pytest
import torch
from anomalib.data import InferenceBatch

from anomalib_scrd.loss import ScaleAwareContrastiveLoss
from anomalib_scrd.scoring.fitted_weights import FittedWeights
from anomalib_scrd.scoring.fitting import fit_prototypes
from anomalib_scrd.torch_model import ScaleAwareCRDModel, TrainingFeatures
from tests import reference
from tests.models import merged


def build(**arguments: object) -> ScaleAwareCRDModel:
    torch.manual_seed(0)
    defaults: dict = {"backbone": "resnet18", "pre_trained": False, "student": {"depth": 1}}
    return ScaleAwareCRDModel(**merged(defaults, arguments))


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("adaptation", ["fitted", "published", "uniform"])
def test_gradient_reaches_all_but_the_teacher(adaptation: str) -> None:
    model = build(scoring={"scale_adaptation": adaptation}).train()
    x = images(4, 3, 64, 64)
    features = model(x, x + 0.3 * images(4, 3, 64, 64, seed=1), restore=True)
    assert isinstance(features, TrainingFeatures)
    mask = torch.zeros(4, 1, 64, 64, dtype=torch.bool)
    mask[..., 10:40, 20:50] = True
    terms = ScaleAwareContrastiveLoss(1.0, 1.0, 1.0, 1.0)(
        features.clean,
        features.student,
        noisy=features.noisy,
        restored=features.restored,
        mask=mask,
        weights=features.weights,
    )
    terms.total.backward()
    for name, part in model.named_children():
        gradients = [parameter.grad for parameter in part.parameters()]
        if name == "teacher":
            assert all(gradient is None for gradient in gradients)
        else:
            assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients), name


def test_the_noisy_image_goes_through_the_teacher_only() -> None:
    """In the released code it also moves the statistics of the student's batch norms."""
    x, noisy = images(4, 3, 64, 64), images(4, 3, 64, 64, seed=1)
    first, second = (build().train() for _ in range(2))
    with_noise, without = first(x, noisy), second(x)
    for a, b in zip(with_noise.student, without.student, strict=True):
        torch.testing.assert_close(a, b)
    for name, value in first.state_dict().items():
        torch.testing.assert_close(value, second.state_dict()[name], msg=name)
    for a, b in zip(with_noise.noisy, second.standardise(second.teacher(noisy)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_one_pass_of_teacher_and_student_a_step() -> None:
    model = build().train()
    calls = {"teacher": [], "student": []}
    for name, seen in calls.items():
        getattr(model, name).register_forward_hook(lambda _m, args, _o, seen=seen: seen.append(args[0].shape[0]))
    x = images(4, 3, 64, 64)
    model(x, x)
    assert calls == {"teacher": [8], "student": [4]}


@pytest.mark.parametrize("size", [(64, 64), (33, 32), (127, 65), (50, 96)])
@pytest.mark.parametrize("backbone", ["resnet18", "tf_efficientnet_lite0", "mobilenetv3_large_100"])
def test_any_size(backbone: str, size: tuple[int, int]) -> None:
    model = build(backbone=backbone).train()
    features = model(images(2, 3, *size), images(2, 3, *size))
    for teacher, student in zip(features.clean, features.student, strict=True):
        assert teacher.shape == student.shape
    result = model.eval()(images(1, 3, *size))
    assert isinstance(result, InferenceBatch)
    assert result.anomaly_map.shape == (1, 1, *size)
    assert result.pred_score.shape == (1,)
    assert torch.isfinite(result.anomaly_map).all()


def test_patch_embeddings_that_round_down() -> None:
    model = build(backbone="convnext_tiny", student={"block": "separable"}).train()
    features = model(images(2, 3, 63, 70))
    assert [tuple(f.shape[-2:]) for f in features.student] == [(15, 17), (7, 8), (3, 4)]


@pytest.mark.parametrize("block", ["basic", "bottleneck", "separable"])
@pytest.mark.parametrize(
    "layers", [["layer2", "layer3"], ["layer1", "layer3"], ["layer1", "layer2", "layer3", "layer4"]]
)
def test_any_number_of_scales_and_any_block(block: str, layers: list[str]) -> None:
    model = build(layers=layers, student={"block": block, "depth": "auto"}).eval()
    assert model(images(2, 3, 96, 96)).anomaly_map.shape == (2, 1, 96, 96)


def test_wide_resnet_has_the_embedding_of_rd4ad() -> None:
    model = ScaleAwareCRDModel(pre_trained=False)
    assert (model.bottleneck.out_channels, model.bottleneck.stride) == (2048, 32)
    assert [len(stage.blocks) for stage in model.student.stages] == [3, 4, 6]


@pytest.mark.parametrize("size", [(256, 256), (512, 128), (300, 260), (128, 128), (64, 96)])
def test_embedding_keeps_its_number_of_places(size: tuple[int, int]) -> None:
    """About 4 x 4 for large images, in their proportions; for small ones half of the coarsest scale."""
    model = build(student={"image_side": 0}).eval()
    seen: list[torch.Size] = []
    model.bottleneck.register_forward_hook(lambda _m, _a, output: seen.append(output.shape[-2:]))
    model(images(1, 3, *size))
    height, width = seen[0]
    if max(size) <= 128:
        assert (height, width) == (-(-size[0] // 32), -(-size[1] // 32))
    else:
        assert 12 <= height * width <= 20
        assert height / width == pytest.approx(size[0] / size[1], rel=0.35)


def test_averaging_to_fewer_places_is_that_of_areas() -> None:
    """16 x 16 places averaged to 8 x 8 are means of 2 x 2; without a limit nothing is averaged."""
    limited, free = (build(student={"places": places, "image_side": 0}).eval() for places in (8, 0))
    mixed: list[torch.Tensor] = []
    compressed: list[torch.Tensor] = []
    limited.bottleneck.mix.register_forward_hook(lambda _m, _a, output: mixed.append(output))
    limited.bottleneck.compress.register_forward_pre_hook(lambda _m, args: compressed.append(args[0]))
    free.bottleneck.compress.register_forward_pre_hook(lambda _m, args: compressed.append(args[0]))
    x = images(2, 3, 256, 256)
    limited(x)
    free(x)
    torch.testing.assert_close(compressed[0], torch.nn.functional.avg_pool2d(mixed[0], 2))
    assert compressed[1].shape[-2:] == (16, 16)


def test_batch_of_one_equals_the_batch() -> None:
    model = build().eval()
    x = images(5, 3, 64, 64)
    together = model(x)
    for index in range(5):
        alone = model(x[index : index + 1])
        torch.testing.assert_close(alone.anomaly_map[0], together.anomaly_map[index], rtol=1e-4, atol=1e-5)


def test_published_weights_act_on_map_and_score() -> None:
    """The released code's map ignores them."""
    x = images(4, 3, 64, 64)
    results = []
    for bias in ([0.0, 0.0, 0.0], [3.0, 0.0, -3.0]):
        model = build(preset="published", backbone="resnet18").eval()
        with torch.no_grad():
            model.scale_adaptation.linear.bias.copy_(torch.tensor(bias))
            results.append(model(x))
    before, after = results
    assert (after.anomaly_map - before.anomaly_map).abs().max() > 0.1 * before.anomaly_map.std()
    assert (after.pred_score - before.pred_score).abs().max() > 1e-2


def randomise(weights: FittedWeights) -> None:
    """Fill the weights with numbers that tell features apart."""
    generator = torch.Generator().manual_seed(5)
    for buffer in (weights.mean, weights.weight, weights.bias):
        buffer.copy_(torch.randn(buffer.shape, generator=generator))
    weights.spread.copy_(torch.rand(weights.spread.shape, generator=generator) + 0.5)


@pytest.mark.parametrize(("sigma", "stride", "thinning"), [(0.9, 1, 1), (1.5, 1, 2), (2.0, 2, 2)])
def test_prediction_against_the_loops(sigma: float, stride: int, thinning: int) -> None:
    """Map and score from distances, damping, smoothing, extents, weights: each step by the slow reference."""
    model = build(scoring={"sigma": sigma, "damping": 3.0, "prototypes": 5}).train()
    side = 32  # of the maps
    size = side * stride
    x = images(2, 3, size, size, seed=9)
    with torch.no_grad():
        model(images(16, 3, size, size))
        model.eval()
        fit_prototypes(model, [images(4, 3, size, size, seed=1)], seed=0)
        for weights in (model.map_and_score.score_weights, model.map_and_score.map_weights):
            randomise(weights)
        result = model(x)
        teacher, student, none = model.compared(x)
    assert none is None
    scoring = model.map_and_score
    wide: list[list[np.ndarray]] = [[], []]  # of each image: plain maps, then damped ones, for the score
    shown: list[list[np.ndarray]] = [[], []]  # damped maps
    centres = [scoring.prototypes.get_buffer(f"centres_{level}").double().numpy() for level in range(3)]
    others = [np.broadcast_to(p[:, None, :, None, None], (5, 2, *p.shape[1:], 1, 1)) for p in centres]
    for kind in range(2):
        for level in range(6):
            t = teacher[level % 3].double().numpy()
            if level < 3:
                distance = reference.position_map(t, student[level].double().numpy())
            else:
                shape = (2, *t.shape[1:])
                distance = np.min([reference.position_map(t, np.broadcast_to(p, shape)) for p in others[level - 3]], 0)
            square = (t**2).mean(1)
            maps = distance if kind == 0 else distance * square / (square + 3.0)
            for b in range(2):
                grid = reference.bilinear(maps[b], side, side)
                wide[b].append(reference.smooth(grid, 2 * sigma / stride))
                if kind == 1:
                    shown[b].append(reference.smooth(grid, sigma / stride))
    for b in range(2):
        evidence = []
        for one in wide[b]:
            values = np.sort(one[::thinning, ::thinning].ravel())[::-1]
            tops = [values[: max(1, round(share * len(values)))].mean() for share in (0.25, 0.1, 0.02)]
            evidence += [math.log(v + 1e-4) for v in (values.mean(), values[len(values) // 2], *tops, values[0])]
        expected = linear(scoring.score_weights, np.array(evidence)[:, None])[0]
        assert result.pred_score[b].item() == pytest.approx(expected, rel=2e-3, abs=2e-3)
        features = np.stack([one.ravel() - 0.5 * one.mean() for one in shown[b]])
        expected_map = reference.bilinear(linear(scoring.map_weights, features).reshape(side, side), size, size)
        np.testing.assert_allclose(result.anomaly_map[b, 0].numpy(), expected_map, rtol=2e-3, atol=2e-3)


def linear(weights: FittedWeights, features: np.ndarray) -> np.ndarray:
    """Clipped and weighted standardised features (F, N), (N,)."""
    mean, spread, weight = (part.double().numpy()[:, None] for part in (weights.mean, weights.spread, weights.weight))
    return (weight * np.clip((features - mean) / spread, -8, 8)).sum(0) + weights.bias.item()


def test_autocast_keeps_distances_in_float32() -> None:
    model = build().train()
    x = images(4, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        features = model(x, x)
        terms = ScaleAwareContrastiveLoss(1, 0, 0, 1)(features.clean, features.student, noisy=features.noisy)
    assert features.student[0].dtype == torch.bfloat16
    assert terms.total.dtype == torch.float32
    assert terms.ratio.item() == pytest.approx(1.0, abs=1e-5)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert model.eval()(x).anomaly_map.dtype == torch.float32


def test_channels_last_changes_nothing() -> None:
    x = images(2, 3, 64, 64)
    plain = build().eval()(x)
    fast = build().eval().to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(fast.anomaly_map, plain.anomaly_map, rtol=1e-3, atol=1e-5)


def test_too_small_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"at least 32 x 32 pixels.*got 31 x 64"):
        build()(images(1, 3, 31, 64))
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\), got \(1, 1, 64, 64\)"):
        build()(images(1, 1, 64, 64))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scoring": {"damping": -1.0}}, r"scoring.damping must be a finite number in \[0, .* got -1"),
        ({"scoring": {"held_out": 1.0}}, r"scoring.held_out must be a finite number in \[0, 1\), got 1"),
        ({"student": {"feature_scaling": "whitening"}}, "student.feature_scaling must be one of"),
        ({"scoring": {"sigma": -1.0}}, r"scoring.sigma must be a finite number in \[0, "),
        ({"student": {"block": "dense"}}, "student.block must be one of"),
        ({"student": {"depth": [1, 2]}}, "student.depth must be auto, one number, or one for each of 3 scales"),
        ({"student": {"depth": 0}}, "or one of them for each scale, got 0"),
        ({"scoring": {"scale_adaptation": "learned"}}, "scoring.scale_adaptation must be one of"),
    ],
)
def test_arguments_out_of_range(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**arguments)


@pytest.mark.parametrize("adaptation", ["fitted", "published", "uniform"])
def test_a_large_image_has_the_score_of_the_averaged_one(adaptation: str) -> None:
    """And a map of its own size: that of the averaged image has the same values at the grid between the pixels."""
    model = build(student={"image_side": 64}, scoring={"scale_adaptation": adaptation}).eval()
    x = images(2, 3, 128, 128)
    with torch.no_grad():
        large, small = model(x), model(torch.nn.functional.avg_pool2d(x, 2))
    torch.testing.assert_close(large.anomaly_map.shape, torch.Size((2, 1, 128, 128)))
    means = torch.nn.functional.avg_pool2d(large.anomaly_map, 2)
    spread = small.anomaly_map.std().item()
    torch.testing.assert_close(means, small.anomaly_map, rtol=0, atol=0.1 * spread)
    if adaptation != "published":  # whose score is the mean of the map
        torch.testing.assert_close(large.pred_score, small.pred_score)
    whole = build(student={"image_side": 0}, scoring={"scale_adaptation": adaptation}).eval()
    with torch.no_grad():
        assert not torch.allclose(whole(x).pred_score, large.pred_score)
