"""Counters of all workers in shared memory, as text for Prometheus."""

from collections.abc import Iterator, MutableSequence, Sequence

from .model import Description

ROUTES = ("/embed", "/predict", "/v2/models/infer", "other")
STATUSES = (200, 400, 401, 404, 405, 408, 413, 415, 422, 429, 499, 500, 503)
"""499: the client closed its connection before its request was complete."""
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the buckets of durations."""
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Upper bounds of the buckets of batches."""
HELP = {
    "lookalike_requests_total": ("counter", "Requests, by path and status code."),
    "lookalike_request_seconds": ("histogram", "Time from a request's head to its answer."),
    "lookalike_batch_images": ("histogram", "Images per batch."),
    "lookalike_model_seconds_total": ("counter", "Time in which the model computed."),
    "lookalike_images_waiting": ("gauge", "Images that were accepted and not yet answered."),
    "lookalike_upload_bytes": ("gauge", "Bytes of requests in memory."),
}
"""Type and meaning of each metric."""


def _series() -> Iterator[str]:
    """All series, in the order of the cells. Buckets hold what belongs to them alone; `text` adds them up."""
    for route in ROUTES:
        for status in STATUSES:
            yield f'lookalike_requests_total{{path="{route}",status="{status}"}}'
    for name, bounds in (("lookalike_request_seconds", SECONDS), ("lookalike_batch_images", IMAGES)):
        yield from (f'{name}_bucket{{le="{bound:g}"}}' for bound in bounds)
        yield f'{name}_bucket{{le="+Inf"}}'
        yield f"{name}_sum"
    yield from ("lookalike_model_seconds_total", "lookalike_images_waiting", "lookalike_upload_bytes")


SERIES = {name: cell for cell, name in enumerate(_series())}


class Metrics:
    """The counters of one worker, and the sums of all."""

    def __init__(self, cells: MutableSequence[float], worker: int = 0) -> None:
        """`cells` has `len(SERIES)` numbers for each worker, which writes its own only."""
        self._cells, self._first = cells, worker * len(SERIES)
        self.waiting(0, 0)  # a worker before this one was killed

    def request(self, route: str, status: int, seconds: float) -> None:
        route = route if route in ROUTES else "other"
        self._add(f'lookalike_requests_total{{path="{route}",status="{status if status in STATUSES else 500}"}}', 1)
        self._observe("lookalike_request_seconds", SECONDS, seconds)

    def batch(self, images: int, seconds: float) -> None:
        self._observe("lookalike_batch_images", IMAGES, images)
        self._add("lookalike_model_seconds_total", seconds)

    def waiting(self, images: int, size: int) -> None:
        self._cells[self._first + SERIES["lookalike_images_waiting"]] = images
        self._cells[self._first + SERIES["lookalike_upload_bytes"]] = size

    def text(self, model: Description) -> str:
        """The metrics in Prometheus's format."""
        lines = [
            "# HELP lookalike_model_info The model.", "# TYPE lookalike_model_info gauge",
            f'lookalike_model_info{{name="{model.name}",sha256="{model.sha256}"}} 1',
        ]  # fmt: skip
        above, named = 0.0, ""
        for series, cell in SERIES.items():
            name = next(each for each in HELP if series.startswith(each))
            if name != named:
                kind, text = HELP[name]
                lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
                above, named = 0.0, name
            value = sum(self._cells[cell :: len(SERIES)])
            if "_bucket" in series:
                above = value = above + value
            if series.endswith("_sum"):
                lines.append(f"{name}_count {above:.15g}")
            if value or not series.startswith("lookalike_requests_total"):
                lines.append(f"{series} {value:.15g}")
        return "\n".join(lines) + "\n"

    def _add(self, series: str, value: float) -> None:
        self._cells[self._first + SERIES[series]] += value

    def _observe(self, name: str, bounds: Sequence[float], value: float) -> None:
        bound = next((f"{bound:g}" for bound in bounds if value <= bound), "+Inf")
        self._add(f'{name}_bucket{{le="{bound}"}}', 1)
        self._add(f"{name}_sum", value)
