"""From a description in plain words to a skill and its arguments, by the skills' declared intents;
no model is asked.

A skill fits when one of its intents is said: all the words of the intent, or words that mean the
same. What is asked for beyond that must not be other work: a description that begins with a verb no
skill knows, that names a target no skill takes ("to French") or a thing that the skill does not
work on ("my feelings"), that forbids, or that asks for two different works, is refused. Nothing is
guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import dropwhile, groupby, takewhile
from pathlib import Path
from typing import Any

from hive.agents.arguments import arguments_of, has_argument, item_field, unit_words
from hive.agents.phrases import (
    FOREIGN_VERBS,
    FOREIGN_WORDS,
    ITEM_DETERMINERS,
    LIGHT_VERBS,
    MAKING_VERBS,
    PARTICLES,
    READING_VERBS,
    Clause,
    Word,
    clauses,
    is_negated,
    phrase,
    stem,
    whole,
)
from hive.errors import InvalidInputError, UnknownSkillError
from hive.skills import Skill, registered


@dataclass(frozen=True, slots=True)
class Resolution:
    """A skill, and the arguments that the description gave it, by name."""

    skill: Skill
    arguments: dict[str, Any]


class Resolver:
    """Finds the skill that a description asks for.

    skills: to choose from; by default all that are registered. root: the directory under which the
        skills look for paths.
    """

    def __init__(self, skills: Iterable[Skill] | None = None, root: Path | None = None) -> None:
        self._skills = tuple(registered().values()) if skills is None else tuple(skills)
        self._root = root
        self._known = [_Known.of(skill) for skill in self._skills]
        # What begins an intent counts as a verb, unless it also stands later in one: "article" in
        # "article content" is none, since there is "fetch article".
        later = frozenset().union(*(known.later for known in self._known))
        self._verbs = frozenset().union(
            *(known.alone | (known.first - later) for known in self._known)
        )

    def resolve_map(self, description: str) -> Resolution:
        """The skill for all items, and the arguments that they share.

        Raises: UnknownSkillError listing the skills when none fits, InvalidInputError when the
            words give it a wrong argument.
        """
        skill, clause = self._find(description)
        arguments = arguments_of(skill, clause, self._root)
        arguments.pop(item_field(skill), None)
        return Resolution(skill, arguments)

    def resolve_task(self, text: str, context: str = "") -> Resolution:
        """The skill and all its arguments for one sub-task.

        context: the description of the whole; it says what to do where the sub-task names an object
            only.

        Raises: UnknownSkillError listing the skills when none fits; InvalidInputError when an
            argument is missing or wrong.
        """
        clause = whole(text)
        if context and clause.literals and not clause.spoken:
            skill, _ = self._find(context)
        else:
            skill, clause = self._find(text)
        arguments = arguments_of(skill, clause, self._root)
        if skill.input is not None:
            skill.check(**arguments)
        elif not arguments and has_argument(skill):
            raise InvalidInputError(f"{skill.name} needs an argument, and {text!r} names none.")
        return Resolution(skill, arguments)

    def _find(self, description: str) -> tuple[Skill, Clause]:
        said = whole(description)
        if is_negated(description):
            raise self._refusal(f"{description!r} says what not to do")
        named = self._named(description, said)
        if named is not None:
            return named, said
        parts = self._without_reading(self._merged(clauses(description)))
        found = [known for known in map(self._best, parts) if known is not None]
        if not parts or len(found) < len(parts):
            raise self._refusal(f"No skill does what {description!r} asks for")
        for clause, known in zip(parts, found, strict=True):
            if not self._is_step_of(clause, known, parts[-1], found[-1]):
                both = " and ".join(dict.fromkeys(known.skill.name for known in found))
                raise self._refusal(
                    f"{description!r} asks for more than one skill ({both}); give each its own "
                    "sub-task"
                )
        return found[-1].skill, said

    def _named(self, description: str, said: Clause) -> Skill | None:
        """The skill that is called by its name: the name alone, or one that is no plain word."""
        plain = description.strip().lower()
        words = set(re.findall(r"\w+", plain))
        named = [skill for skill in self._skills if plain == skill.name.lower()]
        named = named or [
            skill for skill in self._skills if "_" in skill.name and skill.name.lower() in words
        ]
        if len(named) > 1:
            raise self._refusal(f"{description!r} names several skills")
        return named[0] if named and said.words else None

    def _merged(self, parts: list[Clause]) -> list[Clause]:
        """Join bare nouns with the clause beside them: `news and weather pages` is one object."""
        merged: list[Clause] = []
        for clause in parts:
            if merged and self._is_bare_noun(clause):
                merged[-1] = merged[-1].joined(clause)
            elif merged and self._is_bare_noun(merged[-1]):
                # "In two sentences, give me the gist": the work is what the other clause says.
                merged[-1] = clause.joined(merged[-1])
            else:
                merged.append(clause)
        return merged

    def _without_reading(self, parts: list[Clause]) -> list[Clause]:
        """The clauses without those that only say to read what the later ones work on."""
        return [
            clause
            for clause in parts
            if clause is parts[-1] or not _only_reads(clause) or self._fitting(clause)
        ]

    def _is_bare_noun(self, clause: Clause) -> bool:
        """Whether the clause names no work, but an object or a number of objects."""
        if not clause.spoken or self._fitting(clause):
            return False
        if all(any(word.meaning in known.units for known in self._known) for word in clause.spoken):
            return True
        head = clause.spoken[0]
        after = clause.words[clause.words.index(head) + 1 :]
        is_verb = head.stem in FOREIGN_VERBS or head.said in LIGHT_VERBS
        return not is_verb and (not after or after[0].counts or after[0].said == "of")

    def _best(self, clause: Clause) -> _Known | None:
        """The skill that the clause says most of; None when none fits.

        Raises: UnknownSkillError when several fit equally.
        """
        found = self._fitting(clause)
        if len(found) > 1:
            raise self._refusal(
                "The words fit several skills equally "
                f"({', '.join(known.skill.name for known in found)}); name one"
            )
        return found[0] if found else None

    def _fitting(self, clause: Clause) -> list[_Known]:
        scores = [
            (score, known)
            for known in self._known
            if (score := known.score(clause, self._verbs)) is not None
        ]
        best = max((score for score, _ in scores), default=None)
        return [known for score, known in scores if score == best]

    def _is_step_of(self, clause: Clause, known: _Known, last_clause: Clause, last: _Known) -> bool:
        """Whether the last skill does this earlier step by itself: it starts from the same input,
        and says so or acts on its outcome.
        """
        if known is last:
            return True
        if not known.fields <= last.fields:
            return False
        included = all(last.explains(word) for word in clause.content)
        own = last.verbs(self._verbs) | last.units
        objectless = all(
            word.meaning in own or word.said in LIGHT_VERBS | PARTICLES
            for word in last_clause.spoken
        )
        return included or (objectless and known.fields < last.fields)

    def _refusal(self, reason: str) -> UnknownSkillError:
        names = "; ".join(f"{skill.name}: {skill.description}" for skill in self._skills)
        return UnknownSkillError(f"{reason}. Known skills: {names or 'none'}.")


def _only_reads(clause: Clause) -> bool:
    content = clause.content
    return (
        bool(content)
        and content[0].said in READING_VERBS
        and (len(content) == 1 or content[-1].is_thing)
    )


@dataclass(frozen=True, slots=True)
class _Known:
    """One skill's words. Sets hold meanings (phrases.py)."""

    skill: Skill
    intents: tuple[tuple[Word, ...], ...]
    vocabulary: frozenset[str]
    """The words of its name and intents."""
    wide: frozenset[str]
    """Those, and the words of its description and arguments."""
    units: frozenset[str]
    fields: frozenset[str]
    first: frozenset[str]
    """What its intents begin with, verbs for the most part. `later` is what they go on with,
    `alone` the intents of one word.
    """
    later: frozenset[str]
    alone: frozenset[str]
    names_things: bool
    """Its intents say what it works on: pages, documents, files. So it works on nothing else."""

    @classmethod
    def of(cls, skill: Skill) -> _Known:
        intents = tuple(
            words for words in map(phrase, (*skill.intents, skill.name.replace("_", " "))) if words
        )
        parts = [part.spoken for intent in skill.intents for part in clauses(intent) if part.spoken]
        vocabulary = frozenset(word.meaning for intent in intents for word in intent)
        units = unit_words(skill)
        alone = [intent[0] for intent in intents if len(intent) == 1]
        return cls(
            skill,
            intents,
            vocabulary,
            vocabulary | units | frozenset(word.meaning for word in phrase(skill.description)),
            units,
            frozenset(skill.input.model_fields) if skill.input is not None else frozenset(),
            frozenset(part[0].meaning for part in parts),
            frozenset(word.meaning for part in parts for word in part[1:]),
            frozenset(word.meaning for word in alone if not word.is_plural and not word.literal),
            any(word.is_thing for intent in intents if len(intent) > 1 for word in intent),
        )

    def verbs(self, verbs: frozenset[str]) -> frozenset[str]:
        return verbs & self.vocabulary

    def explains(self, word: Word) -> bool:
        return word.literal or word.meaning in self.wide

    def score(self, clause: Clause, verbs: frozenset[str]) -> tuple[int, int, int] | None:
        """How much of the clause this skill is about; None when it does not fit."""
        core = self._core(clause.words, verbs)
        content = [word for word in core if word.counts]
        made = any(
            word.said in MAKING_VERBS for word in clause.words[: len(clause.words) - len(core)]
        )
        if not content or self._asks_for_other_work(core, content, verbs, made=made):
            return None
        meant, said = {word.meaning for word in content}, {word.stem for word in content}
        explained = sum(map(self.explains, content))
        covered: set[str] = set()
        sure = False
        for intent in self.intents:
            meanings = {word.meaning for word in intent}
            if meanings <= meant:
                covered |= meanings
                sure = sure or len(meanings) > 1 or intent[0].stem in said
        if covered and (sure or explained == len(content)):
            return 1, len(covered), explained
        # No intent in full, but every word is one of this skill's own.
        spoken = {word.meaning for word in content if not word.literal}
        return (
            (0, len(spoken), explained) if explained == len(content) and len(spoken) > 1 else None
        )

    def _core(self, words: tuple[Word, ...], verbs: frozenset[str]) -> tuple[Word, ...]:
        """The words that say something: "run a security audit" is a security audit."""
        for position, word in enumerate(words):
            if word.counts and not (
                word.said in LIGHT_VERBS and word.meaning not in self.verbs(verbs)
            ):
                return words[position:]
        return ()

    def _asks_for_other_work(
        self, core: tuple[Word, ...], content: list[Word], verbs: frozenset[str], *, made: bool
    ) -> bool:
        if (
            any(word.stem in FOREIGN_WORDS and not self.explains(word) for word in content)
            or self._names_other_target(core)
            or (self.names_things and self._names_other_thing(core))
        ):
            return True
        head, following = core[0], core[1:]
        if head.meaning in self.verbs(verbs) and not head.is_plural and not made:
            return False
        if head.stem in FOREIGN_VERBS:
            return True
        if not head.is_plural and following and following[0].is_determiner:
            # "Report these pages": a noun that is used as a verb.
            return True
        noun_phrase = [head, *takewhile(lambda word: word.counts, following)]
        names_work = noun_phrase[-1].meaning in self.verbs(verbs)
        return not names_work and (made or not all(map(self.explains, content)))

    def _names_other_thing(self, core: tuple[Word, ...]) -> bool:
        """`the gist of my life`: what is to be worked on is nothing that this skill knows, nor one
        of the items.
        """
        determiner: Word | None = None
        for counts, run in groupby(core, key=lambda word: word.counts):
            words = list(run)
            if not counts:
                determiner = next((word for word in words if word.is_determiner), None)
                continue
            row = list(dropwhile(self._is_work, words))
            if row:
                if any(self.explains(word) or word.is_thing for word in row):
                    return False
                # "Summarize these talks": whatever they are, if it is this skill that is meant.
                of_items = determiner is not None and determiner.said in ITEM_DETERMINERS
                return not (of_items and self._is_said(core))
        return False

    def _is_said(self, core: tuple[Word, ...]) -> bool:
        """Its name is said, or an intent of several words; not only words that mean the same."""
        name = {stem(part) for part in self.skill.name.split("_")}
        meant = {word.meaning for word in core}
        return any(word.stem in name for word in core) or any(
            len(intent) > 1 and meant >= {word.meaning for word in intent}
            for intent in self.intents
        )

    def _is_work(self, word: Word) -> bool:
        """The word is one of those that make up an intent, and names no thing."""
        return not word.is_thing and word.meaning in self.vocabulary - self.units

    def _names_other_target(self, core: tuple[Word, ...]) -> bool:
        """`to French`, `into a database`: an outcome that this skill does not give."""
        for position, word in enumerate(core):
            if word.said not in ("to", "into"):
                continue
            target = next(
                (later for later in core[position + 1 :] if not later.is_determiner), None
            )
            if target is not None and target.counts and not self.explains(target):
                return True
        return False
