// A look into somebody's terminals: their tabs as they open and close, and typing together.
"use strict";

(() => {
  const page = document.getElementById("look");
  if (!page || !window.Terminal) return;
  const { id, owner } = page.dataset;
  const base = `/environments/${id}`;
  const tabs = document.getElementById("tabs");
  const none = document.getElementById("no-terminals");
  const form = document.getElementById("look-type");
  const button = form.querySelector("button");
  const state = document.getElementById("look-state");
  const bar = document.getElementById("look-bar");

  let terminals = [];
  let current = null;
  let types = false;

  const say = (text) => {
    const notice = document.getElementById("notice");
    notice.textContent = "";
    if (!text) return;
    const line = document.createElement("p");
    line.className = "notice bad";
    line.textContent = text;
    notice.append(line);
  };

  // ── Changes as they happen ────────────────────────────────────────────────────────────────────────────────

  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const socket = new PageSocket(`${scheme}://${location.host}${base}/look/socket`);
  socket.onopen = () => {
    say("");
    for (const tab of terminals) if (tab.opened) tab.connect();
  };
  socket.onlost = (why, final) => {
    setTypes(false);
    button.disabled = true;
    for (const tab of terminals) tab.lost(final ? "" : why);
    if (!final) return;
    say(`${why}.`);
    state.textContent = "The look has ended.";
  };
  socket.addEventListener("checks", (event) => {
    document.getElementById("check-results").innerHTML = event.data;
  });
  socket.addEventListener("exposed", (event) => {
    const place = document.getElementById("exposed");
    place.hidden = event.data === "";
    if (place.innerHTML !== event.data) place.innerHTML = event.data;
  });
  socket.addEventListener("progress", (event) => {
    document.getElementById("progress").textContent = event.data;
  });
  socket.addEventListener("typing", (event) => {
    button.disabled = false;
    setTypes(event.data === "yes");
  });
  socket.addEventListener("copies", async () => {
    const answer = await fetch(`${base}/copies`, { headers: { "hx-request": "true" } }).catch(() => null);
    if (answer?.ok) document.getElementById("copies").innerHTML = await answer.text();
  });
  socket.addEventListener("terminals", (event) => list(JSON.parse(event.data)));

  function setTypes(on) {
    types = on;
    bar.classList.toggle("typed", on);
    state.textContent = on ? `You type together with ${owner}.` : `You only look. ${owner} sees that you do.`;
    button.textContent = on ? "Only look" : "Type together";
    form.elements.types.value = on ? "no" : "yes";
    for (const tab of terminals) tab.allow();
  }

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const on = form.elements.types.value === "yes";
    const problem = await submitQuietly(form);
    say(problem);
    if (!problem && on) current?.xterm.focus();
  });

  document.addEventListener("submit", async (event) => {
    if (!event.target.matches("[data-quiet]")) return;
    event.preventDefault();
    say(await submitQuietly(event.target));
  });

  // ── Panes ─────────────────────────────────────────────────────────────────────────────────────────────────

  const links = [...document.querySelectorAll(".panes a")];
  function show(pane) {
    page.dataset.pane = pane;
    for (const link of links) {
      if (link.dataset.pane === pane) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
    current?.fit();
  }
  for (const link of links) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      show(link.dataset.pane);
    });
  }

  // ── Terminals ─────────────────────────────────────────────────────────────────────────────────────────────

  const largest = 15;
  const smallest = 9;

  class LookedAt {
    constructor(node, number) {
      this.node = node;
      this.number = number;
      this.tries = 0;
      this.box = document.createElement("div");
      this.box.className = "terminal-box looked";
      this.box.hidden = true;
      this.box.setAttribute("role", "tabpanel");
      this.box.setAttribute("aria-label", `Terminal ${number} on ${node}`);
      this.line = document.createElement("div");
      this.line.className = "terminal-line";
      this.line.setAttribute("role", "status");
      this.box.append(this.line);
      document.getElementById("terminals").append(this.box);
      this.tab = document.createElement("button");
      this.tab.type = "button";
      this.tab.setAttribute("role", "tab");
      this.mark = document.createElement("span");
      this.mark.className = "mark";
      this.tab.append(this.mark, number === 1 ? node : `${node} · ${number}`);
      this.tab.addEventListener("click", () => select(this));
      this.xterm = newTerminal({ fontSize: largest });
      this.xterm.attachCustomKeyEventHandler((event) => this.key(event));
      this.xterm.onData((data) => this.type(new TextEncoder().encode(data)));
      this.xterm.onBinary((data) => this.type(Uint8Array.from(data, (c) => c.charCodeAt(0))));
      new ResizeObserver(() => this.fit()).observe(this.box);
      this.allow();
    }

    // While somebody only looks, keys move through the page.
    key(event) {
      if (event.ctrlKey && event.shiftKey && event.code === "KeyC" && event.type === "keydown") {
        if (this.xterm.hasSelection()) copy(this.xterm.getSelection());
        event.preventDefault();
        return false;
      }
      if (event.ctrlKey && event.shiftKey && event.code === "KeyV") return false;
      return types && !isShortcut(event);
    }

    allow() {
      this.xterm.options.disableStdin = !types;
      this.xterm.options.cursorInactiveStyle = types ? "outline" : "none";
    }

    type(bytes) {
      if (types && this.channel && this.attached) socket.send(this.channel, bytes);
    }

    open() {
      if (!this.opened) {
        this.opened = true;
        this.xterm.open(this.box);
        this.connect();
      }
      this.fit();
    }

    // The terminal has its owner's size; only its font fits the page.
    fit() {
      if (!this.opened || this.box.hidden || this.box.clientWidth < 40) return;
      const screen = this.box.querySelector(".xterm-screen");
      const font = this.xterm.options.fontSize;
      if (!screen?.offsetWidth) return;
      const wide = ((this.box.clientWidth - 32) / screen.offsetWidth) * font;
      const high = ((this.box.clientHeight - 20) / screen.offsetHeight) * font;
      const wanted = Math.min(largest, Math.max(smallest, Math.floor(Math.min(wide, high) * 2) / 2));
      if (Math.abs(wanted - font) >= 0.5) this.xterm.options.fontSize = wanted;
    }

    connect() {
      clearTimeout(this.timer);
      this.attached = false;
      this.channel = socket.open(this, this.xterm.rows, Math.min(1000, this.xterm.cols));
      // An earlier channel of this terminal is about to be closed.
      if (!this.channel && socket.connected) this.timer = setTimeout(() => this.connect(), 1000);
    }

    show(channel, bytes) {
      if (this.channel === channel) this.xterm.write(bytes, () => socket.shown(channel, bytes.length));
    }

    notice(channel, notice) {
      if (this.channel !== channel) return;
      if (notice.type === "attached") {
        this.xterm.reset();
        this.attached = true;
        this.tries = 0;
        this.state("on", "");
      } else if (notice.type === "size") {
        this.xterm.resize(notice.cols, notice.rows);
        requestAnimationFrame(() => this.fit());
      } else if (notice.type === "ended") {
        this.state("off", "The shell ended");
      }
    }

    // It may be opened again as long as it is listed.
    closed(channel) {
      if (this.channel !== channel) return;
      this.channel = null;
      this.attached = false;
      this.state("off", this.line.textContent || "Not connected; trying again…");
      this.timer = setTimeout(() => this.connect(), backOff(2 + this.tries++));
    }

    lost(why) {
      clearTimeout(this.timer);
      this.channel = null;
      this.attached = false;
      if (this.opened) this.state("off", why);
    }

    remove() {
      clearTimeout(this.timer);
      // What still comes on its channel is ignored, until the server closes it.
      this.channel = null;
      this.tab.remove();
      this.box.remove();
      this.xterm.dispose();
    }

    state(mark, text) {
      this.mark.className = `mark ${mark}`;
      this.line.textContent = text;
    }
  }

  // Shows these terminals: by node, their numbers, or null for a node that doesn't answer now.
  function list(nodes) {
    const known = (node, number) => terminals.find((t) => t.node === node && t.number === number);
    const next = [];
    for (const [node, numbers] of Object.entries(nodes)) {
      if (numbers === null) next.push(...terminals.filter((t) => t.node === node));
      else next.push(...numbers.map((number) => known(node, number) ?? new LookedAt(node, number)));
    }
    for (const gone of terminals.filter((t) => !next.includes(t))) gone.remove();
    terminals = next;
    const focused = tabs.contains(document.activeElement);
    tabs.replaceChildren(...terminals.map((t) => t.tab));
    tabs.hidden = terminals.length === 0;
    none.hidden = terminals.length > 0;
    if (!terminals.includes(current)) current = null;
    if (!current && terminals.length > 0) select(terminals[0]);
    if (focused) current?.tab.focus();
  }

  function select(tab) {
    current = tab;
    for (const t of terminals) {
      t.box.hidden = t !== tab;
      t.tab.setAttribute("aria-selected", String(t === tab));
      t.tab.tabIndex = t === tab ? 0 : -1;
    }
    tab.open();
    tab.tab.scrollIntoView({ block: "nearest", inline: "nearest" });
    if (types) tab.xterm.focus();
  }

  tabs.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = terminals[(terminals.indexOf(current) + step + terminals.length) % terminals.length];
    select(next);
    next.tab.focus();
  });

  // ── Keys ──────────────────────────────────────────────────────────────────────────────────────────────────

  const isShortcut = (event) =>
    event.altKey && !event.ctrlKey && !event.metaKey && /^Digit[0-9]$/.test(event.code);

  document.addEventListener("keydown", (event) => {
    if (!isShortcut(event)) return;
    event.preventDefault();
    if (event.code === "Digit0") {
      show("left");
      document.getElementById("pane-left").focus();
      return;
    }
    const tab = terminals[Number(event.code.slice(5)) - 1];
    show("right");
    if (tab) select(tab);
    tab?.tab.focus();
    if (types) tab?.xterm.focus();
  });
})();
