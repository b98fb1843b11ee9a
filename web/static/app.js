// What all pages share. Every page works without it; with it there are fewer round trips.
"use strict";

document.documentElement.classList.add("script");

const csrf = () => document.querySelector('meta[name="csrf"]')?.content ?? "";

// htmx sends forms; their token goes along, and their questions are asked by our own dialog.
document.addEventListener("htmx:configRequest", (event) => {
  event.detail.headers["x-csrf-token"] = csrf();
});
document.addEventListener("htmx:confirm", (event) => {
  const question = event.detail.question;
  if (!question) return;
  event.preventDefault();
  ask(question, verb(event.detail.elt)).then((yes) => yes && event.detail.issueRequest(true));
});

// A part of a page that is updated by itself stays as it is while a question is asked, and while something in it is
// entered.
const isEntered = (field) => field === document.activeElement || field.value !== field.defaultValue;
const isEdited = (part) =>
  document.querySelector("dialog[open]") || [...part.querySelectorAll("input:not([type=hidden])")].some(isEntered);
for (const name of ["htmx:beforeSwap", "htmx:oobBeforeSwap"]) {
  document.addEventListener(name, (event) => {
    const { requestConfig, target } = event.detail;
    const polled = name === "htmx:oobBeforeSwap" || requestConfig?.elt?.getAttribute("hx-trigger")?.startsWith("every");
    if (polled && isEdited(target)) event.detail.shouldSwap = false;
  });
}

// What the button that was pressed is called: the dialog's says the same.
function verb(element) {
  const button = element?.matches?.("button") ? element : element?.querySelector?.("button");
  return button?.firstChild?.textContent.trim() || "Continue";
}

async function ask(question, yes) {
  const dialog = document.getElementById("confirm-dialog");
  if (!dialog) return window.confirm(question);
  dialog.querySelector("#confirm-text").textContent = question;
  dialog.querySelector("#confirm-yes").textContent = yes;
  dialog.returnValue = "";
  dialog.showModal();
  await new Promise((done) => dialog.addEventListener("close", done, { once: true }));
  return dialog.returnValue === "yes";
}

document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (form.dataset.confirm && !form.dataset.confirmed) {
    event.preventDefault();
    const submitter = event.submitter;
    if (await ask(form.dataset.confirm, verb(submitter ?? form))) {
      form.dataset.confirmed = "yes";
      form.requestSubmit(submitter);
      delete form.dataset.confirmed;
    }
    return;
  }
  if (form.matches("[data-theme-form]")) {
    event.preventDefault();
    const root = document.documentElement;
    const dark =
      root.dataset.theme === "dark" ||
      (root.dataset.theme !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
    const next = dark ? "light" : "dark";
    root.dataset.theme = next;
    document.cookie = `theme=${next}; path=/; max-age=31536000; samesite=strict`;
    return;
  }
  if (form.matches("[data-once]")) {
    // After the form's data was taken: a disabled button would not be part of it.
    setTimeout(() => form.querySelectorAll("button").forEach((b) => (b.disabled = true)));
  }
});

// Sends a form whose effect comes back as an event. Returns what went wrong, as a text for people; none if nothing did.
async function submitQuietly(form) {
  const answer = await fetch(form.action, {
    method: "POST",
    headers: { "x-csrf-token": csrf(), "hx-request": "true" },
    body: new URLSearchParams(new FormData(form)),
    redirect: "manual",
  }).catch(() => null);
  if (answer?.ok) return "";
  const text = answer ? new DOMParser().parseFromString(await answer.text(), "text/html") : null;
  return text?.querySelector(".sheet p:not(.muted)")?.textContent ?? "The server does not answer; try again.";
}

// A page that comes back from the browser's memory has its buttons again.
addEventListener("pageshow", () => {
  document.querySelectorAll("[data-once] button").forEach((b) => (b.disabled = false));
});

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (button) {
    const label = button.textContent;
    button.textContent = (await copy(button.dataset.copy)) ? "Copied" : "Select it";
    setTimeout(() => (button.textContent = label), 1600);
    return;
  }
  // A menu closes when something else is pressed.
  document.querySelectorAll("details.menu[open]").forEach((menu) => {
    if (!menu.contains(event.target)) menu.open = false;
  });
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  document.querySelectorAll("details.menu[open]").forEach((menu) => {
    menu.open = false;
    menu.querySelector("summary").focus();
  });
});

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Without https browsers have no clipboard for scripts, but they copy what is selected.
    const focused = document.activeElement;
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "hidden";
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    focused?.focus();
    return done;
  }
}

// Gives each block of code in a lab's text a button that copies it.
function copyButtons(root) {
  for (const pre of root.querySelectorAll(".prose pre:not(.code > pre)")) {
    const box = document.createElement("div");
    box.className = "code";
    const button = document.createElement("button");
    button.type = "button";
    button.className = "small copy-code";
    button.textContent = "Copy";
    button.setAttribute("aria-label", "Copy this block of code");
    button.dataset.copy = pre.textContent.trimEnd();
    pre.replaceWith(box);
    box.append(pre, button);
  }
}
copyButtons(document);
document.addEventListener("htmx:afterSwap", (event) => copyButtons(event.detail.target));

// The page that a sign-in link opens goes on by itself.
document.querySelector("form[data-submit]")?.requestSubmit();

// `/` leads to the search.
document.addEventListener("keydown", (event) => {
  const search = document.getElementById("q");
  const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement?.tagName ?? "");
  if (event.key === "/" && search && !typing && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    search.focus();
  }
});
