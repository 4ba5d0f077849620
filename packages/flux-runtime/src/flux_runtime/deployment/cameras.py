"""Whether the cameras show what they showed in training."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from flux_core.pictures import LUMINANCE, colour_shares, red_against_blue, shrink, thumbnail

from .facts import CameraFacts
from .finding import Finding, fine, hard, soft, unknown
from .observed import LOOKS_HZ, CameraLook, Observed

Small = NDArray[np.float32]
"""A thumbnail, (height, width, 3), 0 to 255."""

DARK = 16.0
"""Of 255: an image without a brighter pixel, apart from a hundredth of them, is black."""
LEAST_CONTRAST = 5.0
"""The contrast of recordings in which a black image is not usual."""
SIZE_TOLERANCE = 0.02
"""The relative difference of two aspect ratios that counts as none."""
MOST_CAMERAS = 6
"""Of so many, all exchanges are compared; of more, exchanges of two."""
SWAP_MARGINS = (0.12, 0.07)
"""Mean gain in likeness per exchanged camera that refuses, and that warns."""
LEAST_GAIN = 0.04
"""Of each exchanged camera."""
LEAST_LIKENESS = 0.3
"""Of what an exchange or a turn explains: other explanations are no better."""
TURN_MARGINS = (0.25, 0.12)
"""Gain in likeness of a turned image that refuses, and that warns."""
UNLIKE = 0.3
"""How much less alike than the most unusual recorded start an image may be."""
ALIKE = 0.15
"""An image that is so much like the recorded starts is not suspected."""
CHANNELS = -0.25
"""The likeness in colour below which red and blue are exchanged."""
COLOURFUL = 0.04
"""The standard deviation of `red_against_blue` of a picture that has colours."""
LEAST_SHARE = 0.001
"""The share of coloured pixels, about one of a thumbnail, from which a colour counts."""
ONE_SIDED = 5.0
"""How many times as common as the other one a colour must be, in training and now."""
MOST_OFTEN = 10.0
"""How many times as common as in training a colour may be: another light may colour a picture."""
ALMOST = 1.0
"""Of 255: differences between the channels of a grey image."""
LIVE = 0.5
"""The share of recorded episodes whose first images differ, of a camera with noise."""
FEWEST_IMAGES = 6
"""Equal images in a row that a camera with noise does not deliver."""
SLOW = 0.55
"""The share of the recorded rate below which a camera counts as slow: 30 Hz at 50 are usual."""

TURNS: Mapping[str, Callable[[Small], Small]] = {
    "upside down": lambda image: image[::-1, ::-1],
    "mirrored": lambda image: image[:, ::-1],
    "mirrored from top to bottom": lambda image: image[::-1],
    "turned by 90 degrees": lambda image: np.rot90(image),
    "turned by 90 degrees clockwise": lambda image: np.rot90(image, -1),
}


def judge_cameras(facts: Mapping[str, CameraFacts], observed: Observed) -> Iterator[Finding]:
    """Yields the findings about all cameras; a camera that shows nothing is not compared."""
    seen = observed.cameras
    missing = [name for name in facts if name not in seen]
    if missing:
        yield hard(
            "camera_missing",
            f"{', '.join(missing)}: no image, the training has {len(facts)} cameras "
            f"({', '.join(facts)}) and the robot shows {len(seen)}",
            "Connect the camera, or export the bundle again with --cameras",
        )
    small = {name: thumbnail(look.image) for name, look in seen.items()}
    blank = yield from _blank(facts, small)
    yield from _frozen(facts, observed)
    yield from _sizes(facts, seen)
    live = {name: image for name, image in small.items() if name not in blank}
    swapped = yield from _swapped(facts, live)
    for name, image in live.items():
        if name not in swapped:
            yield from _view(name, facts.get(name, CameraFacts()), image)
    for name, image in live.items():
        if name not in swapped:
            yield _colour(name, facts.get(name, CameraFacts()), image)


def _blank(
    facts: Mapping[str, CameraFacts], seen: Mapping[str, Small]
) -> Generator[Finding, None, list[str]]:
    """Yields which cameras are black, and returns them."""
    found: list[str] = []
    for name, image in seen.items():
        brightest = float(np.quantile(image @ LUMINANCE, 0.99))
        if brightest >= DARK:
            continue
        known = facts.get(name, CameraFacts())
        recorded = float(np.mean(known.mean)) if known.mean else None
        if recorded is not None and known.contrast is not None:
            if known.contrast < LEAST_CONTRAST and recorded < DARK:
                continue  # it was black in training, too
            found.append(name)
            text = f"{name}: brightest {brightest:.0f} of 255, recorded mean {recorded:.0f}"
            yield hard("camera_black", text, "Take off the lens cap, or check light and exposure")
            continue
        found.append(name)
        text = f"{name}: brightest {brightest:.0f} of 255"
        yield soft("camera_black", text, "Take off the lens cap, or check light and exposure")
    if seen and not found:
        yield fine("camera_black", "no camera is black")
    return found


def _frozen(facts: Mapping[str, CameraFacts], observed: Observed) -> Iterator[Finding]:
    """Yields which cameras deliver the same image again and again."""
    found: list[str] = []
    if observed.duration_s <= 0 or observed.is_simulated:
        why = "a simulated scene stands still" if observed.is_simulated else "needs a longer look"
        yield unknown("camera_frozen", why)
        return
    for name, look in observed.cameras.items():
        known = facts.get(name, CameraFacts())
        fix = "Connect the camera again, or start its driver again"
        if look.num_images < 2:
            found.append(name)
            text = f"{name}: {look.num_images} image in {observed.duration_s:g} s"
            yield hard("camera_frozen", text, fix)
        elif look.num_images >= FEWEST_IMAGES and not look.num_different:
            found.append(name)
            text = f"{name}: {look.num_images} images in {observed.duration_s:g} s are all the same"
            if known.changing is None:
                yield soft("camera_frozen", text, fix)
            elif known.changing >= LIVE:
                share = (
                    f"recorded images change at the start of {known.changing:.0%} of the episodes"
                )
                yield hard("camera_frozen", f"{text}; {share}", fix)
    if not found:
        yield fine("camera_frozen", "every camera delivers new images")


def _sizes(facts: Mapping[str, CameraFacts], seen: Mapping[str, CameraLook]) -> Iterator[Finding]:
    """Yields which images have another shape than the recorded ones."""
    is_compared = False
    for name, look in seen.items():
        recorded = facts[name].size if name in facts else None
        if recorded is None:
            continue
        is_compared = True
        height, width = look.image.shape[:2]
        if (height, width) == recorded:
            continue
        text = f"{name}: {width} x {height} pixels, recorded {recorded[1]} x {recorded[0]}"
        ratio = (width / height) / (recorded[1] / recorded[0])
        fix = "Set the camera's resolution to that of the recordings"
        if abs(ratio - 1) > SIZE_TOLERANCE:
            yield hard(
                "camera_size", f"{text}: another shape, so the network sees it distorted", fix
            )
        elif height < recorded[0] / 2:
            yield soft("camera_size", f"{text}: less than half as sharp", fix)
    if not is_compared:
        yield unknown("camera_size")


def _swapped(
    facts: Mapping[str, CameraFacts], seen: Mapping[str, Small]
) -> Generator[Finding, None, list[str]]:
    """Yields whether cameras show each other's scenes, and returns those that do."""
    names = [name for name in seen if name in facts and facts[name].start is not None]
    if len(names) < 2:
        only_one = len(facts) == 1 or len(seen) < 2
        yield unknown("cameras_swapped", "one camera" if only_one else "not in this bundle")
        return []
    table = likenesses(facts, seen, names)
    order = _best_order(table)
    places = [place for place, other in enumerate(order) if place != other]
    if not places:
        yield fine("cameras_swapped", f"{len(names)} cameras are most like themselves")
        return []
    gains = [table[place, order[place]] - table[place, place] for place in places]
    mean = float(np.mean(gains))
    likeness = float(np.mean([table[place, order[place]] for place in places]))
    is_sure = min(gains) >= LEAST_GAIN and likeness >= LEAST_LIKENESS
    if not is_sure or mean < SWAP_MARGINS[1]:
        yield fine("cameras_swapped", f"{len(names)} cameras, none clearly like another one")
        return []
    shown = ", ".join(
        f"{names[place]} is {table[place, order[place]]:.2f} like {names[order[place]]} and "
        f"{table[place, place]:.2f} like itself"
        for place in places
    )
    give = hard if mean >= SWAP_MARGINS[0] else soft
    yield give("cameras_swapped", shown, "Exchange the cameras' topics, addresses or cables")
    return [names[place] for place in places] if give is hard else []


