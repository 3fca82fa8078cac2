#!/usr/bin/env bash
# Writes the lock files of the container images anew, from pyproject.toml: run it after a change there (needs uv).
set -euo pipefail
cd "$(dirname "$0")"

compile() { uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate "$@"; }

# torch and what comes with it: only for images that have no torch of their own.
grep -oE '"(torch|torchvision)[^"]*"' ../pyproject.toml | tr -d '"' | compile - --output-file torch.lock
without=()
for package in $(grep -oE '^(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==' torch.lock | tr -d '=' | sort -u); do
    without+=(--no-emit-package "$package")
done
compile ../pyproject.toml --constraints torch.lock "${without[@]}" --output-file distcls.lock
compile ../pyproject.toml --extra serve --extra export --constraints torch.lock "${without[@]}" --output-file serve.lock
