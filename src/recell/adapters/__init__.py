"""The only layer that talks to the outside: hosts over SSH, databases, brokers, proxies.

``ports.py`` and each ``*_port.py`` say what the layers above may ask for; the others are ways to answer.
"""
