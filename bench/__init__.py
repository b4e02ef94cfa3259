"""One file a question; each prints the ratios that it measured in its own run and fails when one
misses its bound.
"""

import signal

# Told to end, a bench ends as on Ctrl-C, and stops the brokers and workers that it started.
signal.signal(signal.SIGTERM, signal.default_int_handler)
