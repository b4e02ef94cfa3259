"""Summaries: the sentences of a text that say most, by Luhn's method.

Nothing is downloaded and no model is asked.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from functools import lru_cache
from unicodedata import category

import pysbd
from pydantic import BaseModel, ConfigDict
from sumy.models.dom import ObjectDocumentModel, Paragraph, Sentence
from sumy.nlp.stemmers import Stemmer
from sumy.summarizers.luhn import LuhnSummarizer
from sumy.utils import get_stop_words

from hive.errors import InvalidInputError

_CHARACTERS = 500_000
# pysbd's time grows with the square of what it gets at once.
_PARAGRAPH_CHARACTERS = 10_000
# What counts as a sentence of prose: it is longer than a heading and shorter than a table, most of
# it is words (no code), and it has an end. Others are chosen only when a text has too few of these.
_SHORTEST, _LONGEST, _LEAST_SHARE_OF_WORDS = 5, 80, 0.7
# Ends of sentences in Devanagari and its kin, Arabic, Urdu, Armenian, Ethiopic, Burmese, Khmer,
# Tibetan and Mongolian. In Greek a semicolon asks.
_OTHER_ENDS = "।॥؟۔։።፧။។៕།᠃"
_GREEK = "\u0370-\u03ff\u1f00-\u1fff"
_CLOSING = "\"'’”»)\\]"
_END = re.compile(rf"(?:[.!?。！？…{_OTHER_ENDS}]|[{_GREEK}];)[{_CLOSING}]*$|[\u0e00-\u0eff]$")
# Thai and Lao end a sentence with a blank.
_FURTHER_END = re.compile(
    rf"(?<=[{_OTHER_ENDS}])(?![{_OTHER_ENDS}{_CLOSING}])\s*|(?<=[{_OTHER_ENDS}][{_CLOSING}])\s*"
    rf"|(?<=[{_GREEK}];)\s+|(?<=[\u0e00-\u0eff])\s+(?=[\u0e00-\u0eff])"
)

# Languages that both have stop words and a stemmer in sumy, with pysbd's code; any other text is
# read with English rules.
_LANGUAGES = {"english": "en", "french": "fr", "german": "de", "italian": "it", "spanish": "es"}
_PLAIN_END = re.compile(r"(?<=[.!?。！？…])\s+")
_MARKER = re.compile(r"^(?:[-*•#>|]+|\d+[.)])\s+")
_BREAK = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*•#>|]|\d+[.)])\s)")
# Signs that belong to the letter before them, as the vowels of Hindi and Thai do; to `re` they are
# no part of a word.
_SIGNS = "".join(chr(code) for code in range(0x300, 0x1B00) if category(chr(code)) in ("Mn", "Mc"))
# Some scripts have no spaces between words: each of their characters counts as one.
_SPACELESS = "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(
    rf"[{_SPACELESS}](?<![\d\W])[{_SIGNS}]*"
    rf"|[^\W\d_{_SPACELESS}](?:[^\W\d_{_SPACELESS}]|[{_SIGNS}])*(?:['’-][^\W\d_]+)*"
)
_WITHOUT_SPACES = re.compile(rf"[{_SPACELESS}]")
_NOT_PROSE = re.compile(r"\S*(?:://|[_=<>{}|\\@]|::)\S*")


class Summary(BaseModel):
    """The chosen sentences in the order of the text, and of what page it was.

    `url` and `title` are None where it was no page.
    """

    model_config = ConfigDict(frozen=True)

    summary: str
    sentences: list[str]
    url: str | None = None
    title: str | None = None


class _Words:
    """What sumy uses of its tokenizer. Its own needs data that nltk downloads."""

    def to_words(self, sentence: str) -> tuple[str, ...]:
        return tuple(_WORD.findall(_NOT_PROSE.sub(" ", sentence)))


def best_sentences(text: str, count: int) -> list[str]:
    """The `count` sentences of `text` that say most, in their order; fewer when it has fewer.

    Paragraphs are divided by empty lines.
    Raises: InvalidInputError for a text without a word, or with more than 500,000 characters.
    """
    if len(text) > _CHARACTERS:
        raise InvalidInputError(
            f"The text has {len(text):,} characters; at most {_CHARACTERS:,} can be summarized."
        )
    words = {word.lower() for word in _WORD.findall(text)}
    if not words:
        raise InvalidInputError("There is no text to summarize.")
    language = max(_LANGUAGES, key=lambda name: len(words & _stop_words(name)))
    tokenizer = _Words()
    sentences = [
        Sentence(sentence, tokenizer)
        for sentence in dict.fromkeys(_sentences(text, _LANGUAGES[language]))
    ]
    candidates = [
        sentence for sentence in sentences if _is_prose(str(sentence), len(sentence.words))
    ]
    if len(candidates) < count:
        candidates = [sentence for sentence in sentences if sentence.words] or sentences
    summarizer = LuhnSummarizer(Stemmer(language))
    summarizer.stop_words = _stop_words(language)
    return [
        str(sentence)
        for sentence in summarizer(ObjectDocumentModel([Paragraph(candidates)]), count)
    ]


def _is_prose(sentence: str, words: int) -> bool:
    longest = 3 * _LONGEST if _WITHOUT_SPACES.search(sentence) else _LONGEST
    if not _SHORTEST <= words <= longest or ">>>" in sentence or "```" in sentence:
        return False
    return words >= _LEAST_SHARE_OF_WORDS * len(sentence.split()) and bool(_END.search(sentence))


@lru_cache
def _stop_words(language: str) -> frozenset[str]:
    return frozenset(get_stop_words(language))


def _sentences(text: str, language_code: str) -> Iterator[str]:
    segmenter = pysbd.Segmenter(language=language_code, clean=False)
    for paragraph in _BREAK.split(text):
        line = _MARKER.sub("", " ".join(paragraph.split()))
        for part in (
            textwrap.wrap(line, _PARAGRAPH_CHARACTERS)
            if len(line) > _PARAGRAPH_CHARACTERS
            else [line]
        ):
            found = [str(sentence).strip() for sentence in segmenter.segment(part)]
            # pysbd drops a sentence that it does not find again after its own substitutions.
            whole = "".join("".join(found).split()) == "".join(part.split())
            for sentence in found if whole else _PLAIN_END.split(part):
                yield from filter(None, _FURTHER_END.split(sentence))
