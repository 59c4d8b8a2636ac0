"""The report's style sheet: light and dark by the reader's choice, one column on a phone."""

CSS = """
:root {
  color-scheme: light dark;
  --paper: #f6f6f3; --card: #ffffff; --ink: #17181c; --soft: #646670; --line: #e3e3de; --accent: #2f6fde;
  --good: #17803d; --bad: #c8342b;
  --s0: #2f6fde; --s1: #d4700f; --s2: #0f8a78; --s3: #a8409a;
  --s4: #b3261e; --s5: #6a5acd; --s6: #7a6a00; --s7: #5b6472;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #101115; --card: #191b21; --ink: #ececf0; --soft: #9b9dab; --line: #2b2e37; --accent: #7aa7ff;
    --good: #5fd38a; --bad: #ff8577;
    --s0: #7aa7ff; --s1: #f5a256; --s2: #4cc9b4; --s3: #e08ad4;
    --s4: #ff8577; --s5: #b3a6ff; --s6: #d9c74a; --s7: #a9b2c0;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 48px 24px 72px; }
header { margin-bottom: 32px; }
h1 { margin: 0 0 6px; font-size: clamp(1.7rem, 4.5vw, 2.5rem); line-height: 1.15; letter-spacing: -.02em; }
h2 { margin: 48px 0 14px; font-size: 1.2rem; letter-spacing: -.01em; }
h3 { margin: 0 0 12px; font-size: 1rem; font-weight: 600; }
p { margin: 0 0 10px; max-width: 72ch; }
.summary { color: var(--soft); font-size: 1.05rem; }
.figures { display: flex; flex-wrap: wrap; gap: 8px; margin: 16px 0 0; padding: 0; list-style: none; }
.figures li { padding: 3px 12px; border: 1px solid var(--line); border-radius: 99px; background: var(--card);
  color: var(--soft); font-size: .875rem; }
.figures b { color: var(--ink); font-weight: 600; }
.cards { display: grid; gap: 16px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); }
.card, .chart, details, pre { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 14px; }
.card { padding: 20px 22px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(104px, 1fr)); gap: 14px 18px; margin: 0; }
.tiles > div { display: flex; flex-direction: column; }
.tiles dt { order: 2; color: var(--soft); font-size: .85rem; line-height: 1.3; }
.tiles dd { margin: 0; font-variant-numeric: tabular-nums; }
.tiles .score { order: 1; font-size: 1.9rem; font-weight: 650; line-height: 1.2; letter-spacing: -.02em; }
.tiles .beside { order: 3; color: var(--soft); font-size: .8rem; line-height: 1.35; }
.tiles > div:first-child .score { color: var(--accent); }
.state { margin: 14px 0 16px; padding: 14px 18px 12px; background: var(--card); border: 1px solid var(--line);
  border-left: 4px solid var(--tone); border-radius: 14px; overflow-wrap: anywhere; }
.state p { margin: 0; font-variant-numeric: tabular-nums; }
.state b { color: var(--tone); font-weight: 650; }
.state .hint { margin-top: 8px; }
.state .bar { height: 6px; margin-top: 10px; border-radius: 3px; background: var(--line); overflow: hidden; }
.state .bar i { display: block; height: 100%; border-radius: 3px; background: var(--tone); }
.running { --tone: var(--accent); } .finished { --tone: var(--good); }
.stopped, .warning { --tone: var(--s1); } .failed, .killed { --tone: var(--bad); }
.hint { max-width: 110ch; margin: 10px 0 12px; color: var(--soft); font-size: .85rem; }
.strip { display: grid; gap: 6px; }
.strip span { color: var(--soft); font-size: .82rem; line-height: 1.3; text-align: center; align-self: end;
  overflow-wrap: anywhere; }
.strip img { display: block; width: 100%; height: auto; border-radius: 6px; background: var(--line); }
.strip img.small { image-rendering: pixelated; }
.wide { grid-template-columns: minmax(0, 1fr); }
.cards + .cards, .card + .charts { margin-top: 16px; }
.scroll { overflow-x: auto; margin-bottom: -6px; padding-bottom: 6px; }
.scroll .first { position: sticky; left: 0; z-index: 1; box-shadow: 3px 0 0 3px var(--card); }
.scroll span.first { background: var(--card); }
.charts { display: grid; gap: 16px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 330px), 1fr)); }
.chart { display: flex; flex-direction: column; justify-content: space-between; padding: 14px 12px 6px; min-width: 0; }
.chart figcaption { display: flex; flex-wrap: wrap; gap: 2px 14px; padding: 0 6px 8px; font-size: .85rem; }
.chart strong { flex-basis: 100%; font-size: .95rem; font-weight: 600; }
.chart figcaption span { color: var(--soft); }
.chart b { color: var(--ink); font-weight: 600; font-variant-numeric: tabular-nums; }
.chart i, .runs i { display: inline-block; width: 14px; height: 3px; margin: 0 6px 3px 0; border-radius: 2px;
  background: currentColor; }
i.dashed { background: repeating-linear-gradient(90deg, currentColor 0 4px, transparent 4px 6px); }
.chart svg { display: block; width: 100%; height: auto; }
.chart text { fill: var(--soft); font-size: 12px; font-variant-numeric: tabular-nums; }
.chart .grid { stroke: var(--line); }
.chart .mark { stroke: var(--good); stroke-dasharray: 3 3; }
.chart em { color: var(--good); font-style: normal; }
.chart path { fill: none; stroke: currentColor; stroke-linecap: round; stroke-linejoin: round; }
.chart .raw { stroke-width: 1.2; opacity: .4; }
.chart .mean { stroke-width: 2.2; }
.s0 { color: var(--s0); } .s1 { color: var(--s1); } .s2 { color: var(--s2); } .s3 { color: var(--s3); }
.s4 { color: var(--s4); } .s5 { color: var(--s5); } .s6 { color: var(--s6); } .s7 { color: var(--s7); }
.chart path.dashed { stroke-dasharray: 5 4; }
pre { padding: 18px 22px; overflow-x: auto;
  font: .875rem/1.6 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
details { margin-bottom: 10px; }
summary { padding: 13px 20px; cursor: pointer; font-weight: 600; }
summary:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; border-radius: 14px; }
.columns { columns: 2 380px; column-gap: 36px; padding: 0 22px 14px; }
.columns section { break-inside: avoid; padding: 4px 0 12px; }
.columns h3 { margin: 6px 0; color: var(--soft); font-size: .85rem; }
table { width: 100%; border-collapse: collapse; font-size: .875rem; }
th, td { padding: 5px 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { width: 45%; padding-right: 16px; color: var(--soft); font-weight: 400; white-space: nowrap; }
td { overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.runs { padding: 4px 22px 10px; }
.runs .scroll { margin-bottom: 0; }
.runs table { width: auto; min-width: 100%; }
.runs th, .runs td { width: auto; min-width: 84px; padding: 8px 24px 8px 0; vertical-align: baseline; }
.runs th { white-space: nowrap; } .runs td { overflow-wrap: normal; white-space: nowrap; }
.differences td { min-width: 110px; max-width: 320px; overflow-wrap: break-word; white-space: normal; }
.runs tbody tr:last-child > * { border-bottom: 0; }
.runs thead th, .runs tbody th { color: var(--ink); font-weight: 600; }
.runs thead th { color: var(--soft); font-weight: 400; }
.runs tbody th:first-child { position: sticky; left: 0; background: var(--card); }
a { color: inherit; text-decoration-color: var(--soft); text-underline-offset: 3px; }
footer { margin-top: 48px; color: var(--soft); font-size: .85rem; }
@supports (animation-timeline: scroll()) {  /* what scrolls fades at the right, until it is at its end */
  .scroll { mask-image: linear-gradient(90deg, #000 calc(100% - var(--fade, 0px)), transparent);
    animation: at-the-end linear; animation-timeline: scroll(self inline); }
  @keyframes at-the-end { from, 98% { --fade: 44px; } to { --fade: 0px; } }
}
@supports not (animation-timeline: scroll()) {  /* a shadow, covered by what moves along with the end */
  .scroll { background: linear-gradient(to left, var(--card) 60%, transparent) right / 60px 100% no-repeat local,
    linear-gradient(to left, var(--line), transparent) right / 20px 100% no-repeat; }
}
@media (max-width: 520px) {
  main { padding: 28px 16px 48px; }
  .card { padding: 16px; }
  h2 { margin-top: 36px; }
  th { white-space: normal; }
}
@media print { body { background: none; } .card, .chart { break-inside: avoid; } }
"""
