"""The speed benchmark: what it makes of known times, what it records of failures, and that its sections run.

No test looks at how long anything took.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import openvino
import pytest
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from anomalib_scrd.benchmark import __main__ as benchmark
from anomalib_scrd.benchmark.speed import devices, growth, loader, options, parts, prediction, section
from anomalib_scrd.benchmark.speed.command import load_config, run_speed
from anomalib_scrd.benchmark.speed.config import SpeedConfig
from anomalib_scrd.benchmark.speed.contenders import BASELINE, EDGE, FORMS, TIMM_BASELINE, build_baseline, build_form
from anomalib_scrd.benchmark.speed.roofline import OperationCounter, Rates
from anomalib_scrd.benchmark.speed.step import CACHED, RELEASED
from anomalib_scrd.benchmark.speed.timing import Stopwatch, Summary, alternate, ratio, ready, summary
from anomalib_scrd.lightning_model import ScaleAwareCRD

CONFIGS = Path(__file__).parents[3] / "configs"
TINY: dict[str, Any] = {"backbone": "resnet18", "image_size": (64, 64), "batch": 2, "rounds": 1, "warmup": 0}


class Clock:
    """A clock that only work moves on."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def __call__(self) -> float:
        return self.now

    def work(self, name: str, *seconds: float) -> Callable[[], None]:
        """Take these times, one per call, the last one from then on."""
        left = list(seconds)

        def run() -> None:
            self.calls.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return run


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., SpeedConfig]:
    def make(**changes: Any) -> SpeedConfig:
        return SpeedConfig(**({"output": tmp_path / "out"} | TINY | changes))

    return make


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of its own costs an import of anomalib."""
    for module in (growth, prediction):
        monkeypatch.setattr(module, "isolated", lambda function, *args: function(*args))


def test_contenders_alternate_and_warm_up_apart(clock: Clock) -> None:
    work = {"a": clock.work("a", 9, 1, 2, 3), "b": clock.work("b", 9, 2, 8, 3)}
    samples = alternate(ready(work), rounds=3, warmup=1, clock=clock)
    assert [sorted(clock.calls[start : start + 2]) for start in range(0, 8, 2)] == [["a", "b"]] * 4
    assert samples.seconds == {"a": [1, 2, 3], "b": [2, 8, 3]}
    assert samples.errors == {}
    assert ratio(samples.seconds["a"], samples.seconds["b"]).median == 0.5  # of 1/2, 2/8 and 3/3


def test_every_contender_comes_after_every_other(clock: Clock) -> None:
    names = "abcd"
    samples = alternate(ready({name: clock.work(name, 1) for name in names}), rounds=12, warmup=0, clock=clock)
    assert samples.seconds == {name: [1] * 12 for name in names}
    assert len(set(pairwise(clock.calls)) - {(name, name) for name in names}) == 12
    first = clock.calls
    clock.calls = []
    alternate(ready({name: clock.work(name, 1) for name in names}), rounds=12, warmup=0, clock=clock)
    assert clock.calls == first


def test_contenders_settle_before_they_are_timed(clock: Clock) -> None:
    work = {"a": clock.work("a", 9, 5, 1, 5, 2), "b": clock.work("b", 9, 7, 3, 7, 4)}
    samples = alternate(ready(work), rounds=2, warmup=1, clock=clock, settle=1)
    assert samples.seconds == {"a": [1, 2], "b": [3, 4]}


def test_medians_quartiles_and_the_interval_of_a_ratio() -> None:
    assert summary([5, 1, 3, 2, 4]) == Summary(median=3, low=2, high=4)
    assert Summary(2, 1, 4).scaled(10) == Summary(20, 10, 40)
    assert Summary(2, 1, 4).inverse(8) == Summary(4, 2, 8)
    # of 15 rounds, the 4th and the 12th bound the median with a probability of at least 95 %
    fifteen = ratio([float(i) for i in range(1, 16)], [1.0] * 15)
    assert (fifteen.median, fifteen.low, fifteen.high) == (8, 4, 12)
    few = ratio([1.0, 2.0, 3.0], [1.0, 1.0, 1.0])
    assert few.median == 2
    assert few.low != few.low
    assert section.interval(few) == "2.000"


@pytest.mark.parametrize("when", ["build", "warm-up", "round"])
def test_a_contender_that_fails_is_recorded_and_the_others_go_on(when: str, clock: Clock) -> None:
    calls = {"build": 0, "warm-up": 1, "round": 2}[when]

    def broken() -> None:
        nonlocal calls
        calls -= 1
        if calls == 0:
            msg = "no\nmore"
            raise RuntimeError(msg)
        clock.now += 1

    def build() -> Callable[[], None]:
        if when == "build":
            broken_at_once = ValueError("not here")
            raise broken_at_once
        return broken

    contenders = {**ready({"a": clock.work("a", 1)}), "broken": build, **ready({"b": clock.work("b", 2)})}
    samples = alternate(contenders, rounds=2, warmup=1, clock=clock)
    assert samples.seconds == {"a": [1, 1], "b": [2, 2]}
    assert samples.errors == {"broken": "ValueError: not here" if when == "build" else "RuntimeError: no more"}


def test_stopwatch_counts_every_second_once(clock: Clock) -> None:
    class Owner:
        inner = staticmethod(clock.work("inner", 3))

    owner, watch = Owner(), Stopwatch(clock)
    watch.watch(owner, "inner", "inner")
    watch.watch(owner, "missing", "nothing")
    with watch.part("outer"):
        clock.now += 1
        owner.inner()
        clock.now += 5
        watch.lap("lap")
        clock.now += 2
    assert watch.seconds == {"outer": 1 + 2, "inner": 3, "lap": 5}


def test_operations_and_bytes_are_counted() -> None:
    convolution = torch.nn.Conv2d(3, 8, 3)
    images = torch.rand(2, 3, 16, 16)
    with FlopCounterMode(display=False) as reference:
        convolution(images).square().sum().backward()
    with OperationCounter(Rates(flops=1e9, bandwidth=1e9)) as counter:
        convolution(images).square().sum().backward()
    assert counter.flops == reference.get_total_flops() > 0
    with OperationCounter(Rates(flops=1.0, bandwidth=2.0)) as counter:
        _ = images.view(-1) + 1  # reads and writes each number, the view touches none
    assert (counter.flops, counter.bytes, counter.seconds) == (0, 2 * images.nbytes, images.nbytes)


def test_forms_are_those_of_the_configs() -> None:
    def arguments(name: str) -> dict[str, Any]:
        values = yaml.safe_load((CONFIGS / "model" / f"{name}.yaml").read_text(encoding="utf-8"))["init_args"]
        return {key: value for key, value in values.items() if key != "pre_trained"}

    published = arguments("published")
    assert (published.pop("backbone"), published.pop("layers")) == (
        SpeedConfig().backbone,
        ["layer1", "layer2", "layer3"],
    )
    assert published == FORMS["published"]
    assert arguments("edge") == EDGE


def test_config_begins_with_its_command_and_loads() -> None:
    path = CONFIGS / "benchmark" / "speed.yaml"
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first == "# python -m anomalib_scrd.benchmark speed --config configs/benchmark/speed.yaml"
    assert load_config(["--config", str(path)]) == SpeedConfig()
    changed = load_config(["--config", str(path), "--batch", "16", "--variants.plain.student_depth", "1"])
    assert (changed.batch, changed.variants) == (16, {"plain": {"student_depth": 1}})


def test_edge_is_timed_as_it_is_trained() -> None:
    path = CONFIGS / "benchmark" / "edge_speed.yaml"
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# python -m anomalib_scrd.benchmark speed --config configs/benchmark/edge_speed.yaml\n")
    timed = load_config(["--config", str(path)])
    trained = yaml.safe_load((CONFIGS / "benchmark" / "edge.yaml").read_text(encoding="utf-8"))
    models = {name: spec["init_args"] for name, spec in trained["models"].items()}
    assert {name: arguments | {"feature_cache": 1.0} for name, arguments in timed.variants.items()} == models
    assert timed.variants["edge"] == EDGE
    assert list(timed.image_size) == trained["image_size"]


def test_a_form_with_a_backbone_of_its_own_has_its_layers(config: Callable[..., SpeedConfig]) -> None:
    form = build_form(config(layers=["layer1", "layer2"]), {"backbone": "resnet10t", "student_depth": 1})
    assert form.model.teacher.layers == ("layer1", "layer2", "layer3")
    assert form.hparams["backbone"] == "resnet10t"


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ({"sections": []}, "sections must be at least one"),
        ({"rounds": 0}, "rounds must be at least 1, got 0"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"processes": 1}, "processes must be at least 2"),
        ({"images": "nowhere"}, "images must be a folder or left out, got nowhere"),
    ],
)
def test_mistakes_are_named(mistake: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpeedConfig(**mistake)


def test_command_line_writes_what_it_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--sections", "[step]", "--backbone", "resnet18", "--image_size", "[64, 64]", "--batch", "2"]
    arguments += ["--rounds", "1", "--warmup", "0", "--variants.broken.noise", "pink", "--output", str(tmp_path)]
    assert benchmark.main(["speed", *arguments]) == 0

    stored = json.loads((tmp_path / "speed.json").read_text(), parse_constant=pytest.fail)  # no NaN
    contenders = {"default", "published", "contrast", *CACHED, BASELINE, RELEASED}
    assert stored["sections"]["step"]["samples"]["step"].keys() == contenders
    assert all(len(seconds) == 1 for seconds in stored["sections"]["step"]["samples"]["step"].values())
    assert "pink" in stored["sections"]["step"]["errors"]["broken"]
    assert stored["machine"]["torch"] == torch.__version__
    assert stored["config"]["seed"] == 0
    markdown = (tmp_path / "speed.md").read_text()
    for part in (stored["command"], "Machine: cpu", "| published |", f"time / {BASELINE}", "- broken: ValueError"):
        assert part in markdown
    assert "| published |" in capsys.readouterr().out
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")


def test_a_section_that_fails_is_recorded(config: Callable[..., SpeedConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: SpeedConfig) -> section.Section:
        msg = "as told"
        raise RuntimeError(msg)

    done = section.Section(tables=[section.Table("Numbers", ["what"], [["this | that"]])])
    monkeypatch.setattr(growth, "measure", fail)
    monkeypatch.setattr(devices, "measure", lambda _: done)
    report = run_speed(config(sections=["growth", "devices"]))
    assert report.failed == {"growth": "RuntimeError: as told"}
    markdown = (report.config.output / "speed.md").read_text()
    assert "FAILED: RuntimeError: as told" in markdown
    assert "| this \\| that |" in markdown
    assert not (report.config.output / "speed.png").exists()


def test_baseline_for_other_backbones_has_the_same_student(config: Callable[..., SpeedConfig]) -> None:
    settings = config(backbone="tf_efficientnet_lite0")
    like = build_form(settings, FORMS["published"])
    name, model, reason = build_baseline(settings, like)
    assert name == TIMM_BASELINE
    assert "not supported" in reason

    def trained(parts_: list[Any]) -> int:
        return sum(parameter.numel() for part in parts_ for parameter in part.parameters())

    assert trained([model.model.bottleneck, model.model.decoder]) == trained(
        [like.model.bottleneck, like.model.student]
    )


def test_a_row_of_the_log_is_timed(config: Callable[..., SpeedConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[dict[str, Any]] = []
    monkeypatch.setattr(parts, "_LOG_EVERY", 2)
    monkeypatch.setattr(ScaleAwareCRD, "log_dict", lambda _, values, **__: rows.append(values))
    assert parts._logging_seconds(config(), time.perf_counter) > 0
    assert len(rows) == 1


def test_parts_hold_the_whole_step(config: Callable[..., SpeedConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "FORMS", {"default": {"contrast_weight": 0.1}})
    monkeypatch.setattr(parts, "_LOG_EVERY", 1)
    monkeypatch.setattr(parts, "measure_rates", lambda *_: Rates(1e11, 1e10))
    result = parts.measure(config())
    assert result.errors == {}
    floor, shares, roofline = result.tables
    assert len(floor.rows) == 1
    assert [row[1] for row in roofline.rows] == ["step", "teacher", "student", "optimiser"]
    inside = result.samples["default, inside"]
    assert {"synthetic anomalies", "teacher", "standardisation", "calibration", "logging", "optimiser"} <= inside.keys()
    assert {"loss, forward", "loss, backward", "bottleneck and student, backward"} <= inside.keys()
    assert all(seconds[0] > 0 for seconds in inside.values())
    assert sum(float(row[3].rstrip("%")) for row in shares.rows) == pytest.approx(100, abs=1)


def test_options_run(config: Callable[..., SpeedConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {name: changes for name, changes in options.OPTIONS.items() if not changes.get("compile")}
    monkeypatch.setattr(options, "OPTIONS", kept)  # the compiler takes minutes
    result = options.measure(config(precision="bf16", channels_last=True))
    assert result.errors == {}
    steps, passes = result.tables
    assert [row[0] for row in steps.rows] == [*kept, options.NOT_FUSED]
    assert steps.rows[0][2] == passes.rows[0][2] == "1.000"
    assert len(passes.rows) == 2


def test_options_differ_in_what_their_names_say(config: Callable[..., SpeedConfig]) -> None:
    plain, unfused = options._step(config()), options._step_not_fused(config())
    assert [step.optimizer.param_groups[0]["fused"] for step in (plain, unfused)] == [True, False]
    for step in (plain, unfused):
        step()
    for fast, slow in zip(plain.module.model.parameters(), unfused.module.model.parameters(), strict=True):
        torch.testing.assert_close(fast, slow)


def test_loader_growth_and_devices_run(
    config: Callable[..., SpeedConfig], in_this_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(
        sections=["loader", "growth", "devices"],
        loader_workers=[0],
        growth_sizes=[64],
        growth_batches=[],
        growth_scales=[9],
    )
    monkeypatch.setattr(loader, "_DRAWN", 3)
    settings.processes = 1  # one process of the same code, here
    monkeypatch.setattr(devices.mp, "spawn", lambda work, args, nprocs: [work(rank, *args) for rank in range(nprocs)])
    report = run_speed(settings)
    assert report.failed == {}
    assert all(result.errors == {} for result in report.sections.values())
    axes = report.sections["growth"].tables
    assert [[row[0] for row in axis.rows] for axis in axes] == [["64 x 64"], [], []]
    assert axes[0].rows[0][-3:] == ["1.00"] * 3  # relative to itself
    assert "no 9 feature maps" in " ".join(report.sections["growth"].notes)
    assert report.sections["devices"].samples["devices"].keys() == {"one process", "1 processes"}
    rows = report.sections["loader"].tables[0].rows
    assert [row[0] for row in rows] == ["the step takes", "the loader gives, 0 workers"]


def test_inference_runs(
    config: Callable[..., SpeedConfig], in_this_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # an export by anomalib takes half a minute and is tested elsewhere
    converted = openvino.convert_model(torch.nn.Conv2d(3, 2, 3), example_input=torch.rand(2, 3, 64, 64))

    def export(model: Any, file: str, folder: Path, *_: Any) -> Path:
        if file == "torch":
            return model.to_torch(folder)
        openvino.save_model(converted, folder / "model.xml")
        return folder / "model.xml"

    monkeypatch.setattr(prediction, "export_model", export)
    settings = config(
        engines=["torch", "onnx", "openvino-f32"],
        inference_models=["default", "baseline"],
        inference_batches=[3],
        variants={"other": {"backbone": "resnet10t"}},
    )
    result = prediction.measure(settings)
    pairs = [[name, engine] for engine in ("torch", "openvino-f32") for name in ("default", "baseline", "other")]
    start, predictions = result.tables
    assert [row[:2] for row in predictions.rows] == pairs
    assert {row[-1] for row in predictions.rows[3:]} == {"1.000"}  # against itself
    assert predictions.rows[1][4] == "1.000"
    assert len(start.rows) == 9
    assert all(cell != "-" for row in start.rows if row[1] != "onnx" for cell in row)
    assert {name for name in result.errors if "onnx" in name} == {"default, onnx", "baseline, onnx", "other, onnx"}


def test_released_openvino_models_leave_a_process_that_takes_signals(tmp_path: Path) -> None:
    converted = openvino.convert_model(torch.nn.Conv2d(3, 2, 3), example_input=torch.rand(2, 3, 16, 16))
    openvino.save_model(converted, tmp_path / "model.xml")
    code = f"""
import os, pathlib, signal, numpy
from anomalib_scrd.benchmark.exported_models import _open_openvino
signal.signal(signal.SIGUSR1, lambda *_: print("taken"))
images = numpy.zeros((1, 3, 16, 16), "float32")
first, second = (_open_openvino("openvino-f32", pathlib.Path({str(tmp_path / "model.xml")!r}), images) for _ in "12")
del first
del second
os.kill(os.getpid(), signal.SIGUSR1)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "taken\n"), done.stderr


def test_isolated_work_brings_back_its_result_and_its_error() -> None:
    assert section.isolated(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        section.isolated(divmod, 7, 0)
