"""Distance and loss against loops over the equations, closed forms and invariants."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from anomalib_scrd.distance import (
    confidence,
    cosine_distance,
    image_distance,
    position_distance,
    prototype_distance,
)
from anomalib_scrd.loss import (
    ScaleAwareContrastiveLoss,
    contrast_at_places,
    contrastive_ratio,
    places_of,
    visibility_weights,
)
from tests import reference

SHAPES = [(3, 4, 6, 5), (3, 7, 3, 2), (3, 9, 2, 1)]


def features(seed: int, *, grad: bool = False) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).requires_grad_(grad) for shape in SHAPES]


def arrays(tensors: list[torch.Tensor]) -> list[np.ndarray]:
    return [tensor.detach().double().numpy() for tensor in tensors]


@pytest.mark.parametrize("weighted", [False, True])
def test_ratio_equals_the_loops(weighted: bool) -> None:
    clean, noisy, student = features(0), features(1), features(2)
    weights = torch.tensor([[0.2, 1.3, 1.5], [1.0, 1.0, 1.0], [2.5, 0.4, 0.1]]) if weighted else None
    expected = reference.ratio(
        arrays(clean), arrays(noisy), arrays(student), None if weights is None else weights.numpy()
    )
    assert contrastive_ratio(clean, noisy, student, weights).item() == pytest.approx(expected, rel=1e-5)


def test_weights_of_one_are_no_weights() -> None:
    clean, noisy, student = features(0), features(1), features(2)
    without = contrastive_ratio(clean, noisy, student)
    assert torch.equal(contrastive_ratio(clean, noisy, student, torch.ones(3, 3)), without)


def test_weights_act() -> None:
    """The released code multiplies both arguments of the cosine by the weight, which cancels."""
    clean, noisy, student = features(0), features(1), features(2)
    first = contrastive_ratio(clean, noisy, student, torch.tensor([[3.0, 0.0, 0.0]]).expand(3, 3))
    second = contrastive_ratio(clean, noisy, student, torch.tensor([[0.0, 0.0, 3.0]]).expand(3, 3))
    assert abs(first - second) > 1e-3
    weights = torch.ones(3, 3, requires_grad=True)
    contrastive_ratio(clean, noisy, student, weights).backward()
    assert weights.grad is not None
    assert weights.grad.abs().min() > 0


def test_no_noise_gives_one() -> None:
    clean, student = features(0), features(2)
    assert contrastive_ratio(clean, clean, student).item() == pytest.approx(1.0, abs=1e-6)


def test_perfect_student_gives_zero() -> None:
    clean, noisy = features(0), features(1)
    assert contrastive_ratio(clean, noisy, clean).item() == pytest.approx(0.0, abs=1e-6)


def test_closed_form_of_the_ratio() -> None:
    """Orthogonal to clean (distance 1), opposite to noisy (distance 2): the ratio is one half."""
    clean, student, noisy = (torch.zeros(1, 2, 1, 1) for _ in range(3))
    clean[0, 0], student[0, 1], noisy[0, 1] = 1.0, 2.0, -3.0
    assert contrastive_ratio([clean], [noisy], [student]).item() == pytest.approx(0.5)


def test_position_distance_equals_the_loops() -> None:
    teacher, student = features(0)[0], features(1)[0]
    expected = reference.position_map(teacher.numpy(), student.numpy())
    np.testing.assert_allclose(position_distance(teacher, student).numpy(), expected, atol=1e-6)


def test_confidence_equals_the_loops() -> None:
    teacher = features(0)[0]
    found = confidence(teacher, 0.7)
    batch, channels, height, width = teacher.shape
    for b, i, j in np.ndindex(batch, height, width):
        square = sum(float(teacher[b, c, i, j]) ** 2 for c in range(channels))
        assert found[b, i, j].item() == pytest.approx(square / (square + 0.7 * channels), rel=1e-5)


def test_prototype_distance_equals_the_loops() -> None:
    """The smallest of the distances to the prototypes, whatever the lengths; 1 for a vector of zeros."""
    teacher = features(0)[0].clone()
    teacher[0, :, 0, 0] = 0
    prototypes = torch.nn.functional.normalize(features(1)[0].permute(0, 2, 3, 1).flatten(0, 2)[:5], dim=1)
    found = prototype_distance(teacher, prototypes)
    batch, _, height, width = teacher.shape
    for b, i, j in np.ndindex(batch, height, width):
        vector = teacher[b, :, i, j].double().numpy()
        if not vector.any():
            assert found[b, i, j].item() == 1
            continue
        nearest = min(1 - reference.cosine(vector, p.double().numpy()) for p in prototypes)
        assert found[b, i, j].item() == pytest.approx(nearest, abs=1e-5)


def test_prototype_distance_is_the_distance_of_the_loss() -> None:
    teacher, student = features(0)[0][:, :, :1, :1], features(1)[0][:, :, :1, :1]
    for index in range(len(student)):
        one = torch.nn.functional.normalize(student[index : index + 1, :, 0, 0], dim=1)
        expected = position_distance(teacher, one[..., None, None].expand_as(teacher))
        torch.testing.assert_close(prototype_distance(teacher, one), expected, atol=1e-6, rtol=1e-5)


def test_prototype_distance_has_float32_under_autocast() -> None:
    teacher = features(0)[0]
    prototypes = torch.nn.functional.normalize(teacher.permute(0, 2, 3, 1).flatten(0, 2)[:3] + 1e-2, dim=1)
    expected = prototype_distance(teacher, prototypes)
    with torch.autocast("cpu", torch.bfloat16):
        found = prototype_distance(teacher, prototypes)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_confidence_is_none_at_zero_and_a_half_at_the_damping() -> None:
    lengths = torch.tensor([0.0, 0.7, 1e9]).sqrt().view(3, 1, 1, 1).expand(3, 5, 1, 1)
    assert confidence(lengths, 0.7).flatten().tolist() == pytest.approx([0.0, 0.5, 1.0])


def test_image_distance_at_one_position_is_the_position_distance() -> None:
    teacher, student = features(0)[2][:, :, :1, :1], features(1)[2][:, :, :1, :1]
    torch.testing.assert_close(image_distance(teacher, student), position_distance(teacher, student)[:, 0, 0])


@pytest.mark.parametrize("factor", [1e-3, 7.0, 1e4])
def test_distance_ignores_length(factor: float) -> None:
    teacher, student = features(0)[0], features(1)[0]
    torch.testing.assert_close(
        image_distance(teacher, factor * student), image_distance(teacher, student), atol=1e-5, rtol=1e-5
    )


def test_distance_of_parallel_vectors_leaves_its_range_by_rounding_only() -> None:
    first = torch.randn(4096, 64, generator=torch.Generator().manual_seed(0))
    same, opposite = (cosine_distance(first, factor * first, dim=(1,)) for factor in (3.0, -3.0))
    assert -1e-6 < same.min() < 0  # so the documentation does not state exactly [0, 2]
    assert 2 < opposite.max() < 2 + 1e-6


def test_zero_features_have_distance_one_and_a_finite_gradient() -> None:
    student = torch.zeros(2, 3, 2, 2, requires_grad=True)
    distance = cosine_distance(torch.zeros(2, 3, 2, 2), student, dim=(1,))
    assert torch.equal(distance.detach(), torch.ones(2, 2, 2))
    distance.sum().backward()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


def test_half_precision_is_computed_in_float32() -> None:
    teacher = features(0)[0]
    near = (teacher + 0.02 * features(1)[0]).bfloat16()
    distance = image_distance(teacher.bfloat16(), near)
    assert distance.dtype == torch.float32
    expected = image_distance(teacher.bfloat16().float(), near.float())
    torch.testing.assert_close(distance, expected)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dim", [(1,), (1, 2, 3), (3, 1)])
def test_distance_gradient_is_right(dim: tuple[int, ...], layout: torch.memory_format) -> None:
    """Against autograd's of the textbook formula, in double precision, for both arguments."""
    generator = torch.Generator().manual_seed(3)
    pair = [torch.randn(2, 3, 4, 5, generator=generator).to(memory_format=layout).requires_grad_() for _ in range(2)]
    outer = torch.randn([size for axis, size in enumerate(pair[0].shape) if axis not in dim], generator=generator)
    cosine_distance(*pair, dim=dim).backward(outer)
    first, second = (tensor.detach().double().requires_grad_() for tensor in pair)
    lengths = (first.square().sum(dim) * second.square().sum(dim)).sqrt()
    (1 - (first * second).sum(dim) / lengths).backward(outer.double())
    for tensor, expected in zip(pair, (first, second), strict=True):
        assert tensor.grad is not None
        assert tensor.grad.is_contiguous(memory_format=layout)
        torch.testing.assert_close(tensor.grad.double(), expected.grad, atol=1e-6, rtol=1e-5)


