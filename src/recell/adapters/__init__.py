"""The only layer that talks to the outside: hosts over SSH, databases, brokers, proxies.

``ports.py`` says what the layers above may ask for; every other module is one way to answer.
"""
