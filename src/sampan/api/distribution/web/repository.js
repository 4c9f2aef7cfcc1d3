// One repository: how to pull it, and its tags, the newest version first.

import * as api from "./api.js";
import { h, more, plain, said, share, tell, unseen } from "./dom.js";
import { address, count, size } from "./format.js";
import { chips, commands, digest, name as shown, picture, time } from "./parts.js";

const ORDERS = { version: "Newest version", pushed: "Last pushed", name: "Name" };

function row(repository, tag, largest) {
  return h(
    "li",
    { class: "row tag" },
    h(
      "span",
      { class: "tag-name" },
      h("a", { href: address(repository, tag.name) }, plain(tag.name)),
      tag.referrers > 0 && h("span", { class: "attached", title: count(tag.referrers, "attachment") }, picture("proof"), String(tag.referrers), unseen(" attached")),
    ),
    h("span", { class: "tag-platforms" }, tag.platforms.length ? chips(tag.platforms, 3) : h("span", { class: "dim small" }, said(tag.artifactType, 60))),
    h("span", { class: "tag-size" }, unseen("Size "), size(tag.size), share(h("span", { class: "gauge", "aria-hidden": "true" }), tag.size / largest)),
    h("span", { class: "tag-pushed" }, unseen("pushed "), time(tag.pushed)),
    h("span", { class: "tag-pulls" }, count(tag.pulls, "pull")),
    digest(tag.digest),
  );
}

export async function show(main, { name, parameters }, signal) {
  let order = Object.hasOwn(ORDERS, parameters.get("order") ?? "") ? parameters.get("order") : "version";
  let words = "";
  const first = await api.tags(name, { order }, signal);
  const about = first.repository;
  document.title = `${name} – ${location.host}`;

  const list = h("ul", { class: "rows tags" });
  const hint = h("p", { class: "dim none", hidden: true }, "No tag has that in its name.");
  let largest = 1;
  const fill = ({ tags, next }) => {
    largest = Math.max(largest, ...tags.map((tag) => tag.size));
    list.append(...tags.map((tag) => row(name, tag, largest)));
    hint.hidden = list.children.length > 0;
    if (next)
      list.after(more("Show more", () => page(() => api.follow(next, signal), false)));
  };
  let turn = 0;
  const page = async (fetched, anew) => {
    const mine = ++turn;
    try {
      const found = await fetched();
      if (mine !== turn || signal.aborted) return;
      if (anew) list.replaceChildren();
      section.querySelector(".more")?.remove();
      fill(found);
      if (anew) tell(`${count(list.children.length, "tag")}${found.next ? " and more" : ""}.`);
    } catch (error) {
      if (error.name !== "AbortError") tell(error.message);
    }
  };
  const again = () => page(() => api.tags(name, { words, order }, signal), true);
  let timer = 0;
  const filter = h("input", {
    type: "search", id: "filter", placeholder: "Filter tags", autocomplete: "off", autocapitalize: "off", spellcheck: "false",
    input: (event) => {
      words = event.target.value.trim();
      clearTimeout(timer);
      timer = setTimeout(again, 100);
    },
  });
  const sort = h(
    "select",
    { id: "order", change: (event) => { order = event.target.value; again(); } },
    Object.entries(ORDERS).map(([value, text]) => h("option", { value, selected: value === order }, text)),
  );
  const section = h(
    "section",
    { "aria-labelledby": "tags" },
    h(
      "div",
      { class: "toolbar" },
      h("h2", { id: "tags" }, "Tags"),
      h("span", { class: "badge" }, String(about.tags)),
      h("span", { class: "space" }),
      h("label", { class: "unseen", for: "filter" }, "Filter tags"),
      filter,
      h("label", { class: "unseen", for: "order" }, "Order"),
      sort,
    ),
    list,
    hint,
  );
  const newest = first.tags[0];
  main.replaceChildren(
    h("nav", { class: "crumbs", "aria-label": "Way back" }, h("a", { href: "#/" }, "Repositories")),
    h("div", { class: "title" }, h("h1", { tabindex: "-1", class: "mono" }, shown(name))),
    h(
      "p",
      { class: "facts" },
      h("span", {}, count(about.tags, "tag")),
      h("span", {}, count(about.pulls, "pull")),
      h("span", {}, "changed ", time(about.changed)),
    ),
    about.description && h("p", { class: "about" }, said(about.description, 1000)),
    newest ? commands(name, newest.name, newest.digest) : "",
    section,
  );
  fill(first);
  if (!about.tags) hint.textContent = "There are no tags here now.";
  tell(`${name}: ${count(about.tags, "tag")}.`);
}
