"""The look and the movement of the report: style sheet and player, inlined into every page."""

__all__ = ["SCRIPT", "STYLE"]

STYLE = """
:root { color-scheme: light dark; --paper:#fff; --card:#f6f7f9; --ink:#1c2024; --soft:#5f6773; --rule:#dfe3e8;
  --a:#0b6e99; --b:#c2570c; --c:#2e8540; --d:#7a52b3; --e:#8a8f98; --yes:#1a7f45; --no:#b42318; }
@media (prefers-color-scheme: dark) { :root { --paper:#14171a; --card:#1d2126; --ink:#e8eaed; --soft:#a0a8b3;
  --rule:#333a42; --a:#5cb8e0; --b:#f0955a; --c:#6cc483; --d:#b79cec; --e:#9aa1ab; --yes:#5fd08c; --no:#ff8a7a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 24px 16px 64px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 4px; }
h2 { font-size: 20px; margin: 44px 0 4px; }
h3 { font-size: 16px; margin: 20px 0 8px; }
p { margin: 4px 0 14px; max-width: 72ch; }
p, .faint, .legend, figcaption, summary { color: var(--soft); }
.facts { overflow-wrap: anywhere; }
code { font: 0.9em ui-monospace, monospace; }
.tiles { display: grid; gap: 12px; grid-template-columns: repeat(auto-fill, minmax(min(235px, 100%), 1fr)); }
.tile b { display: block; font-size: 26px; line-height: 1.25; font-variant-numeric: tabular-nums; }
@media (max-width: 520px) { .tiles { grid-template-columns: 1fr 1fr; gap: 8px; } .tile b { font-size: 21px; } }
.tile { background: var(--card); border-radius: 8px; padding: 12px 14px; border-left: 4px solid var(--rule); }
.tile.yes { border-color: var(--yes); } .tile.no { border-color: var(--no); }
.tile small { display: block; font-size: 13px; line-height: 1.4; color: var(--soft); }
.tile.yes em { color: var(--yes); } .tile.no em { color: var(--no); }
.tile em { font-style: normal; font-weight: 600; }
.charts { display: grid; gap: 16px; grid-template-columns: repeat(auto-fill, minmax(min(310px, 100%), 1fr)); }
figure { margin: 0; }
.chart { background: var(--card); border-radius: 8px; padding: 12px; }
.chart figcaption { color: var(--ink); font-weight: 600; font-size: 14px; overflow-wrap: anywhere; }
.chart .faint { font-weight: 400; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font-size: 12px; font-variant-numeric: tabular-nums; }
svg text.name { fill: var(--ink); font-size: 13px; }
.grid { stroke: var(--rule); }
.reference { stroke: var(--soft); stroke-dasharray: 2 4; }
polyline { fill: none; stroke-width: 2; stroke-linejoin: round; }
polyline.raw { stroke: var(--a); opacity: .3; stroke-width: 1; }
polyline.a { stroke: var(--a); } polyline.b { stroke: var(--b); } polyline.c { stroke: var(--c); }
polyline.e { stroke: var(--e); stroke-dasharray: 6 4; }
circle.a, rect.a { fill: var(--a); } circle.b, rect.b { fill: var(--b); } circle.c, rect.c { fill: var(--c); }
rect.d { fill: var(--d); } circle.e, rect.e { fill: var(--e); } circle.raw { display: none; }
.whisker { fill: none; stroke: var(--ink); stroke-width: 1.5; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: 13px; margin-top: 4px; }
.legend i { display: inline-block; width: 14px; height: 3px; border-radius: 2px; margin-right: 5px;
  vertical-align: middle; }
i.a { background: var(--a); } i.b { background: var(--b); } i.c { background: var(--c); } i.e { background: var(--e); }
.wide { overflow-x: auto; margin-top: 16px; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 6px 16px 6px 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
.wide th, .wide td { white-space: nowrap; }
th { font-weight: 600; white-space: nowrap; }
td.text { overflow-wrap: anywhere; }
.films { display: flex; flex-wrap: wrap; gap: 16px; }
.film { display: flex; flex-direction: column; background: var(--card); border-radius: 8px;
  padding: 12px; max-width: 100%; width: min-content; }
.film figcaption { color: var(--ink); font-weight: 600; font-size: 14px; line-height: 1.35; padding-bottom: 6px; }
.screens { display: flex; gap: 8px; margin-top: auto; }
.screen { font-size: 13px; color: var(--soft); }
.pixels { width: 144px; background-image: var(--sheet); image-rendering: pixelated; border-radius: 3px;
  background-size: calc(100% * var(--slots)) calc(100% * var(--strips));
  background-position: calc(100% * var(--t) / max(1, var(--slots) - 1))
    calc(100% * var(--strip) / max(1, var(--strips) - 1)); }
.film.single .pixels { width: 192px; }
.now { font-size: 13px; min-height: 1.5em; font-variant-numeric: tabular-nums; }
.now.dreaming { color: var(--b); }
.controls { display: flex; gap: 12px; align-items: center; margin: 0 0 12px; max-width: 460px; }
.controls button { font: inherit; min-width: 84px; padding: 6px 12px; border: 1px solid var(--rule);
  border-radius: 6px; background: var(--card); color: var(--ink); cursor: pointer; }
.controls input { flex: 1; min-width: 0; accent-color: var(--a); }
.pairs { display: flex; flex-wrap: wrap; gap: 8px; }
.pairs > div { display: grid; gap: 3px; }
.pairs img { width: 96px; }
img { display: block; max-width: 100%; image-rendering: pixelated; border-radius: 3px; }
.pictures { display: flex; flex-wrap: wrap; gap: 16px; }
.pictures figcaption { font-size: 13px; }
.times { display: grid; grid-template-columns: max-content 1fr max-content; gap: 6px 12px; max-width: 640px;
  align-items: center; font-size: 14px; font-variant-numeric: tabular-nums; }
.times i { display: block; height: 14px; min-width: 2px; border-radius: 2px; background: var(--a); }
summary { cursor: pointer; padding: 4px 0; }
details > .charts, details > table { margin: 8px 0 16px; }
"""

SCRIPT = """
for (const player of document.querySelectorAll('.player')) {
  const films = [...player.querySelectorAll('.film')];
  const button = player.querySelector('button'), slider = player.querySelector('input');
  const captions = films.map(film => JSON.parse(film.dataset.captions));
  let slot = 0, hold = 0, timer = null;
  const show = () => {
    slider.value = slot;
    films.forEach((film, i) => {
      const last = captions[i].length - 1, now = Math.min(slot, last), given = Number(film.dataset.given);
      film.style.setProperty('--t', now);
      const dreaming = given > 0 && now >= given;
      const place = given > 0 ? (dreaming ? `imagined +${now - given + 1}` : `given ${now + 1}/${given}`)
        : `step ${now}/${last}`;
      const line = film.querySelector('.now');
      line.textContent = captions[i][now] ? `${place}: ${captions[i][now]}` : place;
      line.classList.toggle('dreaming', dreaming);
    });
  };
  const tick = () => {
    if (slot >= Number(slider.max) && hold++ < 5) return;
    slot = hold ? 0 : slot + 1; hold = 0; show();
  };
  const run = on => {
    clearInterval(timer); timer = on ? setInterval(tick, 250) : null;
    button.textContent = on ? 'Pause' : 'Play';
  };
  button.addEventListener('click', () => run(timer === null));
  slider.addEventListener('input', () => { run(false); hold = 0; slot = Number(slider.value); show(); });
  show();
  run(!matchMedia('(prefers-reduced-motion: reduce)').matches);
}
"""
