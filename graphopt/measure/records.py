"""What was measured of kernels: which of a template's candidates was the fastest, by target, threads and kernel.

Records are one JSON file with the digest of its records, in the cache folder or where the user says, which several processes may
write to at once. The tuner makes them; compilations take what they say (codegen/lower/tuning.py). Nothing here imports the
compiler.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from graphopt.cache import ownership, store
from graphopt.cache.ownership import open_plain
from graphopt.errors import InputError

log = logging.getLogger("graphopt")

MODES = ("fast", "full")
TEMPLATES = 1  # to be raised when templates change so much that what was measured of them says nothing any more
FORMAT = 2  # 1 had no digest


@dataclass(frozen=True)
class Record:
    """What was measured of one kernel: the best candidates by kind (none where the model's were), median seconds of both,
    how many were tried, and in which mode."""

    choices: dict[str, str]
    seconds: float
    analytic_seconds: float
    tried: int
    mode: str
    kernel: str = ""  # for people: what it computes

    @property
    def gain(self) -> float:
        """How many times as fast as the model's choice."""
        return self.analytic_seconds / self.seconds if self.choices and self.seconds else 1.0

    def covers(self, mode: str) -> bool:
        """Is there nothing new to measure in that mode?"""
        return MODES.index(self.mode) >= MODES.index(mode)


def record_key(target: str, threads: int, kernel: str) -> str:
    """What a record is filed under; `kernel` is the kernel's key."""
    return f"{target} threads={threads} templates={TEMPLATES} {hashlib.sha256(kernel.encode()).hexdigest()}"


def check_mode(tune: Any) -> str | None:
    """`tune` as it was given to `compile`, refused where it is no mode."""
    if tune is None or tune in MODES:
        return tune  # type: ignore[no-any-return]
    raise InputError(f"tune={tune!r} is no way to tune", where="tune",
                     hint="Use 'fast' (the best few candidates of the kernels that matter), 'full' (more, of all), or None")


@dataclass
class Records:
    """The records of one file, read once; `put` adds to them, `save` merges what was added into the file.

    `given`: the user named the file, so that a damaged one is an error; one in the cache is put aside and begun anew.
    """

    path: Path | None
    given: bool = False
    known: dict[str, Record] = field(default_factory=dict)
    added: dict[str, Record] = field(default_factory=dict)

    @staticmethod
    def load(path: str | os.PathLike[str] | None = None, to_write: bool = False) -> Records:
        """Those of `path`, else of GRAPHOPT_TUNING, else of the cache. A named file must be there unless it is to be written.
        """
        named = path or os.environ.get("GRAPHOPT_TUNING") or None
        if named is None:
            folder = store.place("tuning")
            records = Records(folder / "records.json" if folder else None)
        else:
            if not isinstance(named, (str, os.PathLike)) or "\0" in str(named):
                raise InputError(f"must be the path of a file, got {named!r}", where="tuning")
            records = Records(Path(os.fspath(named)), given=True)
            if not to_write and not records.path.exists():  # type: ignore[union-attr]
                raise InputError("there is no such file of tuning records", where=str(records.path),
                                 hint="Make it with compile(..., tune='fast', tuning=path), or unset GRAPHOPT_TUNING")
        records.known = records._read()
        return records

    def get(self, key: str) -> Record | None:
        return self.known.get(key)

    def put(self, key: str, record: Record) -> None:
        self.known[key] = self.added[key] = record

    def save(self) -> None:
        """Merge what was added into the file as it is now. In a file that others write to at once nothing is lost. InputError
        where a named one cannot be written."""
        if not self.added or self.path is None:
            return
        try:
            if self.path.parent == store.place("tuning"):
                store.room("tuning")
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(open_plain(self.path.with_name(f".{self.path.name}.lock"), os.O_RDWR | os.O_CREAT)) as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                merged = self._read()
                for key, new in self.added.items():
                    old = merged.get(key)
                    if old is None or new.covers(old.mode):  # what was measured in full stands
                        merged[key] = new
                records = {k: asdict(r) for k, r in sorted(merged.items())}
                text = json.dumps({"format": FORMAT, "sha256": _digest(records), "records": records}, indent=1)
                store.write(self.path, text.encode())
            self.known, self.added = {**merged}, {}
        except OSError as e:
            if self.given:
                raise InputError(f"cannot be written: {e.strerror or e}", where=str(self.path)) from e
            log.warning("tuning records could not be kept in %s: %s", self.path, e)

    def _read(self) -> dict[str, Record]:
        if self.path is None:
            return {}
        try:
            found = json.loads(self.path.read_bytes() if self.given else ownership.read(self.path))
            if found["format"] not in (1, FORMAT):
                raise ValueError(f"format {found['format']}, not {FORMAT}")
            if found["format"] == FORMAT and found["sha256"] != _digest(found["records"]):
                raise ValueError("its digest does not match its records")
            return {str(k): _record(r) for k, r in found["records"].items()}
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
            if self.given:
                raise InputError(f"not a file of tuning records: {e}", where=str(self.path),
                                 hint="Make it anew with compile(..., tune='fast', tuning=path)") from e
            aside = self.path.with_name(f"{self.path.name}.damaged")
            log.warning("ignoring the damaged tuning records %s: %s. They are put aside as %s", self.path, e, aside.name)
            with contextlib.suppress(OSError):
                os.replace(self.path, aside)
            return {}


def _digest(records: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(records, sort_keys=True).encode()).hexdigest()


def _record(raw: Any) -> Record:
    record = Record(dict(raw["choices"]), float(raw["seconds"]), float(raw["analytic_seconds"]), int(raw["tried"]),
                    raw["mode"], str(raw["kernel"]))
    if record.mode not in MODES or not all(isinstance(x, str) for pair in record.choices.items() for x in pair):
        raise ValueError("a record of unknown form")
    return record


# What a stored program was made with ---------------------------------------------------------------------------------
def state(records: Records, keys: Iterable[str]) -> dict[str, str]:
    """What the records say of kernels, as text, by record key: a program stands as long as this does."""
    said = {}
    for key in keys:
        found = records.get(key)
        said[key] = "" if found is None else json.dumps(found.choices, sort_keys=True)
    return said


def still_holds(kept: Mapping[str, Any], records: Records, mode: str | None) -> bool:
    """Does a program whose manifest says `kept` agree with the records, and was it tuned as asked?"""
    with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):
        tuned = mode is None or (kept["mode"] is not None and MODES.index(kept["mode"]) >= MODES.index(mode))
        return tuned and state(records, kept["records"]) == kept["records"]
    return False


def from_records(records: Records, target: str, threads: int) -> Callable[[Any, str], Mapping[str, str]]:
    """Choices as recorded for that target."""

    def wanted(op: Any, key: str) -> Mapping[str, str]:
        found = records.get(record_key(target, threads, key))
        return {} if found is None else found.choices

    return wanted


__all__ = ["MODES", "Record", "Records", "check_mode", "from_records", "record_key", "state", "still_holds"]
