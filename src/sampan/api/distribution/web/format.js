// Values in words: sizes, ages, references, kinds of artifacts. No elements here.

const UNITS = ["B", "kB", "MB", "GB", "TB", "PB"];

export function size(bytes) {
  let value = Number(bytes) || 0;
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit ? Number(value.toPrecision(3)) : value}\u00a0${UNITS[unit]}`;
}

const COUNT = new Intl.NumberFormat("en");
export const count = (value, one, many = `${one}s`) =>
  `${COUNT.format(value)}\u00a0${value === 1 ? one : many}`;

const STEPS = [
  ["year", 31536000],
  ["month", 2592000],
  ["week", 604800],
  ["day", 86400],
  ["hour", 3600],
  ["minute", 60],
];
const RELATIVE = new Intl.RelativeTimeFormat("en", { numeric: "auto" });

export function ago(text, now = Date.now()) {
  const seconds = (Date.parse(text) - now) / 1000;
  if (!Number.isFinite(seconds)) return "";
  for (const [unit, length] of STEPS)
    if (Math.abs(seconds) >= length) return RELATIVE.format(Math.trunc(seconds / length), unit);
  return "just now";
}

const MOMENT = new Intl.DateTimeFormat("en", { dateStyle: "medium", timeStyle: "short" });
export function moment(text) {
  const time = Date.parse(text);
  return Number.isFinite(time) ? MOMENT.format(time) : "";
}

export const short = (digest) => {
  const [algorithm, hex = ""] = String(digest).split(":");
  return algorithm === "sha256" ? hex.slice(0, 12) : `${algorithm}:${hex.slice(0, 12)}`;
};

// "#/team/app:1.2", "#/team/app@sha256:…", "#/?q=words": the address is the image's name.
export function parse(hash) {
  const [path, rest = ""] = hash.replace(/^#\/?/, "").split("?", 2);
  const parameters = new URLSearchParams(rest);
  const [head, digest = ""] = path.split("@", 2);
  const colon = head.lastIndexOf(":");
  const tagged = !digest && colon > head.lastIndexOf("/");
  return {
    name: tagged ? head.slice(0, colon) : head,
    reference: digest || (tagged ? head.slice(colon + 1) : ""),
    parameters,
  };
}

export const address = (name, reference = "") =>
  `#/${name}${reference && (reference.includes(":") ? "@" : ":")}${reference}`;

const KINDS = [
  [/sbom|spdx|cyclonedx|syft/i, "SBOM", "sbom"],
  [/provenance|slsa|in-?toto|attestation|dsse/i, "Attestation", "proof"],
  [/signature|cosign|sigstore|notary|notation|\.sig\b/i, "Signature", "sign"],
  [/sarif|vuln|scan|trivy|grype/i, "Scan report", "scan"],
  [/helm/i, "Helm chart", "file"],
  [/wasm/i, "WebAssembly", "file"],
];

// What people call it, and the name of its picture.
export function kind({ kind: said, artifactType, annotations }) {
  const predicate = annotations?.["in-toto.io/predicate-type"] ?? "";
  for (const text of [said, predicate, artifactType])
    for (const [pattern, word, picture] of KINDS)
      if (text && pattern.test(text)) return { word, picture };
  return { word: "Artifact", picture: "file" };
}

// BuildKit and the older builder write what they ran in three ways.
export function step(text) {
  let command = String(text ?? "").trim();
  const nop = /^\/bin\/sh -c #\(nop\)\s+/;
  if (nop.test(command)) command = command.replace(nop, "");
  else if (command.startsWith("/bin/sh -c ")) command = `RUN ${command.slice(11)}`;
  command = command.replace(/^RUN \/bin\/sh -c /, "RUN ").replace(/\s+# buildkit$/, "");
  const match = /^([A-Z]{3,12})\s+([^]*)$/.exec(command);
  return match ? { verb: match[1], rest: match[2] } : { verb: "", rest: command };
}
