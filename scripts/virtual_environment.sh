# What both installers share; source it with $python and $venv set. Quiet unless something fails.
log=$(mktemp "${TMPDIR:-/tmp}/excise-install.XXXXXX")
trap 'rm -f "$log"' EXIT
readonly torch_cpu_index='https://download.pytorch.org/whl/cpu'

fail() {
    echo "error: $1" >&2
    if [ -s "$log" ]; then
        echo "What was tried last ended with:" >&2
        tail -n 30 "$log" >&2
    fi
    exit 1
}

# Run a command quietly; its output is shown only by fail.
quietly() { "$@" >"$log" 2>&1 </dev/null; }

pip() { quietly "$venv/bin/python" -m pip --disable-pip-version-check install --quiet "$@"; }

# Make the virtual environment, unless a usable one is there: its Python at least $1.
make_venv() {
    if [ -x "$venv/bin/python" ] && quietly "$venv/bin/python" -m pip --version &&
        "$venv/bin/python" -c "import sys; sys.exit(sys.version_info < ($1))"; then
        return
    fi
    quietly "$python" -m venv --clear "$venv" ||
        fail "$python could not make a virtual environment in $venv. On Debian and Ubuntu: apt-get install python3-venv"
}

# Whether the virtual environment has a torch whose version begins with $1.
has_torch() {
    quietly "$venv/bin/python" -c "
import sys
from importlib.metadata import version
sys.exit(not version('torch').startswith('$1'))"
}