def test_distance_gradient_of_lengths_at_the_clamp_is_that_of_constants() -> None:
    first = torch.full((1, 2, 1, 1), 1e-7)
    second = torch.full((1, 2, 1, 1), 1e-7, requires_grad=True)
    image_distance(first, second).sum().backward()
    torch.testing.assert_close(second.grad, -first / 1e-8)


def test_second_derivative_of_the_distance_is_right() -> None:
    """As for a gradient penalty, against the textbook formula in double precision."""
    generator = torch.Generator().manual_seed(3)
    teacher, student = (torch.randn(2, 3, 2, 2, generator=generator) for _ in range(2))

    def penalty(student: torch.Tensor, distance: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        student.requires_grad_()
        (gradient,) = torch.autograd.grad(distance(student).sum(), student, create_graph=True)
        gradient.square().sum().backward()
        assert student.grad is not None
        return student.grad

    found = penalty(student, lambda values: image_distance(teacher, values))
    flat = teacher.double().flatten(1)
    expected = penalty(
        student.detach().double(), lambda values: 1 - torch.cosine_similarity(flat, values.flatten(1), dim=1)
    )
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-4)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"equal shapes.*\(1, 2, 3, 3\).*\(1, 2, 3, 4\)"):
        cosine_distance(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 4), dim=(1,))
    with pytest.raises(ValueError, match=r"weights must be \(B, K\) = \(3, 3\), got \(3, 2\)"):
        contrastive_ratio(features(0), features(1), features(2), torch.ones(3, 2))


