// Parts that more than one view shows.

import { h, plain, said, svg, tell, unseen } from "./dom.js";
import { ago, moment, short } from "./format.js";

const PATHS = {
  copy: "M8 8V5a1 1 0 0 1 1-1h9a1 1 0 0 1 1 1v10a1 1 0 0 1-1 1h-3M5 8h9a1 1 0 0 1 1 1v10a1 1 0 0 1-1 1H5a1 1 0 0 1-1-1V9a1 1 0 0 1 1-1z",
  done: "M5 12.5l4.500 4.500L19 7.500",
  sign: "M4 17c3-7 5-10 6.500-10S12 10 10 14s1 4 3 1 2.500-2 3 0 1.500 2 4 0M4 20.500h16",
  sbom: "M8 6h12M8 12h12M8 18h12M4 6h.01M4 12h.01M4 18h.01",
  proof: "M12 3l7.500 3v5.500c0 4.500-3 8-7.500 9.500-4.500-1.500-7.500-5-7.500-9.500V6zM8.500 12l2.500 2.500 4.500-5",
  scan: "M11 4a7 7 0 1 1 0 14 7 7 0 0 1 0-14zM16 16l4.500 4.500",
  file: "M7 3h7l5 5v12a1 1 0 0 1-1 1H7a1 1 0 0 1-1-1V4a1 1 0 0 1 1-1zM14 3v5h5",
  link: "M10 14l9-9M13 5h6v6M17 14v4a1 1 0 0 1-1 1H6a1 1 0 0 1-1-1V8a1 1 0 0 1 1-1h4",
};

export const picture = (name) =>
  svg("svg", { class: "icon", viewBox: "0 0 24 24", "aria-hidden": "true" }, svg("path", { d: PATHS[name] }));

export const time = (text) =>
  text ? h("time", { datetime: text, title: moment(text) }, ago(text)) : "never";

export const chips = (names, most = 4) =>
  h(
    "span",
    { class: "chips" },
    names.slice(0, most).map((name) => h("span", { class: "chip" }, said(name, 40))),
    names.length > most && h("span", { class: "chip", title: plain(names.slice(most).join(", ")) }, `+${names.length - most}`),
  );

async function put(text, element) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  // Without TLS a page has no clipboard: what is selected can be copied.
  const range = document.createRange();
  range.selectNodeContents(element);
  getSelection().removeAllRanges();
  getSelection().addRange(range);
  if (!document.execCommand("copy")) throw new Error("the browser does not copy");
  return getSelection().removeAllRanges();
}

export function copier(text, what, element) {
  const button = h("button", { type: "button", class: "copy", title: `Copy ${what}`, click: copy }, picture("copy"), unseen(`Copy ${what}`));
  async function copy() {
    try {
      await put(text, element ?? button.parentElement);
    } catch {
      tell(`Copying is not possible here; mark ${what} instead.`);
      return;
    }
    tell(`Copied ${what}.`);
    button.replaceChildren(picture("done"), unseen("Copied"));
    button.classList.add("copied");
    setTimeout(() => {
      button.replaceChildren(picture("copy"), unseen(`Copy ${what}`));
      button.classList.remove("copied");
    }, 1500);
  }
  return button;
}

export const digest = (value) => {
  const text = h("code", { title: value }, short(value));
  const whole = h("span", { class: "unseen" }, value);
  return h("span", { class: "digest" }, text, whole, copier(value, "the digest", whole));
};

// -- commands --------------------------------------------------------------------------------------

const TOOLS = {
  docker: (image) => `docker pull ${image}`,
  podman: (image) => `podman pull ${image}`,
  sampan: (image) => `sampan pull ${image}`,
  skopeo: (image, name) => `skopeo copy docker://${image} oci:${name.split("/").pop()}`,
};
// What is no image is nothing to an engine.
const CARRIERS = { oras: (image) => `oras pull ${image}`, skopeo: TOOLS.skopeo };

const remembered = () => {
  try {
    return localStorage.getItem("tool");
  } catch {
    return null; // a browser that keeps nothing
  }
};

const remember = (tool) => {
  try {
    localStorage.setItem("tool", tool);
  } catch {
    // likewise
  }
};

export function commands(name, tag, pinned, isImage = true) {
  const host = location.host;
  const tools = isImage ? TOOLS : CARRIERS;
  let tool = Object.hasOwn(tools, remembered() ?? "") ? remembered() : Object.keys(tools)[0];
  let exact = !tag;
  const line = h("code", { class: "line", tabindex: "0", "aria-label": "Command" });
  const box = h("div", { class: "shell" });
  const draw = () => {
    const image = `${host}/${name}${exact && pinned ? `@${pinned}` : `:${tag}`}`;
    line.textContent = tools[tool](image, name);
    box.replaceChildren(h("span", { class: "prompt", "aria-hidden": "true" }, "$"), line, copier(line.textContent, "the command", line));
    for (const button of pick.children) button.setAttribute("aria-pressed", String(button.textContent === tool));
  };
  const pick = h(
    "div",
    { class: "tools", role: "group", "aria-label": "Tool" },
    Object.keys(tools).map((one) =>
      h("button", { type: "button", click: () => { tool = one; remember(one); draw(); } }, one)),
  );
  const pin = tag && pinned && h(
    "label",
    { class: "pin" },
    h("input", { type: "checkbox", change: (event) => { exact = event.target.checked; draw(); } }),
    "by digest",
  );
  draw();
  return h("section", { class: "pull", "aria-label": "Pull" }, h("div", { class: "pull-head" }, pick, pin), box);
}

// -- notices ---------------------------------------------------------------------------------------

export const notice = (title, ...rest) =>
  h("div", { class: "notice" }, h("h1", { tabindex: "-1" }, title), rest);

export function name(path) {
  const cut = path.lastIndexOf("/") + 1;
  return [cut > 0 && h("span", { class: "dim" }, path.slice(0, cut)), path.slice(cut)];
}
