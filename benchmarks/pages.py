"""Tables of benchmarks in pages of docs/: each stands between two comments with its name."""

from __future__ import annotations

from pathlib import Path


def into_page(page: Path, table: str, name: str = "table") -> None:
    """Put ``table`` (Markdown) between the comments ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->`` of ``page``.

    Raises:
        SystemExit: the page has no such comments.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    text = page.read_text(encoding="utf-8")
    if begin not in text or end not in text:
        raise SystemExit(f"{page} has no {begin} … {end} to put the table between.")
    before, after = text.partition(begin)[0], text.partition(end)[2]
    page.write_text(f"{before}{begin}\n{table.strip()}\n{end}{after}", encoding="utf-8")
