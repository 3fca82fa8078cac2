"""The routes of `distcls serve`: /predict, the Open Inference Protocol under /v2, health and metrics."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from distcls import __version__
from distcls.cluster.cpu import available_cpus
from distcls.inference.answers.formats import as_row
from distcls.inference.answers.prediction import SHOWN, Prediction
from distcls.serving import open_inference
from distcls.serving.backends import Backend
from distcls.serving.batching import Batcher
from distcls.serving.bodies import BINARY, FORM, JSON, Images, Instances, Reader, Upload, apart
from distcls.serving.gate import DEMO, Gate
from distcls.serving.metrics import Metrics
from distcls.serving.options import ServeOptions
from distcls.serving.problems import BUSY, REASONS, TOO_SLOW, UNAUTHORIZED, UNAVAILABLE, UNREADABLE, Problem

MOST_DECODERS = 8
"""Threads that decode; more would wait for each other."""

ABOUT = "Classifies images. Requests that arrive together are computed together."

SCHEMAS = "#/components/schemas/{model}"


class Choice(BaseModel):
    """A class with its probability."""

    name: str = Field(alias="class")
    probability: float


class Classified(BaseModel):
    """The prediction for an image."""

    image: str | None
    prediction: str
    confidence: float
    topk: list[Choice]


class Refused(BaseModel):
    """Why there is no prediction for an image."""

    image: str | None
    error: str


class Answer(BaseModel):
    """An entry for each image, in order."""

    predictions: list[Classified | Refused]


class Error(BaseModel):
    """Why there is no answer."""

    error: str


class Status(BaseModel):
    """How the service is."""

    status: str


Topk = Annotated[int, Query(ge=1, le=100_000, description="How many classes to list of each image.")]
ModelName = Annotated[str, Path(description="The name of the model.")]


class Service:
    """Answers requests with one backend. Its batcher exists while the application runs."""

    batcher: Batcher

    def __init__(self, backend: Backend, options: ServeOptions) -> None:
        self.backend, self.options = backend, options
        self.metrics = Metrics(backend.class_names)
        self.metrics.model.labels(backend.weights_sha256, f"{backend.temperature:g}").set(1)
        self.reader = Reader(options.limits)
        self.gate: Gate | None = None
        self.datatype = open_inference.DATATYPES[
            backend.compute(np.zeros((1, *backend.decoding.shape), np.uint8)).dtype
        ]

    @asynccontextmanager
    async def running(self, _: FastAPI) -> AsyncIterator[None]:
        """Start the threads, and end them."""
        options, limits = self.options, self.options.limits
        self.batcher = Batcher(
            self.backend.compute,
            self.backend.decoding,
            self.metrics,
            max_batch=options.max_batch,
            max_wait=options.max_wait,
            max_pixels=limits.max_pixels,
            max_queue=limits.max_queue,
            decoders=min(available_cpus(), MOST_DECODERS),
        )
        try:
            yield
        finally:
            self.batcher.close()

    @property
    def is_ready(self) -> bool:
        """False if the service is stopping, or its network failed on the last batch."""
        return not (self.gate is not None and self.gate.is_stopping) and not self.batcher.is_failing

    async def predict(self, uploads: Sequence[Upload], topk: int) -> list[dict[str, object]]:
        """Return an entry for each image. Raises Problem if there is no prediction for any of them."""
        found = await self.batcher.classify([upload.content for upload in uploads])
        self.refuse(found)
        return [self._entry(upload.name, one, topk) for upload, one in zip(uploads, found, strict=True)]

    def refuse(self, found: Sequence[np.ndarray | Problem], alone: bool = True) -> None:
        """Count problems, and raise the first: alone only if there is nothing else."""
        problems = [one for one in found if isinstance(one, Problem)]
        for problem in problems:
            self.metrics.refused.labels(str(problem.status)).inc()
        if problems and (len(problems) == len(found) or not alone):
            raise problems[0]

    def _entry(self, name: str | None, found: np.ndarray | Problem, topk: int) -> dict[str, object]:
        if isinstance(found, Problem):
            return {"image": name, "error": found.reason}
        names = self.backend.class_names
        best = np.argsort(-found, kind="stable")[:topk]
        pairs = [(names[label], share) for label, share in zip(best.tolist(), found[best].tolist(), strict=True)]
        prediction = Prediction(pairs, found, names, name)
        return as_row(prediction, prediction.label)

    async def infer(self, body: bytes, json_length: str | None) -> Response:
        """Return the answer to a request of the Open Inference Protocol. Raises Problem: there are no half answers."""
        size, most = self.backend.decoding.shape[0], self.options.limits.max_images
        asked = await apart(lambda: open_inference.read(body, json_length, size, most), body)
        if asked.pixels is None:
            found = await self.batcher.classify(asked.files)
        else:
            found = await self.batcher.classify_pixels(asked.pixels)
        self.refuse(found, alone=False)
        probs = np.stack([one for one in found if not isinstance(one, Problem)])
        content, headers = open_inference.write(asked.request, probs, self.options.name, self.backend.class_names)
        return Response(content, headers=dict(headers))


def build_app(backend: Backend, options: ServeOptions) -> FastAPI:
    """Return the application, with its Service and its Gate in `state`."""
    service = Service(backend, options)
    app = FastAPI(title=options.name, description=ABOUT, version=__version__, lifespan=service.running)
    health = ["/healthz", "/ping", "/v2/health/live", "/v2/health/ready", *options.health_routes]
    _add_health(app, service, list(dict.fromkeys(health)))
    if options.has_demo:
        app.add_api_route("/", lambda: RedirectResponse(DEMO), include_in_schema=False)
    predict_routes = list(dict.fromkeys(["/predict", "/invocations", *options.predict_routes]))
    if options.has_api:
        _add_predict(app, service, predict_routes)
        _add_open_inference(app, service)
    _answer_errors(app)
    _describe(app, options, frozenset(health))
    redirects = ["/", DEMO.rstrip("/")] if options.has_demo else []  # to the page, which asks for the token itself
    service.gate = gate = Gate(app, service.metrics, options.token, frozenset([*health, *redirects]))
    if options.has_api:
        gate.direct = dict.fromkeys(predict_routes, _direct_predict(service))
    app.state.service = service
    return app


def _add_health(app: FastAPI, service: Service, paths: Sequence[str]) -> None:
    async def health() -> JSONResponse:
        """Tell whether the service can answer."""
        is_ready = service.is_ready
        return JSONResponse({"status": "ok" if is_ready else "failing"}, 200 if is_ready else UNAVAILABLE)

    async def metrics() -> Response:
        """Return counts, times and the length of the queue, for Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    for path in paths:
        app.add_api_route(
            path,
            health,
            response_model=Status,
            responses={UNAVAILABLE: {"model": Status, "description": REASONS[UNAVAILABLE]}},
            include_in_schema=path in ("/healthz", "/v2/health/live", "/v2/health/ready"),
        )
    app.add_api_route("/metrics", metrics, responses={200: {"content": {"text/plain": {}}}}, response_class=Response)


