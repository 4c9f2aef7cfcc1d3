// One manifest: an index's platforms, an image's layers and configuration, an artifact's files, and
// what refers to it.

import * as api from "./api.js";
import { h, plain, said, tell } from "./dom.js";
import { address, count, kind, moment, short, size } from "./format.js";
import { layers } from "./layers.js";
import { commands, digest, name as shown, picture, time } from "./parts.js";

const PREFERRED = ["linux/amd64", "linux/arm64", "linux/arm64/v8"];
const MANY = 10; // lines of a table that is scrolled in itself
const LINKS = {
  "org.opencontainers.image.source": "Source",
  "org.opencontainers.image.url": "Home page",
  "org.opencontainers.image.documentation": "Documentation",
};

// -- an index's platforms --------------------------------------------------------------------------

const isThere = (one) => one.size !== null;

function chosen(index, wanted) {
  const there = index.platforms.filter(isThere);
  const by = (text) => there.find((one) => one.platform === text || one.digest === text);
  return by(wanted) ?? PREFERRED.map(by).find(Boolean) ?? there[0];
}

function platforms(index, name, reference, current) {
  const texts = index.platforms.map((one) => one.platform);
  return h(
    "nav",
    { class: "platforms", "aria-label": "Platforms" },
    index.platforms.map((one) => {
      const text = one.platform || short(one.digest);
      const alone = one.platform && texts.indexOf(one.platform) === texts.lastIndexOf(one.platform);
      const query = new URLSearchParams({ platform: alone ? one.platform : one.digest });
      const inside = [h("span", {}, said(text, 40)), h("small", {}, isThere(one) ? size(one.size) : "not here")];
      return isThere(one)
        ? h("a", { href: `${address(name, reference)}?${query}`, "aria-current": one === current && "true" }, inside)
        : h("span", {}, inside);
    }),
  );
}

// -- cards -----------------------------------------------------------------------------------------

const card = (id, title, beside, ...rest) =>
  h("section", { class: "card", "aria-labelledby": id }, h("div", { class: "card-head" }, h("h2", { id }, title), beside && h("span", { class: "dim" }, beside)), rest);

