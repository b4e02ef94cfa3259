"""Plain words made comparable: stems, words that mean the same, and the clauses of a description.

English, without a model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from hive.agents.literals import NUMBER_WORDS, Literal, numbers_value, split_literals


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_STOP = _words("""
    a an the this that these those all each every any both some of for from in on at by with as to
    into onto it its them their they me
    my we our us you your i is are be was were do does did has have had please kindly just only also
    now so which who whose where there
    following given list lists item items one ones thing things below above via using use per about
    over out if when while within across
    under most everything max maximum least concise short brief quick quickly full complete entire
    whole main thorough down what what's whats how through more using whether known anything
    can could would should not no or
""")
_DETERMINERS = _words(
    "a an the this that these those all each every any my our your its their some both"
)
# Those that mean whatever the items are; behind any other one stands what the speaker thinks of.
ITEM_DETERMINERS = _words("this that these those each all every any both")
_NEGATIONS = _words("not never don't dont doesn't cannot can't avoid refuse refrain")
# What a polite or wordy request begins with; what is asked for comes after it.
_OPENINGS = re.compile(
    r"^(?:please|kindly|hey|hi|hello|now|just|(?:can|could|would|will) you|let's|let us|help "
    r"(?:me|us)(?: to)?|get (?:me|us)|go and|"
    r"your task is to|make sure (?:to|you)|(?:i|we) (?:want|need|would like)(?: you)?(?: "
    r"to)?|(?:i|we)'d like(?: you)?(?: to)?)\b[\s,:]*",
    re.IGNORECASE,
)
# Verbs that say nothing of the work: in "run a security audit" and "write a summary" the noun says
# what is to be done.
LIGHT_VERBS = _words(
    "run do perform make conduct execute carry start give return provide show tell need want write "
    "create generate produce prepare"
)
# Those of them that make something. What they make must be the skill's work ("a summary"): Hive
# cannot write an article.
MAKING_VERBS = _words("make write create generate produce prepare")

# What is done to an input before any work on it: whoever reads it does it by itself.
READING_VERBS = _words("read open visit browse view see look go take")

PARTICLES = _words("up off out down")

# The words of one line mean the same; all are compared as the first.
_SAME = """
scan check inspect examine analyze analyse analysis audit review vet verify
fetch get download retrieve load grab pull collect
find detect search look locate discover spot identify hunt
summarize condense shorten digest gist recap abridge tldr synopsis
scrape crawl harvest
article story post blog news newsletter
document doc docs documentation report paper essay note notes letter memo transcript speech chapter
document passage paragraph section book readme publication material comment
page site website webpage homepage
link url urls uri address
data content contents html body
directory folder dir tree
code codebase source sources script program module app application
secret credential password passphrase token
dependency library package
safe secure safely securely insecure unsafe ok okay
problem vulnerability issue flaw weakness risk hole cve vulnerable
repository repo project workspace
"""

# Verbs of work that is often asked for and that no built-in skill does. Where a skill does it, its
# own words say so. That these words are verbs is known by this list alone.
_VERBS = _words("""
    add alter archive bake build buy call cancel cause change clean click clone close commit compile
    compose compress compute convert cook
    copy count crop delete deploy design destroy disable draw drop edit email encrypt erase evaluate
    execute explain export filter fix
    forget format forward ignore improve import install invent kill launch learn mail merge migrate
    move open optimize order paint parse
    pay pin plan play post predict print publish purge push quote rank refactor remove rename
    replace reply reset restart rewrite secure sell send
    share ship shut sign sing solve sort stop store submit subscribe teach tell train translate
    transcribe tweet uninstall update upgrade
    upload visit wash watch wipe
""")
_LANGUAGES = _words("""
    english french german spanish italian portuguese dutch russian chinese mandarin japanese korean
    arabic hindi polish turkish latin greek
