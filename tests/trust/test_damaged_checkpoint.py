"""Errors of the system that are those of a file's content, and those that are not."""

import errno

import pytest

from anomalib_scrd.training.checkpoint_damage import explained_damage


def test_an_archive_that_points_before_its_begin() -> None:
    """Found by `python -m tests.trust.fuzz --of checkpoints --seed 1`: torch's reader seeks there."""
    with pytest.raises(ValueError, match=r"checkpoint 'model.ckpt' is damaged"), explained_damage("model.ckpt"):
        raise OSError(errno.EINVAL, "Invalid argument")


@pytest.mark.parametrize(
    "error", [FileNotFoundError(errno.ENOENT, "No such file", "model.ckpt"), OSError("no connection to the hub")]
)
def test_other_errors_pass(error: OSError) -> None:
    with pytest.raises(type(error)) as caught, explained_damage("model.ckpt"):
        raise error
    assert caught.value is error
