"""Counts in a training step: passes, waits for the device, compilations, and steps of several processes."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from anomalib.data import ImageBatch
from lightning.pytorch import Callback, Trainer
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from anomalib_scrd import ScaleAwareCRD
from anomalib_scrd.noise import patches, step_generator
from anomalib_scrd.scoring import smoothing
from tests.models import build_engine, build_model, merged

BATCH = 2
FORMS: dict[str, dict[str, Any]] = {
    "default": {},
    "published": {"preset": "published"},
    "plain": {"loss": {"restore": 0.0, "contrast": 0.0}},
    "ratio": {"loss": {"restore": 0.0, "contrast": 0.0, "ratio": 0.1}, "noise": {"share": 0.0625}},
}
aten = torch.ops.aten


def ready(rank: int = 0, **arguments: Any) -> ScaleAwareCRD:
    """A model in training mode that steps without a trainer."""
    model = build_model(**({"seed": 3} | arguments))
    model.log = model.log_dict = lambda *_args, **_kwargs: None
    model._trainer = SimpleNamespace(global_rank=rank, global_step=0, log_every_n_steps=2, should_stop=False)
    model.on_fit_start()
    return model.train()


def images(batch: int = BATCH) -> torch.Tensor:
    return torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("arguments", "teacher", "student"),
    # images in the one joint pass of the teacher over clean and noisy ones, which the student sees to restore them only
    [
        (FORMS["default"], 11, 11),
        (FORMS["published"], 16, 8),
        (FORMS["plain"], 8, 8),
        (FORMS["ratio"], 9, 8),
    ],
    ids=list(FORMS),
)
def test_passes_of_a_step(arguments: dict[str, Any], teacher: int, student: int) -> None:
    model = ready(**merged(arguments, {"student": {"depth": 1}}))
    seen: dict[str, list[int]] = {"teacher": [], "bottleneck": [], "student": []}
    for name, sizes in seen.items():
        part = model.model.get_submodule(name)
        part.register_forward_pre_hook(lambda _m, args, sizes=sizes: sizes.append(len(tree_leaves(args)[0])))
    for _ in range(2):
        model.training_step(ImageBatch(image=images(8)))
    assert seen["teacher"] == [teacher] * 2
    assert seen["bottleneck"] == seen["student"] == [student] * 2


def test_the_channels_are_measured_in_the_first_batches_only() -> None:
    """Later updates would change nothing, and cost two passes over the features."""
    model = ready()
    standardise, batch = model.model.standardise, ImageBatch(image=images())
    calls: list[int] = []
    update = standardise.update
    standardise.update = lambda features: (calls.append(model._batches_seen), update(features))
    for _ in range(standardise.batches + 2):
        model.training_step(batch)
    assert calls == list(range(standardise.batches))
    before = {name: value.clone() for name, value in standardise.state_dict().items() if name != "seen"}
    update([feature + 1 for feature in model.model.teacher(images())])
    assert all(torch.equal(standardise.state_dict()[name], value) for name, value in before.items())


class NoWaiting(TorchDispatchMode):
    """Refuses what makes the host wait for a GPU: values, or shapes that depend on values, that travel to it."""

    REFUSED = frozenset(
        {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten._unique2, aten.repeat_interleave}
    )
    INDEXING = frozenset({aten.index, aten.index_put, aten.index_put_})

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        masks = func.overloadpacket in self.INDEXING and any(
            isinstance(leaf, torch.Tensor) and leaf.dtype == torch.bool for leaf in tree_leaves(args[1])
        )
        if masks or func.overloadpacket in self.REFUSED:
            pytest.fail(f"{func} makes the host wait")
        return func(*args, **(kwargs or {}))


@contextmanager
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """NoWaiting, and what reads a CPU tensor past the dispatcher; the noise takes the way that it takes on a GPU."""

    def refuse(*_: object) -> None:
        pytest.fail("a tensor was read by the host")

    with monkeypatch.context() as patch, NoWaiting():
        patch.setattr(patches, "_count_is_known", lambda _: False)
        for name in ("item", "tolist", "numpy", "cpu"):
            patch.setattr(torch.Tensor, name, refuse)
        yield


@pytest.mark.parametrize(
    "arguments",
    [
        *FORMS.values(),
        {"noise": {"kind": "simplex", "strength": [0.1, 0.4], "share": 1.0}},
        {"noise": {"share": 1.0}},
    ],
    ids=[*FORMS, "simplex", "mixed, all"],
)
def test_a_step_never_makes_the_host_wait(arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = ready(**merged(arguments, {"student": {"depth": 1}}))
    batch = ImageBatch(image=images())
    with no_waiting(monkeypatch):
        loss = model.training_step(batch)
        loss.backward()
        model._trainer.global_step = 1
        model.on_train_batch_end({"loss": loss}, batch, 0)


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: float(x.sum()),
        lambda x: 1 if x.sum() > 0 else 2,
        lambda x: x[x > 0],
        torch.nonzero,
        lambda x: torch.where(x > 0),
        lambda x: torch.equal(x, x),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
    ],
)
def test_waiting_is_noticed(wait: Callable[[torch.Tensor], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = torch.rand(3)
    with pytest.raises(pytest.fail.Exception), no_waiting(monkeypatch):
        wait(numbers)


class Watch(Callback):
    """Refuses waiting in Lightning's whole loop, from the second batch of the third epoch to the end of its last one.

    Tensors that are made of Python's numbers are counted: each is a copy to the device.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        self.watching = ExitStack()
        self.steps = self.made = 0

    def on_train_batch_start(self, trainer: Trainer, _module: object, _batch: object, index: int) -> None:
        if (trainer.current_epoch, index) == (2, 1):
            patch = self.watching.enter_context(self.monkeypatch.context())
            for name in ("tensor", "as_tensor", "from_numpy"):
                patch.setattr(torch, name, partial(self.count, getattr(torch, name)))
            self.watching.enter_context(no_waiting(self.monkeypatch))

    def count(self, make: Callable[..., torch.Tensor], data: Any, **arguments: Any) -> torch.Tensor:
        self.made += not isinstance(data, torch.Tensor)
        return make(data, **arguments)

    def on_train_batch_end(
        self, trainer: Trainer, _module: object, _outputs: object, _batch: object, index: int
    ) -> None:
        if trainer.current_epoch == 2 and index:
            self.steps += 1
        if self.steps == 2:
            self.watching.close()

    def on_exception(self, *_: object) -> None:
        self.watching.close()


