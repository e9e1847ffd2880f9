"""Distorted copies are pictures of the same digits, and the same every time."""

import numpy as np
import torch

from evaluators.workloads.augment import CROP_PX, augmented_copies, shifted_copies


def picture() -> torch.Tensor:
    image = torch.zeros(1, 28, 28, dtype=torch.uint8)
    image[0, 8:20, 10:18] = 255
    return image.repeat(3, 1, 1)


def test_the_first_set_is_as_it_is_and_the_others_are_not() -> None:
    copies = augmented_copies(picture(), 3, seed=0)
    assert (copies.shape, copies.dtype) == ((9, 28, 28), torch.uint8)
    assert torch.equal(copies[:3], picture())
    assert len({tuple(x.flatten().tolist()) for x in copies[3:]}) == 6


def test_a_seed_gives_the_same_copies() -> None:
    assert torch.equal(augmented_copies(picture(), 2, 1), augmented_copies(picture(), 2, 1))
    assert not torch.equal(augmented_copies(picture(), 2, 1), augmented_copies(picture(), 2, 2))


def test_strength_scales_the_distortion() -> None:
    original = picture()

    def moved(strength: float) -> float:
        copy = augmented_copies(original, 2, 0, strength)[len(original) :]
        return float((copy.float() - original.float()).abs().mean())

    assert 0 < moved(0.25) < moved(0.5) < moved(1.0)
    assert moved(0.0) < 0.5  # interpolation on the grid itself rounds a little


def test_a_distorted_picture_stays_about_where_and_what_it_was() -> None:
    original = picture()[:1].repeat(50, 1, 1)
    distorted = augmented_copies(original, 2, seed=0)[50:].float() / 255
    mass = distorted.sum(dim=(1, 2)) / (original[0].float().sum() / 255)
    assert float(mass.min()) > 0.5
    assert float(mass.max()) < 2.0
    at = torch.arange(28.0)
    row = (distorted.sum(dim=2) * at).sum(dim=1) / distorted.sum(dim=(1, 2))
    assert float((row - 13.5).abs().max()) < 4.5


def test_shifted_copies_are_the_pictures_moved_and_mirrored() -> None:
    images = torch.randint(1, 256, (40, 3, 9, 7), dtype=torch.uint8)
    copies = shifted_copies(images, 3, seed=0)
    assert (copies.shape, copies.dtype) == ((120, 3, 9, 7), torch.uint8)
    assert torch.equal(copies[:40], images)
    assert torch.equal(copies, shifted_copies(images, 3, seed=0))
    seen = set()
    for number, copy in enumerate(copies[40:].numpy()):
        image = images[number % 40].numpy()
        wide = np.pad(image, ((0, 0), (CROP_PX, CROP_PX), (CROP_PX, CROP_PX)))
        found = [
            (down, right, mirrored)
            for down in range(2 * CROP_PX + 1)
            for right in range(2 * CROP_PX + 1)
            for mirrored in (False, True)
            if np.array_equal(
                copy[:, :, ::-1] if mirrored else copy,
                wide[:, down : down + 9, right : right + 7],
            )
        ]
        assert len(found) >= 1
        seen.add(found[0])
    assert len(seen) > 40
    assert {mirrored for _, _, mirrored in seen} == {False, True}
