// Repositories: all of them, or those with the words, as they are typed.

import * as api from "./api.js";
import { h, more, plain, said, tell, unseen } from "./dom.js";
import { address, count } from "./format.js";
import { chips, copier, name, notice, time } from "./parts.js";

function row(one) {
  return h(
    "li",
    {},
    h(
      "a",
      { class: "row repository", href: address(one.name) },
      h("span", { class: "row-name" }, name(one.name)),
      one.description && h("span", { class: "row-text" }, said(one.description, 300)),
      h(
        "span",
        { class: "row-facts" },
        chips(one.platforms, 3),
        h("span", {}, count(one.tags, "tag")),
        h("span", {}, count(one.pulls, "pull")),
        h("span", {}, unseen("changed "), time(one.changed)),
      ),
    ),
  );
}

function nothing(words) {
  if (words)
    return notice("Nothing found", h("p", {}, "No repository has the words ", h("strong", {}, plain(words, 100)), " in its name, description, labels or platforms."));
  const host = location.host;
  const line = h("code", { class: "line" }, `docker tag app:1 ${host}/app:1 && docker push ${host}/app:1`);
  return notice(
    "Nothing here yet",
    h("p", {}, "Push an image, and it shows up here:"),
    h("div", { class: "shell" }, h("span", { class: "prompt", "aria-hidden": "true" }, "$"), line, copier(line.textContent, "the command", line)),
  );
}

export async function show(main, { parameters }, signal) {
  const words = (parameters.get("q") ?? "").trim();
  const first = await api.repositories(words, signal);
  document.title = words ? `${words} – ${location.host}` : location.host;
  if (!first.repositories.length) {
    main.replaceChildren(nothing(words));
    tell(words ? "Nothing found." : "There are no repositories yet.");
    return;
  }
  const list = h("ul", { class: "rows" });
  const fill = ({ repositories, next }) => {
    list.append(...repositories.map(row));
    if (next)
      list.after(more("Show more", async () => {
        try {
          const page = await api.follow(next, signal);
          list.nextElementSibling?.remove();
          fill(page);
        } catch (error) {
          if (error.name !== "AbortError") tell(error.message);
        }
      }));
  };
  const total = `${first.repositories.length}${first.next ? "+" : ""}`;
  main.replaceChildren(
    h(
      "div",
      { class: "title" },
      h("h1", { tabindex: "-1" }, words ? ["Found for ", h("span", { class: "found" }, plain(words, 60))] : "Repositories"),
      h("span", { class: "badge" }, total),
    ),
    list,
  );
  fill(first);
  tell(`${total} ${first.repositories.length === 1 ? "repository" : "repositories"}.`);
}
