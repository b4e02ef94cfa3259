"""Counts the words of files, line by line, on all nodes: `python count.py FILE...`."""

import fileinput

from words import add_up, count_words

import hive

with fileinput.input(encoding="utf-8") as lines:
    job = hive.map(count_words, lines, add_up, timeout=60)
    for outcome in job:
        if outcome.status != "ok":
            print(f"line {outcome.index + 1}: {outcome.error}")
    result = job.result()

for word, times in list(result.value.items())[:5]:
    print(f"{times:>6}  {word}")
nodes = sorted({outcome.node for outcome in result.outcomes})
print(f"{len(result.outcomes)} lines, counted on {', '.join(nodes)}")
