// The page's one WebSocket, with its events and all of its terminals. Over plain HTTP a browser opens at most six
// connections to a host, so with an event stream for each page the seventh would never load.
"use strict";

// Dispatches what the server tells of the page as events, named by the part that changed.
class PageSocket extends EventTarget {
  // How often the server is asked whether it is there, and how long it may be silent about that, in milliseconds.
  static askEvery = 2500;
  static silent = 5000;
  // After so many bytes the server is told that they were shown. It sends no more than 256 KiB ahead.
  static shownEvery = 65536;

  constructor(url) {
    super();
    this.url = url;
    this.channels = new Map();
    this.tries = 0;
    // The connection is there.
    this.onopen = () => {};
    // It is not, and why. Finally: it is not tried again.
    this.onlost = (_why, _finally) => {};
    setInterval(() => this.check(), PageSocket.askEvery);
    this.connect();
  }

  connect() {
    const socket = new WebSocket(this.url);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    this.asked = 0;
    socket.onopen = () => this.socket === socket && this.onopen();
    socket.onmessage = (message) => this.socket === socket && this.read(message.data);
    socket.onclose = (close) => this.socket === socket && this.lost(close.code, close.reason);
  }

  get connected() {
    return this.socket?.readyState === WebSocket.OPEN;
  }

  // Silent for so long that what is sent now may be lost.
  get doubtful() {
    return this.asked && Date.now() - this.asked > PageSocket.silent / 2;
  }

  lost(code, reason) {
    this.socket = null;
    this.channels.clear();
    const final = {
      4001: "You are signed out",
      // Only of a look.
      4003: "You may no longer look at this machine",
      4004: "The machine is not running any more",
      4006: "The machine is paused",
      1007: reason,
    }[code];
    if (!final) setTimeout(() => this.connect(), backOff(this.tries++));
    this.onlost(final ?? "Connection lost; connecting again…", Boolean(final));
  }

  // A network that went without a word closes nothing: the server is asked, and when it does not answer, the connection
  // is given up.
  check() {
    if (!this.connected) return;
    if (!this.asked) {
      this.asked = Date.now();
      this.tell({ type: "ping" });
    } else if (Date.now() - this.asked > PageSocket.silent) {
      const gone = this.socket;
      this.lost();
      gone.close();
    }
  }

  read(data) {
    this.asked = 0;
    this.tries = 0;
    if (typeof data !== "string") {
      const bytes = new Uint8Array(data);
      const channel = this.channels.get(bytes[0]);
      channel?.tab.show(channel, bytes.subarray(1));
      return;
    }
    const told = JSON.parse(data);
    const channel = this.channels.get(told.channel);
    if (told.type === "event") this.dispatchEvent(new MessageEvent(told.name, { data: told.data }));
    else if (told.type === "closed") {
      this.channels.delete(told.channel);
      channel?.tab.closed(channel, told.code, told.reason);
    } else if (channel) channel.tab.notice(channel, told);
  }

  tell(message) {
    if (this.connected) this.socket.send(JSON.stringify(message));
  }

  // Attaches a tab to its terminal. Gives its channel, whose number is taken until the server says that it is closed; or
  // nothing, when there is no connection or the terminal has a channel still.
  open(tab, rows, cols) {
    const { node, number } = tab;
    const has = [...this.channels.values()].some((c) => c.tab.node === node && c.tab.number === number);
    if (!this.connected || has) return null;
    const free = Array.from({ length: 64 }, (_, i) => i + 1).find((n) => !this.channels.has(n));
    if (!free) return null;
    const channel = { number: free, tab, shown: 0 };
    this.channels.set(free, channel);
    this.tell({ type: "open", channel: free, node, number, rows, cols });
    return channel;
  }

  send(channel, bytes) {
    if (!this.connected) return;
    // The server takes messages of 64 KiB; what is pasted may be longer.
    for (let at = 0; at < bytes.length; at += 16384) {
      const part = bytes.subarray(at, at + 16384);
      const message = new Uint8Array(1 + part.length);
      message[0] = channel.number;
      message.set(part, 1);
      this.socket.send(message);
    }
  }

  // The tab has shown so many bytes.
  shown(channel, bytes) {
    channel.shown += bytes;
    if (channel.shown < PageSocket.shownEvery || this.channels.get(channel.number) !== channel) return;
    this.tell({ type: "shown", channel: channel.number, bytes: channel.shown });
    channel.shown = 0;
  }
}

// How long to wait before the next try, in milliseconds.
function backOff(tries) {
  return Math.min(8000, 250 * 2 ** tries);
}
