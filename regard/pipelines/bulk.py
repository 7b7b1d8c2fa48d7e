"""A model over a whole file: in order, in bounded memory, and again from where it was after a kill.

Answers grow in OUTPUT.partial, what is told of records without one in OUTPUT.errors.jsonl.partial. After every window
of records both are brought to the disk, then OUTPUT.journal says how far they go. Whoever begins again cuts the files
back to what the journal knows and goes on from there, so no record is lost and none is there twice. The windows of a
file are always the same, so the answers are those of a run without a break.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, runtime_checkable

from regard.data.answer_files import Table, flattened, table_for
from regard.data.records import Record, Records, Window, open_records
from regard.errors import RegardError
from regard.files import written_aside
from regard.pipelines.journal import Journal, held, identity, sync_folder

WINDOW = 1024
"""Records that are read, answered (alike lengths together) and written at a time."""

_SHOWN = 200


@runtime_checkable
class Answerer(Protocol):
    """What a pipeline offers: a row for each text, as `regard run --jsonl` prints it."""

    name: str
    model: Any

    @property
    def kind(self) -> str:
        """What its rows have beside the answer: `hypotheses`, `classes`, `words`; or `embedding`, and no answer."""
        ...

    def check(self, text: str) -> list[int]: ...

    @property
    def rows(self) -> Callable[..., Iterator[dict[str, Any]]]: ...


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    done: int
    bad: int
    share: float
    """Of the file, from 0 to 1."""
    records_per_second: float = 0.0
    """Of this run, not counting what an earlier one did."""
    seconds_left: float | None = None


def run_file(
    pipeline: Answerer,
    source: Path | str,
    output: Path | str,
    field: str | None = None,
    restart: bool = False,
    json_lines: bool = False,
    links: Path | str | None = None,
    progress: Callable[[Progress], None] | None = None,
    window: int = WINDOW,
    **options: Any,
) -> Progress:
    """Answer every record of `source` into `output`; go on where an earlier run of the same was stopped.

    `field` names the column of the text, `links` a file for word alignments, `options` are those of the pipeline's
    `rows`. Records without an answer are told in OUTPUT.errors.jsonl. RegardError if the input, the model or a setting
    has changed since; `restart` begins anew.
    """
    source, output = Path(source), Path(output)
    if source.exists() and output.exists() and source.samefile(output):
        raise RegardError(f"{output} is the input itself: give another name to write to")
    paths = {"answers": output, "errors": output.with_name(output.name + ".errors.jsonl")}
    paths |= {"links": Path(links)} if links else {}
    with ExitStack() as stack:
        records = open_records(source, field)
        stack.callback(records.close)
        stack.enter_context(_told(output))
        stack.enter_context(held(output))
        table = table_for(output, records, pipeline.kind, json_lines)
        settings = {**options, "field": records.name, "window": window, "format": type(table).__name__}
        settings |= {"links": links is not None}
        run = {"input": identity(source), "model": fingerprint(pipeline), "settings": settings}
        journal = Journal.open(output, run, restart)
        last = Progress(journal.done, journal.bad, 1.0, 0.0, 0.0)
        if not journal.complete:
            with _opened(journal, {name: _partial(path) for name, path in paths.items()}, table) as files:
                last = _Run(pipeline, records, table, journal, files, options).go(window, progress)
        _finish(table, journal, paths)
        journal.path.unlink()
        return last


class FileRunner:
    """What every pipeline has."""

    def run_file(
        self: Answerer,
        source: Path | str,
        output: Path | str,
        progress: Callable[[Progress], None] | None = None,
        **options: Any,
    ) -> Progress:
        """Answer every record of a file (text, JSONL, CSV, Parquet) into another: see `regard.pipelines.bulk`."""
        return run_file(self, source, output, progress=progress, **options)


def fingerprint(pipeline: Answerer) -> str:
    """A digest of configuration and weights: of each tensor its shape and a thousand of its values."""
    digest = hashlib.sha256(repr(pipeline.model.config).encode())
    for name, value in pipeline.model.state_dict().items():
        some = value.detach().flatten()[:: max(1, value.numel() // 1000)].float().cpu()
        digest.update(f"{name} {tuple(value.shape)}".encode() + some.numpy().tobytes())
    return digest.hexdigest()


@dataclass
class _Run:
    """The loop over the windows of a file."""

    pipeline: Answerer
    records: Records
    table: Table
    journal: Journal
    files: dict[str, IO[bytes]]
    options: dict[str, Any]

    def go(self, window: int, progress: Callable[[Progress], None] | None) -> Progress:
        journal, done_before, skipped = self.journal, self.journal.done, 0
        begun, share_before = time.perf_counter(), 0.0
        last = Progress(journal.done, journal.bad, self.records.share())
        for chosen in self.records.windows(window):
            if skipped < done_before:
                skipped += len(chosen.records)
                if skipped >= done_before and self.records.digest.hexdigest() != journal.read:
                    raise RegardError(f"{self.records.path} has changed since the run began; --restart begins anew")
                begun, share_before = time.perf_counter(), self.records.share()
                continue
            self._write(chosen)
            seconds, share = time.perf_counter() - begun, self.records.share()
            left = seconds * (1 - share) / max(share - share_before, 1e-9)
            rate = (journal.done - done_before) / max(seconds, 1e-9)
            last = Progress(journal.done, journal.bad, share, rate, left)
            if progress:
                progress(last)
        journal.read, journal.complete = self.records.digest.hexdigest(), True
        journal.note()
        return last

    def _write(self, chosen: Window) -> None:
        """Answer one window and bring it to the disk."""
        answers, problems = self._answered(chosen.records)
        found = [answers.get(record.number) for record in chosen.records]
        told = [
            {"number": one.number, "reason": problems[one.number], "text": one.text[:_SHOWN]}
            for one in chosen.records
            if one.number in problems
        ]
        links = [(row or {}).get("alignment", "") for row in found]
        rows = [flattened(row) if row and self.table.flat else row for row in found]
        blocks = {
            "answers": self.table.block(chosen, rows),
            "errors": "".join(json.dumps(one) + "\n" for one in told).encode(),
            "links": "".join(line + "\n" for line in links).encode(),
        }
        for name, file in self.files.items():
            file.write(blocks[name])
            file.flush()
            os.fsync(file.fileno())
            self.journal.sizes[name] = file.tell()
        self.journal.done += len(chosen.records)
        self.journal.bad += len(problems)
        self.journal.read = self.records.digest.hexdigest()
        self.journal.note()

    def _answered(self, records: Sequence[Record]) -> tuple[dict[int, dict[str, Any]], dict[int, str]]:
        """Rows by number, and by number why the others have none."""
        problems = {record.number: record.problem for record in records if record.problem}
        for record in records:
            if clash := self.table.taken & record.fields.keys():
                problems.setdefault(record.number, f"it has a field {min(clash)!r} already")
        usable = [record for record in records if record.number not in problems]
        answers, refused = self._found(usable)
        if usable and not answers and not self.journal.done:  # that may not be the records' fault
            blameless = [record for record in usable if self._refused(record.text) is None]
            if blameless:
                raise RegardError(refused[blameless[0].number])
        return answers, problems | refused

    def _found(self, records: Sequence[Record]) -> tuple[dict[int, dict[str, Any]], dict[int, str]]:
        """All at once. Only where that is refused each is checked, and if none is at fault, halves are tried."""
        if not records:
            return {}, {}
        try:
            numbers = [record.number - 1 for record in records]
            rows = self.pipeline.rows([record.text for record in records], numbers, **self.options)
            return {record.number: row for record, row in zip(records, rows, strict=True)}, {}
        except RegardError as error:
            reason = str(error)
        refused = {record.number: told for record in records if (told := self._refused(record.text))}
        left = [record for record in records if record.number not in refused]
        if not refused and len(left) == 1:
            return {}, {left[0].number: reason}
        middle = len(left) if refused else len(left) // 2
        answers: dict[int, dict[str, Any]] = {}
        for part in (left[:middle], left[middle:]):
            more, without = self._found(part)
            answers, refused = answers | more, refused | without
        return answers, refused

    def _refused(self, text: str) -> str | None:
        """Why the model does not take a text."""
        try:
            self.pipeline.check(text)
        except RegardError as error:
            return str(error)
        return None


@contextmanager
def _opened(journal: Journal, paths: dict[str, Path], table: Table) -> Iterator[dict[str, IO[bytes]]]:
    """The growing files, new or cut back to what the journal knows of them."""
    with ExitStack() as stack:
        files: dict[str, IO[bytes]] = {}
        for name, path in paths.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            size = journal.sizes.get(name)
            if size is None:
                path.write_bytes(table.head() if name == "answers" else b"")
            elif not path.exists() or path.stat().st_size < size:
                raise RegardError(f"{path} is not what its journal says; --restart begins anew")
            files[name] = stack.enter_context(path.open("r+b"))
            if size is not None:
                files[name].truncate(size)
            files[name].seek(0, os.SEEK_END)
            sync_folder(path.parent)
        yield files


def _finish(table: Table, journal: Journal, paths: dict[str, Path]) -> None:
    """Each file takes its place. A kill between two of them is mended by the next run, which finds a whole journal."""
    for name, path in paths.items():
        partial = _partial(path)
        if not partial.exists():
            continue
        if name == "errors" and not journal.bad:
            partial.unlink()
            path.unlink(missing_ok=True)  # of an earlier run
        elif name == "answers" and table.made_at_the_end:
            with written_aside(path) as aside:
                table.finish(partial, aside)
            partial.unlink()
        else:
            partial.replace(path)
        sync_folder(path.parent)


@contextmanager
def _told(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise RegardError(f"cannot write {output}: {reason}; what is done is kept for the next run") from error


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")