@pytest.mark.parametrize(("arguments", "copies"), [({}, 1), ({"feature_cache": 1.0}, 3)])
def test_the_loop_around_a_step_never_makes_the_host_wait(
    arguments: dict[str, Any], copies: int, tiny_data: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loader, the pre-processor, the hooks, the optimiser and the progress bar's numbers included.

    What goes to the device are numbers of rows: of the one batch that is loaded in this time, and of both in the cache.
    """
    watch = Watch(monkeypatch)
    model = build_model(seed=3, scoring={"held_out": 0.0}, layers=["layer1", "layer2"], **arguments)
    build_engine(tmp_path, max_epochs=3, limit_val_batches=0, logger=False, callbacks=[watch]).fit(
        model, datamodule=tiny_data()
    )
    assert (watch.steps, watch.made) == (2, copies)


@pytest.fixture
def compilations() -> Iterator[Any]:
    from torch._dynamo.testing import CompileCounter  # takes its time

    torch._dynamo.reset()
    yield CompileCounter()
    torch._dynamo.reset()


def test_nothing_is_compiled_after_the_first_step(compilations: Any) -> None:
    model = ready(layers=["layer1", "layer2"])
    model.model.compile(backend=compilations)
    optimizer = torch.optim.SGD(model.model.trainable_parameters(), lr=1e-3)
    counts = []
    for _ in range(3):
        loss = model.training_step(ImageBatch(image=images()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        counts.append(compilations.frame_count)
    assert counts[0] > 0
    assert len(set(counts)) == 1


@pytest.mark.parametrize("form", ["default", "published"])
def test_the_model_is_one_graph(form: str, compilations: Any) -> None:
    model = ready(**merged(FORMS[form], {"student": {"depth": 1}, "layers": ["layer1", "layer2"]}))
    model.model.compile(backend=compilations, fullgraph=True)
    noisy = images() if model.loss.needs_noisy else None
    for _ in range(2):
        model.model(images(), noisy, restore=model.loss.needs_restored)
    assert compilations.frame_count == 1


def test_kernels_and_buffers_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ready()
    before = {name: buffer.data_ptr() for name, buffer in model.named_buffers()}
    model.training_step(ImageBatch(image=images())).backward()
    model.eval().model(images())
    model.train()

    def refuse(_: float) -> torch.Tensor:
        pytest.fail("the kernel was built again")

    monkeypatch.setattr(smoothing, "gaussian_kernel", refuse)
    model.training_step(ImageBatch(image=images())).backward()
    model.eval()
    for _ in range(2):
        model.model(images())
    assert {name: buffer.data_ptr() for name, buffer in model.named_buffers()} == before


# --- Two processes ------------------------------------------------------------------------------------------------
#
# DistributedDataParallel averages the gradients of the processes: that is the gradient of the joint batch where the
# loss is a mean over images. Three parts of this model are not such means:
# - batch norm takes the statistics of its own process's images; Lightning's `sync_batchnorm` joins them, on GPUs only;
# - the channels' standardisation of the first 32 batches does the same;
# - the published ratio divides means over a batch, and a mean of ratios is not a ratio of means.
# So the terms that are means are compared, with batch norm in evaluation mode and without standardised features.

MEANS = {
    "pull only": {"loss": {"restore": 0.0, "contrast": 0.0}, "student": {"feature_scaling": "none"}},
    "all three": {"student": {"feature_scaling": "none"}, "noise": {"share": 1.0}},
}
PROCESSES = 2


class Step(nn.Module):
    """The training step as the forward pass that DistributedDataParallel wraps."""

    def __init__(self, model: ScaleAwareCRD) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.model.training_step(ImageBatch(image=batch))


def fixed_statistics(model: ScaleAwareCRD) -> ScaleAwareCRD:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model


def gradients(model: ScaleAwareCRD) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def step_of_a_process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", f"file://{folder}/meeting", rank=rank, world_size=PROCESSES, timeout=timedelta(minutes=3)
    )
    found = {}
    for name, arguments in MEANS.items():
        model = fixed_statistics(ready(rank, **arguments))
        seen: list[tuple[torch.Tensor, torch.Tensor]] = []
        anomalies = model.synthetic_anomalies

        def kept(*args: Any, anomalies: Any = anomalies, seen: list = seen, **kwargs: Any) -> Any:
            seen.append(anomalies(*args, **kwargs))
            return seen[-1]

        model.synthetic_anomalies = kept
        step = DistributedDataParallel(Step(model))  # must outlive the backward pass
        step(images(2 * BATCH).chunk(PROCESSES)[rank]).backward()
        found[name] = (gradients(model), *(seen[0] if seen else (None, None)))
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("processes")
    # one import of anomalib for both
    get_context("forkserver").set_forkserver_preload(["anomalib_scrd.lightning_model"])
    torch.multiprocessing.start_processes(
        step_of_a_process, (str(folder),), nprocs=PROCESSES, start_method="forkserver"
    )
    return [torch.load(folder / f"{rank}.pt") for rank in range(PROCESSES)]


@pytest.mark.parametrize("form", MEANS)
def test_two_processes_have_the_gradient_of_the_joint_batch(form: str, two_processes: list[dict[str, Any]]) -> None:
    model = fixed_statistics(ready(**MEANS[form]))
    if two_processes[0][form][1] is not None:
        noisy, mask = (torch.cat([process[form][part] for process in two_processes]) for part in (1, 2))
        model.synthetic_anomalies = lambda *_args, **_kwargs: (noisy, mask)
    model.training_step(ImageBatch(image=images(2 * BATCH))).backward()
    joint = gradients(model)
    for process in two_processes:
        assert process[form][0].keys() == joint.keys()
        for name, gradient in joint.items():
            scale = gradient.abs().max().item()
            torch.testing.assert_close(process[form][0][name], gradient, rtol=1e-3, atol=1e-4 * scale, msg=name)


def test_each_process_draws_noise_of_its_own(two_processes: list[dict[str, Any]]) -> None:
    model = ready()
    halves = images(2 * BATCH).chunk(PROCESSES)
    for rank, process in enumerate(two_processes):
        assert process["pull only"][1] is None
        generator = step_generator(3, 0, rank=rank)
        expected, _ = model.synthetic_anomalies(
            halves[rank], generator=generator, normalisation=model._normalisation, turn=0
        )
        torch.testing.assert_close(process["all three"][1], expected)
    patches = [process["all three"][1] - half for process, half in zip(two_processes, halves, strict=True)]
    assert not torch.equal(patches[0] != 0, patches[1] != 0)
