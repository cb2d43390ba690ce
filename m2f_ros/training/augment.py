"""Augmentation of an image and its label image. All randomness comes from the generator that is given."""

from __future__ import annotations

import cv2
import numpy as np

from m2f_ros.training.config import AugmentConfig
from m2f_ros.training.segment_map import train_ids, without_small_things

# How often a crop is drawn before one of nearly one class is taken after all, as upstream has it.
TRIES = 10


def augment(
    image: np.ndarray, label: np.ndarray, config: AugmentConfig, unlabelled: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A crop of image (H, W, 3) uint8 RGB and label (H, W), scaled, flipped and recoloured.

    label: train ids or a map of segments. Returns image (h, w, 3) uint8 and label (h, w) of the label's dtype,
    config.crop being (w, h). Where the crop reaches beyond the image it is mid-grey and unlabelled.
    """
    image, label = crop(image, label, config, unlabelled, rng)
    if config.smallest_thing:
        label = without_small_things(label, config.smallest_thing, unlabelled)
    if rng.random() < config.flip:
        image, label = image[:, ::-1], label[:, ::-1]
    image = recolour(image, config, rng)
    image = degrade(image, config, rng)
    return np.ascontiguousarray(image), np.ascontiguousarray(label)


def crop(
    image: np.ndarray, label: np.ndarray, config: AugmentConfig, unlabelled: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A random window of the image at a random scale; with chance config.rare_class around one class's pixel.

    The class is drawn evenly from those in the image: one of few pixels is seen as often as a large one.
    """
    width, height = config.crop
    scale = _scale(label.shape, config, rng)
    # The window in the source's pixels. Cutting before scaling touches only what is kept.
    window = np.array([max(round(height / scale), 1), max(round(width / scale), 1)])
    size = np.array(label.shape)
    ids = train_ids(label, unlabelled)
    rare = rng.random() < config.rare_class
    for _ in range(TRIES):
        start = _place(ids, window, rare, unlabelled, rng)
        first, last = np.maximum(start, 0), np.minimum(start + window, size)
        rows, columns = slice(first[0], last[0]), slice(first[1], last[1])
        if config.single_category_max_area == 1:
            break
        _, areas = np.unique(ids[rows, columns][ids[rows, columns] != unlabelled], return_counts=True)
        if len(areas) > 1 and areas.max() < config.single_category_max_area * areas.sum():
            break
    image, label = image[rows, columns], label[rows, columns]
    top, left = (int(first[i] - start[i]) for i in (0, 1))
    bottom, right = (int(start[i] + window[i] - last[i]) for i in (0, 1))
    if top or bottom or left or right:
        image = cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(127, 127, 127))
        label = cv2.copyMakeBorder(label, top, bottom, left, right, cv2.BORDER_CONSTANT, value=unlabelled)
    shrink = scale < 1
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_LINEAR)
    return image, cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST)


def _scale(size: tuple[int, int], config: AugmentConfig, rng: np.random.Generator) -> float:
    """Draw the scale of an image of this (height, width)."""
    low, high = config.scale
    if not config.large_scale_jitter:
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))
    width, height = config.crop
    return rng.uniform(low, high) * min(height / size[0], width / size[1])


def _place(ids: np.ndarray, window: np.ndarray, rare: bool, unlabelled: int, rng: np.random.Generator) -> np.ndarray:
    """(row, column) of the window's first pixel in the image, which is outside where the window is larger."""
    size = np.array(ids.shape)
    centre = _pixel_of_some_class(ids, unlabelled, rng) if rare else rng.integers(0, size)
    start = centre - rng.integers(0, window)
    # Keep the window inside the image where it fits, and the image inside the window where it does not.
    slack = size - window
    return np.clip(start, np.minimum(slack, 0), np.maximum(slack, 0))


def _pixel_of_some_class(label: np.ndarray, unlabelled: int, rng: np.random.Generator) -> np.ndarray:
    classes = np.unique(label)
    classes = classes[classes != unlabelled]
    if not len(classes):
        return rng.integers(0, label.shape)
    pixels = np.flatnonzero(label == rng.choice(classes))
    return np.array(np.unravel_index(rng.choice(pixels), label.shape))


def recolour(image: np.ndarray, config: AugmentConfig, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast and gamma, then saturation and hue. (H, W, 3) uint8 RGB in and out."""
    contrast = 1 + rng.uniform(-config.contrast, config.contrast)
    brightness = 1 + rng.uniform(-config.brightness, config.brightness)
    gamma = np.exp(rng.uniform(-config.gamma, config.gamma))
    levels = np.linspace(0, 1, 256) ** gamma
    mean = float(levels[np.clip(round(float(image.mean())), 0, 255)])
    table = ((levels - mean) * contrast + mean) * brightness
    image = cv2.LUT(image, np.clip(table * 255 + 0.5, 0, 255).astype(np.uint8))
    saturation = 1 + rng.uniform(-config.saturation, config.saturation)
    hue = rng.uniform(-config.hue, config.hue) * 256
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    values = np.arange(256)
    tables = np.stack([(values + round(hue)) % 256, np.clip(values * saturation, 0, 255), values], axis=-1)
    return cv2.cvtColor(cv2.LUT(hsv, tables[:, None].astype(np.uint8)), cv2.COLOR_HSV2RGB_FULL)


def degrade(image: np.ndarray, config: AugmentConfig, rng: np.random.Generator) -> np.ndarray:
    """Blur, sensor noise and JPEG artefacts, each with its own chance. (H, W, 3) uint8 in and out."""
    if rng.random() < config.blur:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.5))
    if rng.random() < config.noise:
        noise = rng.normal(0, rng.uniform(2, 10), image.shape).astype(np.float32)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if rng.random() < config.jpeg:
        _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 95))])
        decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert decoded is not None  # encoded above
        image = decoded
    return image
