// Keeps a page up to date: sections arrive as the server renders them, and only what differs is touched, so that focus, opened details
// and a selected text stay where they are.
const main = document.getElementById("main");
const connection = document.getElementById("connection");
const SILENT_MS = 15000;
let source = null;
let heard = 0;

const UNITS = [["s", 1], ["min", 60], ["h", 3600], ["d", 86400]];

function distance(seconds) {
  const [unit, size] = UNITS.findLast(([, size]) => seconds >= 2 * size) ?? UNITS[0];
  return `${Math.floor(seconds / size)} ${unit}`;
}

/** Instants become ages, and times to come what is left. */
function ages(root) {
  for (const time of root.querySelectorAll("time")) {
    const seconds = Math.round((Date.now() - Date.parse(time.dateTime)) / 1000);
    const text = seconds < 0 ? `in ${distance(-seconds)}` : `${distance(seconds)} ago`;
    if (time.textContent !== text) time.textContent = text;
  }
}

const keyOf = (node) => (node.nodeType === Node.ELEMENT_NODE ? node.getAttribute("data-key") : null);

/** Makes `old` look like `fresh`. An element that has a key is found again by it. */
function morph(old, fresh) {
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) {
    old.replaceWith(fresh);
    return;
  }
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
    return;
  }
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  if (old.nodeName === "TIME" && old.dateTime === fresh.dateTime) return;
  morphChildren(old, fresh);
}

function morphChildren(old, fresh) {
  const keyed = new Map([...old.children].map((child) => [keyOf(child), child]));
  let at = old.firstChild;
  for (const next of [...fresh.childNodes]) {
    const key = keyOf(next);
    const known = key === null ? null : keyed.get(key);
    if (known && known !== at) old.insertBefore(known, at);
    const match = known ?? (at && keyOf(at) === null && key === null ? at : null);
    if (match) {
      at = match.nextSibling;
      morph(match, next);
    } else {
      old.insertBefore(next, at);
    }
  }
  while (at) {
    const rest = at.nextSibling;
    at.remove();
    at = rest;
  }
}

function show({ id, title, html }) {
  const place = document.getElementById(id) ?? addSection(id, title);
  const fresh = document.createElement("div");
  fresh.append(...new DOMParser().parseFromString(html, "text/html").body.childNodes);
  // A file that was checked stays checked.
  if (id !== "verify") morphChildren(place, fresh);
  ages(place);
}

/** A part that the page did not have when it was opened: a receipt arrives. */
function addSection(id, title) {
  const section = document.createElement("section");
  const head = document.createElement("h2");
  head.id = `${id}-title`;
  head.textContent = title;
  section.setAttribute("aria-labelledby", head.id);
  const place = document.createElement("div");
  place.id = id;
  section.append(head, place);
  main.append(section);
  return place;
}

function tell(text, state) {
  if (connection.textContent !== text) connection.textContent = text;
  connection.dataset.state = state;
}

function listen() {
  source?.close();
  source = new EventSource(`/dashboard/live?page=${main.dataset.page}`);
  heard = Date.now();
  const alive = () => {
    heard = Date.now();
    tell("live", "live");
  };
  source.addEventListener("section", (event) => {
    alive();
    show(JSON.parse(event.data));
  });
  source.addEventListener("beat", alive);
  source.addEventListener("error", refused);
}

/** The browser tries again by itself, unless the server refused: then it is asked why. */
async function refused() {
  tell("no connection; trying again", "failed");
  if (source.readyState !== EventSource.CLOSED) return;
  source.close();
  const again = (ms) => setTimeout(() => document.hidden || listen(), ms);
  try {
    const { status } = await fetch(location.pathname, { method: "HEAD", cache: "no-store" });
    if (status === 401) tell("logged out", "failed");
    else again(status === 200 ? 5000 : 2000);
  } catch {
    again(2000);
  }
}

if (main?.dataset.page) {
  listen();
  // A page that nobody sees leaves its place to others.
  document.addEventListener("visibilitychange", () => (document.hidden ? source.close() : listen()));
  setInterval(() => {
    ages(document);
    if (!document.hidden && source.readyState !== EventSource.CLOSED && Date.now() - heard > SILENT_MS) listen();
  }, 1000);
  ages(document);
}

document.addEventListener("click", async ({ target }) => {
  const text = target.closest?.("[data-copy]")?.dataset.copy;
  if (text === undefined) return;
  try {
    await navigator.clipboard.writeText(text);
    target.textContent = "Copied";
  } catch {
    target.textContent = "Not allowed";
  }
  setTimeout(() => (target.textContent = "Copy"), 2000);
});

document.getElementById("receipt-file")?.addEventListener("change", async ({ target }) => {
  const place = document.getElementById("receipt-report");
  const [file] = target.files;
  if (!file) return;
  place.textContent = "Checking…";
  try {
    const answer = await fetch("/dashboard/verify", { method: "POST", headers: { "content-type": "application/json" }, body: file });
    const body = await answer.text();
    if (answer.headers.get("content-type")?.startsWith("text/html")) {
      place.replaceChildren(...new DOMParser().parseFromString(body, "text/html").body.childNodes);
    } else {
      place.textContent = JSON.parse(body).error.message;
    }
  } catch {
    place.textContent = "The router could not be asked.";
  }
});

document.getElementById("leave")?.addEventListener("click", async () => {
  await fetch("/sign-out", { method: "POST" });
  location.assign("/sign-in");
});
