#!/usr/bin/env bash
# Builds the wheel, installs it into a new environment outside the checkout, and trains the demo from there: what
# `pip install` gives must not depend on the checkout. PYTHON is the interpreter to build the environment with.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if command -v uv >/dev/null; then
    uv build --quiet --wheel --out-dir "$folder" .
    uv venv --quiet --python "$python" "$folder/venv"
    uv pip install --quiet --python "$folder/venv/bin/python" "$folder"/*.whl
else
    "$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$folder" .
    "$python" -m venv "$folder/venv"
    "$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$folder"/*.whl
fi
mkdir "$folder/work"
cd "$folder/work"
unset PYTHONPATH
export XDG_CACHE_HOME="$folder/cache"
distcls="$folder/venv/bin/distcls"
"$distcls" train train.num_epochs=3
"$distcls" eval runs/digits
[ -s runs/digits/plots/curves.png ] && [ -s runs/digits/model/model.safetensors ]
where=$("$folder/venv/bin/python" -c "import distcls; print(distcls.__file__)")
case $where in "$folder"/venv/*) echo "the wheel works: $where" ;; *) echo "distcls came from $where" >&2 && exit 1 ;; esac
