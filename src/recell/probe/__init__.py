"""Users of the cloud: open-loop load through its real endpoint, in a process of its own.

``python -m recell.probe --help``; each request becomes one line of a JSONL file
(:class:`recell.model.measure.UserRequest`), the last line is a summary.
"""
