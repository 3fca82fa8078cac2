"""A run as a LitServe service, as its documentation shows it: one side of benchmarks/serve.py.

A file of its own, because LitServe imports its workers' class from the main file once more.

    python benchmarks/litserve_side.py RUN PORT
"""

import base64
import io
import sys
from pathlib import Path
from typing import Any

import litserve
import torch

from distcls.config.loading import read_config
from distcls.data.decoding.decode import decode
from distcls.inference.classifier import load_classifier


class Api(litserve.LitAPI):
    """Takes base64 in JSON; batches as `distcls serve` does."""

    def setup(self, device: str) -> None:
        """Load the run."""
        torch.set_num_threads(1)
        run = Path(sys.argv[1])
        self.classifier = load_classifier(run, read_config(run / "config.yaml"))

    def decode_request(self, request):  # LitServe reads annotations
        """Return pixels, uint8 (S, S, 3)."""
        content = base64.b64decode(request["images"][0])
        return torch.from_numpy(decode(io.BytesIO(content), self.classifier.decoding))

    def batch(self, inputs: list[Any]) -> Any:
        """Return images (n, S, S, 3)."""
        return torch.stack(inputs)

    def predict(self, x: Any) -> Any:
        """Return probabilities (n, C)."""
        with torch.inference_mode():
            return self.classifier(x)

    def unbatch(self, output: Any) -> Any:
        """Return one row for each image."""
        return list(output)

    def encode_response(self, output):
        """Return the answer."""
        best = int(output.argmax())
        return {"prediction": self.classifier.class_names[best], "confidence": float(output[best])}


if __name__ == "__main__":
    server = litserve.LitServer(
        Api(max_batch_size=64, batch_timeout=0.002, api_path="/predict"), accelerator="cpu", healthcheck_path="/healthz"
    )
    server.run(port=int(sys.argv[2]), generate_client_file=False, log_level="error", num_api_servers=1)
