"""An index of the pictures below a folder: one vector for each content, kept up to date by looking at what changed.

FOLDER-HASH/MODEL-FINGERPRINT/   about.json   files.sqlite   vectors-N.npy   graph-N.usearch"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from chiasm.data.file_cache import cache_folder
from chiasm.data.files import inside
from chiasm.data.image import Image
from chiasm.data.vectors import GrowingArray
from chiasm.errors import CapabilityError, ChiasmError, DataError
from chiasm.evaluation.protocol import fingerprint, processor_hash
from chiasm.models.model import Embedder, Model
from chiasm.progress import Bars
from chiasm.serving.images import Unreadable, vectors_of, walk

ABOUT = "about.json"
_BATCH = 64  # pictures embedded together; after each batch everything is on the disk
_SETTLED = 2 * 10**9  # a file changed less than these nanoseconds ago may change again within its time stamp
_KEPT = 30 * 86_400  # seconds for which the vectors of removed pictures are kept: a disk may only be unmounted
_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (                    -- what the walk met; key: hash of the content, once it was read
    name BLOB PRIMARY KEY, size INTEGER, changed INTEGER, seen INTEGER, key TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS contents (                 -- place: the vector's row; none where the reason says why
    key TEXT PRIMARY KEY, place INTEGER, reason TEXT, used INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value INTEGER);
INSERT OR IGNORE INTO facts VALUES ('generation', 0), ('walk', 0);
"""


@dataclass(frozen=True)
class IndexEntry:
    """A picture of the index. name: below the folder; key: hash of its content; row: of its vector."""

    name: str
    key: str
    row: int


@dataclass(frozen=True)
class Changes:
    """What an update did. known: new, renamed or touched files whose content had been seen before."""

    pictures: int
    embedded: int
    known: int
    removed: int
    unreadable: tuple[Unreadable, ...]

    def counts(self) -> dict[str, int]:
        """The changes in words."""
        counts = {"new": self.embedded, "known by their content": self.known, "gone": self.removed}
        return counts | {"unreadable": len(self.unreadable)}


