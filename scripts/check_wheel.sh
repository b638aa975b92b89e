#!/usr/bin/env bash
# Build sdist and wheel, look at what is in them, and use the wheel as somebody would who has
# nothing else: installed in an environment of its own, in an empty folder, far from the checkout.
#   scripts/check_wheel.sh VENV
# That environment sees none of VENV's packages but those that the wheel asks for.
set -euo pipefail

if [ $# -ne 1 ]; then
    echo "usage: $0 VENV    (for example: $0 .venv)" >&2
    exit 1
fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$(cd "$1" && pwd)/bin/python
scratch=$(mktemp -d "${TMPDIR:-/tmp}/excise-wheel.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
chmod 755 "$scratch"  # as root, PostgreSQL runs as a user of its own
unset PYTHONPATH PYTHONHOME "${!EXCISE_@}"

build() {
    "$python" -m build --no-isolation --outdir "$scratch/dist" "$root" >"$scratch/build.log" 2>&1 ||
        { cat "$scratch/build.log" >&2; exit 1; }
    rm -rf "$root/excise.egg-info"  # else Python takes its entry points for this checkout's
    "$python" "$root/scripts/check_distribution.py" "$scratch"/dist/*.tar.gz "$scratch"/dist/*.whl
}

# install_wheel ENVIRONMENT EXTRA,EXTRA
install_wheel() {
    "$python" -m venv --without-pip "$1"
    local packages
    packages=$("$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    "$python" "$root/scripts/link_requirements.py" "$scratch"/dist/*.whl "$2" "$packages"
    "$python" -m pip --disable-pip-version-check --python "$1/bin/python" \
        install --quiet --no-deps --no-index "$scratch"/dist/*.whl
}

# Without extras there is a client: it knows its commands, and what the others need.
use_client() {
    install_wheel "$scratch/client" ""
    "$scratch/client/bin/excise" version
    "$scratch/client/bin/excise" --help >/dev/null
    { "$scratch/client/bin/excise" demo || true; } 2>&1 | grep -F "pip install 'excise[embedded]'"
    { "$scratch/client/bin/excise" models fetch smollm2-135m-instruct || true; } 2>&1 |
        grep -F "pip install 'excise[worker]'"
}

# Every module imports with what the wheel asks for, and is the wheel's.
import_all() {
    "$scratch/env/bin/python" -P - <<'PYTHON'
import sys
from importlib import import_module
from pkgutil import walk_packages

for package in map(import_module, ("excise", "service", "workers", "migrations")):
    names = [found.name for found in walk_packages(package.__path__, f"{package.__name__}.")]
    for name in [package.__name__, *names]:
        if name not in ("migrations.env", "workers.app"):  # these run in the demo, configured
            assert import_module(name).__file__.startswith(sys.prefix), name
PYTHON
}

use_wheel() {
    mkdir "$scratch/empty"
    cd "$scratch/empty"
    import_all
    excise version
    excise examples
    excise demo --reduced
}

excise() { "$scratch/env/bin/excise" "$@"; }

build
use_client
install_wheel "$scratch/env" worker,embedded,tracing
use_wheel
