"""The answer for one image: decision, texts and image check as one JSON object.

Nothing of the image is in it but its size and measures.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL.Image import Image

from trustq.data.pillow_rgb import decode_rgb
from trustq.deploy.image_checks import (
    LARGE_BYTES,
    LARGE_SIDE,
    ImageCheck,
    check_look,
    look_at,
)
from trustq.deploy.model import Model
from trustq.deploy.triage import Decision, decide, triage_categories


class Prepared:
    """An image that was decoded once: the pixels that the network sees, and its check."""

    def __init__(self, image: Image, n_bytes: int, model: Model) -> None:
        """From upright RGB, decoded at full size as in a browser, and the bytes of its file."""
        self.pixels = np.asarray(model.preprocessing.fitted_in_steps(image))
        self.check = check_look(look_at(image), left_out=model.about["image_checks"]["left_out"])
        self.size = image.size
        self.n_bytes = n_bytes


def answer_for(data: bytes, model: Model) -> dict[str, Any]:
    """The answer for the bytes of one image file; raises whatever Pillow raises."""
    return answers_for([Prepared(decode_rgb(data), len(data), model)], model)[0]


def answers_for(images: Sequence[Prepared], model: Model) -> list[dict[str, Any]]:
    """The answers for images that run through the network together.

    Company changes the last bits of an image's probabilities, by less than 1e-6.
    """
    probs, _, distance = model.run(np.stack([image.pixels for image in images]))
    return [
        answer(own.astype(np.float64), float(far), image, model)
        for own, far, image in zip(probs, distance, images, strict=True)
    ]


def answer(probs: np.ndarray, distance: float, image: Prepared, model: Model) -> dict[str, Any]:
    """The answer from one row of probabilities, (k,), and its distance from the training data.

    Keys: `probabilities` by class, `conditions` (the three likeliest), `triage_categories`,
    `risk_score` and `risk_tier`, `urgency_tier`, `recommendation`, `confidence`, `unlike_training`,
    `reasons`, `image`, `model`, `disclaimer`.
    """
    decision = decide(probs, distance, model.rules)
    texts = model.about["texts"]
    urgency = texts["urgency"][decision.urgency_tier]
    return {
        "probabilities": {
            name: float(p) for name, p in zip(model.classes, probs.tolist(), strict=True)
        },
        "conditions": [_condition(c, probs, model) for c in decision.top],
        "triage_categories": triage_categories(probs, model.rules.conditions),
        "risk_score": decision.risk_score,
        "risk_tier": decision.risk_tier,
        "urgency_tier": decision.urgency_tier,
        "urgency": urgency["title"],
        "within": urgency["within"] or None,
        "recommendation": urgency["recommendation"],
        "confidence": {
            "level": decision.confidence,
            "distance_to_cut": decision.distance_to_cut,
            "abstained": decision.abstained,
            "text": texts["confidence"][decision.confidence],
        },
        "unlike_training": {
            "unlike": decision.unlike,
            "distance": distance,
            "cut": model.rules.outlier_cut,
        },
        "reasons": _reasons(decision, image.check, model),
        "image": _image(image, texts["image"]),
        "model": {
            "name": model.about["name"],
            "variant": model.variant,
            "digest": model.about["digest"],
        },
        "disclaimer": texts["disclaimer"],
    }


def _condition(c: int, probs: np.ndarray, model: Model) -> dict[str, Any]:
    condition = model.rules.conditions[c]
    return {
        "class": model.classes[c],
        "condition": condition,
        "title": title_of(c, model),
        "probability": float(probs[c]),
    }


def title_of(c: int, model: Model) -> str:
    """How a class is called to a reader: its condition's title, or its name where that is other."""
    condition = model.rules.conditions[c]
    if condition == "other":
        return model.classes[c]
    return str(model.about["texts"]["conditions"][condition])


def _reasons(decision: Decision, check: ImageCheck, model: Model) -> list[str]:
    texts = model.about["texts"]
    said = texts["reasons"]
    found = []
    if decision.unlike:
        found.append(said["unlike"])
    if decision.abstained:
        found.append(said["abstained"])
    found.append(said["condition"].replace("{title}", title_of(decision.top[0], model)))
    found.append(said["score"].replace("{score}", f"{decision.risk_score:.2f}"))
    if decision.inflammatory:
        found.append(said["inflammatory"])
    if check.band == "poor":
        advice = " ".join(texts["image"][rule] for rule in check.fired)
        found.append(said["poor_image"].replace("{advice}", advice))
    return found


def _image(image: Prepared, texts: dict[str, str]) -> dict[str, Any]:
    check = image.check
    advice = [texts[rule] for rule in check.fired]
    if image.n_bytes > LARGE_BYTES:
        advice.append(texts["too_large"].replace("{megabytes}", f"{image.n_bytes / 1e6:.1f}"))
    if max(image.size) > LARGE_SIDE:
        advice.append(texts["many_pixels"].replace("{pixels}", str(max(image.size))))
    return {
        "width": image.size[0],
        "height": image.size[1],
        "bytes": image.n_bytes,
        "score": check.score,
        "band": check.band,
        "fired": list(check.fired),
        "advice": advice or [texts["good"]],
        "measures": check.look._asdict(),
    }
