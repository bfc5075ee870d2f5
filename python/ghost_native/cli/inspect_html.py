"""`inspect --html`: one page with nothing external, for light and dark, whose bytes show their values."""

from __future__ import annotations

import html
import json
from string import Template
from typing import TYPE_CHECKING

from ghost_native.cli.inspection import byte_labels

if TYPE_CHECKING:
    from ghost_native.cli.inspection import Inspection


def page(found: Inspection, checkpoint: str, by: str = "surprise") -> str:
    """The whole page as text, coloured by "surprise" or "bits" at first."""
    values = {
        "byte": list(found.data),
        "surprise": [round(float(v), 4) for v in found.surprise],
        "bits": [round(float(v), 3) for v in found.bits],
        "depth": [int(v) for v in found.depth],
        "boundary": [round(float(v), 4) for v in found.boundary],
    }
    tiles = "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>" for name, value in found.facts()
    )
    return Template(_PAGE).substitute(
        style=_STYLE,
        model=found.model,
        show={"surprise": "s", "bits": "e"}[by],
        surprise="checked" if by == "surprise" else "",
        bits="checked" if by == "bits" else "",
        script=_SCRIPT,
        checkpoint=html.escape(checkpoint),
        tiles=tiles,
        text=_text(found),
        layers=found.num_layers,
        values=json.dumps(values, separators=(",", ":")),
    )


