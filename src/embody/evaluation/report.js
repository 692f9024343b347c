for (const player of document.querySelectorAll('.player')) {
  const films = [...player.querySelectorAll('.film')];
  const button = player.querySelector('button'), slider = player.querySelector('input');
  const captions = films.map(film => JSON.parse(film.dataset.captions));
  let timestep = 0, hold = 0, timer = null;
  const show = () => {
    slider.value = timestep;
    films.forEach((film, i) => {
      const last = captions[i].length - 1, now = Math.min(timestep, last), given = Number(film.dataset.given);
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
    if (timestep >= Number(slider.max) && hold++ < 5) return;
    timestep = hold ? 0 : timestep + 1; hold = 0; show();
  };
  const run = on => {
    clearInterval(timer); timer = on ? setInterval(tick, 250) : null;
    button.textContent = on ? 'Pause' : 'Play';
  };
  button.addEventListener('click', () => run(timer === null));
  slider.addEventListener('input', () => { run(false); hold = 0; timestep = Number(slider.value); show(); });
  show();
  run(!matchMedia('(prefers-reduced-motion: reduce)').matches);
}
