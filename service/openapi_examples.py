"""Examples of request bodies in the OpenAPI document: by call, media type and title."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_JSON = "application/json"
_SET = "ps_3f0a3f0a3f0a3f0a3f0a3f0a"
_VERSION = "mv_3f0a3f0a3f0a3f0a3f0a3f0a"

REQUEST_EXAMPLES: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("submit_job", _JSON): {
        "repetition": {
            "kind": "correction",
            "model": "smollm2-135m-instruct",
            "behaviours": [{"name": "repetition", "kind": "repetition", "prompts": _SET}],
            "reference": _SET,
        },
        "phrase": {
            "kind": "correction",
            "model": "smollm2-135m-instruct",
            "behaviours": [
                {"name": "as an AI", "kind": "phrase", "phrases": ["as an AI"], "prompts": _SET}
            ],
            "reference": _SET,
        },
        "circuit": {"kind": "circuit", "model": "smollm2-135m-instruct", "task": "ioi"},
        "compression": {
            "kind": "compression",
            "model": "smollm2-135m-instruct",
            "sparsity": 0.5,
            "calibration": {"prompts": _SET},
            "perplexity": {"prompts": _SET},
        },
    },
    ("estimate_job", _JSON): {
        "repetition on a larger machine": {
            "spec": {
                "kind": "correction",
                "model": "smollm2-135m-instruct",
                "behaviours": [{"name": "repetition", "kind": "repetition", "prompts": _SET}],
                "reference": _SET,
            },
            "machine": {
                "device": "NVIDIA H100",
                "device_bytes": 85899345920,
                "host_bytes": 274877906944,
                "flops": 6e13,
                "low_precision_flops": 6e14,
                "bytes_per_second": 3.3e12,
            },
        }
    },
    ("create_prompt_set", "text/plain"): {"prompts": "Once upon a time\nThe end of the"},
    ("create_key", _JSON): {"pipeline": {"name": "pipeline", "scopes": ["submit"]}},
    ("publish", _JSON): {
        "to an alias": {"alias": "smollm2@production", "reason": "passed every gate"}
    },
    ("promote_alias", _JSON): {"a version": {"version": _VERSION, "reason": "shadow week is over"}},
    ("roll_back_alias", _JSON): {"with a reason": {"reason": "users complain"}},
    ("split_alias", _JSON): {"a tenth": {"version": _VERSION, "percent": 10}},
    ("retire_version", _JSON): {"with a reason": {"reason": "superseded"}},
    ("create_webhook", _JSON): {
        "ends of jobs": {
            "url": "https://hooks.example.com/excise",
            "events": ["job.succeeded", "job.failed"],
            "description": "tells the release channel",
        }
    },
    ("change_webhook", _JSON): {"switched off": {"status": "disabled"}},
    ("create_chat_completion", _JSON): {
        "one question": {
            "model": "smollm2@production",
            "messages": [{"role": "user", "content": "Tell me a story."}],
            "max_tokens": 64,
        }
    },
    ("create_completion", _JSON): {
        "one prompt": {
            "model": "smollm2@production",
            "prompt": "Once upon a time",
            "max_tokens": 64,
        }
    },
}
