#!/bin/sh
# One vLLM server as Excise's reconciler and canary need it (docs/guides/serving.md). Arguments
# after the model's folder go to `vllm serve` as they are. The environment decides:
#   VLLM_API_KEY        the key it asks for (required: whoever has it can change what it says)
#   EXCISE_POOL_KIND    lora (default): a base and adapters; checkpoint: one whole version
#   EXCISE_SERVED_NAME  what requests call the model (base)
#   EXCISE_MAX_SLOTS (4), EXCISE_MAX_RANK (16): as in the pool's max_slots and max_rank
#   EXCISE_TARGET_MODULES (every projection of a layer; down_proj alone, fc2 for OPT, is faster and
#                       takes no adapters of single weights)
#   EXCISE_DTYPE (auto), EXCISE_MAX_MODEL_LEN (2048)
# On CPU add --enforce-eager, and EXCISE_DTYPE=float32 for a canary that demands equal tokens.
set -eu

if [ $# -lt 1 ]; then
    echo "usage: serve-vllm MODEL_FOLDER [OPTION …]" >&2
    exit 2
fi
if [ -z "${VLLM_API_KEY:-}" ]; then
    echo "serve-vllm: VLLM_API_KEY is not set; without it anybody who reaches this server could change what it says" >&2
    exit 2
fi
model=$1
shift
kind=${EXCISE_POOL_KIND:-lora}
slots=${EXCISE_MAX_SLOTS:-4}
if [ "$kind" = lora ]; then
    export VLLM_ALLOW_RUNTIME_LORA_UPDATING=True
    set -- --enable-lora --max-loras "$slots" --max-cpu-loras "$slots" \
        --max-lora-rank "${EXCISE_MAX_RANK:-16}" \
        ${EXCISE_TARGET_MODULES:+--lora-target-modules "$EXCISE_TARGET_MODULES"} "$@"
elif [ "$kind" != checkpoint ]; then
    echo "serve-vllm: EXCISE_POOL_KIND is $kind; it can be lora or checkpoint" >&2
    exit 2
fi
exec vllm serve "$model" --served-model-name "${EXCISE_SERVED_NAME:-base}" \
    --host 0.0.0.0 --port 8000 --dtype "${EXCISE_DTYPE:-auto}" \
    --max-model-len "${EXCISE_MAX_MODEL_LEN:-2048}" --disable-uvicorn-access-log "$@"
