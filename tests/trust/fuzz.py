"""Damaged inputs: ``python -m tests.trust.fuzz --times 1000 [--of images weights checkpoints exports settings]``.

Each try damages a complete file (bytes flipped, overwritten, removed, doubled, numbers in headers replaced by large
ones) and reads it like a user's file. It survives if the file gives a possible result, or is refused by an error with
its name. It is lost by any other exception, a crash, ten seconds of processor time without an answer, or two gibibytes
of memory.
"""

import argparse
import json
import mmap
import os
import pickle
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    from tests.trust.children import one_thread

    one_thread()

import numpy as np

from tests.trust.children import Journal, Row, in_child, last_line, per_kind

HANG = 10  # seconds
MEMORY = 2 * 2**30  # bytes
_BATCH = 50  # tries per child
_LARGE = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)


def damaged(content: bytes, draw: random.Random) -> bytes:
    """Content with one to a few damages."""
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 4, 16))):
        if not data:
            break
        # mostly in the header
        place = draw.randrange(min(len(data), 512) if draw.random() < 0.6 else len(data))
        kind = draw.randrange(7)
        if kind == 0:
            data[place] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data[place] = draw.randrange(256)
        elif kind == 2:
            del data[place:]
        elif kind == 3:
            del data[place : place + draw.choice((1, 2, 4, 16))]
        elif kind == 4:
            data[place:place] = data[max(0, place - 16) : place]
        elif kind == 5:
            number = draw.choice(_LARGE)
            order, size = draw.choice("<>"), draw.choice((1, 2, 4))
            packed = number.to_bytes(8, "little")[:size]
            data[place : place + size] = packed if order == "<" else packed[::-1]
        else:
            data[place : place + 4] = struct.pack(draw.choice("<>") + "f", draw.choice((float("nan"), 1e38, -1.0)))
    return bytes(data)


def damaged_text(content: str, draw: random.Random) -> str:
    """Settings with a word replaced, a line removed, doubled or indented, or with damaged bytes."""
    lines = content.splitlines()
    for _ in range(draw.choice((1, 1, 2))):
        place = draw.randrange(len(lines))
        kind = draw.randrange(5)
        if kind == 0 and ":" in lines[place]:
            odd = ["", "null", "-1", "1e400", ".nan", "[]", "{}", "'x'", "true", "!!python/object/apply:os.system [x]"]
            lines[place] = lines[place].split(":")[0] + ": " + draw.choice(odd)
        elif kind == 1:
            lines.insert(place, lines[place])
        elif kind == 2:
            lines[place] = " " * draw.randrange(1, 4) + lines[place]
        elif kind == 3:
            lines[place] = lines[place].replace(draw.choice("aeiou"), draw.choice("xyz:{[&*"))
        else:
            return damaged(content.encode(), draw).decode("utf-8", errors="replace")
    return "\n".join(lines) + "\n"


# --- images ---------------------------------------------------------------------------------------------------------


def image_files(folder: Path) -> list[Path]:
    """A complete file of each supported format."""
    import nibabel
    import tifffile
    from PIL import Image
    from pydicom.uid import JPEG2000Lossless, RLELossless

    from tests.imaging.writing import write_dicom

    rng = np.random.default_rng(0)
    grey = rng.integers(0, 255, (64, 48), dtype=np.uint8)
    deep = rng.integers(0, 4095, (64, 48), dtype=np.uint16)
    folder.mkdir()
    files = []
    for suffix in ("png", "jpg", "bmp", "tif", "webp", "pgm", "jp2"):
        files.append(folder / f"grey.{suffix}")
        Image.fromarray(grey).save(files[-1])
    for suffix in ("png", "tiff"):
        files.append(folder / f"deep.{suffix}")
        Image.fromarray(deep).save(files[-1])
    files.append(folder / "colour.png")
    Image.fromarray(rng.integers(0, 255, (64, 48, 3), dtype=np.uint8)).save(files[-1])
    files.append(folder / "float.tiff")
    tifffile.imwrite(files[-1], deep.astype(np.float32), compression="deflate")
    files.append(folder / "pages.tiff")
    tifffile.imwrite(files[-1], np.stack([deep, deep + 1]), photometric="minisblack")
    for name, pixels, syntax in (
        ("plain", deep, None),
        ("frames", np.stack([deep, deep + 1]), None),
        ("rle", deep, RLELossless),
        ("jpeg2000", deep, JPEG2000Lossless),
    ):
        files.append(write_dicom(folder / f"{name}.dcm", pixels, **({} if syntax is None else {"syntax": syntax})))
    volume = rng.normal(size=(12, 10, 4)).astype(np.float32)
    for suffix in ("nii", "nii.gz", "mgz"):
        files.append(folder / f"volume.{suffix}")
        image = nibabel.MGHImage if suffix == "mgz" else nibabel.Nifti1Image
        nibabel.save(image(volume, np.eye(4, dtype=np.float32)), files[-1])
    return files


