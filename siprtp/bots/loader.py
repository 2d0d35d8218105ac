"""Find the function that BOT names, and check that it can serve a call."""

import importlib
import inspect
import os
import sys
import traceback

import bot
from siprtp.config import ConfigError
from siprtp.media.wav import wav

# the files of frames that tell a bot's author nothing
NOT_THEIRS = ("<frozen", os.path.dirname(os.__file__), __file__, bot.__file__,
              wav.__code__.co_filename)


def load(name):
    """Return the function that "module:function" names. Raises ConfigError.

    Python's path is searched first, then the working directory.
    """
    module, _, function = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        found = importlib.import_module(module)
        if not hasattr(found, function):  # names the file: BOT=bot:answer finds our bot.py
            raise AttributeError(f"{getattr(found, '__file__', None) or module} has no {function}")
        return check(getattr(found, function))
    except Exception as error:  # a bot's module may raise anything while it is imported
        places = [f" ({place.filename}, line {place.lineno})"
                  for place in traceback.extract_tb(error.__traceback__)
                  if not place.filename.startswith(NOT_THEIRS)]
        raise ConfigError(f"BOT={name!a}: {type(error).__name__}: {error}"
                          + "".join(places[-1:])) from error


def check(function):
    """Return a bot's function if it can be called with a call. Raises TypeError."""
    if not callable(function):
        raise TypeError(f"{function!r} is not a function")
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise TypeError("it must be a plain function, not a coroutine or generator")
    try:
        inspect.signature(function).bind("call")
    except TypeError:
        raise TypeError("it must take one argument, the call") from None
    return function
