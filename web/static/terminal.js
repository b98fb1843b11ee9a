// What all pages with terminals share.
"use strict";

// xterm makes its style sheets while it runs; the page's policy takes those that carry its nonce.
(() => {
  const nonce = document.currentScript?.nonce;
  const create = document.createElement.bind(document);
  document.createElement = (name, options) => {
    const element = create(name, options);
    if (String(name).toLowerCase() === "style" && nonce) element.nonce = nonce;
    return element;
  };
})();

// Makes a terminal with our colours and these options.
function newTerminal(options) {
  return new window.Terminal({
    fontFamily: '"JetBrains Mono", ui-monospace, Menlo, Consolas, monospace',
    lineHeight: 1.2,
    cursorBlink: !matchMedia("(prefers-reduced-motion: reduce)").matches,
    scrollback: 5000,
    screenReaderMode: false,
    macOptionIsMeta: true,
    theme: {
      background: getComputedStyle(document.documentElement).getPropertyValue("--term-bg").trim(),
      foreground: "#d9dee8",
      cursor: "#9db1ff",
      selectionBackground: "#33467f",
      black: "#1a1f28", red: "#ff7b72", green: "#5dd39e", yellow: "#f0b955",
      blue: "#82a0ff", magenta: "#d2a6ff", cyan: "#6cd3e0", white: "#c9d1dd",
      brightBlack: "#6b7689", brightRed: "#ffa198", brightGreen: "#7ee8b6", brightYellow: "#ffd483",
      brightBlue: "#a8bdff", brightMagenta: "#e2c5ff", brightCyan: "#96e6f0", brightWhite: "#ffffff",
    },
    ...options,
  });
}
