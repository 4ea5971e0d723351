"""What programs with Python `websockets` share: the compression that they are asked for, and fragments."""

import json
import os


def compression(factory):
    """The options for a connection with what DEFLATE in the environment has: `null` for none, or the arguments of the
    factory. Without it the library's own defaults hold."""
    if "DEFLATE" not in os.environ:
        return {}
    wanted = json.loads(os.environ["DEFLATE"])
    return {"compression": None, "extensions": [] if wanted is None else [factory(**wanted)]}


def in_thirds(message):
    """A message in three fragments; the library adds one without payload."""
    third = len(message) // 3
    return [message[:third], message[third : 2 * third], message[2 * third :]]
