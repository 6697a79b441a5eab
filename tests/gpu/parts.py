"""Parts of the command ``gpu``: each is a command line with a reader of its results so far."""

__all__ = ["PARTS", "Part", "Training"]

import json
import os
import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

_SMALL, _LARGE = "tf_efficientnet_lite0", "wide_resnet50_2"
_CONTRAST_FREE = {"contrast": 0.0}
_ROOT = Path(__file__).resolve().parents[2]
_WORKERS = 8  # processes that read images
_WARM_UP = 0.1  # share of a training that is excluded from its rate: caches fill, kernels are chosen and compiled


def _pre_processor(side: int) -> dict[str, Any]:
    """Settings of a pre-processor that keeps drawn images of this size; the model's own one enlarges them to 256."""
    transforms = "torchvision.transforms.v2"
    steps = [
        {"class_path": f"{transforms}.Resize", "init_args": {"size": [side, side], "antialias": True}},
        {
            "class_path": f"{transforms}.Normalize",
            "init_args": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
        },
    ]
    compose = {"class_path": f"{transforms}.Compose", "init_args": {"transforms": steps}}
    return {"class_path": "anomalib.pre_processing.PreProcessor", "init_args": {"transform": compose}}


@dataclass
class Part:
    """A part.

    Args:
        title: What it is.
        share: Largest share of the total time that it may take, in (0, 1].
    """

    title: str
    share: float = 0.3

    def command(self, folder: Path, *, device: str, tiny: bool, seed: int) -> list[str]:
        """Write the part's inputs to its folder; return the command line."""
        raise NotImplementedError

    def result(self, folder: Path) -> str:
        """Summary of the measurements so far; an empty text without any."""
        raise NotImplementedError

    def lacks(self, *, tiny: bool) -> str:
        """Missing requirements on this machine; an empty text without any."""
        del tiny
        return ""


@dataclass
class Training(Part):
    """A training by anomalib's own command line, on drawn images, with random weights of the teacher.

    Args:
        side: Height and width of the images.
        steps: Its length.
        model: Arguments of the model.
        trainer: Arguments of the trainer.
    """

    side: int = 128
    steps: int = 10_000
    model: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)

    def command(self, folder: Path, *, device: str, tiny: bool, seed: int) -> list[str]:
        """Settings for ``anomalib train``."""
        side, steps, images = (64, 8, 16) if tiny else (self.side, self.steps, 256)
        model = {"pre_trained": False, "seed": seed, "pre_processor": _pre_processor(side)} | self.model
        if tiny:
            model |= {"backbone": "resnet18", "layers": ["layer1", "layer2"]}
        progress = {"file": str(folder / "progress.jsonl"), "every": 2 if tiny else 50}
        settings = {
            "default_root_dir": str(folder),
            "model": {"class_path": "anomalib_scrd.ScaleAwareCRD", "init_args": model},
            "data": {
                "class_path": "anomalib_scrd.PhantomSlices",
                "init_args": {
                    "root": str(folder / "images"),
                    "image_size": side,
                    "n_train": images,
                    **dict.fromkeys(("n_val_good", "n_val_lesions", "n_test_good", "n_test_lesions"), 3),
                    "train_batch_size": 4 if tiny else 16,
                    "num_workers": 0 if tiny else _WORKERS,
                },
            },
            "trainer": {
                "max_steps": steps,
                "accelerator": "cpu" if device == "cpu" else "auto",
                "devices": 1,
                "logger": False,
                "callbacks": [{"class_path": "tests.gpu.progress.Progress", "init_args": progress}],
                **self.trainer,
            },
        }
        file = folder / "settings.yaml"
        file.write_text(json.dumps(settings, indent=1), encoding="utf-8")  # JSON is YAML
        # not the script: it may be missing where the packages are on PYTHONPATH only
        return [sys.executable, "-c", "from anomalib.cli.cli import main; main()", "train", "--config", str(file)]

    def result(self, folder: Path) -> str:
        """Steps, seconds since the first one, and the rate after the warm-up."""
        file = folder / "progress.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        rows = [json.loads(line) for line in lines if line.endswith("}")]
        if not rows:
            return ""
        last = rows[-1]
        text = f"{last['steps']} steps in {last['seconds']:.1f} s"
        first = next((row for row in rows if row["steps"] >= _WARM_UP * self.steps), rows[0])
        if last["steps"] > first["steps"]:
            rate = (last["seconds"] - first["seconds"]) / (last["steps"] - first["steps"])
            text += f", {1e3 * rate:.2f} ms a step after the first {first['steps']}"
        return text + (", whole" if last.get("ended") else "")


@dataclass
class Steps(Part):
    """Bare steps side by side, by the command ``speed``."""

    def command(self, folder: Path, *, device: str, tiny: bool, seed: int) -> list[str]:
        """Settings for ``python -m anomalib_scrd.benchmark speed``."""
        small = {"backbone": "resnet18" if tiny else _SMALL, "pre_trained": False}
        large = {"backbone": "resnet18" if tiny else _LARGE, "pre_trained": False}
        kind = "anomalib_scrd.ScaleAwareCRD"
        models = {
            "small": {"class_path": kind, "init_args": small},
            "small, features kept": {"class_path": kind, "init_args": {**small, "feature_cache": 1.0}},
            "small, bf16": {"class_path": kind, "init_args": small, "precision": "bf16"},
            "large": {"class_path": kind, "init_args": large},
            "large, contrast-free": {"class_path": kind, "init_args": {**large, "loss": _CONTRAST_FREE}},
            "large, bf16": {"class_path": kind, "init_args": large, "precision": "bf16"},
        }
        settings = {
            "models": models,
            "step": list(models),
            "image_sizes": [64] if tiny else [256],
            "batch": 2 if tiny else 16,
            "rounds": 1 if tiny else 15,
            "warmup": 0 if tiny else 5,
            "device": device,
            "seed": seed,
            "output": str(folder),
        }
        file = folder / "settings.yaml"
        file.write_text(json.dumps(settings, indent=1), encoding="utf-8")
        return [sys.executable, "-m", "anomalib_scrd.benchmark", "speed", "--config", str(file)]

    def result(self, folder: Path) -> str:
        """Medians."""
        file = folder / "speed.csv"
        if not file.exists():
            return ""
        table = pd.read_csv(file)
        medians = {
            name: statistics.median(values) for name, values in table.groupby("contender", sort=False)["seconds"]
        }
        return "; ".join(f"{name}: {1e3 * seconds:.2f} ms" for name, seconds in medians.items())


