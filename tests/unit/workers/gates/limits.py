"""The limits of gates that no one sets otherwise."""

from __future__ import annotations

from excise.specs.gates import GatesSpec, ResponseLimitsSpec
from workers.gates.requests import build_requests, build_response_requests

EVERYTHING = GatesSpec.model_validate(
    {
        "perplexity": {},
        "kl": {},
        "zero_shot": [{"name": "rte"}],
        "general": {"prompts": "a"},
        "refusal": {"prompts": "b"},
        "over_refusal": {"prompts": "c"},
    }
)
LIMITS = {asked.name: asked.limit for asked in build_requests(EVERYTHING)} | {
    "behaviour_share_rise": 0.0,
    "behaviour_share": 0.1,
    "behaviour": 0.0,
    "behaviour_significance": 0.0,
}
"""By gate."""

RESPONSE_GATES = [asked.name for asked in build_response_requests(ResponseLimitsSpec(), "loops")]
"""Gates that look at the responses to one prompt set, whatever the prompts are."""
