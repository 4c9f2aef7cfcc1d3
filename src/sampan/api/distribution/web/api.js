// What the registry is asked: /api/v1 (docs/registry-server.md), which only reads.

export class Problem extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

const ROOT = "/api/v1";

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, {
      ...options,
      credentials: "same-origin",
      headers: { Accept: "application/json", "X-Requested-With": "sampan", ...options.headers },
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "The registry does not answer. Is it running, and is it reachable?");
  }
  let value = null;
  try {
    value = await answer.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
  }
  if (!answer.ok) {
    const message = value?.errors?.[0]?.message;
    throw new Problem(answer.status, message ?? `The registry answered with status ${answer.status}.`);
  }
  if (value === null) throw new Problem(answer.status, "The registry's answer cannot be read.");
  return value;
}

const query = (values) => {
  const found = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) if (value) found.set(name, value);
  return found.size ? `?${found}` : "";
};

export const follow = (path, signal) => ask(path, { signal });

export const repositories = (words, signal) =>
  ask(`${ROOT}/repositories${query({ q: words, n: 50 })}`, { signal });

export const tags = (name, { words, order }, signal) =>
  ask(`${ROOT}/repositories/${name}/tags${query({ q: words, order, n: 100 })}`, { signal });

export const manifest = (name, reference, signal) =>
  ask(`${ROOT}/repositories/${name}/manifests/${reference}`, { signal });

export const session = () => ask(`${ROOT}/session`);

export const logIn = (user, password) =>
  ask(`${ROOT}/session`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ user, password }),
  });

export const logOut = () => ask(`${ROOT}/session`, { method: "DELETE" });
