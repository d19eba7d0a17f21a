"""What the operating system tells about the processor: its name and its caches."""

import os
import platform
from contextlib import suppress
from pathlib import Path

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def private_cache() -> int | None:
    """Bytes of the second-level data cache of a core; None where the system does not tell."""
    with suppress(OSError, ValueError):
        for folder in sorted(_CACHES.glob("index*")):
            level = (folder / "level").read_text().strip()
            kind = (folder / "type").read_text().strip()
            if level == "2" and kind in ("Data", "Unified"):
                text = (folder / "size").read_text().strip()
                return int(text[:-1]) * _UNITS[text[-1]] if text[-1] in _UNITS else int(text)
    return None


def free_memory() -> int:
    """Bytes that this process may use now, about; a modest guess where the system does not tell."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 2**31
