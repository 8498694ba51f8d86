#!/usr/bin/env python3
"""Draws panels of deploy/observe/dashboard.json as SVG, from the data of a Prometheus.

usage: pictures.py URL FOLDER [MINUTES]
  URL      the Prometheus: http://127.0.0.1:9095
  FOLDER   where the pictures go
  MINUTES  how far back they reach (10)
"""

import html
import json
import math
import pathlib
import sys
import time
import urllib.parse
import urllib.request

PANELS = {
    "Requests by outcome": "requests",
    "Answered by a cache": "cache-hits",
    "Time to a token, 99th percentile": "times",
    "Calls to Keycloak": "calls",
}
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 300, 70, 20, 40, 70
COLOURS = ["#3274d9", "#e0752d", "#56a64b", "#a352cc", "#e02f44", "#b3a000", "#5c6a7a", "#00a0a0"]
ROOT = pathlib.Path(__file__).resolve().parent


def ask(url, expression, minutes):
    end = time.time()
    expression = (
        expression.replace("$__rate_interval", "1m")
        .replace('job="$job"', 'job=~".+"')
        .replace('instance=~"$instance"', 'instance=~".+"')
    )
    query = {"query": expression, "start": end - 60 * minutes, "end": end, "step": max(1, minutes * 60 // 120)}
    with urllib.request.urlopen(f"{url}/api/v1/query_range?{urllib.parse.urlencode(query)}") as answer:
        return json.load(answer)["data"]["result"]


def legend(template, labels):
    for label, value in labels.items():
        template = template.replace("{{" + label + "}}", value)
    return template


def lines(url, panel, minutes):
    """Name and points of each line, without lines that are always zero."""
    for target in panel["targets"]:
        for series in ask(url, target["expr"], minutes):
            points = [(float(at), float(value)) for at, value in series["values"]]
            points = [(at, value) for at, value in points if math.isfinite(value)]
            if any(value for _, value in points):
                yield legend(target["legendFormat"], series["metric"]), points


def shown(value, unit):
    if unit == "percentunit":
        return f"{100 * value:.0f} %"
    if unit == "s" and value < 1:
        return f"{1000 * value:.3g} ms"
    return f"{value:.3g}" + {"s": " s", "reqps": "/s", "ops": "/s"}.get(unit, "")


def draw(panel, drawn, minutes):
    unit = panel["fieldConfig"]["defaults"]["unit"]
    end = max((at for _, points in drawn for at, _ in points), default=time.time())
    begin = end - 60 * minutes
    top = panel["fieldConfig"]["defaults"].get("max") or max(
        (value for _, points in drawn for _, value in points), default=1
    )
    x = lambda at: LEFT + (WIDTH - LEFT - RIGHT) * (at - begin) / (end - begin)
    y = lambda value: HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / top
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="22" font-size="15" fill="#222222">{html.escape(panel["title"])}</text>',
    ]
    for part in range(5):
        value = top * part / 4
        out.append(f'<path d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}" stroke="#dddddd"/>')
        text = html.escape(shown(value, unit))
        out.append(f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end" fill="#555555">{text}</text>')
    for part in range(6):
        ago = minutes * (5 - part) / 5
        at = x(end - 60 * ago)
        text = "now" if ago == 0 else f"-{ago:g} min"
        anchor = "end" if part == 5 else "middle"
        out.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="{anchor}" fill="#555555">{text}</text>')
    at_x, at_y = LEFT, HEIGHT - 28
    for number, (name, points) in enumerate(drawn):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        width = 24 + 7 * len(name)
        if at_x + width > WIDTH - RIGHT:
            at_x, at_y = LEFT, at_y + 18
        out.append(f'<rect x="{at_x}" y="{at_y - 9}" width="10" height="10" fill="{colour}"/>')
        out.append(f'<text x="{at_x + 14}" y="{at_y}" fill="#222222">{html.escape(name)}</text>')
        at_x += width
    return "\n".join(out + ["</svg>", ""])


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    url, folder = sys.argv[1].rstrip("/"), pathlib.Path(sys.argv[2])
    minutes = int(sys.argv[3]) if len(sys.argv) == 4 else 10
    dashboard = json.loads((ROOT / "dashboard.json").read_text())
    folder.mkdir(parents=True, exist_ok=True)
    empty = []
    for panel in dashboard["panels"]:
        if panel["title"] in PANELS:
            drawn = list(lines(url, panel, minutes))
            file = folder / f"{PANELS[panel['title']]}.svg"
            file.write_text(draw(panel, drawn, minutes))
            print(file)
            if not drawn:
                empty.append(panel["title"])
    if empty:
        sys.exit(f"Prometheus has nothing for: {', '.join(empty)}")


if __name__ == "__main__":
    main()
