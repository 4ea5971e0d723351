"""A heartbeat, as a test sets it and judges by it."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Policy:
    """Times in seconds."""

    interval: float = 1.0
    timeout: float = 1.0
    max_missed: int = 3
    liveness: str = "any-byte"

    @property
    def bound(self):
        return self.interval + self.floor

    @property
    def floor(self):
        """No peer may be found dead earlier than this after its last byte."""
        return self.max_missed * self.timeout

    def options(self):
        """For the command line."""
        values = {
            "--ping-interval": f"{round(1000 * self.interval)}ms",
            "--pong-timeout": f"{round(1000 * self.timeout)}ms",
            "--max-missed": str(self.max_missed),
            "--liveness": self.liveness,
        }
        return [word for pair in values.items() for word in pair]