def read_images(path: Path) -> None:
    """Read every picture of a file, in the way of `MedicalFolder` and the edge runner."""
    from anomalib_scrd.imaging import Preparation, Window, list_pictures, read_picture

    for info in list_pictures(path)[:20]:
        picture = read_picture(info)
        image = Preparation(Window.decide("auto", [picture]))(picture).channels
        if not (np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1):
            msg = f"values in [{image.min()}, {image.max()}]"
            raise AssertionError(msg)


# --- weights and checkpoints ----------------------------------------------------------------------------------------


class _Code:
    """Runs code where a pickle of it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


def weight_files(folder: Path) -> list[Path]:
    """A state dict as .pth and .safetensors, and pickles that would run code."""
    import timm
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    state = timm.create_model("resnet10t", pretrained=False).state_dict()
    small = {name: value[:4].clone() if value.ndim else value for name, value in state.items()}
    torch.save(small, folder / "weights.pth")
    save_file(small, folder / "weights.safetensors")
    torch.save({"state_dict": small, "epoch": 3}, folder / "nested.pt")
    torch.save({"weight": torch.zeros(2), "x": _Code(folder / "RAN")}, folder / "code.pth")
    (folder / "old.pth").write_bytes(pickle.dumps({"x": _Code(folder / "RAN")}))
    return sorted(path for path in folder.iterdir() if path.is_file())


def read_weights(path: Path) -> None:
    """Read weights as `pre_trained` does."""
    import torch

    from anomalib_scrd.components.pretrained_weights import read_state_dict

    tensors = read_state_dict(path)
    if not tensors or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        msg = "no tensors"
        raise AssertionError(msg)
    if list(path.parent.glob("RAN")):
        msg = "code was run"
        raise AssertionError(msg)


def checkpoint_files(folder: Path) -> list[Path]:
    """The checkpoint of a model; written in a child, since that starts threads."""

    def write() -> None:
        from tests.models import build_engine, build_model
        from tests.trust.tiny import data, quiet, write_images

        quiet()
        model = build_model(layers=["layer1", "layer2"], seed=3)
        engine = build_engine(folder, max_steps=1, logger=False, enable_model_summary=False)
        engine.fit(model, datamodule=data(write_images(folder / "images")))
        Path(engine.best_model_path).rename(folder / "model.ckpt")

    folder.mkdir()
    log = folder / "log.txt"
    if in_child(write, log) != "done":
        raise RuntimeError(log.read_text())
    return [folder / "model.ckpt"]


def read_checkpoint(path: Path) -> None:
    """Load a model; the only error that may leave the file unnamed is Lightning's about hyper-parameters."""
    from anomalib_scrd import ScaleAwareCRD

    ScaleAwareCRD.load_from_checkpoint(path, map_location="cpu")


# --- exported models ------------------------------------------------------------------------------------------------


