for (const player of document.querySelectorAll('.player')) {
  const films = [...player.querySelectorAll('.film')];
  const button = player.querySelector('button'), slider = player.querySelector('input');
  const captions = films.map(film => JSON.parse(film.dataset.captions));
  const pauseAtEnd = 5; // ticks
  let timestep = 0, waited = 0, timer = null;
  const show = () => {
    slider.value = timestep;
    films.forEach((film, i) => {
      const last = captions[i].length - 1, now = Math.min(timestep, last), given = Number(film.dataset.given);
      film.style.setProperty('--t', now);
      const dreaming = given > 0 && now >= given;
      const place = given > 0 ? (dreaming ? `dream, frame ${now - given + 1}` : `context, frame ${now + 1} of ${given}`)
        : `timestep ${now} of ${last}`;
      const line = film.querySelector('.now');
      line.textContent = captions[i][now] ? `${place}: ${captions[i][now]}` : place;
      line.classList.toggle('dreaming', dreaming);
    });
  };
  const tick = () => {
    if (timestep >= Number(slider.max) && waited++ < pauseAtEnd) return;
    timestep = waited ? 0 : timestep + 1;
    waited = 0;
    show();
  };
  const run = on => {
    clearInterval(timer);
    timer = on ? setInterval(tick, 250) : null;
    button.textContent = on ? 'Pause' : 'Play';
  };
  button.addEventListener('click', () => run(timer === null));
  slider.addEventListener('input', () => { run(false); waited = 0; timestep = Number(slider.value); show(); });
  show();
  run(!matchMedia('(prefers-reduced-motion: reduce)').matches);
}
