// Signs in with a wallet: the server writes the text, the wallet signs it, the server opens a session.
const told = document.getElementById("told");
const answer = document.getElementById("answer");
const byId = (id) => document.getElementById(id);

async function ask(path, options) {
  const reply = await fetch(path, { cache: "no-store", ...options });
  const body = await reply.json();
  if (!reply.ok) throw new Error(body.error.message);
  return body;
}

async function message(account) {
  const query = `address=${encodeURIComponent(account)}&origin=${location.origin}`;
  return (await ask(`/sign-in/message?${query}`)).message;
}

async function enter(message, signature) {
  const headers = { "content-type": "application/json" };
  await ask("/sign-in", { method: "POST", headers, body: JSON.stringify({ message, signature }) });
  location.assign("/");
}

/** Does `work`; what goes wrong is said in the page. */
async function tell(doing, work) {
  told.textContent = doing;
  try {
    await work();
    told.textContent = "";
  } catch (error) {
    told.textContent = error?.message ?? "The wallet gave no reason.";
  }
}

const hex = (text) => `0x${[...new TextEncoder().encode(text)].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;

byId("wallet").addEventListener("click", () =>
  tell("Waiting for the wallet…", async () => {
    const wallet = window.ethereum;
    if (!wallet) throw new Error("No wallet is in this browser. Sign elsewhere and paste the signature below.");
    const [account] = await wallet.request({ method: "eth_requestAccounts" });
    if (!account) throw new Error("The wallet shows no account to this page.");
    const text = await message(account);
    await enter(text, await wallet.request({ method: "personal_sign", params: [hex(text), account] }));
  }),
);

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  tell("Asking for the text…", async () => {
    const text = await message(byId("account").value.trim());
    byId("message").value = text;
    // The text holds no quotation mark: the router and the grammar see to it.
    byId("copy").dataset.copy = `cast wallet sign --interactive '${text}'`;
    answer.hidden = false;
    byId("message").focus();
  });
});

byId("copy").addEventListener("click", async ({ target }) => {
  try {
    await navigator.clipboard.writeText(target.dataset.copy);
    target.textContent = "Copied";
  } catch {
    target.textContent = "Not allowed";
  }
  setTimeout(() => (target.textContent = "Copy"), 2000);
});

answer.addEventListener("submit", (event) => {
  event.preventDefault();
  tell("Signing in…", () => enter(byId("message").value, byId("signature").value));
});
