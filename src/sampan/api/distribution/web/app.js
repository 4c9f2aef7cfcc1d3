// The page: an address becomes a view. The address is behind the #, so the registry serves one document.

import { byId, h, tell } from "./dom.js";
import { address, parse } from "./format.js";
import * as home from "./home.js";
import * as image from "./image.js";
import * as login from "./login.js";
import { notice } from "./parts.js";
import * as repository from "./repository.js";

const main = byId("main");
const words = byId("words");
let current = new AbortController();

const view = (where) => (where.reference ? image : where.name ? repository : home);

function failed(error) {
  const state = login.state();
  if (error.status === 401 && state.accounts) {
    const form = login.form(`${location.host} shows this to those who may pull it.`);
    main.replaceChildren(form);
    return form.querySelector("input");
  }
  const title = { 0: "No answer", 401: "Not for you", 403: "Not for you", 404: "Not found", 429: "Too much at once" }[error.status] ?? "That went wrong";
  const retry = h("button", { type: "button", class: "main", click: () => draw(true) }, "Try again");
  main.replaceChildren(
    notice(title, h("p", {}, error.message), error.status === 404 ? h("p", {}, h("a", { href: "#/" }, "All repositories")) : retry),
  );
  return main.querySelector("h1");
}

// `focus`: the view is new to who reads it, not the same one with other words.
async function draw(focus) {
  current.abort();
  const mine = new AbortController();
  current = mine;
  const where = parse(location.hash);
  document.body.classList.add("waiting");
  let start = null;
  try {
    await view(where).show(main, where, mine.signal);
  } catch (error) {
    if (mine.signal.aborted) return;
    start = failed(error);
    tell(error.message);
  } finally {
    if (current === mine) document.body.classList.remove("waiting");
  }
  main.dataset.shown = location.hash || "#/";
  if (!focus) return;
  scrollTo(0, 0);
  (start ?? main.querySelector("h1"))?.focus({ preventScroll: true });
}

// -- search as you type ----------------------------------------------------------------------------

let timer = 0;

function search() {
  const text = words.value.trim();
  const hash = text ? `#/?${new URLSearchParams({ q: text })}` : "#/";
  if (location.hash === hash) return;
  const where = parse(location.hash);
  // The first letter makes a step to go back to; the others are the same search.
  if (where.name || !where.parameters.has("q")) history.pushState(null, "", hash);
  else history.replaceState(null, "", hash);
  draw(false);
}

words.addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(search, 80);
});

byId("search").addEventListener("submit", (event) => {
  event.preventDefault();
  clearTimeout(timer);
  search();
  main.querySelector(".rows a")?.focus();
});

function walk(event) {
  const links = [...main.querySelectorAll(".rows a")];
  const at = links.indexOf(document.activeElement);
  const inSearch = document.activeElement === words;
  if (!links.length || (at < 0 && !inSearch)) return;
  const next = event.key === "ArrowDown" ? at + 1 : at - 1;
  event.preventDefault();
  (next < 0 ? words : links[Math.min(next, links.length - 1)]).focus();
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches?.("input, select, textarea");
  if (event.key === "/" && !typing) {
    event.preventDefault();
    words.focus();
    words.select();
  } else if ((event.key === "ArrowDown" || event.key === "ArrowUp") && (!typing || event.target === words)) walk(event);
});

// -- moving ----------------------------------------------------------------------------------------

function follow() {
  const where = parse(location.hash);
  const text = where.name ? "" : (where.parameters.get("q") ?? "");
  if (document.activeElement !== words || words.value.trim() !== text) words.value = text;
  const before = parse(main.dataset.shown ?? "#/");
  const same = where.reference && before.name === where.name && before.reference === where.reference;
  draw(!same).then(() => same && main.querySelector(".platforms [aria-current]")?.focus({ preventScroll: true }));
}

addEventListener("hashchange", follow);

byId("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});

addEventListener("login", () => {
  current.abort();
  const form = login.form("To see what is yours.");
  main.replaceChildren(form);
  form.querySelector("input").focus();
});
addEventListener("visitor", () => draw(true));

byId("host").textContent = location.host;
if (location.hash && !location.hash.startsWith("#/")) history.replaceState(null, "", address(""));
try {
  await login.learn();
} catch (error) {
  tell(error.message);
}
follow();
