"""A bar chart of ratios as SVG, drawn by hand: no library is worth a chart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax import saxutils

_ROW, _LEFT, _WIDTH, _RIGHT, _TOP = 20, 210, 560, 90, 56
_COLORS = {"duckdb": "#c98500", "postgresql": "#2f6690"}


def ratios(title: str, bars: Sequence[tuple[str, str, float]]) -> str:
    """An SVG of horizontal bars from 1 to each ratio, to the left where Orochi is ahead, on a logarithmic scale.

    Args:
        title: above it.
        bars: workload, the system that Orochi is compared with, and Orochi's time by that system's.
    """
    logs = [math.log2(ratio) for _, _, ratio in bars if ratio > 0]
    low, high = math.floor(min([*logs, -1])), math.ceil(max([*logs, 1]))
    names = list(dict.fromkeys(name for name, _, _ in bars))
    groups = {name: [bar for bar in bars if bar[0] == name] for name in names}
    height = _TOP + sum(_ROW * len(group) + 8 for group in groups.values()) + 30

    def at(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * _WIDTH

    font = 'font-family="sans-serif" font-size="12"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + _RIGHT}" height="{height}" {font}>',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="10" y="20" font-size="15" font-weight="bold">{saxutils.escape(title)}</text>',
    ]
    for number, (system, color) in enumerate(_COLORS.items()):
        x = 10 + number * 190
        parts.append(f'<rect x="{x}" y="30" width="12" height="12" fill="{color}"/>')
        parts.append(f'<text x="{x + 18}" y="41">Orochi / {system}</text>')
    for power in range(low, high + 1):
        label = f"{2**power}" if power >= 0 else f"1/{2**-power}"
        stroke = "#444" if power == 0 else "#ddd"
        parts.append(
            f'<line x1="{at(power):.1f}" x2="{at(power):.1f}" y1="{_TOP}" y2="{height - 24}" stroke="{stroke}"/>'
        )
        parts.append(f'<text x="{at(power):.1f}" y="{height - 8}" text-anchor="middle">{label}</text>')
    y = _TOP + 4
    for name, group in groups.items():
        parts.append(
            f'<text x="{_LEFT - 8}" y="{y + _ROW * len(group) / 2 + 2:.0f}" text-anchor="end">{saxutils.escape(name)}</text>'
        )
        for _, system, ratio in group:
            if ratio > 0:
                start, end = sorted((at(0), at(math.log2(ratio))))
                parts.append(
                    f'<rect x="{start:.1f}" y="{y}" width="{max(end - start, 1):.1f}" height="{_ROW - 6}" '
                    f'fill="{_COLORS.get(system, "#888")}"/>'
                )
                parts.append(f'<text x="{end + 4:.1f}" y="{y + _ROW - 8}" font-size="10">{ratio:.2f}</text>')
            y += _ROW
        y += 8
    return "\n".join([*parts, "</svg>"]) + "\n"