def _add_predict(app: FastAPI, service: Service, paths: Sequence[str]) -> None:
    async def predict(request: Request, topk: Topk = SHOWN) -> Response:
        """Classify one image (the body itself) or several (a form, or base64 in JSON).

        If some images are bad, the others get their predictions; if all are, the answer is an error.
        """

        return await _predicted(service, request, topk)

    for path in paths:
        app.add_api_route(
            path,
            predict,
            methods=["POST"],
            responses={200: {"model": Answer}, **_problems()},
            openapi_extra={"requestBody": _body_of_predict()},
            include_in_schema=path == "/predict",
        )


async def _predicted(service: Service, request: Request, topk: int) -> Response:
    async def answered(body: bytes) -> list[dict[str, object]]:
        return await service.predict(await service.reader.uploads(request, body), topk)

    rows = await service.reader.hold(request, answered)
    return Response(json.dumps({"predictions": rows}), media_type=JSON)


def _direct_predict(service: Service) -> ASGIApp:
    """Return what `predict` does, without FastAPI around it, which takes a third of a small image's time."""

    async def predict(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            answer = await _predicted(service, Request(scope, receive), SHOWN)
        except Problem as problem:
            answer = _refusal(problem)
        await answer(scope, receive, send)

    return predict


def _add_open_inference(app: FastAPI, service: Service) -> None:
    backend, options = service.backend, service.options
    about = open_inference.metadata(
        options.name, backend.platform, backend.decoding.shape[0], len(backend.class_names), service.datatype
    )

    def check(request: Request, model: str) -> None:
        version = request.path_params.get("version", "1")
        if (model, version) != (options.name, "1"):
            raise HTTPException(404, f"there is no model {model!r} in version {version}: it is {options.name!r}, 1")

    async def server() -> JSONResponse:
        """Return what the server is."""
        return JSONResponse({"name": "distcls", "version": __version__, "extensions": open_inference.EXTENSIONS})

    async def model_metadata(request: Request, model: ModelName) -> JSONResponse:
        """Return the model's inputs and outputs."""
        check(request, model)
        return JSONResponse(about)

    async def model_ready(request: Request, model: ModelName) -> JSONResponse:
        """Tell whether the model can answer."""
        check(request, model)
        return JSONResponse({"name": model, "ready": service.is_ready}, 200 if service.is_ready else UNAVAILABLE)

    async def infer(request: Request, model: ModelName) -> Response:
        """Classify the input `images`: UINT8 [n, S, S, 3], or image files as BYTES [n]; JSON or binary tensor data."""
        check(request, model)
        length = request.headers.get(open_inference.JSON_LENGTH)
        return await service.reader.hold(request, lambda body: service.infer(body, length))

    missing: dict[int | str, dict[str, Any]] = {404: {"model": Error, "description": "There is no such model."}}
    failing: dict[int | str, dict[str, Any]] = {UNAVAILABLE: {"model": Error, "description": REASONS[UNAVAILABLE]}}
    body = {"content": {JSON: {"schema": _schema(open_inference.InferRequest)}}, "required": True}
    app.add_api_route("/v2", server, responses={})
    for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        shown = "versions" not in path
        app.add_api_route(path, model_metadata, responses=missing, include_in_schema=shown)
        app.add_api_route(f"{path}/ready", model_ready, responses=missing | failing, include_in_schema=shown)
        app.add_api_route(
            f"{path}/infer",
            infer,
            methods=["POST"],
            responses=missing | _problems(),
            openapi_extra={"requestBody": body},
            include_in_schema=shown,
        )


def _refusal(problem: Problem) -> Response:
    headers = {}
    if problem.status in (BUSY, UNAVAILABLE):
        headers["retry-after"] = "1"
    if problem.status == TOO_SLOW:  # what may still arrive is no new request
        headers["connection"] = "close"
    return JSONResponse({"error": problem.reason}, problem.status, headers=headers)


def _answer_errors(app: FastAPI) -> None:
    """Make each error an object with a reason."""

    async def on_problem(_: Request, problem: Exception) -> Response:
        assert isinstance(problem, Problem)
        return _refusal(problem)

    async def on_http(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)

    async def on_invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:])
        return JSONResponse({"error": f"{place}: {first['msg']}"}, UNREADABLE)

    async def on_bug(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": "a bug of the service; its log says more"}, 500)

    app.add_exception_handler(Problem, on_problem)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(Exception, on_bug)


# The OpenAPI page ----------------------------------------------------------------------------------


def _problems() -> dict[int | str, dict[str, Any]]:
    return {
        status: {"model": Error, "description": reason} for status, reason in REASONS.items() if status != UNAUTHORIZED
    }


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema(ref_template=SCHEMAS)
    schema.pop("$defs", None)
    return schema


def _body_of_predict() -> dict[str, Any]:
    file = {"type": "string", "format": "binary", "contentMediaType": "image/*"}
    form = {
        "type": "object",
        "properties": {"images": {"type": "array", "items": file, "minItems": 1}},
        "required": ["images"],
    }
    return {
        "required": True,
        "content": {
            "image/jpeg": {"schema": file},
            "image/png": {"schema": file},
            BINARY: {"schema": file},
            FORM: {"schema": form},
            JSON: {"schema": {"anyOf": [_schema(Images), _schema(Instances)]}},
        },
    }


def _describe(app: FastAPI, options: ServeOptions, public: frozenset[str]) -> None:
    """Complete FastAPI's description: models of bodies that are read by hand, and the token."""
    described = app.openapi

    def openapi() -> dict[str, Any]:
        page = described()
        schemas = page.setdefault("components", {}).setdefault("schemas", {})
        for model in (Images, Instances, open_inference.InferRequest):
            schemas |= model.model_json_schema(ref_template=SCHEMAS).get("$defs", {})
        for operations in page["paths"].values():
            for parameter in (one for operation in operations.values() for one in operation.get("parameters", [])):
                if parameter["name"] == "model":
                    parameter["schema"]["enum"] = [options.name]
        if options.token is not None:
            page["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            error = {"description": REASONS[UNAUTHORIZED], "content": {JSON: {"schema": _schema(Error)}}}
            for path, operations in page["paths"].items():
                for operation in operations.values():
                    if path not in public:
                        operation["security"] = [{"token": []}]
                        operation["responses"]["401"] = error
        return page

    app.openapi = openapi  # type: ignore[method-assign]
