"""Cut a request down to its bare goal: a verb phrase such as ``pick a lock``."""

import re
from collections import Counter
from collections.abc import Iterable

GERUNDS = {
    "boarding": "board",
    "cheating": "cheat",
    "committing": "commit",
    "counterfeiting": "counterfeit",
    "creating": "create",
    "distributing": "distribute",
    "evading": "evade",
    "extracting": "extract",
    "falsifying": "falsify",
    "fooling": "fool",
    "forging": "forge",
    "hacking": "hack",
    "hiring": "hire",
    "holding": "hold",
    "intercepting": "intercept",
    "launching": "launch",
    "locating": "locate",
    "making": "make",
    "manufacturing": "manufacture",
    "obtaining": "obtain",
    "pressuring": "pressure",
    "selling": "sell",
    "smuggling": "smuggle",
    "stealing": "steal",
    "synthesizing": "synthesize",
    "using": "use",
}
_GUIDE = r"(?:instructions|tutorial|guide|guidance|manual|advice|methods|tips)"
_GUIDE_FOR = re.compile(rf"^\w+ (?:an? )?(?:[\w-]+ )*?{_GUIDE} (?:for|on|of) (\w+ing)\b(.*)$")
_AUDIENCE = re.compile(r"child|minor|teen|kid", re.IGNORECASE)
_PIQA_FRAME = re.compile(
    r"^(?:how (?:do|can|should|would|could) (?:you|i|we|one|someone|people)|how to|to)\s+(.*)$",
    re.IGNORECASE,
)
_VERB = re.compile(r"(?!(?:you|i|we|it|a|the|more|best|additional|have|be)$)[a-z]+")
# Benchmarks of harm hardly ever say "you" or "your": leaving them in would mark the benign class.
_PERSON = re.compile(r"\b(?:you\w*|i|i'm|me|we|us|mine)\b")
_PIQA_TAIL = re.compile(r",? (?:you|one) (?:can|should|need to|will|could|must)$", re.IGNORECASE)
# Every-day goals that a safety policy could fairly dispute stay out of the benign class.
_DISPUTABLE = re.compile(
    r"\b(?:kill|gun|rifle|pistol|shoot|bomb|explo|poison|drug|marijuana|weed\b|joint|cannabis|bong|"
    r"blood|vein|weapon|knives|knife|machete|sword|alcohol|beer|wine|vodka|whisk|drunk|smok|cigar|"
    r"sex|condom|breast|nude|naked|hack|steal|fight|punch|choke|strangle|prank|trick|spy|cheat|lie\b|"
    r"wound|stab|suicid|die\b|dead|burn|fire\b|ignite|acid|bleach|taser|declaw|terminate|police|"
    r"prison|jail|scam|torture|hurt|harm|injur|virus|pregnan|abort|pill|needle|syringe|puncture|"
    r"sneak|molotov|fuck|shit|ass\b|pee\b|poop|suck|shots\b)",
    re.IGNORECASE,
)


def strip_harmful_frame(request: str) -> str:
    """Return the goal inside a request ("Write a tutorial on how to X" -> "X").

    A request with no such frame is itself the goal, an imperative in lower case.
    """
    text = request.strip().rstrip(".").strip()
    before, _, after = text.partition(" how to ")
    plain = " and " not in before and "," not in before and len(before.split()) <= 8
    if len(after.split()) >= 2 and plain and not _AUDIENCE.search(before):
        return after.strip()
    match = _GUIDE_FOR.match(text)
    if match and match.group(1) in GERUNDS:
        return _replace_gerunds(match.group(1) + match.group(2))
    return text[0].lower() + text[1:]


def _replace_gerunds(phrase: str) -> str:
    first, _, rest = phrase.partition(" ")
    rest = re.sub(r"\band (\w+ing)\b", lambda m: f"and {GERUNDS.get(m[1], m[1])}", rest)
    return f"{GERUNDS[first]} {rest}"


def collect_piqa_goals(questions: Iterable[str]) -> list[str]:
    """Return the usable every-day goals, each a verb phrase in lower case, in input order.

    A bare line counts as a verb phrase only if its first word is seen after "how to" elsewhere:
    PIQA also holds single nouns, which are no requests.
    """
    split = [(_PIQA_FRAME.match(question), question) for question in questions]
    verbs = Counter(m[1].split()[0].lower() for m, _ in split if m and m[1].split())
    goals: list[str] = []
    for match, question in split:
        goal = _tidy(match[1] if match else question)
        words = goal.split()
        if len(words) < 3 or not goal.isascii() or not _VERB.fullmatch(words[0]):
            continue
        if _PERSON.search(goal) or _DISPUTABLE.search(goal):
            continue
        if verbs[words[0]] >= (1 if match else 3):
            goals.append(goal)
    return list(dict.fromkeys(goals))


def _tidy(goal: str) -> str:
    goal = re.sub(r"[\s,.?!:;]+$", "", re.sub(r"\s+", " ", goal.strip()))
    return re.sub(r"\b(?:your|my|our)\b", "the", _PIQA_TAIL.sub("", goal).lower())
