"""Summaries: which sentences are chosen, and texts that are hard to read."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hive.errors import InvalidInputError
from hive.tasks.text import best_sentences

BEES = [
    "Honey bees live in large colonies that share one hive.",
    "A colony of honey bees keeps its hive warm through the winter.",
    "Worker bees of the colony collect nectar and turn it into honey for the hive.",
]


def test_sentences_keep_the_order_of_the_text() -> None:
    text = "Lunch was served at noon. " + " ".join(BEES) + " The weather stayed fair."
    assert best_sentences(text, 3) == BEES


def test_abbreviations_end_no_sentence() -> None:
    assert best_sentences("Dr. Smith paid 3.50 dollars, e.g. for honey. He left.", 2) == [
        "Dr. Smith paid 3.50 dollars, e.g. for honey.",
        "He left.",
    ]


def test_a_sentence_may_run_over_several_lines() -> None:
    assert best_sentences("Honey bees live in\nlarge colonies.\n\nThey share\none hive.", 5) == [
        "Honey bees live in large colonies.",
        "They share one hive.",
    ]


def test_code_addresses_and_headings_give_way_to_prose() -> None:
    noise = [
        "# Bees bees hive hive",
        ">>> import bees; bees.hive(bees, hive)",
        "https://bees.test/hive/bees?hive=bees",
        "- bees: hive",
    ]
    assert best_sentences("\n\n".join([*noise, *BEES, *noise]), 3) == BEES


def test_a_text_without_prose_is_summarized_all_the_same() -> None:
    assert best_sentences("- red apples\n- green apples\n- blue plums", 2) == [
        "red apples",
        "green apples",
    ]


def test_a_repeated_sentence_is_chosen_once() -> None:
    assert best_sentences("\n\n".join(BEES * 5), 10) == BEES


def test_more_sentences_than_the_text_has_are_all_of_it() -> None:
    assert best_sentences(" ".join(BEES), 50) == BEES


def test_other_languages_use_their_own_stop_words() -> None:
    bees = [
        "Bienen leben in großen Völkern und bauen zusammen einen Stock.",
        "Ein Volk der Bienen hält den Stock im Winter warm.",
    ]
    filler = "Das ist das, was es ist, und das ist es, was das für die ist, die es ist."
    assert best_sentences(f"{bees[0]} {filler} {bees[1]}", 2) == bees


def test_text_without_spaces_is_summarized() -> None:
    text = "蜜蜂は大きな群れで一つの巣に住む。昼に食事が出た。働き蜂は蜜を集めて巣で蜂蜜を作る。"
    chosen = best_sentences(text, 2)
    assert chosen == ["蜜蜂は大きな群れで一つの巣に住む。", "働き蜂は蜜を集めて巣で蜂蜜を作る。"]


SCRIPTS = {
    "Hindi": ["मधुमक्खियाँ नाचकर फूल बताती हैं।", "क्या यह नाच सटीक है?", "हाँ, यह सटीक होता है॥"],
    "Hindi, quoted": ['उसने कहा, "मैं घर जाऊँगा।"', "फिर वह घर चला गया।"],
    "Bengali": ["মৌমাছি নাচের মাধ্যমে ফুল দেখায়।", "এই নাচ খুব সঠিক।"],
    "Urdu": ["شہد کی مکھیاں ناچ کر بتاتی ہیں۔", "کیا یہ ناچ درست ہے؟", "ہاں یہ درست ہے۔"],
    "Arabic": ["هل هذه الرقصة دقيقة جدا؟", "يعيش في الخلية ألف نحلة.", "العسل حلو."],
    "Thai": ["ผึ้งเต้นรำเพื่อบอกกันว่าดอกไม้อยู่ที่ไหน", "ในรังมีผึ้ง 40 ตัว", "น้ำผึ้งมีสีอ่อน"],
    "Lao": ["ເຜິ້ງເຕັ້ນເພື່ອບອກວ່າດອກໄມ້ຢູ່ໃສ", "ນ້ຳເຜິ້ງມີສີອ່ອນ"],
    "Khmer": ["ឃ្មុំរាំប្រាប់គ្នាពីផ្កា។", "ទឹកឃ្មុំមានពណ៌ស្រាល។"],
    "Burmese": ["ပျားများသည် ကခုန်ကြသည်။", "ပျားရည်သည် ချိုသည်။"],
    "Armenian": ["Մեղուները պարում են ծաղիկների մասին։", "Մեղրը քաղցր է։"],
    "Amharic": ["ንቦች ስለ አበባዎች ይጨፍራሉ።", "ማር ጣፋጭ ነው።"],
    "Greek": [
        "Είναι ο χορός ακριβής;",
        "Το καλοκαίρι ζουν πολλές μέλισσες.",
        "Μένει το ένα δέκατο.",
    ],
    "Chinese": ["蜜蜂用舞蹈告诉同伴花在哪里。", "这种舞蹈非常精确！", "冬天只剩下十分之一。"],
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_sentences_end_as_their_script_ends_them(script: str) -> None:
    sentences = SCRIPTS[script]
    assert best_sentences(" ".join(sentences), len(sentences)) == sentences
    assert best_sentences(" ".join(sentences), 1)[0] in sentences


@pytest.mark.parametrize("text", ["", "   \n", "... !!! ???", "12345 67890"])
def test_a_text_without_words_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="no text to summarize"):
        best_sentences(text, 3)


def test_a_text_that_is_too_long_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="500,000"):
        best_sentences("word " * 100_001, 3)


@pytest.mark.parametrize(
    "text",
    ["a" * 200_000, "word " * 20_000, "(a. " * 10_000, "\"a' b. " * 5_000],
    ids=["word", "words", "brackets", "quotes"],
)
def test_text_without_structure_does_not_take_for_ever(text: str) -> None:
    began = time.process_time()
    assert best_sentences(text, 1)
    assert time.process_time() - began < 15


@settings(max_examples=150, deadline=None)
@given(
    st.text(
        alphabet=st.sampled_from("ab A.!?…,;:()[]'\"-*#\n\t0189&@/\\–。«»é中\u200b\U0001f600"),
        max_size=120,
    ),
    st.integers(1, 5),
)
def test_any_text_gives_its_own_sentences_or_a_clear_refusal(text: str, count: int) -> None:
    try:
        chosen = best_sentences(text, count)
    except InvalidInputError:
        return
    assert 1 <= len(chosen) <= count
    flat = "".join(text.split())
    assert all("".join(sentence.split()) in flat for sentence in chosen)
