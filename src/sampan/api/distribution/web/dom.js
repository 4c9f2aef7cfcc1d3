// Elements from values. Text only ever becomes a text node: whatever was pushed is shown, never read
// as markup, and the policy of the page (Trusted Types) forbids every other way.

const SVG = "http://www.w3.org/2000/svg";

// What would reorder or hide a line (CVE-2021-42574) is shown as a sign of its own.
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;

export function plain(value, most = 4000) {
  const text = String(value ?? "").replace(/\r\n?/g, "\n").replace(UNSEEN, "\ufffd");
  return text.length > most ? `${text.slice(0, most)}…` : text;
}

function build(element, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    else if (name === "href" && !/^(#|https?:\/\/)/.test(value)) throw new Error(`no link: ${value}`);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(3).filter((one) => one !== null && one !== undefined && one !== false));
  return element;
}

export const h = (tag, properties, ...children) =>
  build(document.createElement(tag), properties, children);

export const svg = (tag, properties, ...children) =>
  build(document.createElementNS(SVG, tag), properties, children);

// Text of strangers, which must not turn what is beside it around either.
export const said = (value, most) => h("bdi", {}, plain(value, most));

export const unseen = (text) => h("span", { class: "unseen" }, text);

export const byId = (id) => document.getElementById(id);

export function tell(text) {
  byId("status").textContent = text;
}

// A width that is data: set through the object model, which the policy allows, unlike attributes.
export function share(element, part) {
  element.style.setProperty("--share", String(Math.max(0, Math.min(1, part))));
  return element;
}

// Show more when the end of a list comes into view, or when asked.
export function more(label, act) {
  const button = h("button", { type: "button", class: "more", click: () => go() }, label);
  const watch = new IntersectionObserver((found) => {
    if (found.some((one) => one.isIntersecting)) go();
  }, { rootMargin: "300px" });
  let asked = false;
  const go = () => {
    if (asked || !button.isConnected) return;
    asked = true;
    watch.disconnect();
    button.disabled = true;
    act();
  };
  watch.observe(button);
  return button;
}
