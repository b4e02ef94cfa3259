"""Flower's options, as `hive flower` sets them.

What differs for you goes into a file of your own, `hive flower --config FILE`, which is read after
this one; https://flower.readthedocs.io/en/latest/config.html has all that can be in it. Address,
port, user and password are Hive's settings (HIVE_FLOWER_*), so that no password is in a file like
this. Celery's own `celery -A hive flower --conf=FILE` takes this file, too.
"""

from hive.flower.entrance import logins
from hive.flower.history import history
from hive.settings import Settings

_settings = Settings.load()

# Who may look. Without a password only this machine may: Flower shows the arguments and the results
# of tasks.
address = _settings.hive_flower_host
port = _settings.hive_flower_port
basic_auth = logins(_settings)

# Nothing can be done here, only seen: `hive node`, `hive queue` and `hive dead` say who did it.
# `hive flower --read-write` turns this off.
read_only = True

# What was seen survives a restart, and a kill but for the last minute. Flower stands still
# while it saves, for about a tenth of a millisecond a task: so it keeps the last 10,000 of them,
# not 100,000.
persistent = True
db = history(_settings)
state_save_interval = 60_000  # milliseconds
max_tasks = 10_000

# A worker that was killed is shown as offline for five minutes, and then no more. A restart, also
# one of its machine, takes less: such a worker comes back in its own row. One that has another name
# each time, as in a new container, would else stay in the table for ever.
purge_offline_workers = 300  # seconds
