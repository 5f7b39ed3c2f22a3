"""The API of a served model as an OpenAPI document."""

from typing import Any

from trustq import __version__
from trustq.deploy.model import Model
from trustq.deploy.triage import RISK_TIERS, URGENCY_TIERS
from trustq.deploy.uploads import MOST_BYTES, MOST_IMAGES, MOST_SIDE

_ERRORS = {
    "400": "The request or its image is damaged.",
    "408": "The image did not arrive in time.",
    "413": f"More than {MOST_BYTES // 1_000_000} MB, or more than {MOST_SIDE} pixels on a side.",
    "415": "Not a JPEG, PNG or WebP image, by its content.",
    "429": "Too many images from this address; `retry-after` says when to try again.",
    "503": "The server is busy; `retry-after` says when to try again.",
}


def openapi(model: Model) -> dict[str, Any]:
    """OpenAPI 3.1 of the server of a model."""
    errors = {
        status: _response(text, {"$ref": "#/components/schemas/Error"})
        for status, text in _ERRORS.items()
    }
    answer = {"$ref": "#/components/schemas/Answer"}
    batch = {
        "type": "object",
        "properties": {"answers": {"type": "array", "items": answer, "maxItems": MOST_IMAGES}},
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": model.about["name"],
            "version": __version__,
            "description": model.about["texts"]["disclaimer"],
        },
        "paths": {
            "/api/analyze": {"post": _post("Triage of one image.", _one(), answer, errors)},
            "/api/analyze/batch": {
                "post": _post(f"Up to {MOST_IMAGES} images.", _several(), batch, errors)
            },
            "/api/health": {
                "get": {
                    "summary": "Whether the server is up, and with which model.",
                    "responses": {"200": _response("It is.", {"type": "object"})},
                }
            },
        },
        "components": {"schemas": {"Answer": _answer(model), "Error": _error()}},
    }


def _post(summary: str, body: Any, answer: Any, errors: dict[str, Any]) -> dict[str, Any]:
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": body},
        "responses": {"200": _response("The answer.", answer)} | errors,
    }


def _response(text: str, schema: Any) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _one() -> dict[str, Any]:
    binary = {"schema": {"type": "string", "format": "binary"}}
    form = {"schema": {"type": "object", "properties": {"file": binary["schema"]}}}
    kinds = ("image/jpeg", "image/png", "image/webp")
    return {kind: binary for kind in kinds} | {"multipart/form-data": form}


def _several() -> dict[str, Any]:
    files = {"type": "array", "items": {"type": "string", "format": "binary"}}
    return {"multipart/form-data": {"schema": {"type": "object", "properties": {"files": files}}}}


def _answer(model: Model) -> dict[str, Any]:
    share = {"type": "number", "minimum": 0, "maximum": 1}
    text = {"type": "string"}
    return {
        "type": "object",
        "properties": {
            "probabilities": {
                "type": "object",
                "properties": {name: share for name in model.classes},
            },
            "conditions": {"type": "array", "items": {"type": "object"}, "maxItems": 3},
            "triage_categories": {"type": "object", "additionalProperties": share},
            "risk_score": share,
            "risk_tier": {"enum": list(RISK_TIERS)},
            "urgency_tier": {"enum": list(URGENCY_TIERS)},
            "recommendation": text,
            "confidence": {"type": "object"},
            "unlike_training": {"type": "object"},
            "reasons": {"type": "array", "items": text},
            "image": {"type": "object"},
            "model": {"type": "object"},
            "disclaimer": text,
        },
    }


def _error() -> dict[str, Any]:
    return {"type": "object", "properties": {"error": {"type": "string"}}}
