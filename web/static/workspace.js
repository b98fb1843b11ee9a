// The workspace: what happens on the machine as it happens, terminals, the splitter, keys.
"use strict";

(() => {
  const workspace = document.getElementById("workspace");
  if (!workspace) return;
  const id = workspace.dataset.id;
  const nodes = workspace.dataset.nodes.split(",").filter(Boolean);
  const base = `/environments/${id}`;
  const narrow = matchMedia("(max-width: 799px)");
  const csrf = () => document.querySelector('meta[name="csrf"]').content;
  const say = (text) => {
    const notice = document.getElementById("notice");
    notice.textContent = "";
    const line = document.createElement("p");
    line.className = "notice bad said";
    line.textContent = text;
    notice.append(line);
  };
  const unsay = () => document.querySelector("#notice .said")?.remove();

  // ── Changes as they happen ────────────────────────────────────────────────────────────────────────────────

  let ends = Date.now() + Number(document.getElementById("clock")?.dataset.seconds ?? 0) * 1000;
  let attempt = null;
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const socket = new PageSocket(`${scheme}://${location.host}${base}/socket`);
  socket.onopen = () => {
    // The server answers again.
    unsay();
    for (const tab of terminals) if (tab.opened && !tab.ended) tab.connect();
  };
  socket.onlost = (why, final) => {
    if (final) say(`${why}.`);
    for (const tab of terminals) tab.lost(why);
  };
  const swap = (name, target) =>
    socket.addEventListener(name, (event) => {
      const place = document.getElementById(target);
      if (place && place.innerHTML !== event.data) place.innerHTML = event.data;
    });
  swap("stages", "stages");
  swap("log", "log");
  // Whoever opened the log wants to read on when the page is made anew because the start failed.
  const log = document.getElementById("log-box");
  if (log) {
    const key = `faultline.log.${id}`;
    log.open = log.open || sessionStorage.getItem(key) === "open";
    log.addEventListener("toggle", () => sessionStorage.setItem(key, log.open ? "open" : "closed"));
  }
  swap("notice", "notice");
  swap("looks", "looks");
  swap("exposed", "exposed");
  socket.addEventListener("banner", (event) => {
    document.getElementById("banner").hidden = event.data === "";
    document.getElementById("banner-text").textContent = event.data;
  });
  socket.addEventListener("checks", (event) => {
    const place = document.getElementById("check-results");
    if (place) place.innerHTML = event.data;
    const button = document.getElementById("check-button");
    if (button) {
      const running = event.data.includes('aria-busy="true"');
      button.disabled = running;
      button.textContent = running ? "Checking…" : "Check";
    }
  });
  socket.addEventListener("ends", (event) => {
    ends = Number(event.data);
    tick();
  });
  socket.addEventListener("phase", (event) => {
    if (event.data !== workspace.dataset.phase) location.reload();
  });
  // A reset that was over before this page heard of it.
  socket.addEventListener("tenant", (event) => {
    if (["active", "suspended"].includes(workspace.dataset.phase) && event.data !== workspace.dataset.tenant) location.reload();
  });
  // A node that came or went has a tab, or none: the page is made anew, terminals replay what they showed.
  socket.addEventListener("nodes", (event) => {
    if (event.data !== workspace.dataset.nodes) location.reload();
  });
  socket.addEventListener("changes", (event) => {
    const place = document.getElementById("node-changes");
    if (!place) return;
    place.textContent = event.data;
    place.hidden = event.data === "";
  });
  let saved = null;
  socket.addEventListener("saves", async (event) => {
    const before = saved;
    saved = event.data;
    if (before === null || before === saved) return;
    const answer = await fetch(`${base}/saves`);
    const place = document.getElementById("saves");
    if (!answer.ok || !place) return;
    const name = place.querySelector(".save-form input[name=name]")?.value ?? "";
    place.innerHTML = await answer.text();
    const field = place.querySelector(".save-form input[name=name]");
    if (field && document.activeElement !== field) field.value = name;
  });
  socket.addEventListener("attempt", async (event) => {
    const before = attempt;
    attempt = event.data;
    if (before === null || before === attempt) return;
    const answer = await fetch(`${base}/side`);
    if (!answer.ok) return;
    const left = document.getElementById("pane-left");
    left.innerHTML = await answer.text();
    window.htmx?.process(left);
    copyButtons(left);
    left.scrollTo({ top: 0 });
    if (attempt === "solved") show("left");
  });

  function tick() {
    const clock = document.getElementById("clock");
    if (!clock) return;
    const seconds = Math.max(0, Math.round((ends - Date.now()) / 1000));
    const minutes = Math.floor(seconds / 60);
    clock.textContent =
      minutes >= 2880
        ? `${Math.round(minutes / 1440)} days`
        : minutes >= 60
        ? `${Math.floor(minutes / 60)} h ${minutes % 60} min`
        : minutes >= 5
          ? `${minutes} min`
          : `${minutes}:${String(seconds % 60).padStart(2, "0")}`;
    clock.closest(".clock").classList.toggle("soon", seconds <= 120);
  }
  tick();
  setInterval(tick, 1000);

  // Between two events a stage's time goes on, and its bar by its typical time.
  setInterval(() => {
    for (const bar of document.querySelectorAll("progress[data-typical]")) {
      const typical = Number(bar.dataset.typical);
      const elapsed = Number(bar.dataset.elapsed) + 250;
      bar.dataset.elapsed = elapsed;
      const seconds = Math.floor(elapsed / 1000);
      const time = bar.parentElement.querySelector(".so-far");
      if (time) time.textContent = seconds < 60 ? `${seconds} s` : `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
      if (typical) bar.value = Math.max(bar.value, Math.min(95, (elapsed * 95) / typical));
    }
  }, 250);

  // Forms whose effect comes back as an event.
  document.addEventListener("submit", async (event) => {
    const form = event.target;
    if (!form.matches("[data-quiet]")) return;
    event.preventDefault();
    const problem = await submitQuietly(form);
    if (problem) return say(problem);
    form.reset();
    unsay();
  });

  // ── Panes ─────────────────────────────────────────────────────────────────────────────────────────────────

  function show(pane) {
    workspace.dataset.pane = pane;
    const links = [...document.querySelectorAll(".panes a")];
    const first = links.find((a) => a.dataset.pane === pane);
    for (const link of links) link.toggleAttribute("aria-current", false);
    first?.setAttribute("aria-current", "true");
    if (pane === "right") terminals[current]?.fit();
  }
  for (const link of document.querySelectorAll(".panes a")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      show(link.dataset.pane);
      for (const other of document.querySelectorAll(".panes a")) other.removeAttribute("aria-current");
      link.setAttribute("aria-current", "true");
      if (link.dataset.pane === "right") terminals[current]?.focus();
      else document.querySelector(link.getAttribute("href"))?.scrollIntoView({ block: "start" });
    });
  }

  const splitter = document.getElementById("splitter");
  const width = (percent, keep) => {
    const left = Math.min(75, Math.max(20, percent));
    workspace.style.setProperty("--left", `${left}fr`);
    workspace.style.setProperty("--right", `${100 - left}fr`);
    splitter.setAttribute("aria-valuenow", Math.round(left));
    if (keep) localStorage.setItem("faultline.split", left);
  };
  width(Number(localStorage.getItem("faultline.split")) || 40, false);
  splitter.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    splitter.setPointerCapture(event.pointerId);
    splitter.classList.add("held");
    document.body.classList.add("held");
    const move = (e) => {
      const box = workspace.getBoundingClientRect();
      width(((e.clientX - box.left) / box.width) * 100, true);
    };
    const up = () => {
      splitter.classList.remove("held");
      document.body.classList.remove("held");
      splitter.removeEventListener("pointermove", move);
    };
    splitter.addEventListener("pointermove", move);
    splitter.addEventListener("pointerup", up, { once: true });
    splitter.addEventListener("pointercancel", up, { once: true });
  });
  splitter.addEventListener("keydown", (event) => {
    const now = Number(splitter.getAttribute("aria-valuenow"));
    const step = { ArrowLeft: -2, ArrowRight: 2, Home: -100, End: 100 }[event.key];
    if (!step) return;
    event.preventDefault();
    width(now + step, true);
  });

  // ── Terminals ─────────────────────────────────────────────────────────────────────────────────────────────

  const terminals = [];
  let current = 0;
  const most = 8;

  const create = document.createElement.bind(document);

  class TerminalTab {
    constructor(node, number) {
      this.node = node;
      this.number = number;
      this.tries = 0;
      this.ended = false;
      this.box = create("div");
      this.box.className = "terminal-box";
      this.box.hidden = true;
      this.box.setAttribute("role", "tabpanel");
      this.box.setAttribute("aria-label", `Terminal ${number} on ${node}`);
      this.line = create("div");
      this.line.className = "terminal-line";
      this.line.setAttribute("role", "status");
      this.box.append(this.line);
      document.getElementById("terminals").append(this.box);
      this.tab = create("button");
      this.tab.type = "button";
      this.tab.setAttribute("role", "tab");
      this.mark = create("span");
      this.mark.className = "mark";
      this.tab.append(this.mark, number === 1 ? node : `${node} · ${number}`);
      this.tab.addEventListener("click", () => select(terminals.indexOf(this)));
      if (number > 1) {
        // A tab may hold no button of its own; keys close it by Delete.
        this.cross = create("span");
        this.cross.className = "close";
        this.cross.textContent = "×";
        this.cross.title = "Close this terminal (Delete)";
        this.cross.setAttribute("aria-hidden", "true");
        this.cross.addEventListener("click", (event) => {
          event.stopPropagation();
          this.close();
        });
        this.tab.append(this.cross);
        this.tab.setAttribute("aria-keyshortcuts", "Delete");
      }
      this.xterm = newTerminal({ fontSize: narrow.matches ? 13 : 14 });
      this.fitter = new window.FitAddon.FitAddon();
      this.xterm.loadAddon(this.fitter);
      this.xterm.attachCustomKeyEventHandler((event) => this.key(event));
      this.xterm.onData((data) => this.type(data));
      this.xterm.onBinary((data) => {
        if (this.channel) socket.send(this.channel, Uint8Array.from(data, (c) => c.charCodeAt(0)));
      });
      this.xterm.onResize(() => this.resize());
      new ResizeObserver(() => this.fit()).observe(this.box);
    }

    // Nothing steals keys from the terminal but these.
    key(event) {
      if (event.ctrlKey && event.shiftKey && event.code === "KeyC" && event.type === "keydown") {
        if (this.xterm.hasSelection()) copy(this.xterm.getSelection());
        event.preventDefault();
        return false;
      }
      // The browser pastes by itself.
      if (event.ctrlKey && event.shiftKey && event.code === "KeyV") return false;
      return !isShortcut(event);
    }

    open() {
      if (!this.opened) {
        this.opened = true;
        this.xterm.open(this.box);
        this.fit();
        this.connect();
      }
      this.fit();
    }

    fit() {
      if (this.opened && !this.box.hidden && this.box.clientWidth > 40) this.fitter.fit();
    }

    focus() {
      this.xterm.focus();
    }

    // Without a connection it waits for one.
    connect() {
      clearTimeout(this.timer);
      this.ended = false;
      this.attached = false;
      this.channel = socket.open(this, this.rows, this.cols);
    }

    // What comes on a channel that it has given up is of no matter.
    show(channel, bytes) {
      if (this.channel === channel) this.xterm.write(bytes, () => socket.shown(channel, bytes.length));
    }

    notice(channel, notice) {
      if (this.channel !== channel) return;
      if (notice.type === "attached") {
        // What follows restores the screen.
        this.xterm.reset();
        this.attached = true;
        this.state("on", "");
        this.tries = 0;
      } else if (notice.type === "console") {
        this.xterm.reset();
        this.attached = true;
        this.state("off", "");
        this.tries = 0;
        this.xterm.write("\x1b[33mThe machine's helper does not answer. This is the serial console.\x1b[0m\r\n");
      } else if (notice.type === "ended") {
        this.release();
        this.ended = true;
        this.state("off", "");
        const or = this.cross ? ", or close this tab" : "";
        this.xterm.write(`\r\n\x1b[33mThe shell ended. Press Enter for a new one${or}.\x1b[0m\r\n`);
      }
    }

    // The server has closed its channel.
    closed(channel, code, reason) {
      if (this.channel !== channel) {
        // Whoever wants this terminal again has waited for that.
        const next = terminals.find((t) => t.node === this.node && t.number === this.number);
        if (next?.opened && !next.channel && !next.ended) next.connect();
        return;
      }
      this.release();
      const final = {
        4000: "",
        4004: "The machine is not running",
        4006: "The machine is paused",
        1007: reason,
      }[code];
      if (final !== undefined) {
        this.state("off", final);
        return;
      }
      this.state("off", "Connection lost; connecting again…");
      this.timer = setTimeout(() => this.connect(), backOff(this.tries++));
    }

    // The page has no connection any more.
    lost(why) {
      if (!this.opened) return;
      this.release();
      if (!this.ended) this.state("off", why);
    }

    release() {
      clearTimeout(this.timer);
      this.channel = null;
      this.attached = false;
    }

    // Ends its shell, and takes its tab away.
    async close() {
      if (!this.cross) return;
      // Its shell would go on without a tab.
      if (this.opened && !this.ended && !this.attached) {
        this.refuse("Not connected: close it once it is back");
        return;
      }
      const question = `Close terminal ${this.number} on ${this.node}? What runs in it ends.`;
      if (!this.ended && this.opened && !(await ask(question, "Close terminal"))) return;
      if (this.channel) socket.tell({ type: "close", channel: this.channel.number });
      this.release();
      const index = terminals.indexOf(this);
      terminals.splice(index, 1);
      this.tab.remove();
      this.box.remove();
      this.xterm.dispose();
      const beside = current > index ? current - 1 : Math.min(current, terminals.length - 1);
      select(index === current ? Math.max(0, index - 1) : beside);
    }

    state(mark, text) {
      this.mark.className = `mark ${mark}`;
      this.line.textContent = text;
    }

    type(data) {
      if (this.ended) {
        if (data === "\r") this.connect();
        return;
      }
      if (!this.attached || socket.doubtful) {
        this.refuse();
        return;
      }
      socket.send(this.channel, new TextEncoder().encode(controlled(data)));
    }

    // What is typed now would be lost, or run when nobody looks any more.
    refuse(why = "Not connected: what you type is not sent") {
      this.line.textContent = why;
      this.line.classList.remove("refused");
      // Begins the animation anew.
      void this.line.offsetWidth;
      this.line.classList.add("refused");
    }

    resize() {
      if (!this.channel) return;
      socket.tell({ type: "resize", channel: this.channel.number, rows: this.rows, cols: this.cols });
    }

    get rows() {
      return Math.min(500, this.xterm.rows);
    }

    get cols() {
      return Math.min(1000, this.xterm.cols);
    }
  }

  // What keyboards on glass lack, shown where fingers point. Ctrl counts for the key that comes next.
  let control = null;

  function hold(on) {
    control?.setAttribute("aria-pressed", String(on));
  }

  function controlled(data) {
    if (control?.getAttribute("aria-pressed") !== "true" || data.length !== 1) return data;
    hold(false);
    return /[@-_a-z]/i.test(data) ? String.fromCharCode(data.charCodeAt(0) & 0x1f) : data;
  }

  function touchKeys() {
    const bar = create("div");
    bar.className = "touch-keys";
    bar.setAttribute("role", "toolbar");
    bar.setAttribute("aria-label", "Keys for the terminal");
    const key = (text, name, press) => {
      const button = create("button");
      button.type = "button";
      button.textContent = text;
      button.setAttribute("aria-label", name);
      // The terminal keeps the focus, and with it the keyboard stays open.
      button.addEventListener("pointerdown", (event) => event.preventDefault());
      button.addEventListener("click", press);
      bar.append(button);
      return button;
    };
    const type = (data) => () => terminals[current]?.type(data);
    const arrow = (letter) => () => {
      const tab = terminals[current];
      tab?.type(`\x1b${tab.xterm.modes.applicationCursorKeysMode ? "O" : "["}${letter}`);
    };
    key("Esc", "Esc", type("\x1b"));
    key("Tab", "Tab", type("\t"));
    control = key("Ctrl", "Ctrl, for the next key", () => hold(control.getAttribute("aria-pressed") !== "true"));
    hold(false);
    for (const [sign, name] of [["|", "| Pipe"], ["/", "/ Slash"], ["-", "- Dash"]]) key(sign, name, type(sign));
    key("←", "← Left", arrow("D"));
    key("↓", "↓ Down", arrow("B"));
    key("↑", "↑ Up", arrow("A"));
    key("→", "→ Right", arrow("C"));
    document.getElementById("terminals").after(bar);
  }

  function remember() {
    sessionStorage.setItem(
      `faultline.terminals.${id}`,
      JSON.stringify({ all: terminals.map((t) => [t.node, t.number]), current }),
    );
  }

  function add(node, number) {
    const tab = new TerminalTab(node, number);
    terminals.push(tab);
    const tabs = document.getElementById("tabs");
    tabs.append(tab.tab);
    return terminals.length - 1;
  }

  function select(index, focus = true) {
    if (!terminals[index]) return;
    current = index;
    terminals.forEach((t, i) => {
      t.box.hidden = i !== index;
      t.tab.setAttribute("aria-selected", String(i === index));
      t.tab.tabIndex = i === index ? 0 : -1;
    });
    terminals[index].open();
    terminals[index].tab.scrollIntoView({ block: "nearest", inline: "nearest" });
    if (focus) terminals[index].focus();
    remember();
  }

  function another() {
    const node = terminals[current]?.node ?? nodes[0];
    const used = terminals.filter((t) => t.node === node).map((t) => t.number);
    const number = Array.from({ length: most }, (_, i) => i + 1).find((n) => !used.includes(n));
    if (number) select(add(node, number));
    else say(`A node has at most ${most} terminals.`);
  }

  // Whoever has waited in another tab sees from its title that it is their turn.
  const waited = "faultline-waited";
  if (workspace.dataset.phase === "active" && sessionStorage.getItem(waited) && document.hidden) {
    const title = document.title;
    document.title = `Ready: ${title}`;
    document.addEventListener("visibilitychange", () => (document.title = title), { once: true });
  }
  if (workspace.dataset.phase === "starting") sessionStorage.setItem(waited, "yes");
  else sessionStorage.removeItem(waited);

  if (window.Terminal && workspace.dataset.phase === "active") {
    const tabs = document.getElementById("tabs");
    const plus = create("button");
    plus.type = "button";
    plus.className = "add";
    plus.textContent = "+";
    plus.title = "Another terminal on this node (Alt+T)";
    plus.setAttribute("aria-label", "Another terminal on this node");
    plus.addEventListener("click", another);
    tabs.after(plus);
    const strip = create("div");
    strip.className = "tabs";
    tabs.before(strip);
    tabs.className = "tablist";
    strip.append(tabs, plus);
    tabs.addEventListener("keydown", (event) => {
      if (event.key === "Delete") terminals[current]?.close();
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const next = (current + step + terminals.length) % terminals.length;
      select(next, false);
      terminals[next].tab.focus();
    });
    touchKeys();
    let kept = null;
    try {
      kept = JSON.parse(sessionStorage.getItem(`faultline.terminals.${id}`));
    } catch {
      // Whatever it was, it is not ours.
    }
    const all = (kept?.all ?? []).filter(([node, n]) => nodes.includes(node) && n >= 1 && n <= most);
    for (const node of nodes) if (!all.some(([n, i]) => n === node && i === 1)) all.push([node, 1]);
    for (const [node, number] of all) add(node, number);
    const begin = () => select(Math.min(kept?.current ?? 0, terminals.length - 1), !narrow.matches);
    // Cells are measured once; the font must be there by then.
    document.fonts.load('14px "JetBrains Mono"').then(begin, begin);
  }

  // ── Keys ──────────────────────────────────────────────────────────────────────────────────────────────────

  const isShortcut = (event) =>
    (event.ctrlKey && event.key === "Enter") ||
    (event.altKey && !event.ctrlKey && !event.metaKey && /^(Digit[0-9]|KeyT|KeyS)$/.test(event.code));

  const showKeys = () => {
    document.querySelector("details.menu")?.removeAttribute("open");
    document.getElementById("keys-dialog").showModal();
  };

  const save = () => {
    document.querySelector("details.menu")?.removeAttribute("open");
    const form = document.getElementById("save-form");
    if (!form) return;
    show("left");
    form.requestSubmit();
    form.scrollIntoView({ block: "nearest" });
  };
  document.querySelector("[data-save]")?.addEventListener("click", save);

  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input, textarea, .xterm");
    if (event.key === "?" && !typing) {
      showKeys();
      return;
    }
    if (!isShortcut(event)) return;
    event.preventDefault();
    if (event.key === "Enter") {
      show("left");
      document.getElementById("check-form")?.requestSubmit();
      document.getElementById("checks")?.scrollIntoView({ block: "nearest" });
    } else if (event.code === "KeyS") {
      save();
    } else if (event.code === "KeyT") {
      show("right");
      another();
    } else if (event.code === "Digit0") {
      show("left");
      document.getElementById("pane-left").focus();
    } else {
      show("right");
      select(Number(event.code.slice(5)) - 1);
    }
  });
  document.querySelector("[data-keys]")?.addEventListener("click", showKeys);
})();
