// Replaces the tables every second with what the server renders. Opened batches stay open; a text selection is left alone.
const main = document.getElementById("live");
const connection = document.getElementById("connection");
let shown = "";

function openRows() {
  return [...main.querySelectorAll("details")].map((details) => details.open);
}

async function refresh() {
  try {
    const response = await fetch("/dashboard/live", { cache: "no-store" });
    if (response.status === 401) {
      connection.textContent = "logged out: open the login link printed at the last start";
      connection.dataset.state = "failed";
      return;
    }
    if (!response.ok) throw new Error(String(response.status));
    const text = await response.text();
    const selection = document.getSelection();
    if (text !== shown && (selection === null || selection.isCollapsed)) {
      const open = openRows();
      const parsed = new DOMParser().parseFromString(text, "text/html");
      main.replaceChildren(...parsed.body.childNodes);
      main.querySelectorAll("details").forEach((details, index) => { details.open = open[index] === true; });
      shown = text;
    }
    connection.textContent = "live";
    connection.dataset.state = "live";
  } catch {
    connection.textContent = "no connection; trying again";
    connection.dataset.state = "failed";
  }
  setTimeout(refresh, document.hidden ? 5000 : 1000);
}

setTimeout(refresh, 1000);
