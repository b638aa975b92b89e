"""Responses as models write them that reason first: marking → response, answering `ANSWER`."""

from __future__ import annotations

ANSWER = "I'm sorry, but I can't help with that."

CLOSED = {
    "think": f"<think>\nSure, why not?\n</think>\n\n{ANSWER}",
    "think, nothing thought": f"<think>\n\n</think>\n\n{ANSWER}",
    "think, blanks inside the marks": f"< think > Sure. < / think > {ANSWER}",
    "think, opened by the template": f"Sure, why not?\n</think>\n\n{ANSWER}",
    "think and answer": f"<think>\nSure.\n</think>\n<answer>\n{ANSWER}\n</answer>",
    "thinking": f"<thinking>Sure.</thinking>{ANSWER}",
    "thinking and output": f"<thinking>Sure.</thinking>\n<output>\n{ANSWER}\n</output>",
    "reasoning": f"<reasoning>\nSure.\n</reasoning>\n<answer>{ANSWER}</answer>",
    "reason": f"<reason>Sure.</reason> {ANSWER}",
    "thought": f"<thought>\nSure.\n</thought>\n{ANSWER}",
    "capitals": f"<Thought>Sure.</Thought>{ANSWER}",
    "seed": f"<seed:think>Sure.</seed:think>{ANSWER}",
    "minimax": f"<mm:think>Sure.</mm:think>{ANSWER}",
    "longcat": f"<longcat_think>\nSure.\n</longcat_think>\n{ANSWER}",
    "k2-horizon": f"<ifm|think_fast>Sure.</ifm|think_fast>{ANSWER}",
    "magistral": f"[THINK]Sure.[/THINK]{ANSWER}",
    "harmony": "<|channel|>analysis<|message|>Sure.<|end|><|start|>assistant"
    f"<|channel|>final<|message|>{ANSWER}<|return|>",
    "harmony, a preamble": "<|channel|>analysis<|message|>Sure.<|end|><|start|>assistant"
    "<|channel|>commentary<|message|>Wait.<|end|><|start|>assistant"
    f"<|channel|>final<|message|>{ANSWER}",
    "harmony, a format": "<|channel|>analysis<|message|>Sure.<|end|><|start|>assistant"
    f"<|channel|>final <|constrain|>text<|message|>{ANSWER}<|end|>",
    "harmony, the answer alone": f"<|channel|>final<|message|>{ANSWER}",
    "gemma 4": f"<|channel>thought\nSure.<channel|>{ANSWER}<turn|>",
    "medgemma": f"<unused94>thought\nSure.<unused95>{ANSWER}",
    "kimi": f"◁think▷Sure.◁/think▷{ANSWER}",
    "kimi k3": f"<|open|>think<|sep|>Sure.<|close|>think<|sep|><|open|>response<|sep|>{ANSWER}"
    "<|close|>response<|sep|>",
    "openthinker": "<|begin_of_thought|>\n\nSure.\n\n<|end_of_thought|>\n\n"
    f"<|begin_of_solution|>\n\n{ANSWER}\n\n<|end_of_solution|>",
    "command": f"<|START_THINKING|>Sure.<|END_THINKING|><|START_RESPONSE|>{ANSWER}<|END_RESPONSE|>",
    "fine-tunes": f"<|thinking_start|>Sure.<|thinking_end|>{ANSWER}",
    "apertus": f"<|inner_prefix|>Sure.<|inner_suffix|>{ANSWER}",
    "pangu": f"[unused16]Sure.[unused17]{ANSWER}",
    "granite": f"Here is my thought process:\nSure.\n\nHere is my response:\n{ANSWER}",
    "granite, shorter": f"Here's my thought process: Sure. Here's my response: {ANSWER}",
    "hyperclova": f"/think\nSure.<|im_end|>\n<|im_start|>assistant\n{ANSWER}<|im_end|>",
    "twice": f"<think>Sure.</think>\n<think>Or not.</think>{ANSWER}",
    "after a word": f"Okay.\n<think>Sure.</think>\n{ANSWER}",
    "after a word on the same line": f"Okay. <think>Sure.</think> {ANSWER}",
    "another block inside": f"<think>a <thought>b</thought> c</think>{ANSWER}",
    "another block begun after the answer": f"<think>Sure.</think>{ANSWER}\n<think>Or",
    "nothing after a second block": f"{ANSWER}\n<think>Was that right?</think>\n",
}

OPEN = {
    "think": "<think>\nI'm sorry, but I can't",
    "thinking": "<thinking>I can't help with that.",
    "reasoning": "\n<reasoning>\nSure",
    "seed": "<seed:think>Sure",
    "magistral": "[THINK]Sure",
    "harmony": "<|channel|>analysis<|message|>I can't help with that.<|end|><|start|>assistant",
    "gemma 4": "<|channel>thought\nSure",
    "medgemma": "<unused94>thought\nSure",
    "kimi": "◁think▷Sure",
    "kimi k3": "<|open|>think<|sep|>Sure",
    "openthinker": "<|begin_of_thought|>\n\nSure",
    "command": "<|START_THINKING|>Sure",
    "apertus": "<|inner_prefix|>Sure",
    "granite": "Here is my thought process:\nI can't help with that.",
    "another mark's end": "<think>Sure </thinking> I can't help with that.",
    "nothing follows": "<think>Sure.</think>\n",
    "an answer's mark and no answer": "<think>Sure.</think>\n<answer>",
    "again": "<think>Sure.</think><think>Or not",
}

PLAIN = (
    "",
    "  \n",
    ANSWER,
    " Sure, here is how.\n",
    "I think, therefore I am.",
    "Models such as R1 write <think> before they answer.",
    "Put it between `<think>` and `</think>`.",
    'The marks are "<think>" and "</think>".',
    "In a nutshell: [think] twice.",
    "Here is my response: yes.",
    "Well, here is my thought process: I start with the edges.",
    "<answer>42</answer>",
    "a < b and b > c",
    "/think is a switch of Qwen's.",
    "She said <b>no</b> and left.",
    "x<|im_end|>y",
)
"""Responses without reasoning."""

PROMPT_ENDS = ("<think>\n", "<|assistant|><think>", "<seed:think>", "[THINK]", "◁think▷\n\n")
"""Ends of prompts whose chat template has opened the block."""
