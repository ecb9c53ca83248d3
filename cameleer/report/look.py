"""The report's style sheet: one column on a phone, dark where the reader's system is."""

CSS = """
:root {
  color-scheme: light dark;
  --paper: #fbfaf8; --card: #ffffff; --ink: #23262b; --ink-soft: #676c75; --line: #e4e1db;
  --accent: #8a5a2b; --good: #1f7a4d; --bad: #b23a48; --warn: #8f6400; --code: #f3f1ec;
  --series-0: #8a5a2b; --series-1: #1f6f78; --series-2: #b23a48; --series-3: #5b6ea8;
  --series-4: #7a8b2f; --series-5: #94569c; --series-6: #c98a1b; --series-7: #4b5d67;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #16181b; --card: #1e2125; --ink: #e6e4df; --ink-soft: #a0a4ab; --line: #33373d;
    --accent: #d9a066; --good: #6cc695; --bad: #ec8a92; --warn: #dcb35c; --code: #272a2f;
    --series-0: #d9a066; --series-1: #5fb8c2; --series-2: #ec8a92; --series-3: #93a5de;
    --series-4: #b4c468; --series-5: #cb94d2; --series-6: #efc25f; --series-7: #9db0bb;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body {
  margin: 0 auto; max-width: 76rem; padding: 1.5rem clamp(0.9rem, 3vw, 2.5rem) 4rem;
  background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 0.2rem; overflow-wrap: anywhere; }
h2 {
  font-size: 1.3rem; margin: 3rem 0 0.6rem; padding-top: 1.2rem;
  border-top: 1px solid var(--line); overflow-wrap: anywhere;
}
h3 { font-size: 1.05rem; margin: 2rem 0 0.6rem; }
h4 { font-size: 0.95rem; margin: 0; }
p { margin: 0.4rem 0; max-width: 48rem; }
a { color: var(--accent); }
.soft { color: var(--ink-soft); font-size: 0.875rem; }
nav { display: flex; flex-wrap: wrap; gap: 0.3rem 1rem; margin: 0.8rem 0 0; font-size: 0.95rem; }
code, pre, .text { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
code { font-size: 0.88em; overflow-wrap: anywhere; }
.text {
  margin: 0.35rem 0 0; padding: 0.55rem 0.7rem; border-radius: 6px; background: var(--code);
  font-size: 0.8rem; line-height: 1.5; white-space: pre-wrap; overflow-wrap: anywhere;
  max-height: 20rem; overflow-y: auto;
}
.scroll { overflow-x: auto; margin: 0.6rem 0; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td {
  padding: 0.38rem 1.1rem 0.38rem 0; text-align: left; vertical-align: baseline;
  border-bottom: 1px solid var(--line);
}
th { font-weight: 600; color: var(--ink-soft); font-size: 0.83rem; }
tbody th { color: var(--ink); font-size: 0.9rem; font-weight: 500; }
td > .text { margin: 0; }
th code { overflow-wrap: normal; white-space: nowrap; }
.number { text-align: right; }
td.number, .short { white-space: nowrap; }
td.number small { display: block; color: var(--ink-soft); font-size: 0.78rem; }
.span { position: relative; display: block; width: 7rem; height: 4px; margin: 0.25rem 0 0 auto;
  background: var(--line); border-radius: 2px; }
.span i { position: absolute; height: 4px; border-radius: 2px; background: var(--accent); }
.panels {
  display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr));
}
figure {
  margin: 0; padding: 0.8rem 0.9rem 0.6rem; background: var(--card);
  border: 1px solid var(--line); border-radius: 8px; min-width: 0;
}
figure svg { display: block; width: 100%; height: auto; margin-top: 0.3rem; overflow: visible; }
figure svg text { font-family: inherit; }
.legend {
  display: flex; flex-wrap: wrap; gap: 0 0.9rem; margin: 0.15rem 0 0; padding: 0;
  list-style: none; font-size: 0.8rem; color: var(--ink-soft);
}
.legend li { overflow-wrap: anywhere; }
.legend span {
  display: inline-block; width: 1.1rem; margin-right: 0.35rem; vertical-align: middle;
  border-top: 3px solid;
}
details { margin: 0.4rem 0; }
summary { cursor: pointer; color: var(--ink-soft); font-size: 0.85rem; }
figure details { font-size: 0.82rem; margin: 0.2rem 0 0; }
figure dt { margin-top: 0.3rem; } figure dd { margin: 0; color: var(--ink-soft); }
figcaption { font-size: 0.8rem; color: var(--ink-soft); }
.concerns { padding: 0.6rem 0.9rem 0.6rem 2rem; margin: 0.6rem 0; max-width: 60rem;
  border-left: 3px solid var(--warn); background: var(--card); font-size: 0.92rem; }
.concerns li { margin: 0.3rem 0; overflow-wrap: anywhere; }
.samples {
  display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr));
}
.sample { padding: 0.8rem 0.9rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; min-width: 0; }
.kind { font-weight: 600; font-size: 0.85rem; }
.right { color: var(--good); } .wrong { color: var(--bad); }
.truncated, .undecided, .left { color: var(--warn); }
.done { color: var(--good); }
footer { margin-top: 3rem; color: var(--ink-soft); font-size: 0.85rem; }
@media (max-width: 40rem) {
  th, td { padding-right: 0.8rem; }
  .span { width: 4.5rem; }
}
@media print { details { display: none; } }
"""
