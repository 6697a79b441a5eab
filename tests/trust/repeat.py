"""The same seed twice: ``python -m tests.trust.repeat``; weights, scores and pictures, byte for byte.

Two trainings through Python and two through anomalib's command line, each from another global random state; a
training by Lightning's own DDP with two processes (gloo); and one whose joint batches one process trains on as well.
``--of`` takes some of the three.
"""

import argparse
import hashlib
import json
import os
import sys
import tempfile
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    from tests.trust.children import one_thread

    one_thread()

import torch

from tests.trust.children import Row, in_child
from tests.trust.tiny import Setup, data, data_arguments, quiet, write_images

_MODEL = {
    "backbone": "resnet18",
    "pre_trained": False,
    "layers": ["layer1", "layer2"],
    "student": {"image_side": 64},
    "scoring": {"prototypes": 16},
    "seed": 3,
}
_STEPS = 6
_IMAGES = 12  # that `write_images` makes for the training
_JOINT_STEPS = 20
_JOINT_BOUND = 1e-3  # of a weight tensor's change: measured 4.6e-5, and 1.9e-2 after 100 steps, since rounding grows


def digest(folder: Path, checkpoint: Path) -> dict[str, str]:
    """Hashes of the weights, of the table of scores, and of the pictures."""
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    weights = hashlib.sha256()
    for name, value in state.items():
        weights.update(name.encode() + value.numpy().tobytes())
    found = {"weights": weights.hexdigest()}
    tables = sorted(folder.rglob("*.csv"))
    pictures = sorted(path for path in folder.rglob("*.png"))
    if not (tables and pictures):
        msg = f"no table or pictures in {folder}"
        raise RuntimeError(msg)
    # a table names the pictures, whose folders differ
    text = "".join(path.read_text().replace(str(folder), "") for path in tables)
    found["scores"] = hashlib.sha256(text.encode()).hexdigest()
    found["pictures"] = hashlib.sha256(b"".join(path.read_bytes() for path in pictures)).hexdigest()
    found["number of pictures"] = str(len(pictures))
    return found


def by_python(images: Path, folder: Path, state: int) -> None:
    """Train and test with an engine."""
    from anomalib.engine import Engine

    from anomalib_scrd import ScaleAwareCRD

    quiet()
    torch.manual_seed(state)
    model = ScaleAwareCRD(**_MODEL)
    engine = Engine(default_root_dir=folder, max_steps=_STEPS, accelerator="cpu", logger=False)
    engine.fit(model, datamodule=data(images))
    engine.test(model, datamodule=data(images))
    (folder / "digest.json").write_text(json.dumps(digest(folder, Path(engine.best_model_path))))


def by_command_line(images: Path, folder: Path, state: int) -> None:
    """Train and test with ``anomalib train``."""
    from anomalib.cli.cli import main as anomalib

    quiet()
    torch.manual_seed(state)
    settings = {
        "seed_everything": state,
        "model": {"class_path": "ScaleAwareCRD", "init_args": _MODEL},
        "data": {"class_path": "Folder", "init_args": data_arguments(images)},
        "trainer": {"max_steps": _STEPS, "accelerator": "cpu", "logger": False},
        "default_root_dir": str(folder),
    }
    file = folder / "settings.yaml"
    folder.mkdir(parents=True)
    file.write_text(json.dumps(settings))
    sys.argv = ["anomalib", "train", "--config", str(file)]
    anomalib()
    (checkpoint,) = [path for path in folder.rglob("*.ckpt") if "latest" not in path.parts]
    (folder / "digest.json").write_text(json.dumps(digest(next(folder.rglob("v0")), checkpoint)))


def by_two_processes(images: Path, folder: Path) -> None:
    """Train by Lightning's DDP; each process writes its weights, and hashes of its images with anomalies."""
    from lightning.pytorch import Callback
    from lightning.pytorch.strategies import DDPStrategy

    from tests.models import build_engine, build_model

    class Watch(Callback):
        def on_fit_start(self, trainer: object, module: object) -> None:
            made = module.synthetic_anomalies
            self.places: list[str] = []

            def kept(*arguments: object, **more: object) -> object:
                noisy, mask = made(*arguments, **more)
                self.places += [hashlib.sha256(one.numpy().tobytes()).hexdigest() for one in mask]
                return noisy, mask

            module.synthetic_anomalies = kept

        def on_train_end(self, trainer: object, module: object) -> None:
            content = {"places": self.places, "steps": trainer.global_step}
            (folder / f"{trainer.global_rank}.json").write_text(json.dumps(content))
            torch.save(dict(module.model.student.named_parameters()), folder / f"{trainer.global_rank}.pt")

    quiet()
    folder.mkdir(parents=True)
    # The child of a fork forks again: torch refuses that where a GPU might be used, and none is.
    torch.cuda._is_in_bad_fork = lambda: False
    strategy = DDPStrategy(start_method="fork", process_group_backend="gloo")
    engine = build_engine(
        folder, max_steps=4, logger=False, devices=2, strategy=strategy, callbacks=[Watch()], enable_model_summary=False
    )
    engine.fit(build_model(**Setup({"seed": 3, "layers": ["layer1", "layer2"]}).model), datamodule=data(images))


