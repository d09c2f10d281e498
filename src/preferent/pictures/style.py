"""What a page with pictures needs once: colours as variables, in light, in dark and in print."""

LIGHT = """
  color-scheme: light;
  --paper: #ffffff; --raised: #f6f7f9; --ink: #1b1f24; --soft: #545d68; --line: #dfe3e8; --strong: #8b949e;
  --c0: #1f6feb; --c1: #c2410c; --c2: #0f766e; --c3: #8250df;
  --c4: #a16207; --c5: #be185d; --c6: #4d7c0f; --c7: #57606a;
"""
DARK = """
  color-scheme: dark;
  --paper: #14181d; --raised: #1c2229; --ink: #e8ebef; --soft: #a5aeb9; --line: #313942; --strong: #77818d;
  --c0: #6cb0ff; --c1: #ff9a5c; --c2: #3fcfbd; --c3: #c09bff;
  --c4: #e5b93c; --c5: #ff85b8; --c6: #a3d65c; --c7: #a8b1bb;
"""
# Colours differ in lightness too, and have 3:1 against the paper, as graphics need (WCAG 2.2, 1.4.11).
STYLE = f"""
:root {{{LIGHT}}}
@media (prefers-color-scheme: dark) {{ @media screen {{ :root {{{DARK}}} }} }}
.picture {{ margin: 0; min-width: 0; break-inside: avoid; }}
.picture figcaption strong {{ display: block; font-weight: 600; }}
.picture .note {{ display: block; color: var(--soft); font-size: .875em; }}
.picture > svg {{ display: block; width: 100%; height: auto; overflow: visible; margin-top: .5rem; }}
.picture svg text {{ font: 11.5px system-ui, sans-serif; fill: var(--soft); font-variant-numeric: tabular-nums; }}
.picture svg text.named, .picture svg text.beside {{ fill: var(--ink); }}
.picture svg text.beside {{ paint-order: stroke; stroke: var(--paper); stroke-width: 4px; stroke-linejoin: round; }}
.picture .grid {{ stroke: var(--line); fill: none; }}
.picture .axis {{ stroke: var(--strong); fill: none; }}
.picture .even {{ stroke: var(--strong); stroke-dasharray: 4 4; fill: none; }}
.picture .line {{ fill: none; stroke: var(--c); stroke-width: 2; stroke-linejoin: round; stroke-dasharray: var(--d); }}
.picture .band {{ fill: var(--c); fill-opacity: .16; }}
.picture .whisker {{ fill: none; stroke: var(--c); stroke-width: 2; }}
.picture .interval {{ fill: none; stroke: var(--ink); stroke-width: 1.5; }}
.picture .marker {{ fill: var(--c); stroke: var(--paper); stroke-width: 1; }}
.picture .bar {{ fill: var(--c); }}
.picture .count {{ fill: var(--strong); fill-opacity: .35; }}
.picture .cell {{ fill: var(--c0); stroke: var(--line); }}
.picture .ring {{ fill: none; stroke: var(--ink); stroke-width: 1.8; }}
.c0 {{ --c: var(--c0); }} .c1 {{ --c: var(--c1); }} .c2 {{ --c: var(--c2); }} .c3 {{ --c: var(--c3); }}
.c4 {{ --c: var(--c4); }} .c5 {{ --c: var(--c5); }} .c6 {{ --c: var(--c6); }} .c7 {{ --c: var(--c7); }}
.d0 {{ --d: none; }} .d1 {{ --d: 9 3; }} .d2 {{ --d: 3 2; }} .d3 {{ --d: 10 3 2 3; }}
.legend {{ list-style: none; display: flex; flex-wrap: wrap; gap: .125rem 1rem; margin: .375rem 0 0; padding: 0;
  font-size: .875em; }}
.legend li {{ display: flex; align-items: center; gap: .375rem; }}
.swatch {{ width: 22px; height: 10px; flex: none; }}
.picture details {{ font-size: .875em; margin-top: .375rem; }}
.picture summary {{ color: var(--soft); cursor: pointer; width: fit-content; }}
.picture .scroll {{ max-height: 20rem; overflow: auto; border: 1px solid var(--line); border-radius: 6px;
  margin-top: .375rem; }}
.picture table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }}
.picture th, .picture td {{ text-align: right; padding: .1875rem .625rem; border-bottom: 1px solid var(--line);
  font-weight: 400; white-space: nowrap; }}
.picture th:first-child, .picture td:first-child {{ text-align: left; }}
.picture thead th {{ font-weight: 600; position: sticky; top: 0; background: var(--raised); }}
@media print {{ .picture details {{ display: none; }} .picture * {{ print-color-adjust: exact; }} }}
"""
