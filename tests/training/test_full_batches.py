"""Small last batches are filled up with images of the batch before."""

import torch

from anomalib_scrd.training.full_batches import FullBatches


def _batch(first: int, number: int) -> tuple[torch.Tensor, list[str]]:
    names = [f"{index}.png" for index in range(first, first + number)]
    return torch.arange(first, first + number).float().view(-1, 1, 1, 1).expand(-1, 3, 4, 4), names


def test_a_smaller_batch_is_filled_up_from_the_one_before() -> None:
    fill = FullBatches()
    images, names = fill(*_batch(0, 4))
    assert names == ["0.png", "1.png", "2.png", "3.png"]
    images, names = fill(*_batch(4, 1))
    assert images[:, 0, 0, 0].tolist() == [4, 0, 1, 2]
    assert names == ["4.png", "0.png", "1.png", "2.png"]
    images, names = fill(*_batch(5, 4))
    assert images[:, 0, 0, 0].tolist() == [5, 6, 7, 8]


def test_other_batches_are_not_filled_up() -> None:
    fill = FullBatches()
    for number in (2, 3):  # nothing before, and a larger one
        assert len(fill(*_batch(0, number))[0]) == number
    other = torch.zeros(1, 3, 4, 8)
    assert fill(other, ["a"])[0] is other


def test_batches_without_names() -> None:
    fill = FullBatches()
    fill(_batch(0, 3)[0], None)
    images, names = fill(*_batch(3, 1))
    assert len(images) == 3
    assert names is None