def export_files(folder: Path) -> list[Path]:
    """A small model as .xml with .bin, and as .onnx."""

    def write() -> None:
        from tests.edge.conftest import build_onnx, build_openvino

        build_openvino(folder / "model.xml")
        build_onnx(folder / "model.onnx")

    folder.mkdir()
    log = folder / "log.txt"
    if in_child(write, log) != "done":
        raise RuntimeError(log.read_text())
    return [folder / "model.xml", folder / "model.bin", folder / "model.onnx"]


def read_export(path: Path) -> None:
    """Load a model and score an image as the edge runner does."""
    from anomalib_scrd.edge.engine import load_engine

    model = path.with_suffix(".xml") if path.suffix == ".bin" else path
    engine = load_engine(model, threads=1)
    request = engine.request()
    height, width = engine.size or (16, 16)
    if height * width > 2**24:
        msg = f"{model.name} takes images of {height} x {width}"
        raise ValueError(msg)
    request.put(np.full((height, width), 0.25, np.float32))
    request.start()
    request.result()
    engine.close()


# --- settings -------------------------------------------------------------------------------------------------------


def settings_files(folder: Path) -> list[Path]:
    """Settings as the README has them."""
    folder.mkdir()
    (folder / "mine.yaml").write_text(
        "model:\n  class_path: ScaleAwareCRD\n  init_args:\n    backbone: resnet18\n    pre_trained: false\n"
        "    seed: 0\n    layers: [layer1, layer2]\n    loss:\n      contrast: 0.3\n    noise: {share: 0.25}\n"
        "    feature_cache: 0.5\n    scoring:\n      held_out: 0.1\n    optimiser:\n      learning_rate: 0.005\n"
        "data:\n  class_path: PhantomSlices\n  init_args:\n    root: phantoms\n    n_train: 4\n"
        "trainer:\n  max_steps: 3\n"
    )
    return [folder / "mine.yaml"]


_parsers: list[Any] = []


def read_settings(path: Path) -> None:
    """Parse settings as ``anomalib train --config`` does, and build what they describe."""
    if not _parsers:
        from anomalib.cli import AnomalibCLI
        from anomalib.data import AnomalibDataModule
        from anomalib.models import AnomalibModule

        train = AnomalibCLI.init_parser()

        train.add_subclass_arguments(AnomalibModule, "model", required=True)
        train.add_subclass_arguments(AnomalibDataModule, "data", required=True)
        train.add_argument("--trainer", type=dict)
        _parsers.append(train)
    parser = _parsers[0]
    parser.exit_on_error = True
    parser.instantiate_classes(parser.parse_args(["--config", str(path)]))


KINDS: dict[str, tuple[Callable[[Path], list[Path]], Callable[[Path], None]]] = {
    "images": (image_files, read_images),
    "weights": (weight_files, read_weights),
    "checkpoints": (checkpoint_files, read_checkpoint),
    "exports": (export_files, read_export),
    "settings": (settings_files, read_settings),
}


class _Slow(BaseException):
    """Ten seconds have passed."""


def _judge(read: Callable[[Path], None], path: Path) -> str | None:
    """What was lost by reading a file; None if nothing."""

    def slow(*_: object) -> None:
        raise _Slow

    signal.signal(signal.SIGPROF, slow)
    signal.setitimer(signal.ITIMER_PROF, HANG)  # of processor time: others may use this machine
    signal.setitimer(signal.ITIMER_VIRTUAL, 2 * HANG)  # ends the process, for a library that does not come back
    try:
        read(path)
    except _Slow:
        return f"no answer after {HANG} s of processor time"
    except (ValueError, OSError, RuntimeError) as error:  # UnreadableImageError is a ValueError
        text = f"{error} {getattr(error, 'filename', '')}"
        return None if path.stem in text else f"names no file: {type(error).__name__}: {error}"
    except SystemExit as error:
        return None if error.code else "ends with status 0"
    except MemoryError:
        return "takes more than 2 GiB"
    except BaseException as error:  # noqa: BLE001
        return f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return None


