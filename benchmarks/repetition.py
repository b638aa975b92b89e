"""The claim of the repetition correction, measured on prompts that no development run has seen.

Submits one correction job through the REST API of an embedded stack: prompts from
benchmarks/data/repetition_prompts_heldout.txt (split by hash into tuning and held-out by the
job itself), reference text from C4 and WikiText-2 valid, perplexity on WikiText-2 test,
40 x 512 tokens. Needs the data folder (../shared/data or EXCISE_DATA).

    python benchmarks/repetition.py [--attributor attnlrp] [--score …] [--rounds 6]
        [--granularity weight] [--output DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

from service.client import ExciseClient
from service.demo import create_throwaway_key, fetch_model
from service.embedded import EmbeddedStack

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("EXCISE_DATA", ROOT.parent / "shared" / "data"))
MODEL = "smollm2-135m-instruct"
REFERENCE_TEXTS = 160
REFERENCE_CHARACTERS = 900
PARAGRAPH_CHARACTERS = 400


def read_reference() -> bytes:
    """Texts of C4 and paragraphs of WikiText-2 valid in turn, one a line."""
    with (DATA / "c4.jsonl").open(encoding="utf-8") as file:
        web = [" ".join(json.loads(line)["text"].split()) for line in file]
    wiki = (DATA / "wikitext2_valid.txt").read_text(encoding="utf-8").splitlines()
    wiki = [line.strip() for line in wiki if len(line) >= PARAGRAPH_CHARACTERS]
    pairs = zip(web[:REFERENCE_TEXTS], wiki[:REFERENCE_TEXTS], strict=True)
    lines = (text[:REFERENCE_CHARACTERS] for pair in pairs for text in pair)
    return ("\n".join(lines) + "\n").encode()


def build_spec(arguments: argparse.Namespace, ids: dict[str, str]) -> dict[str, object]:
    """The example's job with this benchmark's prompt sets, corpus size and attributor."""
    spec = json.loads((ROOT / "examples" / "repetition.job.json").read_text(encoding="utf-8"))
    spec["behaviours"][0]["prompts"] = ids["prompts"]
    spec["reference"] = ids["reference"]
    spec["perplexity"] = {"prompts": ids["corpus"], "context": 512, "sequences": 40}
    spec["attribution"] = {
        "attributor": arguments.attributor,
        "score": arguments.score,
        "granularity": arguments.granularity,
        "reference_tokens": arguments.reference_tokens,
    }
    spec["search"] = {"amounts": arguments.amounts, "rounds": arguments.rounds}
    return dict(spec)


def main() -> None:
    """Run the job and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--attributor", default="attnlrp")
    parser.add_argument("--score", default="benefit_damage")
    parser.add_argument("--granularity", default="weight")
    parser.add_argument("--amounts", type=int, nargs="+", help="the service's own by default")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--reference-tokens", type=int, default=8192)
    parser.add_argument("--prompts", type=Path)
    parser.add_argument("--output", type=Path, default=Path(tempfile.mkdtemp(prefix="excise-")))
    arguments = parser.parse_args()
    prompts = arguments.prompts or ROOT / "benchmarks" / "data" / "repetition_prompts_heldout.txt"
    home = Path(os.environ.get("EXCISE_HOME", ROOT / ".excise"))
    with EmbeddedStack(home, report=print) as stack:
        fetch_model(stack, MODEL, print)
        key = create_throwaway_key(stack.database_url)
        with ExciseClient(stack.url, key) as client:
            ids = {
                "prompts": client.upload_prompts(prompts.read_bytes(), prompts.stem).id,
                "reference": client.upload_prompts(read_reference(), "c4 and wikitext2_valid").id,
                "corpus": client.upload_prompts(
                    (DATA / "wikitext2_test.txt").read_bytes(), "wikitext2_test"
                ).id,
            }
            job = client.create_job(build_spec(arguments, ids))
            for event in client.iter_events(job.id):
                print(f"{event.created_at:%H:%M:%S} {event.message}", flush=True)
            job = client.get_job(job.id)
            client.download_artifacts(job, arguments.output)
    report = json.loads((arguments.output / "report.json").read_text(encoding="utf-8"))
    del report["samples"]
    print(json.dumps(report, indent=1))
    print(f"files: {arguments.output}")


if __name__ == "__main__":
    main()
