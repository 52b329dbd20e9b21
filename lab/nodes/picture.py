"""A timeline of one run as SVG: who held the address, what each director's table had, who answered, what failed, how the streams fared."""

from __future__ import annotations

import itertools
from collections import Counter
from html import escape

from lab.nodes.probe import Seen

WIDTH, LEFT, RIGHT, ROW = 1000, 190, 20, 20
BINS_S = 0.1
COLOURS = ("#3b6fb6", "#3f9b6c", "#b5803a", "#7a5aa6", "#4c9aa8")
FAILED, PALE, GREY = "#c0392b", "#f7d9d5", "#888"
TITLE_PX, NARROWEST_LABEL_PX = 15, 45


def draw(title: str, verdict: str, seen: Seen, moment: float) -> str:
    """The picture; time runs from left to right in seconds from the event. Requests stand where they began."""
    span = max(seen.ended - seen.began, 1.0)
    parts: list[str] = []
    y = 0

    def x(at: float) -> float:
        return round(LEFT + (min(max(at, seen.began), seen.ended) - seen.began) / span * (WIDTH - LEFT - RIGHT), 1)

    def text(left: float, words: str, more: str = "") -> None:
        parts.append(f'<text x="{left}" y="{y + 4}" {more}>{escape(words)}</text>')

    def box(start: float, end: float, high: float, colour: str, base: float = 7) -> None:
        parts.append(f'<rect x="{x(start)}" y="{y + base - high}" width="{max(1.0, x(end) - x(start)):.1f}" height="{high}" fill="{colour}"/>')

    # Of the nodes that the probes look at, those that have to do with the address: its pool is named as it is.
    directors = sorted({table.node for table in seen.tables if table.live and table.node.startswith(seen.target.pool)})
    nodes = sorted({node for holding in seen.holdings for node in holding.nodes} | {*directors, *seen.answers})
    colour = {node: COLOURS[index % len(COLOURS)] for index, node in enumerate(nodes)}
    y += ROW
    text(10, title, f'font-size="{TITLE_PX}" font-weight="bold"')
    y += ROW
    text(10, verdict, f'fill="{GREY}"')
    top = y + ROW // 2

    y += ROW + 6
    text(10, f"holds {seen.target.address}", 'font-weight="bold"')
    holders = [*((holding.at, holding.nodes) for holding in seen.holdings), (seen.ended, ())]
    for node in sorted({node for _, names in holders for node in names}):
        y += ROW
        text(20, node)
        for (start, names), (end, _) in itertools.pairwise(holders):
            if node in names and end > seen.began:
                box(start, end, 14, colour[node])

    y += ROW + 6
    text(10, "live servers in the table of", 'font-weight="bold"')
    for node in directors:
        y += ROW
        text(20, node)
        mine = [*((table.at, table.live) for table in seen.tables if table.node == node), (seen.ended, 0)]
        most = max(live for _, live in mine)
        written = 0.0
        for (start, live), (end, _) in itertools.pairwise(mine):
            if end > seen.began:
                box(start, end, round(14 * live / most, 1), "#d5dbe3")
                if x(end) - x(start) > NARROWEST_LABEL_PX or x(start) > written:
                    text(x(start) + 3, str(live))
                    written = x(start) + 12

    y += ROW + 6
    text(10, f"answers each {BINS_S:g} s", 'font-weight="bold"')
    binned = {node: Counter(int((r.at - seen.began) / BINS_S) for r in seen.requests if r.server == node and not r.error) for node in seen.answers}
    most = max((count for bins in binned.values() for count in bins.values()), default=1)
    for node, bins in binned.items():
        y += ROW
        text(20, f"{node} ({seen.answers[node]})")
        for bin_, count in bins.items():
            start = seen.began + bin_ * BINS_S
            box(start, start + BINS_S * 0.8, round(16 * count / most, 1), colour[node], 8)

    y += ROW + 6
    text(10, f"failed ({len(seen.failures)} of {len(seen.requests)})", 'font-weight="bold"')
    parts += [f'<line x1="{x(r.at)}" x2="{x(r.at)}" y1="{y - 8}" y2="{y + 8}" stroke="{FAILED}"/>' for r in seen.failures]
    y += ROW
    text(10, f"streams lost ({len(seen.lost_streams)} of {len(seen.streams)})", 'font-weight="bold"')
    for row, stream in enumerate(sorted(seen.lost_streams, key=lambda stream: stream.failed_at)):
        parts.append(f'<circle cx="{x(stream.failed_at)}" cy="{y - 6 + row % 3 * 6}" r="3" fill="{FAILED}"/>')

    y += ROW
    bottom = y - ROW // 2
    step = next(s for s in (1, 2, 5, 10, 20, 60, 120) if span / s <= 15 or s == 120)
    seconds = range(-int((moment - seen.began) // step) * step, int(seen.ended - moment) + 1, step)
    grid = [f'<line x1="{x(moment + s)}" x2="{x(moment + s)}" y1="{top}" y2="{bottom}" stroke="#eee"/>' for s in seconds]
    for second in seconds:
        text(x(moment + second), f"{second} s" if second else "event", 'text-anchor="middle"')
    parts.append(f'<line x1="{x(moment)}" x2="{x(moment)}" y1="{top}" y2="{bottom}" stroke="#222" stroke-dasharray="4 3"/>')
    gap_began, gap_ended = seen.longest_gap
    gap = f'<rect x="{x(gap_began)}" y="{top}" width="{x(gap_ended) - x(gap_began):.1f}" height="{bottom - top}" fill="{PALE}"/>'
    y += ROW
    legend = f"Pale: the longest time without any sign of life, {seen.longest_gap_s} s. A request stands where it began; its answer came 0.3 s later."
    text(LEFT, legend, f'fill="{GREY}"')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + ROW}" font-family="sans-serif" font-size="11">'
        f'<rect width="100%" height="100%" fill="white"/>{"".join([*grid, gap, *parts])}</svg>\n'
    )
