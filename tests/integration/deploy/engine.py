"""A container engine for tests only, from Debian's packages, and base images made of the same.

No registry is needed and nothing is installed: packages are unpacked into a folder outside the
repository (EXCISE_CONTAINERCACHE, by default /var/tmp/excise-containers) and reused by later runs.
Where that cannot work, `ContainersUnavailableError` says why.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

BASE_IMAGE = "excise-test/python:3.11"
"""Substitute for `python:3.11-slim-bookworm`: Debian bookworm with Python 3.11 and pip."""
SERVICES_IMAGE = "excise-test/services:trixie"
"""Debian trixie with PostgreSQL, Valkey and HAProxy, a substitute for their own images."""

CACHE = Path(os.environ.get("EXCISE_CONTAINERCACHE", "/var/tmp/excise-containers"))
"""Folder for all downloads, shared by all test sessions on this machine."""
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_MIRROR = "http://deb.debian.org/debian"
_ENGINE = (
    *("docker.io", "containerd", "runc", "tini", "iptables", "mmdebstrap"),
    *("libmnl0", "libnftnl11", "libxtables12", "libip4tc2", "libip6tc2"),
)
_PLUGINS = ("docker-compose", "docker-buildx")  # from trixie, because bookworm has neither
_BASE_PACKAGES = "ca-certificates,python3-minimal,python3-venv,python3-pip"
_SERVICE_PACKAGES = "ca-certificates,postgresql,valkey-server,valkey-tools,haproxy"
_START_SECONDS = 60.0
_KEPT = "8GB"
"""Size to which cached build layers are limited; a worker's packages take 2 GB."""
_PATH = "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"


class ContainersUnavailableError(Exception):
    """The reason why no container can run on this machine."""


