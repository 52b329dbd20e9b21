"""A timeline of one run as SVG: who held the address, who answered, what failed, how the streams fared."""

from __future__ import annotations

from collections import Counter
from html import escape

from lab.nodes.probe import Seen

WIDTH, LEFT, ROW = 960, 150, 22
BINS_S = 0.1
COLOURS = ("#3b6fb6", "#3f9b6c", "#b5803a", "#7a5aa6", "#4c9aa8")


def draw(title: str, seen: Seen, moment: float) -> str:
    """The picture; time runs from left to right in seconds from the event."""
    span = max(seen.ended - seen.began, 1.0)

    def x(at: float) -> float:
        return round(LEFT + (at - seen.began) / span * (WIDTH - LEFT - 20), 1)

    nodes = sorted({node for holding in seen.holdings for node in holding.nodes} | set(seen.answers))
    colour = {node: COLOURS[index % len(COLOURS)] for index, node in enumerate(nodes)}
    parts = [f'<text x="10" y="20" font-size="15">{escape(title)}</text>']
    y = 40
    parts.append(f'<text x="10" y="{y + 4}" font-weight="bold">holds {seen.target.address}</text>')
    ends = [*(holding.at for holding in seen.holdings[1:]), seen.ended]
    for node in nodes:
        y += ROW
        parts.append(f'<text x="20" y="{y + 4}">{node}</text>')
        for holding, end in zip(seen.holdings, ends, strict=True):
            if node in holding.nodes:
                start = max(holding.at, seen.began)
                parts.append(f'<rect x="{x(start)}" y="{y - 7}" width="{max(1.0, x(end) - x(start)):.1f}" height="14" fill="{colour[node]}"/>')
    y += ROW + 8
    parts.append(f'<text x="10" y="{y + 4}" font-weight="bold">answers each {BINS_S:g} s</text>')
    for node in nodes:
        y += ROW
        parts.append(f'<text x="20" y="{y + 4}">{node} ({seen.answers.get(node, 0)})</text>')
        bins = Counter(int((request.at - seen.began) / BINS_S) for request in seen.requests if request.server == node and not request.error)
        most = max([*bins.values(), 1])
        wide = max(0.8, (WIDTH - LEFT) / span * BINS_S * 0.8)
        for bin_, count in bins.items():
            left, high = x(seen.began + bin_ * BINS_S), round(16 * count / most, 1)
            parts.append(f'<rect x="{left}" y="{y + 8 - high}" width="{wide:.1f}" height="{high}" fill="{colour[node]}"/>')
    y += ROW
    parts.append(f'<text x="20" y="{y + 4}">failed ({len(seen.failures)})</text>')
    parts += [f'<line x1="{x(r.at)}" x2="{x(r.at)}" y1="{y - 8}" y2="{y + 8}" stroke="#c0392b"/>' for r in seen.failures]
    y += ROW
    parts.append(f'<text x="20" y="{y + 4}">streams lost ({len(seen.lost_streams)}/{len(seen.streams)})</text>')
    parts += [f'<circle cx="{x(min(s.failed_at, seen.ended))}" cy="{y}" r="4" fill="#c0392b"/>' for s in seen.lost_streams]
    y += ROW
    parts.append(f'<line x1="{x(moment)}" x2="{x(moment)}" y1="30" y2="{y - 8}" stroke="#222" stroke-dasharray="4 3"/>')
    step = next(s for s in (1, 2, 5, 10, 20, 60, 120) if span / s <= 15)
    for second in range(-int((moment - seen.began) // step) * step, int(seen.ended - moment) + 1, step):
        parts.append(f'<text x="{x(moment + second)}" y="{y + 6}" text-anchor="middle">{second} s</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + 20}" font-family="sans-serif" font-size="11">'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n'
    )