def masks_of(seed: int, count: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.rand(count, *shape[2:], generator=generator) < 0.4).float() for shape in SHAPES]


def gaps(first: list[np.ndarray], second: list[np.ndarray], masks: list[np.ndarray]) -> np.ndarray:
    """Mean distance of two features at the places of each image, (B, K)."""
    result = np.zeros((len(first[0]), len(first)))
    for k, mask in enumerate(masks):
        distance = reference.position_map(first[k], second[k])
        for b in range(len(mask)):
            places = [(i, j) for i in range(mask.shape[1]) for j in range(mask.shape[2]) if mask[b, i, j]]
            result[b, k] = sum(distance[b, i, j] for i, j in places) / max(1, len(places))
    return result


def test_visibility_weights_equal_the_loops() -> None:
    clean, noisy, masks = features(0), features(1), masks_of(5)
    gap = gaps(arrays(clean), arrays(noisy), arrays(masks))
    expected = 3 * gap / gap.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(visibility_weights(clean, noisy, masks).numpy(), expected, rtol=1e-4)


def test_an_anomaly_that_the_teacher_does_not_see_has_no_weight() -> None:
    clean, masks = features(0), masks_of(5)
    assert visibility_weights(clean, clean, masks).abs().max() < 1e-2
    assert not visibility_weights(clean, features(1), [torch.zeros_like(mask) for mask in masks]).any()


@pytest.mark.parametrize("weighted", [False, True])
def test_contrast_at_places_equals_the_loops(weighted: bool) -> None:
    clean, noisy, restored, masks = features(0), features(1), features(2), masks_of(5)
    weights = torch.tensor([[0.2, 1.3, 1.5], [1.0, 1.0, 1.0], [2.5, 0.4, 0.1]]) if weighted else None
    expected, pushes = 0.0, []
    for k, mask in enumerate(arrays(masks)):
        near = reference.position_map(arrays(restored)[k], arrays(clean)[k])
        far = reference.position_map(arrays(restored)[k], arrays(noisy)[k])
        push = 0.0
        for b in range(len(mask)):
            places = [(i, j) for i in range(mask.shape[1]) for j in range(mask.shape[2]) if mask[b, i, j]]
            w = 1.0 if weights is None else weights[b, k].item()
            for i, j in places:
                cost = 0.2 * np.log1p(np.exp((near[b, i, j] - far[b, i, j]) / 0.2))
                expected += w * cost / len(places) / len(mask)
                push += far[b, i, j] / len(places) / len(mask)
        pushes.append(push)
    value, push_of = contrast_at_places(clean, noisy, restored, masks, weights)
    assert value.item() == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(push_of.numpy(), pushes, rtol=1e-4)


def test_contrast_pulls_to_the_clean_teacher_and_pushes_from_the_noisy_one() -> None:
    """A step against the gradient moves the student to the one and from the other, at the places only."""
    clean, noisy, restored, masks = features(0), features(1), features(2, grad=True), masks_of(5)
    value, _ = contrast_at_places(clean, noisy, restored, masks)
    value.backward()
    for c, n, r, mask in zip(clean, noisy, restored, masks, strict=True):
        moved = (r - 0.01 * r.grad / r.grad.norm()).detach()
        inside, before = mask.bool(), r.detach()
        assert cosine_distance(moved, c, (1,))[inside].mean() < cosine_distance(before, c, (1,))[inside].mean()
        assert cosine_distance(moved, n, (1,))[inside].mean() > cosine_distance(before, n, (1,))[inside].mean()
        assert (r.grad.abs().amax(1)[~inside] == 0).all()


def test_contrast_limits() -> None:
    """Restored exactly, the cost is that of the teachers' gap; equal teachers cost t log 2 at each place and scale."""
    clean, noisy = features(0), features(1)
    masks = [torch.ones(shape[0], *shape[2:]) for shape in SHAPES]
    exact, _ = contrast_at_places(clean, noisy, clean, masks)
    copied, _ = contrast_at_places(clean, noisy, noisy, masks)
    assert exact < 3 * 0.2 * np.log(2) < copied
    same, _ = contrast_at_places(clean, clean, noisy, masks)
    assert same.item() == pytest.approx(3 * 0.2 * np.log(2), rel=1e-5)