""")

# What several words say together, as one.
_POINTS = r"(?:points?|ideas?|messages?|takeaways?|facts?)"
_SAYINGS = tuple(
    (re.compile(rf"\b(?:{saying})\b", re.IGNORECASE), word)
    for saying, word in (
        (r"tl;\s*dr", "tldr"),
        (r"boil(?:s|ed|ing)?(?=\b.*\bdown\b)", "condense"),
        (rf"(?:key|main|(?:most )?important|essential|central) {_POINTS}", "gist"),
        (r"takeaways?|highlights|essence|nutshell", "gist"),
        (r"pull(?:s|ed|ing)? out", "extract"),
        (r"(?:api|access|private|ssh) keys?", "secrets"),
        (r"make(?=\b.*\bshorter\b)", "shorten"),
        # That is another address, not another text.
        (r"shorten(?:s|ed|ing)?(?= (?:\w+ )?(?:links?|urls?)\b)", "abbreviate"),
        (r"(?:a|one) sentence(?! (?:or|to) )", "1 sentence"),
    )
)
_NUMBER = rf"\d+|{'|'.join(NUMBER_WORDS)}"
# "2-3 sentences": at most three.
_RANGE = re.compile(rf"\b(?:{_NUMBER})(?: ?[-–—] ?| to )(?=(?:{_NUMBER})\b)", re.IGNORECASE)
_WORD = re.compile(r"[A-Za-z][A-Za-z'’]*|\d+|[,;.!?:&\n\x00]")
_BREAKS = frozenset([",", ";", ".", "!", "?", ":", "&", "\n"])
_SUFFIXES = re.compile(
    r"(?:i[sz]ations?|i[sz]ing|i[sz]e[drs]?|ations?|ings?|ies|ied|ions?|ed|es|s|y|e)$"
)


@lru_cache(maxsize=4096)
def stem(word: str) -> str:
    """The part that forms of a word share: scan, scans, scanning; summary, summaries, summarize."""
    word = word.lower().replace("’", "'").removesuffix("'s")
    if word.endswith("ss"):
        return word
    short = _SUFFIXES.sub("", word)
    short = short if len(short) >= 3 else word
    return (
        short[:-1] if len(short) > 3 and short[-1] == short[-2] and short[-1] not in "ls" else short
    )


_CANON = {
    stem(word): stem(line.split()[0])
    for line in _SAME.strip().splitlines()
    for word in line.split()
}
# What these words name is given to a skill or looked at by one, whatever the skill calls it.
_THINGS = frozenset(
    stem(line.split()[0])
    for line in _SAME.strip().splitlines()
    if line.split()[0]
    in _words("article document page link data directory code dependency repository")
) | _words("text file item list batch")
FOREIGN_VERBS = frozenset(map(stem, _VERBS))
FOREIGN_WORDS = frozenset(map(stem, _LANGUAGES))


def canon(word: str) -> str:
    """The stem of the word that stands for all that mean the same."""
    root = stem(word)
    return _CANON.get(root, root)


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a clause.

    `said`: in lower case. `written`: as it was. `literal`: a file's name, or it stands for an
    address.
    """

    said: str
    written: str = ""
    literal: bool = False

    @property
    def stem(self) -> str:
        return self.said if self.literal and "." in self.said else stem(self.said)

    @property
    def meaning(self) -> str:
        return self.said if self.literal and "." in self.said else canon(self.said)

    @property
    def counts(self) -> bool:
        """It says something: it is neither a filler nor a number."""
        return self.said not in _STOP and numbers_value(self.said) is None

    @property
    def is_thing(self) -> bool:
        """It names something that skills are given."""
        return self.literal or self.meaning in _THINGS

    @property
    def is_determiner(self) -> bool:
        return self.said in _DETERMINERS

    @property
    def is_plural(self) -> bool:
        return self.said.endswith("s") and not self.said.endswith("ss")


@dataclass(frozen=True, slots=True)
class Clause:
    """A part of a description that asks for one thing."""

    words: tuple[Word, ...]
    literals: tuple[Literal, ...]

    @property
    def content(self) -> tuple[Word, ...]:
        return tuple(word for word in self.words if word.counts)

    @property
    def spoken(self) -> tuple[Word, ...]:
        """The content that is not the name of an argument."""
        return tuple(word for word in self.content if not word.literal)

    def joined(self, other: Clause) -> Clause:
        return Clause(self.words + other.words, self.literals + other.literals)


def is_negated(text: str) -> bool:
    """Whether it says what shall not be done."""
    words = text.lower().replace("’", "'").split()
    return any(word.strip(",.;:!") in _NEGATIONS for word in words)


def clauses(text: str) -> list[Clause]:
    """The clauses of a description, in order, cut at commas, `and`, `then`.

    One without a word of its own belongs to the one before.
    """
    marked, literals = split_literals(_without_opening(text))
    found: list[Clause] = []
    for words, parts in _cut(marked, literals):
        clause = Clause(tuple(words), tuple(parts))
        if found and not clause.spoken:
            found[-1] = found[-1].joined(clause)
        elif clause.words:
            found.append(clause)
    return found


def whole(text: str) -> Clause:
    """The description as a single clause."""
    marked, literals = split_literals(_without_opening(text))
    words: list[Word] = []
    parts: list[Literal] = []
    for some, more in _cut(marked, literals):
        words += some
        parts += more
    return Clause(tuple(words), tuple(parts))


def phrase(text: str) -> tuple[Word, ...]:
    """The words of an intent or a description of a skill that say something."""
    return whole(text).content


def _without_opening(text: str) -> str:
    for saying, word in _SAYINGS:
        text = saying.sub(word, text)
    text = _RANGE.sub("", text)
    before = None
    while before != text:
        before, text = text, _OPENINGS.sub("", text.strip())
    return text


def _cut(marked: str, literals: Iterable[Literal]) -> Iterator[tuple[list[Word], list[Literal]]]:
    rest = iter(literals)
    words: list[Word] = []
    parts: list[Literal] = []
    for token in _WORD.findall(marked):
        said = token.lower().replace("’", "'")
        if said == "\x00":
            literal = next(rest)
            parts.append(literal)
            words += [Word(name, literal=True) for name in literal.names]
        elif said in _BREAKS or said in ("and", "then"):
            yield words, parts
            words, parts = [], []
        else:
            words.append(Word(said, token))
    yield words, parts