def _text(found: Inspection) -> str:
    """Pieces as boxes, broken after newlines; each byte carries its four values as style variables from 0 to 1."""
    labels = byte_labels(found.data)
    bits = found.heat("bits")
    parts: list[str] = []
    for begin, end in found.pieces:
        parts.append('<span class="piece">')
        for i in range(begin, end):
            style = (
                f"--s:{found.surprise[i]:.3f};--e:{bits[i]:.3f};"
                f"--d:{found.depth[i] / found.num_layers:.3f};--b:{found.boundary[i]:.3f}"
            )
            kind = ' class="mark"' if found.data[i] < 32 else ' class="rest"' if not labels[i] else ""
            parts.append(f'<i{kind} style="{style}">{html.escape(labels[i]) or "&middot;"}</i>')
            if found.data[i] == 10 and i + 1 < end:
                parts.append("<br>")
        parts.append("</span><br>" if found.data[end - 1] == 10 else "</span><wbr>")
    return "".join(parts)


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>What $model sees: $checkpoint</title>
<style>$style</style>
</head>
<body data-show="$show">
<main>
<header>
<h1>What $model sees</h1>
<p>Every byte of a text, read once from left to right by <b>$checkpoint</b>. Boxes are the pieces its tokenizer found;
the colour of a byte is how little it was expected; the line below it is how many of the $layers layers it went
through.</p>
</header>
<dl class="tiles">$tiles</dl>
<div class="bar">
<fieldset><legend>colour by</legend>
<label><input type="radio" name="show" value="s" $surprise>surprise</label>
<label><input type="radio" name="show" value="e" $bits>bits</label>
<label><input type="radio" name="show" value="d">depth</label>
<label><input type="radio" name="show" value="b">boundary</label>
</fieldset>
<div class="legend">
<span><em class="scale"></em><small><b data-low>expected</b><b data-high>surprising</b></small></span>
<span><em class="under"></em>depth</span>
<span><em class="box"></em>piece</span>
</div>
</div>
<pre id="text">$text</pre>
<footer>Made by <code>ghost-native inspect</code>.</footer>
</main>
<div id="tip" role="tooltip" hidden></div>
<script>const V=$values,LAYERS=$layers;$script</script>
</body>
</html>
"""

_STYLE = """
:root{color-scheme:light dark;--page:#f6f6f8;--card:#fff;--ink:#1d1f2b;--soft:#6b7080;--line:#dfe1e8;--edge:#c3c7d4;
--cold:#ffffff;--warm:#ffd27a;--hot:#f0563f;--deep:#2b7fd6;--shade:0 1px 2px #1d1f2b14,0 8px 28px #1d1f2b0f}
@media(prefers-color-scheme:dark){:root{--page:#12131a;--card:#1b1d27;--ink:#e8eaf2;--soft:#9197ab;--line:#2c2f3d;
--edge:#454a5e;--cold:#1b1d27;--warm:#7d5215;--hot:#e0412f;--deep:#58a8ff;--shade:0 1px 2px #0006,0 8px 28px #0005}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif}
main{max-width:60rem;margin:0 auto;padding:2.5rem 1.25rem 4rem}
h1{margin:0 0 .4rem;font-size:1.9rem;letter-spacing:-.02em}
header p{margin:0;max-width:44rem;color:var(--soft)}
header b{color:var(--ink);font-weight:600}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9rem,1fr));gap:.6rem;margin:1.5rem 0}
.tiles div{padding:.7rem .9rem;background:var(--card);border:1px solid var(--line);border-radius:.7rem}
dt{font-size:.76rem;color:var(--soft)}
dd{margin:0;font-weight:600;font-variant-numeric:tabular-nums}
.bar{display:flex;flex-wrap:wrap;gap:.8rem 2rem;align-items:center;justify-content:space-between;margin-bottom:.7rem}
fieldset{display:flex;align-items:center;margin:0;padding:.2rem;gap:.15rem;border:1px solid var(--line);
border-radius:.7rem;background:var(--card);font-size:.86rem}
fieldset legend{float:left;padding:0 .5rem;color:var(--soft)}
fieldset label{padding:.22rem .65rem;border-radius:.5rem;cursor:pointer}
fieldset label:has(:checked){background:var(--ink);color:var(--page)}
fieldset label:has(:focus-visible){outline:2px solid var(--deep)}
fieldset input{position:absolute;opacity:0;pointer-events:none}
.legend{display:flex;flex-wrap:wrap;gap:1.2rem;color:var(--soft);font-size:.8rem}
.legend>span{display:inline-flex;align-items:center;gap:.45rem}
.scale{width:7rem;height:.75rem;border-radius:.3rem;border:1px solid var(--line);
background:linear-gradient(90deg,var(--cold),var(--warm),var(--hot))}
.legend b{font-weight:400}
.legend small{display:inline-flex;gap:.3rem}
.legend small b+b::before{content:"to "}
.under{width:1.6rem;height:.75rem;border-bottom:4px solid var(--deep)}
.box{width:1.6rem;height:.9rem;border:1px solid var(--edge);border-radius:.28rem}
pre{margin:0;padding:1.4rem 1.5rem;background:var(--card);border:1px solid var(--line);border-radius:.9rem;
box-shadow:var(--shade);font:15px/2.15 ui-monospace,"SF Mono","Cascadia Code",Menlo,Consolas,monospace;
white-space:pre-wrap;overflow-wrap:anywhere}
.piece{margin-right:4px;padding:.14em 0 .2em;border-radius:.28rem;box-shadow:0 0 0 1.5px var(--edge);
-webkit-box-decoration-break:clone;box-decoration-break:clone}
.piece i:first-child{border-radius:.28rem 0 0 .28rem}.piece i:last-child{border-radius:0 .28rem .28rem 0}
.piece i:only-child{border-radius:.28rem}
i{font-style:normal;padding:.14em 0 .2em;--v:var(--s);
background:linear-gradient(var(--deep),var(--deep)) 0 100%/100% calc(4px*var(--d)) no-repeat,
color-mix(in oklab,color-mix(in oklab,var(--hot) calc(max(0,var(--v)*2 - 1)*100%),var(--warm))
calc(min(1,var(--v)*2)*100%),var(--cold))}
[data-show=e] i{--v:var(--e)}[data-show=d] i{--v:var(--d)}[data-show=b] i{--v:var(--b)}
i.mark,i.rest{color:var(--soft)}
i.on{outline:2px solid var(--deep);outline-offset:1px;border-radius:.15rem}
footer{margin-top:1.2rem;color:var(--soft);font-size:.82rem}
#tip{position:fixed;z-index:2;min-width:11rem;padding:.6rem .8rem;background:var(--card);color:var(--ink);
border:1px solid var(--edge);border-radius:.6rem;box-shadow:var(--shade);font-size:.82rem;pointer-events:none}
#tip table{border-spacing:0;width:100%;font-variant-numeric:tabular-nums}
#tip td+td{text-align:right;font-weight:600}#tip td{padding:0 0 0 .2rem}
#tip strong{font:600 1rem ui-monospace,Menlo,Consolas,monospace}
@media print{.bar fieldset,footer{display:none}pre{box-shadow:none}}
"""

_SCRIPT = """
const cells=[...document.querySelectorAll('#text i')],tip=document.getElementById('tip');
const names={s:['expected','surprising'],e:['0 bits','8 bits or more'],d:['no layer','all layers'],
b:['inside a piece','begins a piece']};
document.querySelector('fieldset').addEventListener('change',e=>{show(e.target.value)});
function show(k){document.body.dataset.show=k;
document.querySelector('[data-low]').textContent=names[k][0];
document.querySelector('[data-high]').textContent=names[k][1]}
show(document.body.dataset.show);
cells.forEach((c,i)=>{c.dataset.i=i});
let on=null;
function leave(){if(on)on.classList.remove('on');on=null;tip.hidden=true}
document.getElementById('text').addEventListener('mousemove',e=>{
const c=e.target.closest('i');if(!c){leave();return}
if(c!==on){leave();on=c;c.classList.add('on');const i=+c.dataset.i,n=V.byte[i];
const row=(a,b)=>'<tr><td>'+a+'</td><td>'+b+'</td></tr>';
tip.innerHTML='<strong></strong><table>'+row('position',i)
+row('byte',n+' = 0x'+n.toString(16).padStart(2,'0'))+row('surprise',V.surprise[i].toFixed(3))
+row('bits',V.bits[i].toFixed(2))+row('depth',V.depth[i]+' of '+LAYERS)
+row('boundary',V.boundary[i].toFixed(3))+'</table>';
tip.querySelector('strong').textContent=c.textContent;tip.hidden=false}
const w=tip.offsetWidth,h=tip.offsetHeight;
tip.style.left=Math.max(8,Math.min(e.clientX+14,innerWidth-w-8))+'px';
tip.style.top=(e.clientY+18+h>innerHeight?e.clientY-h-12:e.clientY+18)+'px'});
document.getElementById('text').addEventListener('mouseleave',leave);
"""
