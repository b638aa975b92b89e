#!/usr/bin/env bash
# Write deploy/images/*.lock: every package of the images, with the hashes of its files.
#   scripts/lock_images.sh PYTHON
# The versions are those of constraints.txt; what that does not name becomes the newest that fits.
set -euo pipefail

if [ $# -ne 1 ]; then
    echo "usage: $0 PYTHON    (for example: $0 .venv/bin/python)" >&2
    exit 1
fi
python=$1
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly torch_version=2.13.0 torch_cpu_index='https://download.pytorch.org/whl/cpu' uv_version=0.13.9
scratch=$(mktemp -d "${TMPDIR:-/tmp}/excise-lock.XXXXXX")
trap 'rm -rf "$scratch"' EXIT

"$python" -m venv "$scratch/uv"
"$scratch/uv/bin/python" -m pip --disable-pip-version-check install --quiet "uv==$uv_version"

# lock NAME ARGUMENT …: deploy/images/NAME.lock, from requirements and options of uv.
lock() {
    local target=$root/deploy/images/$1.lock
    shift
    (
        cd "$root"
        echo "# Written by scripts/lock_images.sh (make pin); python 3.11, Linux, x86_64."
        "$scratch/uv/bin/uv" pip compile --quiet --no-config --python-version 3.11 \
            --python-platform x86_64-manylinux_2_28 --generate-hashes --no-annotate --no-header \
            --constraint constraints.txt "$@"
    ) >"$scratch/new.lock"
    mv "$scratch/new.lock" "$target"
}

# PyTorch's CPU build: a local wheel that pip knows of, else from PyTorch's own index.
lock_cpu() {
    echo "torch==$torch_version+cpu" >"$scratch/cpu.in"
    lock worker-cpu --find-links "${PIP_FIND_LINKS:-$scratch}" --extra worker pyproject.toml \
        deploy/images/images.in "$scratch/cpu.in" 2>/dev/null ||
        lock worker-cpu --index "$torch_cpu_index" --index-strategy unsafe-best-match \
            --extra worker pyproject.toml deploy/images/images.in "$scratch/cpu.in"
}

lock build deploy/images/build.in
lock api --extra service pyproject.toml deploy/images/images.in
lock_cpu
echo "torch==$torch_version" >"$scratch/cuda.in"
lock worker-cuda --extra worker pyproject.toml deploy/images/images.in "$scratch/cuda.in"
