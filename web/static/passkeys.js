// Passkeys: adds one on the page "Account", and signs in with one.
"use strict";

(() => {
  async function send(path, body) {
    const headers = { "content-type": "application/json", "x-csrf-token": csrf() };
    const answer = await fetch(path, { method: "POST", headers, body: JSON.stringify(body ?? {}) });
    if (answer.ok) return answer.status === 204 ? null : answer.json();
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const text = (css) => page.querySelector(css)?.textContent ?? "";
    throw new Error(`${text("main h1")}. ${text("main h1 + p")}`);
  }

  async function add(form) {
    const options = await send("/account/passkeys/begin");
    const publicKey = PublicKeyCredential.parseCreationOptionsFromJSON(options.publicKey);
    const made = await navigator.credentials.create({ publicKey });
    await send("/account/passkeys", { name: form.elements.name.value, credential: made.toJSON() });
    location.reload();
  }

  async function signIn() {
    const options = await send("/sign-in/passkey/begin");
    const publicKey = PublicKeyCredential.parseRequestOptionsFromJSON(options.publicKey);
    const presented = await navigator.credentials.get({ publicKey });
    await send("/sign-in/passkey", presented.toJSON());
    location.assign("/");
  }

  // People see why it did not work. Browsers give one error for everything that the person or the authenticator declined.
  function reason(error) {
    switch (error.name) {
      case "NotAllowedError":
        return "Nothing was done: it was cancelled, took too long, or this device has no passkey for this server.";
      case "InvalidStateError":
        return "This device has a passkey for your account already.";
      case "NotSupportedError":
        return "This device can't keep a passkey that this server accepts.";
      default:
        return error.message;
    }
  }

  for (const form of document.querySelectorAll("form[data-passkey]")) {
    const note = form.querySelector("[role=alert]");
    const isSupported = "parseRequestOptionsFromJSON" in (window.PublicKeyCredential ?? {});
    if (!isSupported) continue;
    form.hidden = false;
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const button = form.querySelector("button");
      button.disabled = true;
      note.hidden = true;
      try {
        await (form.dataset.passkey === "add" ? add(form) : signIn());
      } catch (error) {
        note.textContent = reason(error);
        note.hidden = false;
      }
      button.disabled = false;
    });
  }
})();