const mono = (text) => h("code", {}, said(text));
const words = (list) => list.length > 0 && mono(list.map((one) => (/[\s"']/.test(one) || !one ? JSON.stringify(one) : one)).join(" "));

function configuration(found) {
  const rows = [
    ["Platform", found.platform && mono(found.platform)],
    ["Created", found.created && moment(found.created) && h("span", {}, moment(found.created), " ", h("span", { class: "dim" }, "(", time(found.created), ")"))],
    ["Author", found.author && said(found.author, 200)],
    ["User", mono(found.user || "root")],
    ["Directory", mono(found.workingDir || "/")],
    ["Entrypoint", words(found.entrypoint)],
    ["Command", words(found.cmd)],
    ["Ports", words(found.exposedPorts)],
    ["Volumes", words(found.volumes)],
    ["Stop signal", found.stopSignal && mono(found.stopSignal)],
  ];
  return card(
    "configuration",
    "Configuration",
    "",
    h("dl", { class: "pairs" }, rows.filter((one) => one[1]).map(([term, value]) => h("div", {}, h("dt", {}, term), h("dd", {}, value)))),
  );
}

function table(id, title, pairs) {
  if (!pairs.length) return null;
  return card(
    id,
    title,
    String(pairs.length),
    h("dl", pairs.length > MANY ? { class: "pairs wide tall", tabindex: "0" } : { class: "pairs wide" }, pairs.map(([key, value]) => h("div", {}, h("dt", {}, mono(key)), h("dd", {}, mono(value))))),
  );
}

const variables = (env) => env.map((one) => [one.split("=", 1)[0], one.slice(one.indexOf("=") + 1)]);

function links(texts) {
  const found = [];
  for (const [key, text] of Object.entries(LINKS)) {
    let url;
    try {
      url = new URL(texts[key]);
    } catch {
      continue;
    }
    if (url.protocol === "https:" || url.protocol === "http:")
      found.push(h("a", { class: "outside", href: url.href, rel: "noopener noreferrer nofollow", target: "_blank", title: plain(url.href, 200) }, picture("link"), text));
  }
  return found.length > 0 && h("p", { class: "links" }, found);
}

function files(found) {
  return card(
    "files",
    "Files",
    size(found.layers.reduce((sum, one) => sum + one.size, 0)),
    h(
      "ul",
      { class: "files" },
      found.layers.map((one) =>
        h("li", {}, h("span", { class: "file-name" }, picture("file"), said(one.title || short(one.digest), 200)), h("span", { class: "dim small" }, said(one.mediaType, 120)), h("span", {}, size(one.size)), digest(one.digest))),
    ),
  );
}

function attached(name, index, found) {
  const all = new Map([...found.referrers, ...(index?.referrers ?? [])].map((one) => [one.digest, one]));
  if (!all.size) return null;
  const of = new Map((index?.platforms ?? []).map((one) => [one.digest, one.platform]));
  return card(
    "attached",
    "Attached",
    `${all.size}${found.moreReferrers || index?.moreReferrers ? "+" : ""}`,
    h(
      "ul",
      { class: "referrers" },
      [...all.values()].map((one) => {
        const { word, picture: sign } = kind(one);
        const platform = of.get(one.annotations["vnd.docker.reference.digest"]);
        return h(
          "li",
          {},
          h(
            "a",
            { href: address(name, one.digest), class: `referrer ${sign}` },
            picture(sign),
            h("span", { class: "referrer-kind" }, word, platform && h("span", { class: "dim" }, " of ", said(platform, 40))),
            h("span", { class: "dim small" }, said(one.annotations["in-toto.io/predicate-type"] || one.artifactType || one.mediaType, 100)),
          ),
        );
      }),
    ),
  );
}

// -- the view --------------------------------------------------------------------------------------

const isImage = (found) => found.configuration !== null;

function what(top) {
  if (top.isIndex) return count(top.platforms.length, "platform");
  if (isImage(top)) return "Image";
  return kind({ kind: "", artifactType: top.artifactType, annotations: top.annotations }).word;
}

export async function show(main, { name, reference, parameters }, signal) {
  const top = await api.manifest(name, reference, signal);
  const current = top.isIndex ? chosen(top, parameters.get("platform")) : undefined;
  const found = current ? await api.manifest(name, current.digest, signal) : top;
  const isTag = !reference.includes(":");
  const tag = isTag ? reference : (top.tags[0] ?? "");
  const title = isTag ? `:${reference}` : `@${short(reference)}`;
  const total = found.layers.reduce((sum, one) => sum + one.size, 0);
  const others = top.tags.filter((one) => one !== reference);
  const texts = { ...found.configuration?.labels, ...found.annotations, ...top.annotations };
  document.title = `${name}${title} – ${location.host}`;
  main.replaceChildren(
    h("nav", { class: "crumbs", "aria-label": "Way back" }, h("a", { href: "#/" }, "Repositories"), h("a", { href: address(name), class: "mono" }, name)),
    h("div", { class: "title" }, h("h1", { tabindex: "-1", class: "mono" }, shown(name), h("span", { class: "ref" }, title))),
    h(
      "p",
      { class: "facts" },
      h("span", {}, what(top)),
      found.layers.length > 0 && h("span", {}, size(total)),
      h("span", {}, "pushed ", time(top.pushed)),
      h("span", {}, count(top.pulls, "pull"), top.pulled && [", last ", time(top.pulled)]),
      digest(top.digest),
    ),
    texts["org.opencontainers.image.description"] ? h("p", { class: "about" }, said(texts["org.opencontainers.image.description"], 1000)) : "",
    links(texts) || "",
    others.length ? h("p", { class: "also" }, h("span", { class: "dim" }, "Also "), others.slice(0, 12).map((one) => h("a", { class: "chip", href: address(name, one) }, plain(one)))) : "",
    top.subject ? h("p", { class: "also" }, h("span", { class: "dim" }, "Attached to "), h("a", { class: "chip", href: address(name, top.subject) }, short(top.subject))) : "",
    commands(name, tag, top.digest, top.isIndex || isImage(top)),
    top.isIndex ? platforms(top, name, reference, current) : "",
    top.isIndex && !current ? h("p", { class: "dim none" }, "None of its images is in this repository.") : "",
    h(
      "div",
      { class: "columns" },
      h("div", {}, isImage(found) ? layers(found) : found.layers.length > 0 && files(found), attached(name, top.isIndex ? top : undefined, found)),
      h(
        "div",
        {},
        isImage(found) && configuration(found.configuration),
        isImage(found) && table("environment", "Environment", variables(found.configuration.env)),
        isImage(found) && table("labels", "Labels", Object.entries(found.configuration.labels)),
        table("annotations", "Annotations", Object.entries({ ...found.annotations, ...top.annotations })),
      ),
    ),
  );
  tell(`${name}${title}.`);
}