def test_places_of_a_mask() -> None:
    """A position counts where any pixel below it does."""
    mask = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    mask[0, 0, 3, 5] = True
    fine, coarse = places_of(mask, [torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 2, 2)])
    assert fine.nonzero().tolist() == [[0, 1, 2]]
    assert coarse.nonzero().tolist() == [[0, 0, 1]]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("noised", [3, 2, 1])
def test_loss_terms_against_the_loops(noised: int, weighted: bool) -> None:
    clean, noisy, student, restored = features(0), features(1), features(2), features(3)
    weights = torch.tensor([[0.5, 1.0, 1.5], [1.0, 1.5, 0.5], [0.2, 0.3, 2.5]]) if weighted else None
    noisy, restored = ([feature[:noised] for feature in part] for part in (noisy, restored))
    mask = torch.zeros(noised, 1, 12, 10, dtype=torch.bool)
    mask[:, :, 2:7, 3:8] = True
    loss = ScaleAwareContrastiveLoss(pull=0.7, restore=0.3, contrast=0.4, ratio=0.2)
    terms = loss(clean, student, noisy=noisy, restored=restored, mask=mask, weights=weights)
    w = np.ones((3, 3)) if weights is None else weights.numpy()

    def whole(first: list[np.ndarray], second: list[np.ndarray]) -> np.ndarray:
        return np.array(
            [
                [1 - reference.cosine(a[b], s[b]) for a, s in zip(first, second, strict=True)]
                for b in range(len(second[0]))
            ]
        )

    pull, back = whole(arrays(clean), arrays(student)), whole(arrays(clean), arrays(restored))
    few = [f[:noised] for f in clean]
    places = places_of(mask, clean)
    contrast, push = contrast_at_places(few, noisy, restored, places, visibility_weights(few, noisy, places))
    expected = (
        0.7 * (w * pull).mean(0).sum()
        + 0.3 * (w[:noised] * back).sum() / 3
        + 0.4 * contrast.item()
        + 0.2 * reference.ratio(*([f[:noised] for f in arrays(part)] for part in (clean, noisy, student)), w[:noised])
    )
    assert terms.total.item() == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(terms.pull.numpy(), pull.mean(0), rtol=1e-5)
    np.testing.assert_allclose(terms.restore.numpy(), back.mean(0), rtol=1e-5)
    np.testing.assert_allclose(terms.push.numpy(), push.numpy(), rtol=1e-5)
    np.testing.assert_allclose(terms.weights.numpy(), w.mean(0), rtol=1e-6)


@pytest.mark.parametrize("noised", [3, 1])
def test_gradients_have_the_layout_of_the_features(noised: int) -> None:
    """Batch norm's backward pass takes twice as long for a gradient of another layout, such as a slice's."""
    clean, noisy, leaves = ([f.to(memory_format=torch.channels_last) for f in features(seed)] for seed in range(3))
    layouts: list[bool] = []
    student = [leaf.requires_grad_() * 1 for leaf in leaves]
    for feature in student:
        feature.register_hook(lambda g: layouts.append(g.is_contiguous(memory_format=torch.channels_last)))
    loss = ScaleAwareContrastiveLoss(pull=1.0, restore=0.0, contrast=0.0, ratio=0.1)
    loss(clean, student, noisy=[f[:noised] for f in noisy]).total.backward()
    assert layouts == [True] * 3


def test_published_loss_is_the_ratio_alone() -> None:
    clean, noisy, student = features(0), features(1), features(2)
    loss = ScaleAwareContrastiveLoss(pull=0, restore=0, contrast=0, ratio=1)
    terms = loss(clean, student, noisy=noisy)
    assert torch.equal(terms.total, contrastive_ratio(clean, noisy, student))
    assert terms.restore is None
    assert not loss.needs_restored


@pytest.mark.parametrize(
    ("weights", "message"),
    [((-1, 0, 1, 0), "loss.pull must be at least 0, got -1"), ((0, 0, 0, 0), "nothing to train")],
)
def test_bad_weights_of_terms(weights: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScaleAwareContrastiveLoss(*weights)


def test_missing_features_are_named() -> None:
    with pytest.raises(ValueError, match="'noisy' is missing"):
        ScaleAwareContrastiveLoss(0, 0, 0, 1)(features(0), features(1))
    with pytest.raises(ValueError, match="'mask' is missing"):
        ScaleAwareContrastiveLoss(1, 0, 1, 0)(features(0), features(1), features(2), features(3))
