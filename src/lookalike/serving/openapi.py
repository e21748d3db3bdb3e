"""The OpenAPI document of a server, and its page: plain HTML that asks no other host for anything."""

import html
import json
from collections.abc import Mapping
from typing import Any

from ..backbones.onnx_file import IMAGES
from ..printing import counted
from ..runs import version
from .kserve import DATATYPE, LENGTH
from .model import Description
from .settings import Settings
from .uploads import FIELD

TEXTS = {
    400: "The request is malformed.",
    401: "The token is missing or wrong.",
    404: "There is no such model.",
    408: "The body did not arrive in time.",
    413: "Too many bytes, images or pixels.",
    415: "Another content type, or a compressed body.",
    422: "An image that cannot be read, or other content than expected.",
    429: "The server is busy. Retry-After says when to repeat the request.",
    500: "The model failed.",
}
NUMBERS = {"type": "array", "items": {"type": "number"}}
ERROR = {
    "type": "object", "required": ["error"], "additionalProperties": False,
    "properties": {"error": {"type": "string"}},
}  # fmt: skip


def document(model: Description, settings: Settings) -> dict[str, Any]:
    """The OpenAPI document, version 3.1, of a server with this model."""
    v2 = f"/v2/models/{model.name}"
    paths = {
        "/embed": {"post": _of_images("embed", "Features of images.", settings, {"embeddings": _rows(NUMBERS, model)})},
        v2: {"get": _get("metadata", "Inputs and outputs of the model.", {"type": "object"}, settings)},
        f"{v2}/ready": {"get": _get("modelReady", "Whether the model is ready.", {"type": "object"}, settings)},
        f"{v2}/infer": {"post": _infer(model, settings)},
        "/v2": {"get": _get("server", "Name and version of the server.", {"type": "object"}, settings)},
        "/v2/health/live": {"get": _get("live", "Whether the server runs. Needs no token.", {"type": "object"}, None)},
        "/v2/health/ready": {"get": _get("ready", "Whether it answers. Needs no token.", {"type": "object"}, None)},
        "/metrics": {"get": _get("metrics", "Counters for Prometheus.", None, settings)},
    }
    if model.classes is not None:
        likely = {
            "type": "array", "description": "The likeliest classes of an image, at most five.",
            "items": {
                "type": "object", "required": ["label", "probability"],
                "properties": {"label": {"type": "string"}, "probability": {"type": "number"}},
            },
        }  # fmt: skip
        content = {"predictions": {"type": "array", "items": likely}}
        paths["/predict"] = {"post": _of_images("predict", "Classes of images.", settings, content)}
    found: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "lookalike", "version": version(), "description": model.line()},
        "paths": paths,
        "components": {"schemas": {"Error": ERROR, "Model": _facts()}},
    }
    if settings.token is not None:
        found["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    return found


def page(found: Mapping[str, Any]) -> str:
    """The document as HTML."""
    sections = []
    for path, methods in found["paths"].items():
        for method, each in methods.items():
            body = "".join(
                f"<li>takes {html.escape(kind)}</li>" for kind in each.get("requestBody", {"content": {}})["content"]
            )
            answers = "".join(
                f"<li>{status}: {html.escape(answer['description'])}</li>"
                for status, answer in each["responses"].items()
            )
            sections.append(
                f"<h2>{method.upper()} {html.escape(path)}</h2><p>{html.escape(each['summary'])} "
                f"{html.escape(each.get('description', ''))}</p><ul>{body}{answers}</ul>"
            )
    info = found["info"]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>lookalike</title><style>body{font:16px/1.5 '
        "sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem}h2{font:600 1rem monospace;border-top:1px solid "
        "#ccc;padding-top:1rem}pre{overflow:auto;background:#f4f4f4;padding:1rem}</style></head><body>"
        f"<h1>{html.escape(info['title'])} {html.escape(info['version'])}</h1><p>{html.escape(info['description'])}</p>"
        '<p>For programs: <a href="openapi.json">openapi.json</a></p>'
        f"{''.join(sections)}<h2>openapi.json</h2><pre>{html.escape(json.dumps(found, indent=1))}</pre></body></html>"
    )


def _rows(row: Mapping[str, Any], model: Description) -> dict[str, Any]:
    return {"type": "array", "items": {**row, "minItems": model.dim, "maxItems": model.dim}}


def _of_images(name: str, summary: str, settings: Settings, content: Mapping[str, Any]) -> dict[str, Any]:
    several = {"type": "array", "minItems": 1, "maxItems": settings.max_batch}
    taken = {
        "multipart/form-data": several | {"items": {"type": "string", "format": "binary"}},
        "application/json": several | {"items": {"type": "string", "contentEncoding": "base64"}},
    }  # fmt: skip
    return {
        "operationId": name, "summary": summary,
        "description": f"At most {counted(settings.max_batch, 'image')}, {settings.max_upload_mb} MiB and "
        f"{settings.max_pixels:,} pixels.",
        "requestBody": {
            "required": True,
            "content": {
                kind: {"schema": {
                    "type": "object", "required": [FIELD], "additionalProperties": False, "properties": {FIELD: schema},
                }}
                for kind, schema in taken.items()
            },
        },
        **_answers(
            {
                "type": "object", "required": [*content, "model"],
                "properties": {**content, "model": {"$ref": "#/components/schemas/Model"}},
            },
            settings, (400, 408, 413, 415, 422, 429, 500),
        ),
    }  # fmt: skip


def _infer(model: Description, settings: Settings) -> dict[str, Any]:
    taken = {
        "type": "object", "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "inputs": {
                "type": "array", "minItems": 1, "maxItems": 1,
                "items": {
                    "type": "object", "required": ["name", "datatype", "shape", "data"],
                    "properties": {
                        "name": {"const": IMAGES}, "datatype": {"const": DATATYPE}, "data": {"type": "array"},
                        "shape": {"type": "array", "items": {"type": "integer"}, "minItems": 4, "maxItems": 4},
                    },
                },
            },
            "outputs": {
                "type": "array", "items": {
                    "type": "object", "required": ["name"], "properties": {"name": {"enum": [*model.outputs]}},
                },
            },
        },
    }  # fmt: skip
    given = {
        "type": "object", "required": ["model_name", "model_version", "outputs"],
        "properties": {"outputs": {"type": "array", "items": {"type": "object"}}},
    }  # fmt: skip
    return {
        "operationId": "infer", "summary": "Outputs of the model for normalised images (N, C, S, S).",
        "description": f"KServe's protocol, version 2; tensors are binary where the header {LENGTH} is sent.",
        "requestBody": {"required": True, "content": {"application/json": {"schema": taken}}},
        **_answers(given, settings, (400, 408, 413, 415, 422, 429, 500)),
    }  # fmt: skip


def _get(name: str, summary: str, schema: Mapping[str, Any] | None, settings: Settings | None) -> dict[str, Any]:
    answers = _answers(schema or {}, settings, ())
    if schema is None:
        answers["responses"]["200"]["content"] = {"text/plain": {"schema": {"type": "string"}}}
    return {"operationId": name, "summary": summary, **answers}


def _answers(schema: Mapping[str, Any], settings: Settings | None, others: tuple[int, ...]) -> dict[str, Any]:
    """The responses, and the token if one is needed."""
    has_token = settings is not None and settings.token is not None
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    statuses = sorted({*others, *((401,) if has_token else ())})
    return {
        "responses": {
            "200": {"description": "The answer.", "content": {"application/json": {"schema": schema}}},
            **{str(status): {"description": TEXTS[status], "content": error} for status in statuses},
        },
        **({"security": [{"token": []}]} if has_token else {}),
    }


def _facts() -> dict[str, Any]:
    return {
        "type": "object", "required": ["name", "backbone", "sha256", "dim", "image_size"],
        "properties": {
            "name": {"type": "string"}, "backbone": {"type": "string"}, "sha256": {"type": "string"},
            "dim": {"type": "integer"}, "image_size": {"type": "integer"},
        },
    }  # fmt: skip