class Index:
    """The pictures below `folder`, as one model sees them.

    home: where the index lies; see `index_home`. A file of the same size and time stamp is taken as unchanged; what
    was touched is read and known by its content. So a renamed picture keeps its vector, and one that cannot be
    decoded is tried again only when its content changes. Another model has an index of its own.
    Raises ChiasmError if there is no such folder, CapabilityError for a model that does not embed.
    """

    def __init__(self, folder: Path, model: Model, home: Path, *, about: str = "") -> None:
        if not folder.is_dir():
            raise DataError(f"there is no folder {folder}; give the one that holds the pictures")
        if not isinstance(model, Embedder):
            raise CapabilityError(f"a model of the family '{model.config.chosen()}' cannot be searched with")
        self.folder, self.model, self.embedder = folder, model, model
        self.fingerprint = f"{fingerprint(model)}-{processor_hash(model)}"
        self.home = home / hashlib.blake2b(self.fingerprint.encode(), digest_size=8).hexdigest()
        self.home.mkdir(parents=True, exist_ok=True)
        record = {"folder": str(folder.resolve()), "model": about, "fingerprint": self.fingerprint}
        (self.home / ABOUT).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        self.width = model.embed_texts(["width"]).shape[1]
        with self._database() as database:
            database.executescript(_SCHEMA)

    def update(self, console: Console | None = None, now: float | None = None) -> Changes:
        """Looks at the folder and embeds what is new; can be stopped at any moment and repeated.

        Raises ChiasmError while another process updates the same index.
        """
        unreadable: list[Unreadable] = []
        now = time.time() if now is None else now
        with self._alone(), self._database() as database:
            vectors = self._vectors(database)
            removed = self._look(database, unreadable, int(now * 1e9))
            embedded, known = self._read_new(database, vectors, unreadable, console or Console(stderr=True))
            reasons = database.execute(
                "SELECT name, contents.reason FROM files JOIN contents USING (key) WHERE place IS NULL ORDER BY name"
            )
            unreadable += [Unreadable(os.fsdecode(name), reason) for name, reason in reasons]
            self._compact(database, vectors, int(now))
            count = database.execute("SELECT count(*) FROM files JOIN contents USING (key) WHERE place >= 0")
            return Changes(count.fetchone()[0], embedded, known, removed, tuple(unreadable))

    def entries(self) -> tuple[list[IndexEntry], GrowingArray]:
        """The pictures, sorted by name, and the vectors that they point into (unit length, float32)."""
        with self._database() as database:
            found = database.execute(
                "SELECT name, key, place FROM files JOIN contents USING (key) WHERE place >= 0 ORDER BY name"
            )
            entries = [IndexEntry(os.fsdecode(name), key, row) for name, key, row in found]
            vectors = GrowingArray(self._vector_file(database), (self.width,))
            vectors.count = _row_count(database)  # what an update in another process has not finished does not count
            return entries, vectors

    # --- looking

    def _look(self, database: sqlite3.Connection, unreadable: list[Unreadable], now: int) -> int:
        """Marks what is new or touched by removing its key, and forgets what is gone; returns how many these are."""
        turn = _fact(database, "walk") + 1
        with database:
            for found in walk(self.folder, unreadable.append):
                changed = found.changed if now - found.changed > _SETTLED else -1  # -1: to be read again next time
                database.execute(
                    "INSERT INTO files VALUES (?, ?, ?, ?, NULL) ON CONFLICT (name) DO UPDATE SET "
                    "seen = excluded.seen, size = excluded.size, changed = excluded.changed, "
                    "key = CASE WHEN size = excluded.size AND changed = excluded.changed AND changed >= 0 "
                    "THEN key ELSE NULL END",
                    (os.fsencode(found.name), found.size, changed, turn),
                )
            removed = database.execute("DELETE FROM files WHERE seen != ?", (turn,)).rowcount
            database.execute("UPDATE facts SET value = ? WHERE name = 'walk'", (turn,))
        return removed

    def _read_new(
        self, database: sqlite3.Connection, vectors: GrowingArray, unreadable: list[Unreadable], console: Console
    ) -> tuple[int, int]:
        """Reads what has no key yet; returns how many pictures were embedded, and how many were known by content."""
        total = database.execute("SELECT count(*) FROM files WHERE key IS NULL").fetchone()[0]
        embedded, known, last = 0, 0, b""
        if not total:
            return 0, 0
        with Bars(console, transient=True) as progress:
            bar = progress.add_task("pictures", total=total)
            while True:
                query = "SELECT name FROM files WHERE key IS NULL AND name > ? ORDER BY name LIMIT ?"
                names = [name for (name,) in database.execute(query, (last, _BATCH))]
                if not names:
                    return embedded, known
                last = names[-1]
                keyed = list(self._keyed(names, unreadable))
                fresh: dict[str, Image] = {}
                for _, key, image in keyed:
                    if database.execute("SELECT 1 FROM contents WHERE key = ?", (key,)).fetchone() is None:
                        fresh.setdefault(key, image)
                with database:
                    embedded += self._embed(database, vectors, fresh)
                    database.executemany("UPDATE files SET key = ? WHERE name = ?", [(key, n) for n, key, _ in keyed])
                known += len(keyed) - len(fresh)
                progress.advance(bar, len(names))

    def _keyed(self, names: Sequence[bytes], unreadable: list[Unreadable]) -> Iterator[tuple[bytes, str, Image]]:
        for name in names:
            try:
                image = Image(inside(self.folder, os.fsdecode(name)))
                yield name, image.key, image
            except DataError as error:
                unreadable.append(Unreadable(os.fsdecode(name), str(error)))

    def _embed(self, database: sqlite3.Connection, vectors: GrowingArray, fresh: dict[str, Image]) -> int:
        """Vectors first, then, within the transaction of the caller, the keys that point to them."""
        if not fresh:
            return 0
        keys, first, now = list(fresh), vectors.count, int(time.time())
        indices, rows, broken = vectors_of(list(fresh.values()), self.embedder.embed_images)
        if indices:
            vectors.append(rows)
        made = [(keys[index], first + at, None, now) for at, index in enumerate(indices)]
        failed = [(keys[index], None, reason, now) for index, reason in broken]
        database.executemany("INSERT INTO contents VALUES (?, ?, ?, ?)", [*made, *failed])
        return len(indices)

    # --- forgetting

    def _compact(self, database: sqlite3.Connection, vectors: GrowingArray, now: int) -> None:
        """Drops vectors that no file has pointed to for long, once they are a quarter of all."""
        with database:
            met = "UPDATE contents SET used = ? WHERE used < ? AND key IN (SELECT key FROM files)"
            database.execute(met, (now, now - _KEPT // 30))
        stale = "FROM contents WHERE used < ?"
        dead = database.execute(f"SELECT count(place) {stale}", (now - _KEPT,)).fetchone()[0]
        if dead * 4 <= vectors.count:
            return
        generation = _fact(database, "generation")
        fresh = GrowingArray(self.home / f"vectors-{generation + 1}.npy", (self.width,))
        fresh.truncate(0)
        kept = "SELECT key, place FROM contents WHERE used >= ? AND place >= 0 ORDER BY place"
        moved = database.execute(kept, (now - _KEPT,)).fetchall()
        for at in range(0, len(moved), 4096):
            fresh.append(vectors.rows()[[row for _, row in moved[at : at + 4096]]])
        with database:
            database.execute(f"DELETE {stale}", (now - _KEPT,))
            moved_rows = [(row, key) for row, (key, _) in enumerate(moved)]
            database.executemany("UPDATE contents SET place = ? WHERE key = ?", moved_rows)
            database.execute("UPDATE facts SET value = ? WHERE name = 'generation'", (generation + 1,))

    # --- files

    def graph_file(self, vectors: GrowingArray) -> Path:
        """Where the graph over these vectors is kept, if there is one."""
        return vectors.file.with_name(vectors.file.name.replace("vectors", "graph")).with_suffix(".usearch")

    def _vector_file(self, database: sqlite3.Connection) -> Path:
        return self.home / f"vectors-{_fact(database, 'generation')}.npy"

    def _vectors(self, database: sqlite3.Connection) -> GrowingArray:
        """The vectors, cut back to those that keys point to; files of an older generation go."""
        vectors = GrowingArray(self._vector_file(database), (self.width,))
        current = (vectors.file, self.graph_file(vectors))
        for old in (*self.home.glob("vectors-*.npy"), *self.home.glob("graph-*.usearch")):
            if old not in current:
                old.unlink()
        vectors.truncate(_row_count(database))
        return vectors

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        file = self.home / "files.sqlite"
        try:
            with closing(sqlite3.connect(file, timeout=30)) as database:
                yield database
        except sqlite3.DatabaseError as error:
            raise ChiasmError(f"the index {self.home} cannot be used ({error}); remove it to index anew") from error

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Holds a lock that a killed process gives back; raises ChiasmError if another process holds it."""
        with closing(sqlite3.connect(self.home / "lock.sqlite", timeout=0, isolation_level=None)) as lock:
            try:
                lock.execute("BEGIN EXCLUSIVE")
            except sqlite3.OperationalError as error:
                raise ChiasmError(f"another process is at work on the index of {self.folder}; wait for it") from error
            yield


def index_home(folder: Path, root: Path | None = None) -> Path:
    """Where the indexes of a folder's pictures lie, one for each model: below `root`, or the user's cache.

    Not in the folder itself: that may be read-only, shared or synchronised, and searching it should leave no trace.
    """
    if root is None:
        root = cache_folder() / "search"
    whole = folder.resolve()
    mark = hashlib.blake2b(os.fsencode(whole), digest_size=6).hexdigest()
    return root / f"{whole.name}-{mark}"


def last_model(home: Path) -> str | None:
    """The model with which this folder was indexed last, as the user gave it."""
    abouts = sorted(home.glob(f"*/{ABOUT}"), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in abouts:
        try:
            entries: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:  # cut short by a kill; the next call writes it again
            continue
        if entries.get("model"):
            return str(entries["model"])
    return None


def _fact(database: sqlite3.Connection, name: str) -> int:
    return int(database.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()[0])


def _row_count(database: sqlite3.Connection) -> int:
    """How many vectors there are, those of removed pictures included."""
    return int(database.execute("SELECT coalesce(max(place) + 1, 0) FROM contents").fetchone()[0])
