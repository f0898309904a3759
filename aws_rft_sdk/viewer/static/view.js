// Live updates, keys and copying. Without it all pages work: what it does is also a link.
"use strict";
(() => {
  const page = document.body.dataset;
  const items = () => [...document.querySelectorAll("main a.item")];

  const step = (by) => {
    const all = items();
    if (!all.length) return follow(by > 0 ? "next" : "prev");
    const at = all.indexOf(document.activeElement);
    all[at < 0 ? (by > 0 ? 0 : all.length - 1) : Math.min(all.length - 1, Math.max(0, at + by))].focus();
  };
  const follow = (rel) => {
    const link = document.querySelector(`main a[rel="${rel}"]`);
    if (link) location.assign(link.href);
  };
  const keys = {
    j: () => step(1), ArrowDown: () => step(1), k: () => step(-1), ArrowUp: () => step(-1),
    ArrowRight: () => follow("next"), ArrowLeft: () => follow("prev"),
    "/": () => { const field = document.getElementById("search"); field.focus(); field.select(); },
    g: () => { const link = document.getElementById("group"); location.assign(link ? link.href : page.groups); },
    o: () => location.assign(page.overview), r: () => location.assign(page.rollouts),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey && event.key.startsWith("Arrow")) return;
    const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName);
    if (event.key === "Escape" && typing) event.target.blur();
    if (typing || !keys[event.key]) return;
    if (event.key.startsWith("Arrow") && !items().includes(document.activeElement) && /Up|Down/.test(event.key)) return;
    event.preventDefault();
    keys[event.key]();
  });

  const copy = async (button) => {
    const { copy: text, copyFrom: address } = button.dataset;
    try {
      const found = address === undefined ? text : await fetch(address).then((answer) => {
        if (!answer.ok) throw new Error(answer.statusText);
        return answer.text();
      });
      await navigator.clipboard.writeText(found);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Not copied";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  };
  const prepare = () => {
    for (const button of document.querySelectorAll("button.copy")) {
      button.hidden = !navigator.clipboard;
      button.addEventListener("click", () => copy(button));
    }
  };
  // A page that someone works in is left alone: what is open, focused or marked would be lost.
  const busy = () => document.hidden || document.querySelector("main details[open]:not([data-kept])") ||
    document.querySelector("main").contains(document.activeElement) &&
      /^(A|INPUT|SELECT)$/.test(document.activeElement.tagName) || String(getSelection()).length > 0;
  let running = false, stale = false;
  const refresh = async () => {
    stale = true;
    if (running || busy()) return;
    running = true;
    try {
      while (stale && !busy()) {
        stale = false;
        const answer = await fetch(location.href, { headers: { accept: "text/html" } });
        if (!answer.ok) break;
        const { body } = new DOMParser().parseFromString(await answer.text(), "text/html");
        if (busy()) { stale = true; break; }
        document.querySelector("main").replaceChildren(...body.querySelector("main").childNodes);
        page.version = body.dataset.version;
        prepare();
      }
    } catch {
      // The server is gone. The stream says so.
    } finally {
      running = false;
    }
  };
  for (const ends of ["focusout", "toggle", "selectionchange"]) {
    document.addEventListener(ends, () => { if (stale) setTimeout(refresh); }, true);
  }
  const note = document.getElementById("connection");
  const say = (text) => { note.textContent = text; note.hidden = !text; };
  let source = null, failed = 0;
  // Only the page that is looked at has a stream: a browser opens six connections to a server, for all of its tabs.
  const listen = () => {
    if (document.hidden) { source?.close(); source = null; }
    if (document.hidden || source) return;
    source = new EventSource(`${page.events}?seen=${page.version}`);
    source.addEventListener("message", refresh);
    source.addEventListener("open", () => { failed = 0; say(""); });
    source.addEventListener("stopping", () => { failed = 1; });
    // A stream ends now and then, and is opened again at once.
    source.addEventListener("error", () => {
      if (failed++) say("The server has ended or cannot be reached. This page shows what was there before.");
    });
  };
  if (window.EventSource) {
    document.addEventListener("visibilitychange", listen);
    window.addEventListener("pagehide", () => { source?.close(); source = null; });
    window.addEventListener("pageshow", listen);
    listen();
  }
  prepare();
})();