@dataclass(frozen=True)
class Engine:
    """A running dockerd."""

    root: Path
    """Folder into which its programs are unpacked."""
    environment: dict[str, str]

    def run(
        self, *arguments: str, timeout: float = 120, check: bool = True, text: str | None = None
    ) -> str:
        """Return what `docker ARGUMENTS` prints; a failure's message contains its errors."""
        done = subprocess.run(
            ["docker", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            input=text,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"docker {' '.join(arguments)}: {done.stdout}\n{done.stderr}")
        return done.stdout.strip() or done.stderr.strip()

    def shell(self, line: str, timeout: float = 300) -> None:
        """Run a line of a runbook in which `docker` means this engine's."""
        done = subprocess.run(
            ["sh", "-c", line],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, f"{line}: {done.stderr}"

    def build(self, context: Path, *arguments: str, timeout: float = 1700) -> None:
        """Build an image without network access."""
        self.run("build", "--network", "none", *arguments, str(context), timeout=timeout)

    def inspect(self, name: str) -> dict[str, object]:
        """Return the engine's data about a container, image or volume."""
        found: list[dict[str, object]] = json.loads(self.run("inspect", name))
        return found[0]


@contextmanager
def running_engine() -> Iterator[Engine]:
    """Yield an engine with both base images, the only one on this machine within the context.

    Raises `ContainersUnavailableError`.
    """
    _check_machine()
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        root = _unpack_engine()
        # Under /tmp, because a socket's path may have at most 107 characters.
        state = Path(tempfile.mkdtemp(prefix="excise-docker-", dir="/tmp"))
        try:
            with _daemon(root, state) as engine:
                _import_image(engine, BASE_IMAGE, "bookworm", _BASE_PACKAGES)
                _import_image(engine, SERVICES_IMAGE, "trixie", _SERVICE_PACKAGES)
                try:
                    yield engine
                finally:
                    engine.run("image", "prune", "--force", check=False)
                    engine.run("builder", "prune", "--force", "--keep-storage", _KEPT, check=False)
        finally:
            shutil.rmtree(state, ignore_errors=True)


def _check_machine() -> None:
    """Raise `ContainersUnavailableError` if it is clear in advance."""
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        raise ContainersUnavailableError("Debian's amd64 packages run on Linux x86_64 only")
    if os.geteuid() != 0:
        raise ContainersUnavailableError("a dockerd of one's own needs root")
    if missing := [name for name in ("apt-get", "dpkg", "perl") if shutil.which(name) is None]:
        raise ContainersUnavailableError(f"there is no {', '.join(missing)} here")
    if not _KEYRING.is_file():
        raise ContainersUnavailableError(f"there is no {_KEYRING} to check packages with")


def _unpack_engine() -> Path:
    """Return the folder with dockerd and its dependencies, which is filled only once."""
    root = CACHE / "engine"
    if root.is_dir():
        return root
    fresh = CACHE / "engine.new"
    shutil.rmtree(fresh, ignore_errors=True)
    packages = [*_download("bookworm", _ENGINE), *_download("trixie", _PLUGINS)]
    for package in packages:
        _run("dpkg", "-x", str(package), str(fresh))
        package.unlink()
    (fresh / "usr/sbin/iptables").symlink_to("xtables-nft-multi")
    (fresh / "usr/sbin/ip6tables").symlink_to("xtables-nft-multi")
    fresh.rename(root)
    return root


def _download(suite: str, packages: Sequence[str]) -> list[Path]:
    """Download Debian packages of a suite, checked by its signature, without using apt's state."""
    apt = CACHE / f"apt-{suite}"
    for folder in ("lists/partial", "cache/archives/partial", "debs"):
        (apt / folder).mkdir(parents=True, exist_ok=True)
    (apt / "status").touch()
    (apt / "sources.list").write_text(f"deb [signed-by={_KEYRING}] {_MIRROR} {suite} main\n")
    options = {
        "Dir::Etc::sourcelist": apt / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": apt / "lists",
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt / "cache",
        "APT::Sandbox::User": "root",
    }
    arguments = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    try:
        _run("apt-get", *arguments, "update", "--error-on=any")
        _run("apt-get", *arguments, "download", *packages, folder=apt / "debs")
    except (subprocess.SubprocessError, OSError) as error:
        raise ContainersUnavailableError(
            f"Debian's packages cannot be had ({type(error).__name__})"
        ) from None
    return sorted((apt / "debs").glob("*.deb"))


@contextmanager
def _daemon(root: Path, state: Path) -> Iterator[Engine]:
    """Yield a dockerd on a socket of its own; its images stay in the cache."""
    engine = Engine(root, _build_environment(root, state))
    log = (state / "dockerd.log").open("w")
    arguments = [
        *("dockerd", "--host", f"unix://{state}/socket", "--data-root", str(CACHE / "docker")),
        *("--exec-root", str(state / "exec"), "--pidfile", str(state / "pid")),
        *("--userland-proxy-path", str(root / "usr/sbin/docker-proxy")),
        *("--init-path", str(root / "usr/bin/tini-static"), "--bip", "172.31.250.1/24"),
        *("--default-address-pool", "base=172.31.192.0/19,size=24"),
    ]
    daemon = subprocess.Popen(arguments, env=engine.environment, stdout=log, stderr=log)
    try:
        _wait_until_up(engine, daemon, state / "dockerd.log")
        yield engine
    finally:
        daemon.terminate()
        try:
            daemon.wait(30)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
        log.close()


def _build_environment(root: Path, state: Path) -> dict[str, str]:
    """Return an environment in which docker finds its plugins, without proxies or user settings."""
    plugins = state / "config" / "cli-plugins"
    plugins.mkdir(parents=True)
    for name in _PLUGINS:
        (plugins / name).symlink_to(root / "usr/libexec/docker/cli-plugins" / name)
    programs = f"{root}/usr/bin:{root}/usr/sbin:{os.environ['PATH']}"
    return {
        "PATH": programs,
        "LD_LIBRARY_PATH": str(root / "usr/lib/x86_64-linux-gnu"),
        "XTABLES_LIBDIR": str(root / "usr/lib/x86_64-linux-gnu/xtables"),
        "DOCKER_HOST": f"unix://{state}/socket",
        "DOCKER_CONFIG": str(state / "config"),
        "DOCKER_BUILDKIT": "1",
        "BUILDKIT_PROGRESS": "plain",
        "HOME": str(state),
    }


def _wait_until_up(engine: Engine, daemon: subprocess.Popen[bytes], log: Path) -> None:
    """Return once the engine answers. Raises `ContainersUnavailableError`."""
    deadline = time.monotonic() + _START_SECONDS
    while subprocess.run(
        ["docker", "version"], env=engine.environment, capture_output=True
    ).returncode:
        if daemon.poll() is not None or time.monotonic() > deadline:
            last = log.read_text(errors="replace").strip().splitlines()[-1:]
            raise ContainersUnavailableError(f"dockerd does not start here: {last}")
        time.sleep(0.3)


def _import_image(engine: Engine, name: str, suite: str, packages: str) -> None:
    """Make a base image from Debian's packages, unless it is cached."""
    if engine.run("images", "--quiet", name):
        return
    tar = CACHE / f"{suite}.tar"
    mmdebstrap = engine.root / "usr/bin/mmdebstrap"
    try:
        _run(
            *("perl", str(mmdebstrap), "--variant=minbase", "--mode=root"),
            *("--dpkgopt=force-unsafe-io", "--dpkgopt=path-exclude=/usr/share/doc/*"),
            *(
                "--dpkgopt=path-exclude=/usr/share/man/*",
                "--dpkgopt=path-exclude=/usr/share/locale/*",
            ),
            *(f"--include={packages}", suite, str(tar), _MIRROR),
            environment={**os.environ, "PATH": f"{os.environ['PATH']}:{mmdebstrap.parent}"},
        )
        engine.run("import", "--change", f"ENV {_PATH}", str(tar), name)
    except subprocess.CalledProcessError as error:
        last = error.stderr.decode(errors="replace").strip().splitlines()[-3:]
        raise ContainersUnavailableError(f"mmdebstrap failed: {'; '.join(last)}") from None
    except subprocess.TimeoutExpired as error:
        raise ContainersUnavailableError(f"mmdebstrap took over {error.timeout:g} s") from None
    finally:
        tar.unlink(missing_ok=True)


def _run(
    *arguments: str, folder: Path | None = None, environment: dict[str, str] | None = None
) -> None:
    """Run a program to its end, by default in this process's environment."""
    subprocess.run(
        arguments, cwd=folder, env=environment, check=True, capture_output=True, timeout=600
    )
