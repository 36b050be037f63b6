"""``compose/*``: do images show the objects, counts, colours and positions of captions?"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float32, UInt8
from ml_collections import ConfigDict
from PIL import Image

from xmc_jax.data.overlap import evaluation_data
from xmc_jax.evaluation.families import shapes
from xmc_jax.evaluation.families.soa import NO_DETECTOR, THRESHOLD, make_detector
from xmc_jax.evaluation.features import InputFeatures, on_pixels
from xmc_jax.evaluation.image_sets import ImageSet, fingerprint
from xmc_jax.evaluation.inputs import EvalInputs, Measure, Prompts, interval_fields, split_name
from xmc_jax.frozen.clip import Clip, load_clip
from xmc_jax.metrics import compose as metric
from xmc_jax.metrics.compose import Claim, Detection
from xmc_jax.metrics.compose_parser import parse_claims
from xmc_jax.run.records import MetricRecord
from xmc_jax.shapes.accuracy import shuffle_captions
from xmc_jax.shapes.compose import form_claims, scene_detections
from xmc_jax.shapes.forms import parse_form

_NUM_CROPS = 32  # CLIP reads so many at once; the last batch is padded.

# Finds the objects in each image of this process. The second argument has the claims that will be
# decided: only of their classes are colours looked at.
Find = Callable[[ImageSet, Sequence[Sequence[Claim]]], list[list[Detection]]]


class _Source(NamedTuple):
    """Where claims and objects come from.

    Attributes:
      read: The claims of captions.
      make_find: Makes the function that finds objects in the images of an evaluation.
      name: As protocols have it.
      weights: Fingerprint of all networks that decide claims of a part.
    """

    read: Callable[[Prompts], list[tuple[Claim, ...]]]
    make_find: Callable[[EvalInputs], Find]
    name: str
    weights: Callable[[str], str]


def names(num_prompts: int) -> tuple[str, ...]:
    """See `selection`."""
    return ("compose",)


def reason_unavailable(name: str, config: ConfigDict, prompts: Prompts | None) -> str | None:
    """See `selection`."""
    if evaluation_data(config) == "shapes":
        return None
    if not config.eval.detector:
        return NO_DETECTOR
    if prompts is not None and not any(parse_claims(p.caption) for p in prompts):
        return f"none of {len(prompts)} captions makes a claim about one of COCO's objects"
    return None


def make_measure(config: ConfigDict, mesh: Mesh, names: Sequence[str]) -> Measure:
    """See `selection`. Floor: captions of other images. Ceiling: real images.

    Without a CLIP no claims of colour are made.
    """
    is_shapes = evaluation_data(config) == "shapes"
    source = _shapes_source(config) if is_shapes else _detector_source(config, mesh)

    def measure(inputs: EvalInputs) -> list[MetricRecord]:
        claims, find = source.read(inputs.prompts), source.make_find(inputs)
        others = [claims[i] for i in shuffle_captions(len(claims), config.eval.seed)]
        drawn = find(inputs.generated, [(*a, *b) for a, b in zip(claims, others, strict=True)])
        value = _summarise(inputs.generated, claims, drawn)
        floor = _summarise(inputs.generated, others, drawn)
        ceiling = _summarise(inputs.real, claims, find(inputs.real, claims))
        return [
            inputs.record(
                metric=f"compose/{part}",
                protocol=f"{source.name}; {_protocol(config)}",
                **interval_fields(share, floor[part], ceiling[part]),
                num_samples=share.captions,
                claims=share.claims,
                weights=source.weights(part),
                better="higher",
            )
            for part, share in value.items()
        ]

    return measure


def _summarise(
    images: ImageSet, claims: Sequence[Sequence[Claim]], found: Sequence[Sequence[Detection]]
) -> dict[str, metric.Share]:
    """Shares of all images; claims are those of all processes, objects those of this one."""
    table = metric.tabulate(images.shards.own(claims), found)
    return metric.summarise(images.gather(table), claims)


def _protocol(config: ConfigDict) -> str:
    return (
        "share of the captions with such claims for which all of them hold, Wilson's 95 % "
        f"interval; relations by centres with a margin of {metric.MARGIN} of both sizes; "
        f"{config.model.resolution} px, {split_name(config)}, one caption an image drawn with seed "
        f"{config.eval.seed}; ceiling: real images; floor: captions of other images"
    )


def _shapes_source(config: ConfigDict) -> _Source:
    """Claims of logical forms, and objects of the trained reader."""
    layout = parse_form(config.data.form).layout
    reader = shapes.make_reader("shapes_accuracy_trained", config.model.resolution, layout)

    def read(prompts: Prompts) -> list[tuple[Claim, ...]]:
        return [form_claims(shapes.claims(config, prompt)) for prompt in prompts]

    def find(images: ImageSet, claims: Sequence[Sequence[Claim]]) -> list[list[Detection]]:
        return [scene_detections(scene, layout) for scene in images.map(reader.read)]

    return _Source(
        read, lambda inputs: find, f"{reader.name} and logical forms", lambda part: reader.weights
    )


def _detector_source(config: ConfigDict, mesh: Mesh) -> _Source:
    """Claims of captions in English, objects of a detector, and colours of a CLIP if named."""
    detector, features = make_detector(config, mesh)
    clip = config.eval.clip and load_clip(config.eval.clip, field="config.eval.clip")
    see_colours = _make_see_colours(clip) if clip else None
    of_both = fingerprint(detector.fingerprint, clip.fingerprint) if clip else None

    def make_find(inputs: EvalInputs) -> Find:
        boxes = InputFeatures(features, inputs)

        def find(images: ImageSet, claims: Sequence[Sequence[Claim]]) -> list[list[Detection]]:
            found = [metric.read_boxes(rows, THRESHOLD) for rows in boxes.own(images)]
            wanted = [
                {claim.name for claim in of_caption if claim.kind == "colour"}
                for of_caption in images.shards.own(claims)
            ]
            return see_colours(images, found, wanted) if any(wanted) else found

        return find

    colours = f"colours of boxes by CLIP {clip.name}" if clip else "no claims of colour"
    return _Source(
        functools.partial(_read_captions, with_colours=bool(clip)),
        make_find,
        f"own rules for captions, D-FINE {detector.name}, class score >= {THRESHOLD}, {colours}",
        lambda part: of_both if clip and part in ("colour", "all") else detector.fingerprint,
    )


def _read_captions(prompts: Prompts, *, with_colours: bool) -> list[tuple[Claim, ...]]:
    claims = (parse_claims(prompt.caption) for prompt in prompts)
    return [tuple(c for c in each if with_colours or c.kind != "colour") for each in claims]


def _make_see_colours(
    clip: Clip,
) -> Callable[[ImageSet, list[list[Detection]], list[set[str]]], list[list[Detection]]]:
    """Makes the function that adds the colours of objects of the wanted classes in each image."""
    name_colours = _make_name_colours(clip)

    def see(images, found, wanted):
        rows = zip(found, wanted, strict=True)

        def look(pixels: UInt8[np.ndarray, "b h w 3"]) -> list[list[Detection]]:
            batch = list(itertools.islice(rows, len(pixels)))
            chosen = [
                (image, item)
                for image, (objects, classes) in zip(pixels, batch, strict=True)
                for item in objects
                if item.name in classes
            ]
            crops = [crop(image, item.box, clip.side) for image, item in chosen]
            colours = iter(name_colours(crops, [item.name for _, item in chosen]))
            return [
                [x._replace(colour=next(colours)) if x.name in classes else x for x in objects]
                for objects, classes in batch
            ]

        return images.map(look)

    return see


def _make_name_colours(clip: Clip) -> Callable[[list[np.ndarray], list[str]], list[str]]:
    """Makes the function that names the colours of crops, given what they show; zero-shot."""
    embed_images = jax.jit(on_pixels(clip.embed_images))
    embed_captions = jax.jit(clip.embed_captions)
    image_params, caption_params = jax.device_put((clip.image_params, clip.caption_params))

    @functools.cache
    def directions(name: str) -> Float32[np.ndarray, "colours d"]:
        texts = [f"a photo of a {colour} {name}" for colour in metric.COLOURS]
        rows = np.asarray(embed_captions(caption_params, clip.tokenize(texts)), np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def name_colours(crops: list[np.ndarray], classes: list[str]) -> list[str]:
        embedded = []
        for start in range(0, len(crops), _NUM_CROPS):
            part = np.stack(crops[start : start + _NUM_CROPS])
            padding = ((0, _NUM_CROPS - len(part)), (0, 0), (0, 0), (0, 0))
            rows = embed_images(image_params, np.pad(part, padding))
            embedded += list(np.asarray(rows, np.float32)[: len(part)])
        return [
            metric.COLOURS[int(np.argmax(directions(name) @ row))]
            for row, name in zip(embedded, classes, strict=True)
        ]

    return name_colours


def crop(
    image: UInt8[np.ndarray, "h w 3"], box: tuple[float, float, float, float], side: int
) -> UInt8[np.ndarray, "side side 3"]:
    """The central square of a box, resized bicubically, as CLIP's own transform treats an image.

    Args:
      image: A square image.
      box: See `Detection`; at least one pixel is taken.
      side: Of the result, in pixels.
    """
    size = len(image)
    left, top, right, bottom = (size * place for place in box)
    half = max(min(right - left, bottom - top), 1.0) / 2
    x, y = (min(max((a + b) / 2, half), size - half) for a, b in ((left, right), (top, bottom)))
    square = (*(max(v - half, 0.0) for v in (x, y)), *(min(v + half, size) for v in (x, y)))
    resample = Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(image).resize((side, side), resample, box=square))
