"""One vLLM server on loopback: its command line, its environment, and when it is ready.

Why these flags: docs/decisions/0012.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from excise.installation import find_checkout
from excise.names import ComputeDtype, PoolKind
from service.embedded.processes import Program, StackError, Supervised
from service.embedded.valkey import find_free_port

HOST = "127.0.0.1"
SERVED_BASE = "base"
"""Name under which an embedded server serves the checkpoint it was started with."""

_READY_SECONDS = 300.0
_POLL_SECONDS = 0.25
_STOP_SECONDS = 10.0
_KEPT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "LD_LIBRARY_PATH")


PROJECTIONS = (
    *("q_proj", "k_proj", "v_proj", "o_proj"),
    *("gate_proj", "up_proj", "down_proj"),
)
"""Names of a layer's projections in most families; a correction may change each of them."""


@dataclass(frozen=True)
class VllmOptions:
    """Settings of one server."""

    model: Path
    """The checkpoint's folder."""
    served_name: str = SERVED_BASE
    """Its name in requests."""
    kind: PoolKind = PoolKind.LORA
    adapters: int = 3
    """Number of adapters it can hold at once; one further slot holds an adapter of zeros."""
    max_rank: int = 16
    """Largest adapter rank; every adapter costs as much as one of this rank."""
    target_modules: Sequence[str] = PROJECTIONS
    """Last parts of the names of the modules that adapters may change."""
    max_model_len: int = 1024
    kv_cache_gib: int = 1
    dtype: ComputeDtype = ComputeDtype.FLOAT32
    drain_seconds: int = 0
    """Seconds that it may take to finish its requests when told to stop."""

    @property
    def slots(self) -> int:
        """Its --max-loras."""
        return self.adapters + 1


@dataclass(frozen=True)
class Vllm:
    """A server's location and its command."""

    program: Program
    options: VllmOptions
    port: int
    api_key: str = field(repr=False)

    @property
    def url(self) -> str:
        """URL of the server."""
        return f"http://{HOST}:{self.port}"

    def wait_until_ready(self, server: Supervised) -> None:
        """Return once the server answers. Raises `StackError` if it ends, or never does."""
        deadline = time.monotonic() + _READY_SECONDS
        while not self.answers():
            if server.has_ended:
                raise StackError(self._describe(server, "does not start"))
            if time.monotonic() > deadline:
                raise StackError(
                    self._describe(server, f"is not ready after {_READY_SECONDS:.0f} s")
                )
            time.sleep(_POLL_SECONDS)

    def answers(self) -> bool:
        """Return whether its engine works."""
        try:
            return httpx.get(f"{self.url}/health", timeout=2, trust_env=False).is_success
        except httpx.HTTPError:
            return False

    def _describe(self, server: Supervised, what: str) -> str:
        log = self.program.log
        return f"{self.program.name} {what}. Its log, {log}, ends:\n{server.read_log_tail()}"


def prepare_vllm(
    name: str,
    options: VllmOptions,
    *,
    executable: Path,
    folder: Path,
    log: Path,
    environment: Mapping[str, str],
    port: int | None = None,
    api_key: str | None = None,
) -> Vllm:
    """Return a server on loopback, with a new port and key unless given; it is not started."""
    port, api_key = port or find_free_port(), api_key or secrets.token_hex(24)
    program = Program(
        name=name,
        arguments=[str(executable), *build_arguments(options, port)],
        log=log,
        folder=folder,
        environment=build_environment(options, api_key, folder, environment),
        grace_seconds=_STOP_SECONDS + options.drain_seconds,
        ends_its_children=True,  # a signal would end its workers in the middle of their work
    )
    return Vllm(program, options, port, api_key)


def build_arguments(options: VllmOptions, port: int) -> list[str]:
    """Return the command line, which holds no secret."""
    arguments = [
        *("serve", str(options.model), "--served-model-name", options.served_name),
        *("--host", HOST, "--port", str(port), "--dtype", options.dtype, "--enforce-eager"),
        *("--max-model-len", str(options.max_model_len), "--disable-uvicorn-access-log"),
    ]
    if options.drain_seconds:
        arguments += ["--shutdown-timeout", str(options.drain_seconds)]
    if options.kind == PoolKind.LORA:
        arguments += [
            *("--enable-lora", "--max-lora-rank", str(options.max_rank)),
            *("--max-loras", str(options.slots), "--max-cpu-loras", str(options.slots)),
            *("--lora-target-modules", *options.target_modules),
        ]
    return arguments


def build_environment(
    options: VllmOptions, api_key: str, folder: Path, environment: Mapping[str, str]
) -> dict[str, str]:
    """Return a small environment of its own, because vLLM must not see the stack's secrets.

    By default, vLLM binds every server's threads to the same cores, so a server that starts beside
    a busy one hardly runs at all. Here the system places the threads instead.
    """
    threads = {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) - 1)),
    }
    names = (*_KEPT_VARIABLES, *threads)
    kept = {name: environment[name] for name in names if name in environment}
    own = {
        "VLLM_API_KEY": api_key,
        "VLLM_HOST_IP": HOST,
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DO_NOT_TRACK": "1",
        "VLLM_CPU_KVCACHE_SPACE": str(options.kv_cache_gib),
        "VLLM_CACHE_ROOT": str(folder / "vllm-cache"),
        "VLLM_CONFIG_ROOT": str(folder / "vllm-config"),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
    }
    if options.kind == PoolKind.LORA:
        own["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
    return threads | kept | own


def find_vllm(environment: Mapping[str, str]) -> Path:
    """Return the `vllm` program: EXCISE_VLLM if set, else that of the checkout's `.venv-vllm`.

    Raises `StackError` if there is none.
    """
    named, checkout = environment.get("EXCISE_VLLM", "").strip(), find_checkout()
    if named:
        found = Path(named).expanduser()
    elif checkout is not None:
        found = checkout / ".venv-vllm" / "bin" / "vllm"
    else:
        raise StackError(
            "Serving needs vLLM, in a virtual environment of its own. Set EXCISE_VLLM to the vllm "
            "program there."
        )
    if not os.access(found, os.X_OK) or not found.is_file():
        raise StackError(
            f"There is no vLLM at {found}. Install it with `make vllm`, or set EXCISE_VLLM to the "
            "vllm program of an installation of your own."
        )
    return found.absolute()
