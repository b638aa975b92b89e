"""Keeping secrets out of logs and output: known values, and text that looks like a secret.

In doubt, text is redacted, because a log is read by more people than a vault.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, unquote_plus

BLANK = "***"
SHORTEST_VALUE = 4
"""Shorter values are not searched for, because they would redact half of every line. Chosen by
hand."""

SHORTEST_INSIDE_WORDS = 8
"""Shorter values are redacted only as whole words. Chosen by hand."""

_BARE = r"""[^\s"'&]+"""
_QUOTED = r"""(?:"(?:[^"\\]|\\.){0,1024}+"|'(?:[^'\\]|\\.){0,1024}+')"""
_VALUE = rf"""(?:{_QUOTED}|\\{{0,4}}["']?{_BARE})"""
_SCHEME = r"(?:(?:bearer|basic|digest|token|negotiate|hmac)\s{1,4})?"
_NAMES = (
    *("password", "passwd", "passphrase", "secret", "credential", "signature", "authorization"),
    *("cookie", "apikey", "api_key", "api-key", "accesskey", "access_key", "access-key"),
    *("account_key", "accountkey", "private_key", "signing_key", "access_token", "auth_token"),
    *("refresh_token", "session_token", "security-token", "api_token", "id_token"),
)
_NAME = "|".join(_NAMES)
_QUERY_NAMES = ("key", "sig", "sign", "auth", "pass", "pwd", "jwt", "code")


@dataclass(frozen=True)
class _Pattern:
    """A pattern for one kind of secret; it is searched for if the text has one of `signs`."""

    signs: tuple[str, ...]
    """In lower case. Searching for them is a hundred times faster than for the pattern."""
    pattern: re.Pattern[str]
    replacement: str = BLANK


def _pattern(signs: str | tuple[str, ...], text: str, replacement: str = BLANK) -> _Pattern:
    compiled = re.compile(text, re.IGNORECASE | re.DOTALL)
    return _Pattern((signs,) if isinstance(signs, str) else signs, compiled, replacement)


# Repetitions are bounded, or end at the first character that they cannot match, so that even a line
# crafted to be slow takes time only in proportion to its length.
_PATTERNS = (
    _pattern(
        "private key",
        r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----(?:[^-]|-(?!-)){0,8192}(?:-----END)?",
    ),
    # user:password@, also with characters such as a slash that should have been encoded;
    # `host:8000/v1/alias@name` is a port and a path.
    _pattern("://", r"(?<=://)(?:[^/?#@\s\"']{0,256}+@)+", f"{BLANK}@"),
    _pattern(
        "://",
        r"(?<=://)[^/?#@\s:\[]{0,128}+:(?!\d{1,5}[/?#])(?:(?:[^\s\"'<>@:]|:(?!//)){0,256}+@)+",
        f"{BLANK}@",
    ),
    _pattern("%3a%2f%2f", r"(?<=%3a%2f%2f)(?:[^\s\"'&%]|%(?!40|3a%2f%2f)){0,256}+%40", f"{BLANK}@"),
    _pattern("bearer", r"\bbearer(?:\s|%20|\+){1,4}[\w.~+/=%-]{4,}", f"Bearer {BLANK}"),
    _pattern(
        _NAMES,
        rf"((?:{_NAME})[\w-]{{0,32}}+\\{{0,4}}+[\"']?\s{{0,4}}+"
        rf"(?:=>?|:|%3d|,(?=\s?b?[\"']))\s{{0,4}}+(?:b(?=[\"']))?){_SCHEME}{_VALUE}",
        rf"\1{BLANK}",
    ),
    _pattern(("token=", "token%3d"), rf"(token(?:=|%3d)){_BARE}", rf"\1{BLANK}"),
    _pattern(('token"', "token'"), rf"([\"']token[\"']\s?:\s?){_VALUE}", rf"\1{BLANK}"),
    _pattern(
        tuple(f"{name}{mark}" for name in _QUERY_NAMES for mark in ("=", "%3d")),
        rf"((?:[?&;]|%3f|%26)(?:{'|'.join(_QUERY_NAMES)})(?:=|%3d)){_BARE}",
        rf"\1{BLANK}",
    ),
    _pattern("exc_", r"exc_[a-z0-9_-]{8,}"),
    _pattern("whsec_", r"whsec_(?:[a-z0-9+/=_-]|%2b|%2f|%3d){8,}"),
    _pattern(
        ("hf_", "sk-", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "akia", "asia"),
        r"\b(?:hf_|sk-|gh[pousr]_|github_pat_|AKIA|ASIA)[a-z0-9_-]{16,}",
    ),
    _pattern("eyj", r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"),
)
_IS_SECRET_NAME = re.compile(
    r"password|passwd|passphrase|secret|credential|authorization|signature|cookie"
    r"|(?:^|[_-])(?:token|key|keys|pass|pat|sas|dsn)(?:[_-]|$)|apikey",
    re.IGNORECASE,
)
_IS_PLACE = re.compile(r"_(?:file|path|dir)$", re.IGNORECASE)
_BACKSLASHES_OR_ONE = re.compile(r"\\+|.", re.DOTALL)
_SPECIAL = re.compile(r"[@:/?#\[\]%&\s]+")


class Redactor:
    """Redacts the secrets it was given, in any encoding, and text that looks like a secret."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: frozenset[str] = frozenset()
        self._known: re.Pattern[str] | None = None
        self.register(secrets)

    def register(self, secrets: Iterable[str]) -> None:
        """Redact these values from now on; if one is a URL, the password in it."""
        found = {part for secret in secrets for part in _list_parts(secret)}
        self._secrets |= {part for part in found if len(part.strip()) >= SHORTEST_VALUE}
        longest_first = sorted(self._secrets, key=lambda secret: (-len(secret), secret))
        if longest_first:
            self._known = re.compile("|".join(map(_spell, longest_first)))

    def redact(self, text: str) -> str:
        """Return `text` with every secret redacted."""
        if self._known is not None and self._may_hold_one(text):
            text = self._known.sub(BLANK, text)
        folded = text.lower()
        for kind in _PATTERNS:
            if any(sign in folded for sign in kind.signs):
                text = kind.pattern.sub(kind.replacement, text)
        return text

    def redact_value(self, name: str, value: object) -> object:
        """Return the value of a log record's field, redacted if its name says it is a secret."""
        if isinstance(value, bool | int | float) or value is None:
            return value
        if is_secret_name(name):
            return BLANK
        if isinstance(value, Mapping):
            return {
                self.redact(str(key)): self.redact_value(str(key), inner)
                for key, inner in value.items()
            }
        if isinstance(value, list | tuple | set | frozenset):
            return [self.redact_value("", inner) for inner in value]
        return self.redact(str(value))

    def _may_hold_one(self, text: str) -> bool:
        """Return whether a known value may be in the text: encoded, escaped or as it is."""
        if "%" in text or "\\" in text or "+" in text:
            return True
        return any(secret in text for secret in self._secrets)


_PROCESS = Redactor()


def redact(text: str) -> str:
    """Return `text` with keys, passwords and this process's registered secrets redacted."""
    return _PROCESS.redact(text)


def redact_value(name: str, value: object) -> object:
    """Return the value of a log record's field, redacted if its name says it is a secret."""
    return _PROCESS.redact_value(name, value)


def register_secrets(secrets: Iterable[str]) -> None:
    """Make `redact` redact these values for the lifetime of the process."""
    _PROCESS.register(secrets)


def find_secrets(environment: Mapping[str, str]) -> list[str]:
    """Return the environment's values that are secret by name, and its URLs with a password."""
    return [
        value
        for name, value in environment.items()
        if (is_secret_name(name) and not _IS_PLACE.search(name)) or _has_user(value)
    ]


def is_secret_name(name: str) -> bool:
    """Return whether a value with this name is likely to be a secret."""
    return _IS_SECRET_NAME.search(name) is not None


def _has_user(value: str) -> bool:
    """Return whether the value is a URL with a user or a password, even a malformed one."""
    _, mark, rest = value.partition("://")
    return bool(mark) and ("@" in rest or "password=" in rest)


def _list_parts(secret: str) -> Iterator[str]:
    """Yield the parts of a secret that must not be shown: for a URL, its password and its pieces.

    If a password contains an `@`, `/` or `:` that is not encoded, URL parsers split it, and a
    piece may appear in messages as the name of a host or as an invalid port.
    """
    secret = secret.strip()
    _, mark, rest = secret.partition("://")
    if not mark:
        yield secret
        return
    authority, _, query = rest.partition("?")
    user_info = rest.rpartition("@")[0] if "@" in rest else authority
    for password in {user_info.partition(":")[2], user_info.partition("@")[0].partition(":")[2]}:
        if "@" in rest or not password.partition("/")[0].isdigit():  # `host:6379/0` holds none
            yield from _list_spellings(password)
            yield from (piece for piece in _SPECIAL.split(password) if piece)
    for name, value in parse_qsl(query):
        if is_secret_name(name):
            yield from _list_spellings(value)


def _list_spellings(password: str) -> tuple[str, str, str]:
    """Return a password as written and in its decoded forms."""
    return password, unquote(password), unquote_plus(password)


def _spell(secret: str) -> str:
    """Return a pattern for a value in which any character may be percent-encoded or escaped."""
    # Escaping doubles backslashes, possibly more than once, so a run may have any length.
    spelled = "".join(
        r"(?:\\|(?i:%(?:25)*5c)){1,64}+" if part[0] == "\\" else _spell_character(part)
        for part in _BACKSLASHES_OR_ONE.findall(secret)
    )
    if len(secret) < SHORTEST_INSIDE_WORDS:
        return rf"(?<![^\W_]){spelled}(?![^\W_])"
    return spelled


def _spell_character(character: str) -> str:
    """Return a pattern for a character: plain, percent-encoded (repeatedly) or escaped."""
    is_raw_byte = "\udc80" <= character <= "\udcff"  # how Python keeps what is not UTF-8
    encoded = character.encode("utf-8", "surrogateescape" if is_raw_byte else "surrogatepass")
    percent = "".join(f"%(?:25)*{byte:02x}" for byte in encoded)
    if character.isascii() and character.isalnum():
        return f"(?:{character}|(?i:{percent}))"
    escaped = {character, ascii(character)[1:-1], json.dumps(character)[1:-1]}
    ways = sorted({re.escape(way.lstrip("\\")) for way in escaped})
    space = "|[+]" if character == " " else ""
    return rf"(?:\\{{0,4}}+(?:{'|'.join(ways)})|(?i:{percent}){space})"
