"""The one exception that a user's mistake raises."""

from __future__ import annotations


class InputError(ValueError):
    """Something that the user handed in cannot be used; the message is one line: the thing, what is wrong, the remedy.

    The command lines print it after ``error:`` and exit with code 2; no other exception is an answer to bad input.
    """


class NotExpressible(InputError):
    """A preset asks for what the profile's arithmetic does not have."""
