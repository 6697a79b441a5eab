"""Results of a first training: thresholds, labels, outlines and scores, for three kinds of available data.

python examples/what_a_user_sees.py DATA [--steps 1000] [--sets lgg_flair magnetic_tile] [--rate 0.05] [--seed 0]

DATA has <set>/train/good, <set>/test/good, <set>/test/<kind> and <set>/ground_truth/<kind>. The script trains three
times on each set: with normal images only, with defects without masks, and with defects and masks. With defects, half
of the test images are the validation set and the other half is measured; otherwise all test images are measured.

It prints the thresholds of raw scores and maps; the shares of normal images that are called anomalous or have an
outline and the share of anomalous images that are found, with Clopper-Pearson intervals; and the AUROC of raw and of
calibrated scores. The second row of a training shows the same for a false-alarm rate, set without further training.
"""

import argparse
from pathlib import Path

import torch
from anomalib.data import Folder
from anomalib.engine import Engine
from lightning import seed_everything
from sklearn.metrics import roc_auc_score

from anomalib_scrd import ScaleAwareCRD
from anomalib_scrd.decision.thresholds import share_interval

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data", type=Path)
parser.add_argument("--sets", nargs="+", default=["lgg_flair", "magnetic_tile"])
parser.add_argument("--steps", type=int, default=1000)
parser.add_argument("--size", type=int, default=128)
parser.add_argument("--rate", type=float, default=0.05)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--results", type=Path, default=Path("what_a_user_sees"))
options = parser.parse_args()


def data(name: str, *, defects: bool, masks: bool, validation: str) -> Folder:
    root = options.data / name
    kinds = sorted(folder.name for folder in (root / "test").iterdir() if folder.name != "good")
    return Folder(
        name=name,
        root=root,
        normal_dir="train/good",
        normal_test_dir="test/good",
        abnormal_dir=[f"test/{kind}" for kind in kinds] if defects else None,
        mask_dir=[f"ground_truth/{kind}" for kind in kinds] if masks else None,
        val_split_mode=validation,
        train_batch_size=16,
        eval_batch_size=16,
        num_workers=0,
        seed=options.seed,
    )


def share(count: int, total: int) -> str:
    low, high = share_interval(count, total)
    return f"{count / max(total, 1):.3f} [{low:.3f}, {high:.3f}]"


def row(name: str, has: str, rule: str, model: ScaleAwareCRD, engine: Engine, test: Folder) -> str:
    processor = model.post_processor
    scores, labels, outlined, truth = [], [], [], []
    for batch in engine.predict(model, datamodule=test):
        scores.append(batch.pred_score)
        labels.append(batch.pred_label)
        outlined.append(batch.pred_mask.flatten(1).any(dim=1))
        truth.append(batch.gt_label.bool())
    processor.enable_normalization = False
    raw = [batch.pred_score for batch in engine.predict(model, datamodule=test)]
    processor.enable_normalization = True
    score, plain, label, outline, anomalous = map(torch.cat, (scores, raw, labels, outlined, truth))
    normal = ~anomalous
    cells = [
        name,
        has,
        rule,
        f"{processor.image_threshold:.3g} / {processor.pixel_threshold:.3g}",
        share(int(label[normal].sum()), int(normal.sum())),
        share(int(outline[normal].sum()), int(normal.sum())),
        share(int(label[anomalous].sum()), int(anomalous.sum())),
        share(int((outline & label)[anomalous].sum()), int(label[anomalous].sum())),
        f"{score[normal].median():.2f} / {score[anomalous].median():.2f}",
        f"{roc_auc_score(anomalous, plain):.4f} / {roc_auc_score(anomalous, score):.4f}",
    ]
    return f"| {' | '.join(cells)} |"


heading = [
    "set",
    "user has",
    "thresholds by",
    "image / pixel threshold",
    "normal images called anomalous",
    "normal images with an outline",
    "anomalous images found",
    "of these with an outline",
    "median score, normal / anomalous",
    "AUROC raw / calibrated",
]
lines = [f"| {' | '.join(heading)} |", "|---" * len(heading) + "|"]
for name in options.sets:
    for has in ("normal images only", "defects", "defects and masks"):
        seed_everything(options.seed)
        defects, masks = has != "normal images only", has == "defects and masks"
        train = data(name, defects=defects, masks=masks, validation="from_test" if defects else "none")
        model = ScaleAwareCRD(
            backbone="tf_efficientnet_lite0",
            pre_processor=ScaleAwareCRD.configure_pre_processor((options.size, options.size)),
            visualizer=False,
        )
        folder = options.results / name / has.replace(" ", "_")
        engine = Engine(max_steps=options.steps, default_root_dir=folder, enable_progress_bar=False, logger=False)
        engine.fit(model, datamodule=train)
        test = train if defects else data(name, defects=True, masks=False, validation="none")
        processor = model.post_processor
        rule = "best F1" if processor.false_alarm_rate is None else f"{processor.false_alarm_rate:g} false alarms"
        lines.append(row(name, has, rule, model, engine, test))
        if processor.false_alarm_rate != options.rate:
            processor.false_alarm_rate = options.rate
            lines.append(row(name, has, f"{options.rate:g} false alarms", model, engine, test))
        print("\n".join(lines), flush=True)
table = options.results / "table.md"
table.write_text("\n".join(lines) + "\n", encoding="utf-8")
print("table:", table)
