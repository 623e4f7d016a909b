"""The HTML, the styles and the script of the error report."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{{hash}}'">
<title>Errors: {{title}}</title>
<style>{{style}}</style>
</head>
<body>
<header>
<h1>Errors of {{title}}</h1>
<p class="note">{{about}}</p>
</header>
<details open id="figures">
<summary>Scores</summary>
{{scores}}
{{comparison}}
<div class="runs">{{runs}}</div>
</details>
<form id="filters" role="search">
<label>Errors <select name="wrong"><option value="">all tweets</option></select></label>
<label>Type <select name="type"><option value="">any</option></select></label>
<label><select name="change"><option value="">any</option></select></label>
<label>Picture <select name="picture"><option value="">any</option>
<option value="decided">the picture decided</option><option value="not">it did not</option></select></label>
<label class="wide">Search <input type="search" name="query" placeholder="words, id, caption, class name"></label>
<output id="count" aria-live="polite"></output>
</form>
<p class="note" id="legend">Under each entity: <span class="chip gold">gold</span>, then each run by its number with
the score of the span. <span class="chip">solid: right</span> <span class="chip wrong">dashed ✗: wrong</span>
<span class="none missed">dotted ✗: missed</span>
<span id="how" hidden>Press an entity to see what in the picture decided it: the darker a region, the more hiding it
takes from the entity; dashed, what speaks against it.</span> Wrong entities of a tweet are those of gold that a run
lacks, and those of the run that gold lacks: a wrong type or boundary is both. With a type chosen, only its entities
count.</p>
<main id="tweets" tabindex="-1"></main>
<nav id="pages" aria-label="Pages">
<button type="button" id="back">← back</button> <span id="page"></span> <button type="button" id="on">on →</button>
</nav>
<noscript>The tweets are shown by a script in this page: allow it.</noscript>
<script type="application/json" id="data">{{data}}</script>
{{pictures}}
<script>{{script}}</script>
</body>
</html>
"""
STYLE = """
:root { color-scheme: light dark; --back: light-dark(#f6f7f9, #14171c); --card: light-dark(#fff, #1d2128);
  --text: light-dark(#1b1f26, #e6e9ee); --soft: light-dark(#5c6573, #9aa4b2); --line: light-dark(#dde1e7, #343b46);
  --accent: light-dark(#2f5fd0, #7aa2ff); --t0: light-dark(#0a6fb8, #5cb3f2); --t1: light-dark(#0a8a5f, #3fc797);
  --t2: light-dark(#c25400, #ff9b4a); --t3: light-dark(#9b3f96, #e08bdb); --t4: light-dark(#7a6a00, #d9c64a);
  --t5: light-dark(#b3263e, #ff7d92); --t6: light-dark(#4d55c4, #a3a9ff); --t7: light-dark(#5d6b2f, #b6c97a); }
* { box-sizing: border-box; } [hidden] { display: none !important; }
body { margin: 0 auto; padding: 1rem; max-width: 1240px; background: var(--back); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
header, #figures p, h3, th[colspan], label { overflow-wrap: anywhere; }
h1 { font-size: 1.35rem; margin: 0; } h3 { font-size: 1rem; margin: 0 0 .4rem; }
p { margin: .4rem 0; } .note { color: var(--soft); font-size: .82rem; }
summary { cursor: pointer; font-weight: 600; padding: .3rem 0; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; } main:focus { outline: none; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .16rem .55rem; text-align: right; font-weight: 400; border-bottom: 1px solid var(--line); }
th { color: var(--soft); } th[scope=row] { text-align: left; color: var(--text); } th[colspan] { text-align: center; }
td.f1, tr.all * { font-weight: 650; } td.precision { border-left: 1px solid var(--line); }
.scroll { overflow-x: auto; } caption { caption-side: top; text-align: left; color: var(--soft); font-size: .82rem; }
.runs { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); gap: .8rem; }
.run, article { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .8rem; }
.run { overflow-x: auto; } .pair { display: flex; gap: 1rem; flex-wrap: wrap; align-items: flex-start; }
.pair > div { width: min-content; } .plot { flex: 1 1 190px; }
.confusion { font-size: .82rem; } .confusion th, .confusion td { padding: .22rem .4rem; }
.confusion td[style] { background: color-mix(in srgb, var(--t5) var(--share), transparent); }
.confusion td.right { background: color-mix(in srgb, var(--t1) calc(var(--share) * .6), transparent); }
.plot { margin: 0; max-width: 330px; } .plot path { fill: none; stroke: var(--soft); stroke-width: .8; }
.plot rect { fill: color-mix(in srgb, var(--accent) 45%, transparent); } .plot circle { fill: var(--text); }
.plot text { fill: var(--soft); font-size: 9.5px; } .plot .count { text-anchor: middle; }
.plot .number { font-size: 7.5px; } .tick { text-anchor: end; }
#filters { position: sticky; top: 0; z-index: 2; display: flex; flex-wrap: wrap; gap: .5rem .9rem; align-items: end;
  margin-top: .8rem; padding: .6rem 0; background: var(--back); border-bottom: 1px solid var(--line); }
#filters label { display: grid; grid-template-columns: minmax(0, 1fr); max-width: 100%; font-size: .78rem;
  color: var(--soft); } .wide { flex: 1 1 12rem; }
select, input, button { font: inherit; font-size: .92rem; color: var(--text); background: var(--card); max-width: 100%;
  border: 1px solid var(--line); border-radius: 6px; padding: .3rem .5rem; } button { cursor: pointer; }
button:disabled { opacity: .45; cursor: default; } #count { font-weight: 600; padding: .35rem 0; }
#tweets { display: grid; gap: .7rem; scroll-margin-top: 6rem; }
article { display: grid; grid-template-columns: minmax(0, 240px) minmax(0, 1fr); gap: .3rem 1.1rem; }
article.bare, article.large { grid-template-columns: minmax(0, 1fr); }
article > figure { margin: 0; font-size: .8rem; color: var(--soft); } figcaption { overflow-wrap: anywhere; }
.picture { position: relative; display: block; width: 100%; padding: 0; border: 0; line-height: 0; cursor: zoom-in; }
.large .picture { cursor: zoom-out; max-width: 680px; } .picture img { width: 100%; height: auto; border-radius: 6px; }
.box { position: absolute; border: 1.5px solid #fff; outline: 1px solid #000a; border-radius: 2px; }
.box b { position: absolute; left: 0; top: 0; padding: 0 3px; font: 600 10px/13px system-ui, sans-serif; color: #fff;
  background: #000b; white-space: nowrap; } .box.right b { left: auto; right: 0; }
.many:not(:hover) .box b { display: none; }
.large .box b { display: block !important; } .box:hover { border-color: #ffd84a; z-index: 1; }
.text { font-size: 1.06rem; line-height: 1.75; overflow-wrap: anywhere; margin: 0 0 .5rem; }
.place { display: inline-grid; gap: 1px 0; vertical-align: baseline; max-width: 100%; margin: 0 1px .35rem; }
.word { padding: 0 .12em; } .word.in { background: color-mix(in srgb, var(--c) 22%, transparent); }
.chip, .none { font: 600 11px/16px system-ui, sans-serif; padding: 0 4px; white-space: nowrap; overflow: hidden;
  direction: ltr; background: color-mix(in srgb, var(--c, var(--soft)) 14%, transparent); user-select: none;
  border-bottom: 3px solid var(--c, var(--soft)); margin-right: 1px; }
.chip small, .none small { font-weight: 400; font-size: inherit; }
.chip.gold { background: var(--c, var(--soft)); color: light-dark(#fff, #14171c); }
.chip.wrong { border-bottom-style: dashed; }
.none { background: none; border-bottom: 3px dotted var(--line); color: var(--soft); font-weight: 400; }
.none.missed { border-bottom-color: var(--text); }
dl { display: grid; grid-template-columns: auto auto 1fr; gap: .1rem .9rem; margin: 0; font-size: .82rem; }
dt { overflow-wrap: anywhere; } dd { margin: 0; color: var(--soft); } dd.bad { color: var(--text); font-weight: 600; }
.view { display: inline-block; margin-right: .9rem; white-space: nowrap; }
.bar { display: inline-block; width: 3.5rem; height: .45rem; margin: 0 .3rem; border-radius: 3px; background:
  linear-gradient(90deg, var(--accent) var(--share), var(--line) var(--share)); }
.chip.why { cursor: pointer; } .chip.chosen { outline: 2px solid var(--accent); }
.box[style*="--effect"] { background: color-mix(in srgb, #4f46e5 calc(var(--effect) * 65%), transparent); }
.box.against { border: 2px dashed #f97316; }
.decided { display: grid; grid-template-columns: auto 1fr auto; gap: 0 .5rem; font-size: .82rem; max-width: 26rem; }
.decided p { grid-column: 1 / -1; } .decided .bar { width: auto; align-self: center; }
.id { font: .75rem ui-monospace, monospace; color: var(--soft); margin: 0 0 .1rem; overflow-wrap: anywhere; }
#pages { display: flex; gap: .8rem; align-items: center; justify-content: center; padding: 1rem; }
@media (max-width: 640px) { article { grid-template-columns: minmax(0, 1fr); } #filters { position: static; }
  article > figure { max-width: 320px; } #tweets { scroll-margin-top: 0; } dl { grid-template-columns: 1fr auto; }
  dd.views { grid-column: 1 / -1; } }
"""
SCRIPT = """
"use strict";
const PAGE_SIZE = 25;
const FEW_BOXES = 8;  // more names than these hide the picture: they show on hover, and when it is enlarged
const $ = id => document.getElementById(id);
const { tweets, names, types, kinds } = JSON.parse($("data").textContent);
const filters = $("filters");
let page = 0;

// Only text ever enters the page: tweets are written by strangers.
function make(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const key = ([type, first, end]) => [type, first, end].join(" ");
const keys = (spans, type) => new Set(spans.filter(span => !type || span[0] === type).map(key));
const wrong = (tweet, run, type) => keys(tweet.gold, type).symmetricDifference(keys(tweet.runs[run], type)).size;
const textOf = tweet => [tweet.words.join(" "), tweet.id, tweet.caption ?? "", ...tweet.regions.map(r => r[0])]
  .join("\\n").toLowerCase();

// Whether an entity of any run has another type, or is none, without the picture.
const byPicture = tweet => tweet.decided.some((entities, run) =>
  entities.some((entity, at) => entity && entity.type !== tweet.runs[run][at][0]));

function matches(tweet) {
  const type = filters.type.value, errors = names.map((_, run) => wrong(tweet, run, type));
  const gain = names.length > 1 ? errors[1] - errors[0] : 0;
  const compared = { "": true, better: gain > 0, worse: gain < 0, either: gain !== 0 };
  const chosen = { "": true, any: errors.some(Boolean) };
  const decided = byPicture(tweet), picture = { "": true, decided, not: !decided };
  return (!type || [tweet.gold, ...tweet.runs].flat().some(span => span[0] === type))
    && (filters.wrong.value in chosen ? chosen[filters.wrong.value] : errors[filters.wrong.value] > 0)
    && compared[filters.change.value] && picture[filters.picture.value]
    && textOf(tweet).includes(filters.query.value.trim().toLowerCase());
}

// By the first letter. dir="auto" would pass over words in elements with a direction of their own: the entities.
const RIGHT_TO_LEFT = /^[^\\p{L}]*[\\p{Script=Hebrew}\\p{Script=Arabic}\\p{Script=Syriac}\\p{Script=Thaana}]/u;
const direction = words => RIGHT_TO_LEFT.test(words.join(" ")) ? "rtl" : "ltr";

const colour = type => `--c: var(--t${types.indexOf(type) % 8})`;

function chip(lane, [type, first, end, score], right, start) {
  const who = lane ? names[lane - 1] : "gold", sure = score == null ? "" : score.toFixed(2).replace(/^0/, "");
  return make("span", {
    class: "chip" + (lane ? right ? "" : " wrong" : " gold"),
    style: `${colour(type)}; grid-area: ${lane + 2} / ${first - start + 1} / auto / ${end - start + 1}`,
    title: `${who}: ${type}` + (score == null ? "" : `, score ${score}`) + (lane ? right ? ", right" : ", wrong" : ""),
  }, lane ? `${lane} ${type} ` : type, make("small", {}, sure), lane && !right ? " ✗" : "");
}

// The words from the first to the last of entities that overlap, in gold or in a run, and a line of each below them.
function place(tweet, start, end) {
  const lanes = [tweet.gold, ...tweet.runs].map(spans => spans.filter(s => s[1] >= start && s[2] <= end));
  const gold = keys(lanes[0]);
  const node = make("span", { class: "place", dir: direction(tweet.words.slice(start, end)),
    style: `grid-template-columns: repeat(${end - start}, auto)` });
  for (let at = start; at < end; at++) {
    const inside = lanes[0].find(span => span[1] <= at && at < span[2]);
    node.append(make("span", { class: inside ? "word in" : "word",
      style: `${inside ? colour(inside[0]) : ""}; grid-area: 1 / ${at - start + 1}` }, tweet.words[at]));
  }
  lanes.forEach((spans, lane) => {
    for (const span of spans) {
      const mark = chip(lane, span, gold.has(key(span)), start);
      const at = lane ? tweet.runs[lane - 1].indexOf(span) : -1;
      if (lane && tweet.decided[lane - 1][at]) {
        for (const [name, value] of [["role", "button"], ["tabindex", 0], ["data-run", lane - 1], ["data-at", at]])
          mark.setAttribute(name, value);
        mark.classList.add("why");
      }
      node.append(mark);
    }
    if (!spans.length) {
      const missed = lane > 0 && gold.size > 0;
      node.append(make("span", { class: missed ? "none missed" : "none",
        style: `grid-area: ${lane + 2} / 1 / auto / -1` },
        lane ? `${lane} ${missed ? "missed ✗" : "nothing"}` : "no entity"));
    }
  });
  return node;
}

function text(tweet) {
  const line = make("p", { class: "text", dir: direction(tweet.words) });
  const spans = [tweet.gold, ...tweet.runs].flat().sort((a, b) => a[1] - b[1]);
  for (let at = 0; at < tweet.words.length;) {
    let end = at;
    for (const span of spans) if (span[1] >= at && span[1] < Math.max(end, at + 1)) end = Math.max(end, span[2]);
    line.append(end > at ? place(tweet, at, end) : tweet.words[at], " ");
    at = Math.max(end, at + 1);
  }
  if (!tweet.words.length) line.append(make("span", { class: "note" }, "(no words)"));
  return line;
}

function seen(tweet, article) {
  const figure = make("figure", {}), data = $("picture" + tweet.picture);
  if (data) {
    const boxes = tweet.regions.filter(region => region.length > 1);
    const button = make("button", { type: "button", class: boxes.length > FEW_BOXES ? "picture many" : "picture",
      "aria-expanded": "false" },
      make("img", { src: "data:image/jpeg;base64," + data.textContent, alt: "picture, press to enlarge" }));
    for (const region of boxes) {
      const [name, left, top, width, height] = region;
      button.append(make("span", { class: left > 0.7 ? "box right" : "box", title: name,
        "data-region": tweet.regions.indexOf(region),
        style: `left: ${100 * left}%; top: ${100 * top}%; width: ${100 * width}%; height: ${100 * height}%`,
      }, make("b", {}, name)));
    }
    button.addEventListener("click", () =>
      button.setAttribute("aria-expanded", article.classList.toggle("large")));
    figure.append(button);
  }
  if (tweet.broken) figure.append(make("p", {}, "The picture cannot be shown: " + tweet.broken));
  const counts = new Map();
  for (const [name] of tweet.regions) counts.set(name, (counts.get(name) ?? 0) + 1);
  const list = [...counts].map(([name, count]) => count > 1 ? `${name} × ${count}` : name).join(", ");
  const caption = make("figcaption", {});
  if (tweet.caption) caption.append(make("div", {}, `“${tweet.caption}”`));
  if (list) caption.append(make("div", {}, make("b", {}, "regions: "), list));
  if (caption.childNodes.length) figure.append(caption);
  return figure;
}

// What in the picture decided an entity: a sentence, two bars, and the regions shaded.
function decide(tweet, article, mark) {
  const run = Number(mark.dataset.run), at = Number(mark.dataset.at);
  const entity = tweet.decided[run][at], type = tweet.runs[run][at][0];
  for (const other of article.querySelectorAll(".why")) other.classList.toggle("chosen", other === mark);
  const largest = Math.max(...entity.regions, 0);
  for (const box of article.querySelectorAll(".box")) {
    const effect = entity.regions[box.dataset.region] ?? 0;
    box.style.setProperty("--effect", largest > 0 ? Math.max(effect, 0) / largest : 0);
    box.classList.toggle("against", effect < -0.05);
    box.title = `${tweet.regions[box.dataset.region][0]}: effect ${effect.toFixed(2)}`;
  }
  const without = entity.type === type ? `Without the picture it is ${type}, too.`
    : `Without the picture it is ${entity.type ?? "no entity"}: the picture decided.`;
  const bar = (title, share) => [make("span", {}, `${type} ${title}`),
    make("span", { class: "bar", style: `--share: ${100 * share}%` }), make("span", {}, share.toFixed(2))];
  const best = tweet.regions[entity.regions.indexOf(largest)];
  article.querySelector(".decided").replaceChildren(make("p", {}, without,
    largest > 0.05 && best ? ` Most depends on the region “${best[0]}”.` : " No single region decides."),
    ...bar("with the picture", entity.with), ...bar("without it", entity.without));
}

function card(tweet) {
  const article = make("article", {}), figure = seen(tweet, article), runs = make("dl", {});
  names.forEach((name, run) => {
    const errors = wrong(tweet, run, ""), views = tweet.relevance[run] ?? [];
    const titles = views.length > 1 ? ["semantic", "spatial"] : [""];
    const bars = views.map((value, view) => make("span", { class: "view" }, titles[view],
      make("span", { class: "bar", style: `--share: ${100 * value}%` }), value.toFixed(2)));
    const kind = kinds[run] === "probability" ? ["probability that the picture is the tweet's own", "own picture "]
      : ["relevance of the picture to the text, by view", "|C| "];
    if (bars.length) bars.unshift(make("span", { title: kind[0] }, kind[1]));
    runs.append(make("dt", {}, `${run + 1} ${name}`),
      make("dd", { class: errors ? "bad" : "good" }, errors ? `✗ ${errors} wrong` : "✓ all right"),
      make("dd", { class: "views" }, ...bars));
  });
  const words = make("div", {}, make("p", { class: "id" }, tweet.id), text(tweet), runs);
  words.append(make("div", { class: "decided", "aria-live": "polite" }));
  const press = event => {
    const mark = event.target.closest?.(".why");
    if (!mark || (event.key && event.key !== "Enter" && event.key !== " ")) return;
    event.preventDefault();
    decide(tweet, article, mark);
  };
  words.addEventListener("click", press);
  words.addEventListener("keydown", press);
  if (figure.childNodes.length) article.append(figure); else article.classList.add("bare");
  article.append(words);
  return article;
}

function show() {
  const found = tweets.filter(matches), last = Math.max(Math.ceil(found.length / PAGE_SIZE) - 1, 0);
  page = Math.min(page, last);
  $("count").textContent = `${found.length} of ${tweets.length} tweets`;
  $("page").textContent = `page ${page + 1} of ${last + 1}`;
  $("back").disabled = page === 0;
  $("on").disabled = page === last;
  $("tweets").replaceChildren(...found.slice(page * PAGE_SIZE, (page + 1) * PAGE_SIZE).map(card));
}

function turn(step) {
  page += step;
  show();
  $("tweets").scrollIntoView();
  $("tweets").focus({ preventScroll: true });
}

const choose = (select, value, title) => select.append(make("option", { value }, title));
const areDecided = tweets.some(tweet => tweet.decided.flat().some(Boolean));
filters.picture.parentNode.hidden = !areDecided;
$("how").hidden = !areDecided;
choose(filters.wrong, "any", "wrong in any run");
names.forEach((name, run) => choose(filters.wrong, run, `wrong: ${run + 1} ${name}`));
types.forEach(type => choose(filters.type, type, type));
if (names.length > 1) {
  filters.change.before(`1 ${names[0]} against 2 ${names[1]} `);
  for (const title of ["better", "worse", "either"]) choose(filters.change, title, title);
} else filters.change.parentNode.hidden = true;
filters.addEventListener("input", () => { page = 0; show(); });
filters.addEventListener("submit", event => event.preventDefault());
$("back").addEventListener("click", () => turn(-1));
$("on").addEventListener("click", () => turn(1));
show();
"""