def by_joint_batches(images: Path, folder: Path, processes: int) -> None:
    """Train on batches of all images, shared by the processes; the first one writes its weights and their change.

    The joint gradient is that of one process where the loss is a mean over images (see
    ``tests/training/test_step_counts.py``): batch norm keeps its first statistics, channels are not standardised.
    """
    from lightning.pytorch import Callback
    from lightning.pytorch.strategies import DDPStrategy

    from tests.models import build_engine, build_model

    class FixedStatistics(Callback):
        def on_train_start(self, trainer: object, module: torch.nn.Module) -> None:
            self.first = {name: value.detach().clone() for name, value in module.model.student.named_parameters()}

        def on_train_batch_start(self, trainer: object, module: torch.nn.Module, *_: object) -> None:
            for layer in module.modules():
                if isinstance(layer, torch.nn.BatchNorm2d):
                    layer.eval()

        def on_train_end(self, trainer: object, module: torch.nn.Module) -> None:
            if trainer.global_rank == 0:
                last = {name: value.detach() for name, value in module.model.student.named_parameters()}
                torch.save((self.first, last, trainer.global_step), folder / "0.pt")

    quiet()
    folder.mkdir(parents=True)
    torch.cuda._is_in_bad_fork = lambda: False  # as above
    strategy = DDPStrategy(start_method="fork", process_group_backend="gloo") if processes > 1 else "auto"
    engine = build_engine(
        folder,
        max_steps=_JOINT_STEPS,
        logger=False,
        devices=processes,
        strategy=strategy,
        callbacks=[FixedStatistics()],
        enable_model_summary=False,
    )
    model = build_model(
        seed=3,
        layers=["layer1", "layer2"],
        student={"depth": 1, "feature_scaling": "none"},
        loss={"restore": 0.0, "contrast": 0.0},
        scoring={"scale_adaptation": "uniform", "held_out": 0.0},
    )
    engine.fit(model, datamodule=data(images, train_batch_size=_IMAGES // processes))


def compare_repeated(scratch: Path) -> Row:
    """Train and test twice by Python and twice by the command line; weights, tables and pictures are the same."""
    row = Row("same seed again: Python, command line")
    images = write_images(scratch / "images")
    found: dict[str, dict[str, str]] = {}
    for name, work in {"python": by_python, "command line": by_command_line}.items():
        for state in (1, 2):
            folder = scratch / f"{name}{state}".replace(" ", "")
            ended = in_child(lambda work=work, folder=folder, state=state: work(images, folder, state), scratch / "log")
            if ended != "done":
                row.count(f"{name}: {ended}: {(scratch / 'log').read_text()[-600:]}")
                return row
            found[f"{name} {state}"] = json.loads((folder / "digest.json").read_text())
    for first, second in (("python 1", "python 2"), ("command line 1", "command line 2")):
        for part, value in found[first].items():
            row.count(None if value == found[second][part] else f"{part} differ between {first} and {second}")
    same = found["python 1"]["weights"] == found["command line 1"]["weights"]
    row.count(None if same else "weights differ between Python and command line")
    return row


def compare_processes(scratch: Path) -> Row:
    """Train by two processes; they end with the same weights, and their images had anomalies of their own."""
    row = Row("two processes by Lightning's DDP: same weights, anomalies of their own")
    images, folder = write_images(scratch / "images"), scratch / "two"
    ended = in_child(lambda: by_two_processes(images, folder), scratch / "log", limit=3600)
    if ended != "done" or not (folder / "1.pt").exists():
        row.count(f"two processes: {ended}: {(scratch / 'log').read_text()[-600:]}")
        return row
    weights = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    differ = [name for name in weights[0] if not torch.equal(weights[0][name], weights[1][name])]
    row.count(f"{len(differ)} weights differ between two processes" if differ else None)
    places = [set(json.loads((folder / f"{rank}.json").read_text())["places"]) for rank in (0, 1)]
    row.count("two processes drew the same anomalies" if places[0] & places[1] or not all(places) else None)
    return row


def compare_joint_batches(scratch: Path) -> Row:
    """Train by one process and by two on the same joint batches; their weights move alike."""
    row = Row(f"{_JOINT_STEPS} steps in one process and in two with the same joint batches")
    images = write_images(scratch / "images")
    found = {}
    for processes in (1, 2):
        folder = scratch / str(processes)
        ended = in_child(partial(by_joint_batches, images, folder, processes), scratch / "log", limit=3600)
        if ended != "done" or not (folder / "0.pt").exists():
            row.count(f"{processes} processes: {ended}: {(scratch / 'log').read_text()[-600:]}")
            return row
        found[processes] = torch.load(folder / "0.pt", weights_only=True)
    (first, one, steps), (_, two, others) = found[1], found[2]
    row.count(None if steps == others == _JOINT_STEPS else f"{steps} and {others} steps")
    change = {name: (one[name] - first[name]).norm().item() for name in one}
    differences = {name: (two[name] - one[name]).norm().item() / change[name] for name in one if change[name]}
    worst = max(differences, key=differences.__getitem__)
    note = f"weights differ by {differences[worst]:.1e} of their change at most ({worst})"
    row.notes.append(note)
    row.count(None if differences[worst] < _JOINT_BOUND else note)
    return row


KINDS = {"repeated": compare_repeated, "processes": compare_processes, "joint": compare_joint_batches}


def main(words: list[str]) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.trust.repeat", description=__doc__)
    parser.add_argument("--of", nargs="+", choices=tuple(KINDS), default=list(KINDS))
    torch.set_num_threads(1)
    lost = False
    for kind in parser.parse_args(words).of:
        with tempfile.TemporaryDirectory(prefix="trust-") as name:
            os.chdir(name)
            row = KINDS[kind](Path(name))
            os.chdir("/")
        print(row, flush=True)
        lost |= bool(row.lost)
    return int(lost)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
