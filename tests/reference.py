"""Slow, obvious NumPy versions of the equations: the oracles of the tests."""

import math

import numpy as np


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine of two vectors of any shape, by loops."""
    dot = squares_a = squares_b = 0.0
    for x, y in zip(a.ravel().tolist(), b.ravel().tolist(), strict=True):
        dot += x * y
        squares_a += x * x
        squares_b += y * y
    return dot / math.sqrt(squares_a * squares_b)


def ratio(clean: list, noisy: list, student: list, weights: np.ndarray | None = None) -> float:
    """Pull over push as the paper writes them."""
    pull = push = 0.0
    batch = len(student[0])
    for k in range(len(student)):
        for b in range(batch):
            w = 1.0 if weights is None else float(weights[b, k])
            pull += w * (1 - cosine(clean[k][b], student[k][b])) / batch
            push += w * (1 - cosine(noisy[k][b], student[k][b])) / batch
    return pull / push


def position_map(teacher: np.ndarray, student: np.ndarray) -> np.ndarray:
    """One minus the cosine over channels at each position of (B, C, H, W)."""
    batch, _, height, width = teacher.shape
    result = np.zeros((batch, height, width))
    for b in range(batch):
        for i in range(height):
            for j in range(width):
                result[b, i, j] = 1 - cosine(teacher[b, :, i, j], student[b, :, i, j])
    return result


def bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear resize of (h, w) with pixel centres at half integers and the border repeated."""
    rows, columns = image.shape
    result = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            y = min(max((i + 0.5) * rows / height - 0.5, 0), rows - 1)
            x = min(max((j + 0.5) * columns / width - 0.5, 0), columns - 1)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
            v, u = y - top, x - left
            result[i, j] = (1 - v) * ((1 - u) * image[top, left] + u * image[top, right]) + v * (
                (1 - u) * image[bottom, left] + u * image[bottom, right]
            )
    return result


def smooth(image: np.ndarray, sigma: float, mode: str = "reflect") -> np.ndarray:
    """Gaussian smoothing of (H, W), by default reflected at the border without repeating it, cut at four sigma."""
    radius = int(4 * sigma + 0.5)
    taps = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(-radius, radius + 1)]
    padded = np.pad(image, radius, mode=mode)  # type: ignore[call-overload]
    result = np.zeros_like(image, dtype=float)
    for i in range(image.shape[0]):
        for j in range(image.shape[1]):
            total = 0.0
            for p, a in enumerate(taps):
                for q, b in enumerate(taps):
                    total += a * b * padded[i + p, j + q]
            result[i, j] = total / sum(taps) ** 2
    return result


def covariance_of(rows: np.ndarray) -> np.ndarray:
    covariance = np.zeros((rows.shape[1], rows.shape[1]))
    for row in rows:
        covariance += np.outer(row - rows.mean(0), row - rows.mean(0)) / (len(rows) - 1)
    return covariance


def discriminant(
    normals: np.ndarray,
    anomalous: np.ndarray,
    trained: np.ndarray | None = None,
    changed: np.ndarray | None = None,
) -> tuple[np.ndarray, float]:
    """Fisher's discriminant with a shrunk covariance, by loops."""
    number, features = normals.shape
    mean = normals.sum(0) / number
    spread = np.sqrt(((normals - mean) ** 2).sum(0) / number)
    z, a = (np.clip((part - mean) / spread, -8, 8) for part in (normals, anomalous))
    centre, difference = z.mean(0), a.mean(0) - z.mean(0)
    covariance = covariance_of(z)
    if trained is not None:
        covariance = (covariance + covariance_of(np.clip((trained - trained.mean(0)) / spread, -8, 8))) / 2
    typical = sum(covariance[f, f] for f in range(features)) / features
    shrunk = 0.3 * covariance + 0.7 * typical * np.eye(features)
    if changed is None:
        weight = np.linalg.inv(shrunk) @ difference
        return weight, float(-(weight * (centre + difference / 2)).sum())
    kinds, images = changed.shape[:2]
    moves = np.zeros_like(changed)
    scatter = np.zeros_like(shrunk)
    for kind in range(kinds):
        for image in range(images):
            moves[kind, image] = np.clip((changed[kind, image] - mean) / spread, -8, 8) - z[image]
            scatter += np.outer(moves[kind, image], moves[kind, image]) / (kinds * images)
    for share in (0, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1):
        weight = np.linalg.inv(shrunk + share * scatter) @ difference
        rises = [sum(weight @ moves[kind, image] for image in range(images)) / images for kind in range(kinds)]
        if max(rises) <= 0.5 * np.sqrt(max(weight @ covariance @ weight, weight @ shrunk @ weight)):
            break
    return weight, float(-(weight * (centre + difference / 2)).sum())
