// An image's layers as strata, wide as they are large, and the history that laid them down.

import { h, plain, svg, unseen } from "./dom.js";
import { count, short, size, step } from "./format.js";
import { copier } from "./parts.js";

const COLOURS = 8;
const LEAST = 0.6; // percent: a layer of a few bytes is still there to be pointed at
const LABELLED = 11;

const colour = (index) => `c${index % COLOURS}`;

function strata(layers, rows) {
  const total = layers.reduce((sum, one) => sum + one.size, 0);
  const raw = layers.map((one) => Math.max(LEAST, total ? (one.size / total) * 100 : 1));
  const scale = 100 / raw.reduce((sum, one) => sum + one, 0);
  let x = 0;
  const parts = layers.map((layer, index) => {
    const width = raw[index] * scale;
    const light = (on) => () => rows[index]?.classList.toggle("lit", on);
    const part = svg(
      "g",
      {
        class: colour(index),
        mouseenter: light(true),
        mouseleave: light(false),
        click: () => {
          rows[index]?.scrollIntoView({ block: "center", behavior: "smooth" });
          rows[index]?.querySelector("button")?.focus({ preventScroll: true });
        },
      },
      svg("rect", { x: `${x}%`, y: 0, width: `${width}%`, height: "100%" }),
      width > LABELLED && svg("text", { x: `${x + width / 2}%`, y: "50%" }, size(layer.size)),
      svg("title", {}, `Layer ${index + 1}: ${size(layer.size)}, ${short(layer.digest)}`),
    );
    if (rows[index]) {
      rows[index].addEventListener("mouseenter", () => part.classList.add("lit"));
      rows[index].addEventListener("mouseleave", () => part.classList.remove("lit"));
    }
    x += width;
    return part;
  });
  const label = `${layers.length} layers, ${size(total)}: ${layers.slice(0, 50).map((one) => size(one.size)).join(", ")}`;
  return h("div", { class: "strata" }, svg("svg", { role: "img", "aria-label": label }, parts));
}

function command(text) {
  const { verb, rest } = step(plain(text));
  const lines = rest.replace(/\s+&&\s+/g, "\n&& ").replace(/;\s+(?=\S)/g, ";\n");
  const first = lines.split("\n", 1)[0];
  const long = first.length > 140 || lines.length > first.length + 200;
  const keyword = verb && h("span", { class: "verb" }, verb);
  if (!long) return h("div", { class: "command" }, keyword, h("code", {}, lines || "–"));
  return h(
    "details",
    { class: "command" },
    h("summary", {}, keyword, h("code", {}, first.length > 140 ? `${first.slice(0, 140)}…` : `${first} …`)),
    h("pre", { tabindex: "0" }, lines),
  );
}

function row(layer, index, text) {
  return h(
    "li",
    { class: layer ? "step" : "step empty" },
    h("span", { class: `swatch ${layer ? colour(index) : ""}`, "aria-hidden": "true" }),
    command(text),
    layer
      ? h("span", { class: "step-size" }, unseen("adds "), size(layer.size), copier(layer.digest, "the layer's digest"))
      : h("span", { class: "step-size dim" }, unseen("adds nothing")),
  );
}

// What the image is made of: the picture and the list below it.
export function layers(image) {
  const rows = [];
  const told = new Set();
  const list = image.history.map((one) => {
    const layer = one.layer === null ? undefined : image.layers[one.layer];
    const item = row(layer, one.layer, one.createdBy || one.comment);
    if (layer) {
      rows[one.layer] = item;
      told.add(one.layer);
    }
    return item;
  });
  image.layers.forEach((layer, index) => {
    if (told.has(index)) return;
    rows[index] = row(layer, index, layer.title || layer.mediaType);
    list.push(rows[index]);
  });
  const total = image.layers.reduce((sum, one) => sum + one.size, 0);
  return h(
    "section",
    { class: "card", "aria-labelledby": "layers" },
    h("div", { class: "card-head" }, h("h2", { id: "layers" }, image.history.length ? "Layers and history" : "Layers"), h("span", { class: "dim" }, `${count(image.layers.length, "layer")}, ${size(total)}`)),
    image.layers.length > 0 && strata(image.layers, rows),
    h("ol", { class: "steps" }, list),
  );
}
