"""The conformance kit: judge a port of the network bit by bit, and say which rule of the arithmetic it breaks.

``python -m conformance run|compare|selftest``; how a device is called is described in ``conformance/PROTOCOL.md``.
"""