@dataclass
class Quality(Part):
    """The six public sets by the benchmark, default and contrast-free form; each training that ended has its numbers.

    With tiny sizes: one drawn set.
    """

    steps: int = 5_000

    def command(self, folder: Path, *, device: str, tiny: bool, seed: int) -> list[str]:
        """Settings for ``python -m anomalib_scrd.benchmark``."""
        small = {"backbone": "resnet18", "pre_trained": False, "layers": ["layer1", "layer2"]}
        teacher = small if tiny else {"backbone": _SMALL}
        forms = {"default": teacher, "contrast-free": teacher | {"loss": _CONTRAST_FREE}}
        settings = {
            "models": {
                name: {
                    "class_path": "anomalib_scrd.ScaleAwareCRD",
                    "init_args": arguments,
                    "max_steps": 2 if tiny else self.steps,
                }
                for name, arguments in forms.items()
            },
            "data": {"drawn": _drawn(folder, side=64)} if tiny else _six_sets(),
            "image_size": [64, 64] if tiny else [256, 256],
            "holdout": 0.1,
            "seeds": [seed],
            "accelerator": "cpu" if device == "cpu" else "auto",
            "isolate": not tiny,
            "cases": 1,
            "output": str(folder),
        }
        file = folder / "settings.yaml"
        file.write_text(json.dumps(settings, indent=1), encoding="utf-8")
        return [sys.executable, "-m", "anomalib_scrd.benchmark", "--config", str(file)]

    def result(self, folder: Path) -> str:
        """Image AUROCs."""
        file = folder / "results.csv"
        if not file.exists():
            return ""
        rows = pd.read_csv(file)
        rows = rows[rows["status"] == "ok"]
        return "; ".join(f"{row.data}, {row.model}: {row.image_auroc:.3f}" for row in rows.itertuples())

    def lacks(self, *, tiny: bool) -> str:
        """The images."""
        return "" if tiny or "ANOMALIB_SCRD_DATA" in os.environ else "ANOMALIB_SCRD_DATA is not set"


def _six_sets() -> dict[str, Any]:
    """The sets of the benchmark's configuration, read by several processes."""
    sets = yaml.safe_load((_ROOT / "configs/benchmark/six_sets.yaml").read_text(encoding="utf-8"))["data"]
    for entry in sets.values():
        entry["init_args"] |= {"num_workers": _WORKERS}
    return dict(sets)


def _drawn(folder: Path, *, side: int) -> dict[str, Any]:
    return {
        "class_path": "anomalib_scrd.PhantomSlices",
        "init_args": {
            "root": str(folder / "images"),
            "image_size": side,
            "n_train": 16,
            **dict.fromkeys(("n_val_good", "n_val_lesions", "n_test_good", "n_test_lesions"), 3),
            "train_batch_size": 4,
            "num_workers": 0,
        },
    }


@dataclass
class Precision(Part):
    """Scores of one trained model in other precisions."""

    def command(self, folder: Path, *, device: str, tiny: bool, seed: int) -> list[str]:
        """Arguments for the module ``precision``."""
        words = ["--output", str(folder / "precision.csv"), "--device", device, "--seed", str(seed)]
        sizes = ["--side", "64", "--steps", "2", "--compile", "false"] if tiny else []
        return [sys.executable, "-m", "tests.gpu.precision", *words, *sizes]

    def result(self, folder: Path) -> str:
        """Largest differences."""
        file = folder / "precision.csv"
        if not file.exists():
            return ""
        rows = pd.read_csv(file)
        return "; ".join(
            f"{row.form}: {row.score:.2g} of the scores' range, {'within' if row.score <= row.bound else 'BEYOND'} "
            f"{row.bound:g}"
            for row in rows.itertuples()
        )


_CACHED = {"backbone": _SMALL, "feature_cache": 8.0}
_BARE = {"backbone": _LARGE}
PARTS: dict[str, Part] = {
    "short": Training("128 x 128, small backbone, features kept, 10,000 steps", model=_CACHED),
    "graphs": Training(
        "the same with compile_model: reduce-overhead", model=_CACHED | {"compile_model": "reduce-overhead"}
    ),
    "steps": Steps("bare steps of 16 images, 256 x 256", share=0.15),
    "large": Training(
        "256 x 256, large backbone, 1,000 steps, beside its bare step", 0.2, side=256, steps=1_000, model=_BARE
    ),
    "default": Training(
        "256 x 256, small backbone, 5,000 steps", 0.2, side=256, steps=5_000, model={"backbone": _SMALL}
    ),
    "contrast-free": Training(
        "the same without contrast",
        0.2,
        side=256,
        steps=5_000,
        model={"backbone": _SMALL, "loss": _CONTRAST_FREE},
    ),
    "precision": Precision("scores against float32", share=0.15),
    "six sets": Quality("image AUROC at 256 x 256, small backbone, 5,000 steps", share=1.0),
}
"""The parts by name, most important first."""
