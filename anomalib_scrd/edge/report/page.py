"""Frame of a page: one file without external resources."""

__all__ = ["definitions", "page", "table"]

from collections.abc import Iterable, Mapping, Sequence
from html import escape

# With this policy a browser refuses all external resources.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
_STYLE = """
:root { --ink: #1b1b1a; --soft: #5f5e5a; --line: #dddcd6; --ground: #fff; --card: #f7f6f2;
  --normal: #2a78d6; --anomalous: #d95926; --mark: #1b1b1a; }
@media (prefers-color-scheme: dark) { :root { --ink: #f0efe9; --soft: #a8a79f; --line: #3c3b38; --ground: #1a1a19;
  --card: #242422; --normal: #5aa0f2; --anomalous: #f0814f; --mark: #f0efe9; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1080px; padding: 24px; font: 15px/1.5 system-ui, sans-serif; color: var(--ink);
  background: var(--ground); }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 36px 0 8px; }
h3 { font-size: 15px; margin: 20px 0 6px; }
p { max-width: 75ch; margin: 6px 0; } .soft { color: var(--soft); }
table { border-collapse: collapse; margin: 8px 0; } th, td { text-align: left; padding: 4px 16px 4px 0;
  border-bottom: 1px solid var(--line); vertical-align: top; overflow-wrap: anywhere; }
th { font-weight: 600; } td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px; } dt { color: var(--soft); } dd { margin: 0;
  overflow-wrap: anywhere; }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; margin: 16px 0; }
.tile { background: var(--card); border-radius: 8px; padding: 10px 16px; } .tile b { display: block; font-size: 22px; }
.cases { display: flex; flex-wrap: wrap; gap: 12px; }
.case { background: var(--card); border-radius: 8px; padding: 8px; } .row { display: flex; gap: 4px; }
.case img { height: 130px; width: 130px; object-fit: contain; }
.case p { max-width: 400px; font-size: 13px; margin: 4px 0 0; overflow-wrap: anywhere; }
figure { margin: 8px 0; overflow-x: auto; } figcaption { font-size: 13px; color: var(--soft); }
svg { max-width: 100%; height: auto; } .tick, .mark { font-size: 12px; fill: var(--soft); } .mark { fill: var(--mark); }
.grid { stroke: var(--line); } .threshold { stroke: var(--mark); stroke-width: 2; stroke-dasharray: 5 3; }
.bar { fill-opacity: 0.65; } .bar.normal, .bar.plain { fill: var(--normal); } .bar.anomalous { fill: var(--anomalous); }
.point { fill: var(--normal); fill-opacity: 0.7; }
.key { margin-right: 14px; } .key::before { content: ""; display: inline-block; width: 10px; height: 10px;
  margin-right: 5px; border-radius: 2px; background: var(--normal); }
.key.anomalous::before { background: var(--anomalous); }
@media print { body { max-width: none; } h2 { break-after: avoid; } .case, figure, tr { break-inside: avoid; } }
"""


def page(title: str, body: str, *, style: str = "", script: str = "") -> str:
    """Build a page.

    Args:
        title: Its title.
        body: HTML.
        style: Further style rules.
        script: JavaScript that runs at the end.

    Returns:
        Content of the file.
    """
    script = f"<script>{script}</script>" if script else ""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title><style>{_STYLE}{style}</style></head>\n"
        f"<body>{body}{script}</body></html>\n"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[object]], numbers: Sequence[int] = ()) -> str:
    """Build a table.

    Args:
        head: Names of the columns.
        rows: Their values, as text.
        numbers: Indices of right-aligned columns.

    Returns:
        HTML.
    """

    def row(cells: Sequence[object], tag: str) -> str:
        classes = [' class="number"' if index in numbers else "" for index in range(len(cells))]
        return "".join(f"<{tag}{kind}>{escape(str(cell))}</{tag}>" for cell, kind in zip(cells, classes, strict=True))

    body = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in rows)
    return f"<table><thead><tr>{row(head, 'th')}</tr></thead><tbody>{body}</tbody></table>"


def definitions(values: Mapping[str, object]) -> str:
    """List of names and values, one per line; None and empty values are left out.

    Args:
        values: Values by name.

    Returns:
        HTML.
    """
    shown = {name: value for name, value in values.items() if value is not None and value not in ("", {}, [])}
    return (
        "<dl>"
        + "".join(f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in shown.items())
        + "</dl>"
    )