def likenesses(
    facts: Mapping[str, CameraFacts], seen: Mapping[str, Small], names: Sequence[str]
) -> NDArray[np.float64]:
    """Returns how much each camera's image (rows) is like each one's recorded starts (columns)."""
    table = np.zeros((len(names), len(names)))
    for row, name in enumerate(names):
        for column, other in enumerate(names):
            start = facts[other].start
            assert start is not None
            table[row, column] = start.likeness(seen[name]).shape
    return table


def _best_order(table: NDArray[np.float64]) -> tuple[int, ...]:
    """Returns the exchange with the largest total likeness; the identity if nothing is better."""
    count = len(table)
    identity = tuple(range(count))
    orders: Iterator[tuple[int, ...]] = itertools.permutations(identity)
    if count > MOST_CAMERAS:
        orders = itertools.chain([identity], _exchanges_of_two(count))
    return max(orders, key=lambda order: sum(table[place, order[place]] for place in identity))


def _exchanges_of_two(count: int) -> Iterator[tuple[int, ...]]:
    for first, second in itertools.combinations(range(count), 2):
        order = list(range(count))
        order[first], order[second] = second, first
        yield tuple(order)


def _view(name: str, known: CameraFacts, image: Small) -> Iterator[Finding]:
    """Yields whether an image is turned, or shows something else than the recorded starts."""
    if known.start is None:
        yield unknown("camera_view")
        return
    own = known.start.likeness(image).shape
    turned = {words: known.start.likeness(turn(image)).shape for words, turn in TURNS.items()}
    words = max(turned, key=lambda each: turned[each])
    gain = turned[words] - own
    if gain >= TURN_MARGINS[1] and turned[words] >= LEAST_LIKENESS:
        give = hard if gain >= TURN_MARGINS[0] else soft
        text = (
            f"{name}: {turned[words]:.2f} like the recorded starts if {words}, {own:.2f} as it is"
        )
        yield give("camera_view", text, "Turn the camera or its image as in the recordings")
        return
    if known.likeness is not None and own < min(known.likeness - UNLIKE, ALIKE):
        yield soft(
            "camera_view",
            f"{name}: {own:.2f} like the recorded starts, whose most unusual one is "
            f"{known.likeness:.2f} like the others",
            "Check where the camera looks, and that nothing is in its way",
        )
        return
    yield fine("camera_view", f"{name}: {own:.2f} like the recorded starts")


