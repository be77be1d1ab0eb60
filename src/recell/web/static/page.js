// Keeps the page as its files are. The server sends whole elements; what didn't change isn't sent.
"use strict";
(() => {
  const body = document.body;
  const link = document.getElementById("link");
  let state = body.dataset.state;
  let skew = 0; // of this clock against the server's, in seconds
  let source = null;
  let heard = 0;

  const say = (sign, text, kind) => {
    link.className = `link ${kind}`;
    link.textContent = `${sign} ${text}`;
  };

  const length = (s) => {
    const whole = Math.max(0, Math.round(s));
    if (whole < 100) return `${whole} s`;
    if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
    return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  };

  const tick = () => {
    const now = Date.now() / 1000 - skew;
    for (const e of document.querySelectorAll("[data-since]")) {
      const text = length(now - Number(e.dataset.since)) + (e.dataset.after || "");
      const late = e.dataset.late && now - Number(e.dataset.since) > Number(e.dataset.late);
      e.classList.toggle("late", Boolean(late));
      const said = late ? `! ${text}` : text;
      if (e.textContent !== said) e.textContent = said;
    }
    for (const e of document.querySelectorAll("[data-until]")) {
      const left = Number(e.dataset.until) - now;
      const text = left < -30 ? "longer than estimated" : left < 1 ? "any moment" : `about ${length(left)}`;
      if (e.textContent !== text) e.textContent = text;
    }
    if (source && source.readyState === EventSource.OPEN && Date.now() - heard > 45000) connect();
  };

  // An element is replaced without folding what the reader has opened or losing the focus.
  const put = (id, html) => {
    const old = document.getElementById(id);
    if (!old) return false;
    const template = document.createElement("template");
    template.innerHTML = html;
    const fresh = template.content.firstElementChild;
    const scrolled = {};
    for (const d of old.querySelectorAll("details[data-key]")) {
      const twin = fresh.querySelector(`details[data-key="${d.dataset.key}"]`);
      if (!twin) continue;
      twin.open = d.open;
      const list = d.querySelector("dl, .scroll");
      if (list) scrolled[d.dataset.key] = list.scrollTop;
    }
    const focused = old.contains(document.activeElement) &&
      document.activeElement.closest("details[data-key]");
    old.replaceWith(fresh);
    for (const [key, top] of Object.entries(scrolled)) {
      const list = fresh.querySelector(`details[data-key="${key}"] :is(dl, .scroll)`);
      if (list) list.scrollTop = top;
    }
    if (focused) {
      const summary = fresh.querySelector(`details[data-key="${focused.dataset.key}"] > summary`);
      if (summary) summary.focus({ preventScroll: true });
    }
    return true;
  };

  // The step under way is kept in view, unless the reader has just scrolled or is in the list.
  const list = document.getElementById("follow");
  let touched = 0;
  for (const kind of ["wheel", "touchmove", "keydown", "pointerdown"]) {
    if (list) list.addEventListener(kind, () => { touched = Date.now(); }, { passive: true });
  }
  const follow = () => {
    if (!list || Date.now() - touched < 20000) return;
    const at = list.querySelector(".acting, .failed, .unknown, .stuck") || list.querySelector(".todo");
    const to = at ? at.offsetTop - list.offsetTop - list.clientHeight / 3 : 0;
    if (at) list.scrollTop = Math.max(0, to);
  };

  const take = (event) => {
    heard = Date.now();
    const news = JSON.parse(event.data);
    skew = Date.now() / 1000 - news.now;
    if (news.shape !== body.dataset.shape) {
      location.reload(); // another plan, or another direction: other elements
      return;
    }
    for (const [id, html] of Object.entries(news.parts)) put(id, html);
    const said = document.getElementById("said");
    if (said.textContent !== news.said) said.textContent = news.said;
    document.title = news.title;
    state = event.lastEventId;
    tick();
    follow();
  };

  const connect = () => {
    if (source) source.close();
    heard = Date.now();
    source = new EventSource(`/events?last=${encodeURIComponent(state)}`);
    source.addEventListener("open", () => { heard = Date.now(); say("●", "live", "live"); });
    source.addEventListener("news", take);
    source.addEventListener("beat", (e) => {
      heard = Date.now();
      skew = Date.now() / 1000 - Number(e.data);
    });
    source.addEventListener("error", () => {
      say("○", "connection lost, trying again", "lost");
      if (source.readyState === EventSource.CLOSED) setTimeout(connect, 2000);
    });
  };

  say("○", "connecting", "lost");
  connect();
  tick();
  follow();
  setInterval(tick, 1000);
})();
