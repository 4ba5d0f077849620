"""The report's style sheet: system fonts, light and dark, one column on a phone."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark;
  --ground: #f7f7f5; --card: #ffffff; --ink: #1c2127; --muted: #626a73; --line: #dcdfe3;
  --series-1: #1769c2; --series-2: #d98b1f; --good: #1b7f4d; --bad: #c0392f; --soft: #e4eefa; }
@media (prefers-color-scheme: dark) { :root {
  --ground: #14171b; --card: #1d2126; --ink: #e7eaed; --muted: #9aa3ad; --line: #363c44;
  --series-1: #6cb0f5; --series-2: #f0b35c; --good: #5cc98f; --bad: #f0827a; --soft: #22364d; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 1080px; background: var(--ground);
  color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.35rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2.5rem 0 .75rem; }
h3 { font-size: .95rem; margin: 1.5rem 0 .5rem; font-weight: 600; }
p { margin: .25rem 0; } .muted, figcaption small { color: var(--muted); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 1rem 1.25rem; }
.headline { display: grid; gap: 1rem; margin-top: 1.25rem;
  grid-template-columns: repeat(auto-fit, minmax(min(380px, 100%), 1fr)); }
.wide { grid-column: 1 / -1; }
.rate { font-size: 3rem; line-height: 1.1; font-weight: 650; font-variant-numeric: tabular-nums; }
.interval { position: relative; height: 10px; margin: .75rem 0 .35rem; border-radius: 5px;
  background: var(--line); }
.interval i { position: absolute; top: 0; bottom: 0; border-radius: 5px; opacity: .45;
  background: var(--series-1); }
.interval b { position: absolute; top: -3px; width: 4px; height: 16px; margin-left: -2px;
  border-radius: 2px; background: var(--series-1); }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: .9rem 1.25rem;
  margin: 0; } dt { color: var(--muted); font-size: .85rem; }
dd { margin: 0; font-weight: 550; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; } .bar { min-width: 140px; } .bar .interval { margin: .2rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .92rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .75rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
tr:last-child td { border-bottom: 0; }
th { color: var(--muted); font-weight: 500; font-size: .85rem; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
.yes { color: var(--good); } .no { color: var(--bad); } .off { color: var(--muted); }
.videos { display: grid; grid-template-columns: repeat(auto-fit, minmax(320px, 1fr)); gap: 1rem; }
figure { margin: 0; } video { width: 100%; display: block; border-radius: 8px; background: #000; }
figcaption { padding-top: .5rem; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(260px, 1fr));
  gap: .75rem 1.25rem; }
.grid figcaption { padding: 0; font-size: .88rem; display: flex; justify-content: space-between;
  gap: .5rem; flex-wrap: wrap; }
svg { width: 100%; height: auto; display: block; }
.key { display: flex; gap: 1.1rem; flex-wrap: wrap; color: var(--muted); font-size: .85rem;
  margin-bottom: .75rem; }
.key i { display: inline-block; width: 1.3em; height: 0; vertical-align: middle; margin-right: .4em;
  border-top: 2px solid; }
details { margin-top: .75rem; } summary { cursor: pointer; font-weight: 550; }
pre { overflow-x: auto; font-size: .82rem; margin: .5rem 0 0; }
@media (max-width: 480px) { body { padding: 1rem .75rem 3rem; } .card { padding: .85rem .9rem; }
  .rate { font-size: 2.5rem; } .videos { grid-template-columns: 1fr; } }
""".strip()