def _colour(name: str, known: CameraFacts, image: Small) -> Finding:
    """Returns whether red and blue are exchanged, or colours are missing."""
    is_grey = bool(np.ptp(image, axis=2).max() < ALMOST)
    if known.start is not None and known.start.colourfulness >= COLOURFUL:
        if is_grey:
            text = f"{name}: every pixel is grey, the recorded starts have colours"
            return hard("camera_colour", text, "Set the camera or its driver to colour (rgb8)")
        size = known.start.spread.shape
        colourful = float(red_against_blue(shrink(image, *size)).std())
        likeness = known.start.likeness(image).colour
        if colourful >= COLOURFUL / 2 and likeness <= CHANNELS:
            return exchanged(name, f"the colours are {likeness:.2f} like the recorded starts")
        if colourful >= COLOURFUL / 2 and likeness >= -CHANNELS:
            return fine("camera_colour", f"{name}: {likeness:.2f} like the recorded starts")
    shares = colour_shares(image)
    if known.coloured is not None and (found := opposite(shares, known.coloured)):
        return exchanged(name, found)
    if known.coloured is None and known.start is None:
        return unknown("camera_colour")
    return unknown(
        "camera_colour",
        f"{name}: too little colour to tell red from blue; watched during the first episode",
    )


def opposite(shares: tuple[float, float], recorded: tuple[float, float]) -> str | None:
    """Returns in words that red and blue pixels are as common as blue and red ones in training.

    Only if one of the two is much more common: otherwise neither says anything.

    Args:
        shares: of red and of blue pixels.
        recorded: the same in training.
    """
    is_one_sided = is_mostly_one(shares) and is_mostly_one(recorded)
    ratio = max(shares) / max(*recorded, LEAST_SHARE)
    if (
        not is_one_sided
        or ratio > MOST_OFTEN
        or (shares[0] > shares[1]) == (recorded[0] > recorded[1])
    ):
        return None
    return (
        f"{shares[0]:.1%} red and {shares[1]:.1%} blue pixels, recorded {recorded[0]:.1%} and "
        f"{recorded[1]:.1%}"
    )


def is_mostly_one(shares: tuple[float, float]) -> bool:
    """Whether one of two colours is much more common than the other one."""
    return max(shares) >= max(LEAST_SHARE, ONE_SIDED * min(shares))


def exchanged(name: str, found: str) -> Finding:
    """Returns that a camera's red and blue seem to be exchanged."""
    return hard(
        "camera_colour",
        f"{name}: {found}: red and blue seem to be exchanged",
        "Check the order of the channels (bgr8 for rgb8) in the camera's driver",
    )


def judge_rates(
    facts: Mapping[str, CameraFacts], fps: float, observed: Observed
) -> Iterator[Finding]:
    """Yields which cameras are much slower than in the recordings, of `fps` frames per second."""
    rates = {name: look.hz for name, look in observed.cameras.items() if look.hz is not None}
    slow = False
    for name, hz in rates.items():
        recorded = _recorded_hz(facts.get(name, CameraFacts()), fps)
        if hz >= SLOW * recorded:
            continue
        slow = True
        yield soft(
            "camera_rate",
            f"{name}: {hz:.1f} images per second, recorded {recorded:g}",
            "Check the camera's rate, its exposure time and its cable",
        )
    if rates and not slow:
        shown = ", ".join(f"{hz:.0f}" for hz in rates.values())
        yield fine("camera_rate", f"{shown} images per second")


def _recorded_hz(known: CameraFacts, fps: float) -> float:
    """Returns the rate of a camera's recorded images, which the recordings may repeat."""
    if known.image_hz is not None and known.changing is not None and known.changing >= LIVE:
        return min(known.image_hz, fps, LOOKS_HZ / 2)
    return min(fps, LOOKS_HZ / 2)
