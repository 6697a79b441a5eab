"""Prototypes: what they are found in, how, and their part in map and score."""

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from anomalib_scrd.scoring.fitting import fit_prototypes
from anomalib_scrd.scoring.prototypes import Prototypes
from anomalib_scrd.torch_model import ScaleAwareCRDModel


def directions(count: int, channels: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(count, channels, generator=torch.Generator().manual_seed(seed)), dim=1)


def as_features(rows: torch.Tensor) -> torch.Tensor:
    """(N, C) as N images of one place."""
    return rows[:, :, None, None]


def build(**scoring: object) -> ScaleAwareCRDModel:
    torch.manual_seed(0)
    return ScaleAwareCRDModel(backbone="resnet18", pre_trained=False, student={"depth": 1}, scoring=scoring)


def images(seed: int, count: int = 4) -> torch.Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def test_groups_of_directions_are_found_whatever_their_lengths() -> None:
    true = directions(4, 16)
    generator = torch.Generator().manual_seed(1)
    spread = true.repeat(200, 1) + 0.02 * torch.randn(800, 16, generator=generator)
    rows = spread * (0.1 + 10 * torch.rand(800, 1, generator=generator))
    prototypes = Prototypes([16], 12)  # more than groups: a first centre falls into each
    prototypes.fit([rows], seed=0)
    (near,) = prototypes([as_features(true)])
    assert near.max() < 5e-3
    (far,) = prototypes([as_features(-true)])
    assert far.min() > 0.3
    assert prototypes.centres_0.norm(dim=1).tolist() == pytest.approx([1.0] * 12, abs=1e-5)


def test_fewer_positions_than_prototypes() -> None:
    rows = directions(3, 8)
    prototypes = Prototypes([8], 50)
    prototypes.fit([5 * rows], seed=0)
    (found,) = prototypes([as_features(rows)])
    torch.testing.assert_close(found, torch.zeros_like(found), atol=1e-6, rtol=0)


def test_no_distance_before_the_fit() -> None:
    found = Prototypes([8, 4], 3)([torch.ones(2, 8, 4, 4), torch.ones(2, 4, 2, 2)])
    assert [tuple(maps.shape) for maps in found] == [(2, 4, 4), (2, 2, 2)]
    assert not any(maps.any() for maps in found)


def test_the_seed_decides_and_the_random_state_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, seeded = directions(500, 8), []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    found = []
    for seed in (0, 0, 1):
        prototypes, state = Prototypes([8], 20), torch.get_rng_state()
        prototypes.fit([rows], seed)
        assert torch.equal(torch.get_rng_state(), state)
        found.append(prototypes.centres_0)
    assert not seeded  # nor does that of a GPU change
    assert torch.equal(found[0], found[1])
    assert not torch.allclose(found[0], found[2])


def test_they_come_from_all_images_by_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few positions are drawn from many, in batches of any size, and of turned images: here of mirrored ones."""
    monkeypatch.setattr("anomalib_scrd.scoring.fitting._POSITIONS", 150)
    monkeypatch.setattr("anomalib_scrd.scoring.fitting.turned", lambda batch, _: batch.flip(-1))
    model, given = build().eval(), []
    monkeypatch.setattr(model.map_and_score.prototypes, "fit", lambda rows, seed: given.append((rows, seed)))
    batches = [images(0), images(1, 2), images(2, 1)]
    fit_prototypes(model, batches, seed=3)
    fit_prototypes(model, batches, seed=3)
    (first, seed), (second, _) = given
    assert seed == 3
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert [len(rows) for rows in first] == [150, 150, 112]  # 7 images of 16 places at the coarsest level
    with torch.no_grad():
        known = [model.teacher_features(batch.flip(-1))[0].movedim(1, -1).flatten(0, -2) for batch in batches]
    exact = "donot_use_mm_for_euclid_dist"
    origins = [torch.cdist(first[0], rows, compute_mode=exact).amin(dim=1) < 1e-4 for rows in known]
    assert all(origin.any() for origin in origins)
    assert sum(int(origin.sum()) for origin in origins) == 150


def test_a_known_image_is_nearer_than_a_new_one() -> None:
    model = build(prototypes=64).train()
    with torch.no_grad():
        model(images(0, 16))
        model.eval()
        fit_prototypes(model, [images(0, 16)], seed=0)
        known, new = (model.map_and_score.prototypes(model.teacher_features(x)) for x in (images(0), images(9)))
    assert all(a.mean() < b.mean() for a, b in zip(known, new, strict=True))


def test_none_in_the_published_form_and_none_if_not_wanted() -> None:
    for scoring in ({"scale_adaptation": "published"}, {"prototypes": 0}):
        model = build(**scoring)
        assert model.map_and_score.prototypes is None
        assert len(model.distance_names) == 3
        fit_prototypes(model, iter(()), seed=0)  # nothing is read
    assert build().distance_names == ["layer1", "layer2", "layer3", *(f"layer{k}, prototypes" for k in (1, 2, 3))]


def test_counterparts_are_the_same_levels_and_extents_of_the_distances_to_prototypes() -> None:
    scoring = build().map_and_score
    generator = torch.Generator().manual_seed(0)
    plain, damped = ([torch.rand(2, 2, side, side, generator=generator) for side in (16, 8, 4)] for _ in range(2))
    found = scoring.evidence(plain, damped, (64, 64))
    of_prototypes = [[level[:, 1:].expand_as(level) for level in levels] for levels in (plain, damped)]
    expected = scoring.evidence(*of_prototypes, (64, 64))
    assert torch.equal(found[:, scoring.score_weights.counterparts], expected)
    maps, expected = (scoring.smooth_maps(levels, (64, 64)) for levels in (damped, of_prototypes[1]))
    assert torch.equal(maps[:, scoring.map_weights.counterparts], expected)
    scoring = build(prototypes=0).map_and_score
    for alone in (scoring.score_weights, scoring.map_weights):
        assert alone.counterparts == list(range(len(alone.weight)))
