"""A Celery application of one's own with Hive in it: its spores count the words of texts.

Start them with `hive up --detach --app words:app`.
"""

from collections import Counter

from celery import Celery

import hive

app = Celery("words")
hive.install(app)


@hive.skill("Count the words of a text", intents=("count words", "word count"))
def count_words(text: str) -> dict[str, int]:
    """How often each word is in the text."""
    return Counter(text.lower().split())


@app.task
def add_up(counts: list[dict[str, int]]) -> dict[str, int]:
    """One count of all, the most frequent word first."""
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(total.most_common())
