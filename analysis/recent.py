"""Answers that are kept as long as they fit: those that nobody asked for lately go first."""

from collections import OrderedDict
from collections.abc import Hashable
from threading import Lock
from typing import Any


class Recent:
    """Values by key, up to `limit` bytes of them together; safe for several threads.

    The value put last is held even where it alone is larger.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._used = limit, 0
        self._held: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable) -> Any:
        """The value, which now counts as asked for; `None` where it is not held."""
        with self._lock:
            if key not in self._held:
                return None
            self._held.move_to_end(key)
            return self._held[key][0]

    def put(self, key: Hashable, value: Any, size: int) -> None:
        """Holds a value of so many bytes from now on, in place of an older one of that key."""
        with self._lock:
            self._used -= self._held.pop(key, (None, 0))[1]
            self._held[key] = (value, size)
            self._used += size
            while self._used > self._limit and len(self._held) > 1:
                self._used -= self._held.popitem(last=False)[1][1]

    def __contains__(self, key: Hashable) -> bool:
        return key in self._held

    def __len__(self) -> int:
        return len(self._held)

    @property
    def bytes(self) -> int:
        """What the values held take together."""
        return self._used
