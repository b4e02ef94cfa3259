"""A hive on several machines, which are network namespaces of this one: links that go down, drop,
reset and lose.
"""
