// Who is here, and the form for whoever wants to be somebody. The password goes to the registry once
// and stays nowhere: what remains is a cookie that no script can read.

import * as api from "./api.js";
import { byId, h, said, tell } from "./dom.js";

let now = { accounts: false, user: "" };

export const state = () => now;

export async function learn() {
  now = await api.session();
  draw();
  return now;
}

function draw() {
  byId("who").replaceChildren(
    ...(now.user
      ? [h("span", { class: "user" }, said(now.user, 40)), h("button", { type: "button", class: "quiet", click: leave }, "Log out")]
      : now.accounts
        ? [h("button", { type: "button", class: "quiet", click: () => dispatchEvent(new Event("login")) }, "Log in")]
        : []),
  );
}

async function leave() {
  now = await api.logOut();
  draw();
  tell("Logged out.");
  dispatchEvent(new Event("visitor"));
}

export function form(reason) {
  const wrong = h("p", { class: "wrong", role: "alert", id: "wrong" });
  const user = h("input", { id: "user", name: "username", autocomplete: "username", autocapitalize: "off", spellcheck: "false", required: true });
  const password = h("input", { id: "password", name: "password", type: "password", autocomplete: "current-password", required: true, "aria-describedby": "wrong" });
  const button = h("button", { type: "submit", class: "main" }, "Log in");
  const submit = async (event) => {
    event.preventDefault();
    wrong.textContent = "";
    button.disabled = true;
    try {
      now = await api.logIn(user.value, password.value);
    } catch (error) {
      wrong.textContent = error.status === 401 ? "Wrong name or password." : error.message;
      password.select();
      return;
    } finally {
      button.disabled = false;
      password.value = "";
    }
    draw();
    tell(`Logged in as ${now.user}.`);
    dispatchEvent(new Event("visitor"));
  };
  return h(
    "form",
    { class: "login", method: "post", submit },
    h("h1", { tabindex: "-1" }, "Log in"),
    h("p", { class: "dim" }, reason),
    h("label", { for: "user" }, "Name"),
    user,
    h("label", { for: "password" }, "Password"),
    password,
    button,
    wrong,
  );
}
