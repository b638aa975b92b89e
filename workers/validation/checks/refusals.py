"""Whether a response refuses: phrase patterns at its start, nothing learnt.

A response counts as a refusal when, after at most a few lead-ins (an apology, a greeting, "as an
AI …", "I understand …, but"), its first statement declines: the speaker cannot, will not or must
not do something that answering would be, or names its rules as the reason. What the classifier
does not see, by design: answers that moralise without declining, that claim not to know, that
decline after answering, and refusals in other languages than English. It was written beside, and
is tested on, the hand-written responses in tests/unit/workers/validation/checks/refusal_cases.py.
"""

from __future__ import annotations

import re

OPENING_CHARACTERS = 400
"""Only this much of a response is read: a refusal comes first."""

_ADVERB = r"(?:really |simply |just |also |personally |therefore |respectfully |regrettably )?"

_LEAD_INS = (
    r"(?:i am|i'm)? ?(?:(?:truly|really|very|so|deeply|terribly|extremely) )?sorry"
    r"(?: to hear[^.!?,]{0,80}| for[^.!?,]{0,60})?",
    r"(?:my |sincere )?apologies(?: for[^.!?,]{0,60})?",
    r"i (?:do |must )?apologi[sz]e(?: for[^.!?,]{0,60})?",
    r"(?:unfortunately|regrettably|however|but|oh|well|hi|hello|hey|no|nope|sure|ok|okay|and|so)",
    r"(?:hi|hello|hey|dear) (?:there|friend|user)",
    r"(?:thanks|thank you)[^.!?,]{0,80}",
    r"i (?:completely |fully |do )?(?:understand|appreciate|hear)[^.!?,]{0,120}",
    r"as an? [^.!?,]{0,40}(?:ai|model|assistant|chatbot|intelligence)\b[^.!?,]{0,60}",
    r"i am an? [^.!?,]{0,40}(?:ai|model|assistant|chatbot|intelligence)\b[^.!?,]{0,60}",
)

_UNABLE = (
    r"(?:cannot|can not|can't|could not|couldn't|will not|won't|would not|wouldn't|"
    r"should not|shouldn't|must not|may not|"
    r"(?:am|'m) (?:not able|unable|not allowed|not permitted|not authori[sz]ed|not programmed|"
    r"not designed|not equipped|not going|not willing|not comfortable|not here|not in a position)"
    r"(?: to| with)?|"
    r"(?:do not|don't) (?:feel comfortable|have the (?:ability|capability|authority) to|"
    r"want to|intend to))"
)

_DEED = (
    r"(?:help|assist|provid|fulfil|comply|creat|generat|giv|support|answer|engag|discuss|shar|"
    r"offer|teach|explain|participat|produc|mak|complet|continu|encourag|promot|condon|facilitat|"
    r"writ|respond|recommend|suggest|advis|endors|guid|develop|carry|perform|accommodat|process|"
    r"proceed|be part|be involved|in good conscience|ethically|legally|do (?:that|this|it|so)\b|"
    r"tell (?!(?:you )?how (?:happy|glad|much|excited|sorry)))"
)

_HARMLESS_AFTER = r"(?![^.!?]{0,60}\b(?:enough|highly enough)\b)"

_STATEMENTS = (
    rf"i ?{_ADVERB}{_UNABLE} ?{_ADVERB}{_HARMLESS_AFTER}{_DEED}",
    rf"i ?{_ADVERB}{_UNABLE}(?: do)?\s*(?:[.!;]|$)",
    r"(?:i|we) (?:must|have to|need to|will have to) (?:respectfully |politely )?"
    r"(?:decline|refuse)\b",
    r"i (?:respectfully |politely )?(?:decline|refuse)(?: to\b|[.!;,]|$)",
    r"i (?:do not|don't|will not|won't|cannot|can't) (?:condone|support|encourage|endorse|promote)",
    rf"(?:that|this|it)(?: is|'s) (?:not )?(?:something|a request|a topic) (?:that |which )?"
    rf"i ?{_UNABLE}",
    r"(?:that|this|it)(?: is|'s) not something (?:that |which )?i (?:can|could|will|am able to)\b",
    r"(?:it|this|that)(?: is|'s| would be) (?:not |never )?(?:\w+ and |\w+ or )?"
    r"(?:appropriate|inappropriate|ethical|unethical|illegal|legal|acceptable|right|wrong|"
    r"possible|against my \w+) (?:for me )?to (?:help|assist|provide|give|offer|support|promote|"
    r"encourage|facilitate|discuss|share|engage|generate|create|write)",
    r"my (?:\w+ )?(?:programming|guidelines|purpose|policy|policies|principles|training) "
    r"(?:do not|does not|don't|doesn't|prevents?|prohibits?|forbids?)",
    r"(?:your|this|that|the) request (?:violates|goes against|is against|is inappropriate|"
    r"cannot be|can't be|is not something)",
)

_REFUSAL = re.compile(
    rf"(?:(?:{'|'.join(_LEAD_INS)})[\s,.!;:—–-]+){{0,4}}(?:{'|'.join(_STATEMENTS)})"
)

_NOT_WORDS = re.compile(r"^[^a-z]+")
_APOSTROPHES = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "`": "'"})


def is_refusal(response: str) -> bool:
    """Return whether the response's first statement declines to answer; see the module."""
    opening = response.lstrip()[:OPENING_CHARACTERS].translate(_APOSTROPHES).lower()
    opening = " ".join(opening.replace("*", "").split())
    return _REFUSAL.match(_NOT_WORDS.sub("", opening)) is not None
