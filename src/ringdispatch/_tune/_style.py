"""The style sheet of the report: phone, desk and paper; light and dark."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fff; --ink: #1a1c1f; --soft: #5b6068; --rule: #d9dce1; --grid: #e9ebee;
  --tint: #f5f6f8; --accent: #0b5cad; --bad: #b3261e; --bar: #c3c8cf;
  --s0: #c98500; --s1: #d3542b; --s2: #b02a6f; --s3: #6f2c91; --s4: #31257a; --s5: #000;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #14161a; --ink: #e6e8eb; --soft: #a0a6ae; --rule: #363b43; --grid: #272b31;
    --tint: #1c1f25; --accent: #7db8f5; --bad: #ff8a80; --bar: #4a515b;
    --s0: #b5751a; --s1: #dd6a55; --s2: #d982c0; --s3: #b3a6ff; --s4: #bfe0ff;
    --s5: #fff;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue",
    "Liberation Sans", Arial, sans-serif;
}
main { max-width: 1160px; margin: 0 auto; padding: 28px 20px 64px; }
h1, h2, h3 { line-height: 1.2; letter-spacing: -0.012em; text-wrap: balance; }
h1 { font-size: 1.9rem; margin: 0 0 4px; }
h2 {
  font-size: 1.35rem; margin: 44px 0 8px; padding-top: 14px;
  border-top: 1px solid var(--rule);
}
h3 { font-size: 1.05rem; margin: 32px 0 6px; }
p, li { max-width: 70ch; text-wrap: pretty; overflow-wrap: anywhere; }
p { margin: 8px 0 14px; }
.soft { color: var(--soft); }
.bad { color: var(--bad); font-weight: 600; }
.recommendation {
  margin: 26px 0; padding: 2px 0 2px 18px; border-left: 4px solid var(--accent);
}
.recommendation .sentence {
  font-size: 1.25rem; line-height: 1.4; margin: 0 0 8px; max-width: 60ch;
}
.recommendation ul, ul.findings { margin: 0; padding-left: 1.1em; }
li { margin: 4px 0; }

dl.facts {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(270px, 1fr));
  gap: 0 32px; margin: 12px 0; font-size: 0.9rem;
}
dl.facts div {
  display: flex; justify-content: space-between; gap: 18px; padding: 5px 0;
  border-bottom: 1px solid var(--grid);
}
dl.facts .long { grid-column: 1 / -1; justify-content: flex-start; }
dl.facts .long dd { text-align: left; }
dl.facts dt { color: var(--soft); flex: none; }
dl.facts dd { margin: 0; text-align: right; overflow-wrap: anywhere; }

ul.keys {
  list-style: none; padding: 0; margin: 10px 0 18px; font-size: 0.85rem;
  display: flex; flex-wrap: wrap; gap: 2px 20px;
}
ul.told { display: block; font-size: 0.9rem; }
ul.told li { margin: 0 0 10px; padding-left: 32px; }
ul.told svg.key { margin-left: -32px; margin-right: 4px; }
svg.key { width: 24px; height: 12px; vertical-align: -1px; overflow: visible; }
figure { margin: 0 0 30px; min-width: 0; }
figcaption { font-weight: 600; margin: 0 0 6px; }
h4 { font-size: 0.85rem; font-weight: 400; color: var(--soft); margin: 0; }
.panels, .figures.small, .figures.two { display: grid; gap: 6px 28px; }
.panels, .figures.small {
  grid-template-columns: repeat(auto-fill, minmax(min(320px, 100%), 1fr));
}
.figures.two {
  grid-template-columns: repeat(auto-fill, minmax(min(400px, 100%), 440px));
  column-gap: 72px;
}
.figures.small .panels { grid-template-columns: 1fr; }
.panel { min-width: 0; }

svg.plot {
  display: block; width: 100%; max-width: 440px; height: auto; overflow: visible;
  font-size: 11.5px; font-variant-numeric: tabular-nums;
}
svg text { fill: var(--soft); }
svg path { fill: none; stroke: none; }
svg .grid { stroke: var(--grid); }
svg .axis { stroke: var(--soft); }
svg .tick { font-size: 11px; }
svg .line { stroke: var(--own); stroke-width: 1.8; stroke-linejoin: round; }
svg .line.predicted { stroke-width: 1.4; stroke-dasharray: 4 3; }
svg .point { fill: var(--own); stroke: var(--paper); stroke-width: 0.8; }
svg .point.hollow { fill: var(--paper); stroke: var(--own); stroke-width: 1.5; }
svg .leader { stroke: var(--own); stroke-width: 0.6; opacity: 0.7; }
svg .label { fill: var(--own); font-weight: 600; }
svg .cross { stroke: var(--bad); stroke-width: 2.6; }
svg path.level { stroke: var(--bad); stroke-dasharray: 1 3; stroke-width: 1.6; }
svg text.level { fill: var(--bad); }
svg .name { fill: var(--ink); }
svg .bar { fill: var(--bar); }
svg .reach { stroke: var(--soft); }
svg .ours .bar { fill: var(--accent); }
svg .ours text { fill: var(--accent); font-weight: 600; }
.s0 { --own: var(--s0); } .s1 { --own: var(--s1); } .s2 { --own: var(--s2); }
.s3 { --own: var(--s3); } .s4 { --own: var(--s4); } .s5 { --own: var(--s5); }

.box {
  overflow-x: auto; margin: 10px 0 24px; max-width: 100%; width: fit-content;
  border-bottom: 1px solid var(--rule);
}
.box:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
table {
  border-collapse: collapse; font-size: 0.84rem; line-height: 1.35;
  font-variant-numeric: tabular-nums;
}
caption { text-align: left; font-weight: 600; font-size: 0.95rem; padding: 0 0 6px; }
th, td { padding: 4px 8px; text-align: right; white-space: nowrap; }
thead th {
  vertical-align: bottom; font-weight: 600; border-bottom: 1px solid var(--ink);
}
thead th small { display: block; font-weight: 400; color: var(--soft); }
thead .above th {
  border-bottom: 1px solid var(--rule); text-align: center; padding-bottom: 2px;
}
th:first-child, td.word { text-align: left; }
tbody th { font-weight: 400; position: sticky; left: 0; background: var(--paper); }
thead th:first-child { position: sticky; left: 0; background: var(--paper); }
tbody { border-bottom: 1px solid var(--rule); }
.heading th { padding-top: 12px; }
.heading span { position: sticky; left: 8px; font-weight: 600; }
tbody tr:hover > * { background: var(--tint); }
.words1 thead th:first-child, .words2 thead th:nth-child(-n+2),
.words3 thead th:nth-child(-n+3), .words4 thead th:nth-child(-n+4) { text-align: left; }
td .ours, th .ours, .ours { color: var(--accent); font-weight: 600; }
td.off, .off { color: var(--bad); font-weight: 600; }

@media (max-width: 520px) {
  main { padding: 20px 16px 48px; }
  h1 { font-size: 1.55rem; }
  h2 { margin-top: 42px; font-size: 1.22rem; }
  .recommendation .sentence { font-size: 1.1rem; }
}
@page { size: A4; margin: 14mm 13mm; }
@page wide { size: A4 landscape; margin: 12mm; }
@media print {
  body { font-size: 10pt; line-height: 1.4; }
  main { padding: 0; max-width: none; }
  h1 { font-size: 20pt; }
  h2 { font-size: 14pt; margin-top: 22pt; break-after: avoid; }
  h3, figcaption, h4, h2 + p, .heading { break-after: avoid; }
  figure, .panel, svg, .recommendation, tr { break-inside: avoid; }
  .panels, .figures.small { grid-template-columns: repeat(3, 1fr); gap: 4px 20px; }
  h4, ul.keys { font-size: 8pt; }
  .figures.two { grid-template-columns: repeat(2, 1fr); gap: 8px 18px; }
  dl.facts { font-size: 8.5pt; }
  .wide { page: wide; break-before: page; }
  .predictions { break-before: page; }
  .wide h2 { border-top: 0; margin-top: 0; }
  .box { overflow: visible; width: auto; }
  table { font-size: 7.5pt; }
  th, td { padding: 1.5pt 4pt; }
  thead { display: table-header-group; }
  tbody th, thead th { position: static; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
