#!/usr/bin/env bash
# Installs Excise at this action's commit, at the versions of constraints.txt, and says where it is.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
home="$RUNNER_TEMP/excise"
mkdir -p "$home/cache"
excise=$EXCISE_COMMAND
if [ -z "$excise" ]; then
    extras=worker
    if [ "$EXCISE_MODE" = job ]; then
        if [ -n "$EXCISE_URL" ]; then extras=''; else extras=embedded; fi
    fi
    EXCISE_EXTRAS=$extras bash "$root/scripts/install.sh" "$EXCISE_PYTHON" "$home/venv"
    "$home/venv/bin/python" -m pip check
    excise="$home/venv/bin/excise"
fi
"$excise" version
{
    echo "excise=$excise"
    echo "cache=$home/cache"
} >> "$GITHUB_OUTPUT"