def _tries(files: list[Path], times: int, seed: int) -> Iterator[tuple[Path, random.Random]]:
    for number in range(times):
        yield files[number % len(files)], random.Random(f"{seed}:{number}")


def fuzz(kind: str, times: int, seed: int, scratch: Path, kept: Path | None = None) -> Row:
    """Damage and read the files of a kind."""
    write, read = KINDS[kind]
    row = Row(f"damaged {kind}")
    files = write(scratch / kind)
    work = list(_tries(files, times, seed))
    place, log = mmap.mmap(-1, 8), scratch / f"{kind}.log"
    journal = Journal(kept and kept / f"{kind}-{seed}.jsonl", {"kind": kind, "seed": seed})

    def child(first: int, last: int, results: Path) -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        folder = scratch / "damaged"
        with results.open("w") as out:
            for number in range(first, last):
                place[:8] = number.to_bytes(8, "little")
                file, draw = work[number]
                folder.mkdir(exist_ok=True)
                for other in files:  # .bin belongs to .xml
                    if other.suffix in {".xml", ".bin"} and file.suffix in {".xml", ".bin"}:
                        (folder / other.name).write_bytes(other.read_bytes())
                path = folder / file.name
                if kind == "settings":
                    path.write_text(damaged_text(file.read_text(), draw))
                else:
                    path.write_bytes(damaged(file.read_bytes(), draw))
                fault = _judge(read, path)
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                if fault is None and (peak - before) * 1024 > MEMORY:
                    fault = f"took {(peak - before) / 2**20:.1f} GiB"
                out.write(json.dumps([number, fault]) + "\n")
                out.flush()
                if fault is not None:
                    kept = scratch / "lost" / f"{kind}-{seed}-{number}"
                    kept.mkdir(parents=True, exist_ok=True)
                    path.replace(kept / path.name)

    results = scratch / "results.jsonl"
    while (start := len(journal.tries)) < times:
        last = min(start + _BATCH, times)
        results.unlink(missing_ok=True)
        ended = in_child(partial(child, start, last, results), log, limit=_BATCH * HANG * 20)
        lines = results.read_text().splitlines() if results.exists() else []
        for number, fault in map(json.loads, lines):
            journal.add(number, fault=fault)
        if ended != "done":
            number = int.from_bytes(place[:8], "little")
            journal.add(number, fault=f"the process {ended} {last_line(log)}")
        print(f"{kind} {len(journal.tries)}/{times}", file=sys.stderr, flush=True)
    for number in range(times):
        fault = journal.tries[number]["fault"]
        row.count(fault and f"{kind} {number} ({work[number][0].name}): {fault}")
    row.notes.append(f"seed {seed}")
    return row


def main(words: list[str]) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.trust.fuzz", description=__doc__)
    parser.add_argument("--times", type=int, nargs="+", default=[1000], help="damaged files of each kind, or of all")
    parser.add_argument("--of", nargs="+", choices=tuple(KINDS), default=list(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the files that were lost")
    parser.add_argument("--journal", type=Path, help="folder that keeps the tries, for a command that may be stopped")
    arguments = parser.parse_args(words)
    lost = False
    journal = arguments.journal and arguments.journal.absolute()
    keep = arguments.keep and arguments.keep.absolute()
    with tempfile.TemporaryDirectory(prefix="trust-") as name:
        scratch = Path(name)
        os.chdir(scratch)
        for kind, times in zip(arguments.of, per_kind(arguments.times, arguments.of), strict=True):
            if kind in {"weights", "checkpoints", "settings"}:
                import anomalib_scrd  # noqa: F401 - once, before the children

                if kind != "settings":
                    import tests.models  # noqa: F401
            row = fuzz(kind, times, arguments.seed, scratch, journal)
            lost |= bool(row.lost)
            print(row, flush=True)
        os.chdir("/")
        if keep is not None and (scratch / "lost").exists():
            shutil.copytree(scratch / "lost", keep, dirs_exist_ok=True)
    return int(lost)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
