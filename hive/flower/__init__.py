"""Flower, Celery's web page, on Hive. Needs the extra `flower`."""
